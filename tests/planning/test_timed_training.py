"""`ssss plan` and `ssss run ... time=` on the tiny data set, whose steps take a moment."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from helpers.errors import refusal
from ssss_zoo import api
from ssss_zoo.commands.cli import command_line
from ssss_zoo.errors import Interrupted
from ssss_zoo.planning import timed_training
from ssss_zoo.planning.choices import read_rules
from ssss_zoo.planning.data_facts import DataFacts
from ssss_zoo.planning.make_plan import choose_runs, plan_training
from ssss_zoo.planning.plan_task import read_task
from ssss_zoo.planning.records import GIVEN
from ssss_zoo.planning.timed_training import run_within_time
from ssss_zoo.testing.tiny import tiny_overrides

OWN = ("method=", "train.eval_every", "optim.")
WORDS = [word for word in tiny_overrides("train.steps=4", "time=2m") if not word.startswith(OWN)]


def make_plan(*more):
    return plan_training([*WORDS, *more], time.perf_counter())


def train(folder, *more):
    return run_within_time([*WORDS, f"output={folder}", *more], time.perf_counter())


def test_a_plan_keeps_what_is_given_and_gives_a_reason_for_the_rest(tiny_plugins, capsys):
    plan = make_plan("optim.lr=0.002")
    settings = {one.key: one for one in plan.settings}
    assert (settings["optim.lr"].value, settings["optim.lr"].source) == ("0.002", GIVEN)
    assert (settings["train.crop"].value, settings["train.crop"].source) == ("[16,16]", GIVEN)
    assert {one.key for one in plan.settings if not (one.reason and one.source)} == set()
    assert [run.method for run in plan.runs] == ["supervised", "farcluss"]
    assert [run.steps for run in plan.runs] == [4, 4]
    assert "optim.lr=0.002" in plan.runs[0].command
    assert not any("options." in word for word in plan.runs[0].overrides)
    assert any("options.farcluss.ema_decay=" in word for word in plan.runs[1].overrides)
    assert command_line(["plan", "--json", *WORDS, "method=fixmatch"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["command"].startswith("ssss run method=fixmatch dataset=tiny")
    assert printed["settings"][0].items() >= {"key": "method", "value": "fixmatch", "source": GIVEN}.items()


def test_both_runs_are_trained_and_the_better_one_moves_up(tiny_plugins, tmp_path):
    result = train(tmp_path / "run")
    record = json.loads((tmp_path / "run/plan.json").read_text())
    scores = {name: metrics["val"]["miou"] for name, metrics in result.metrics.items()}
    winner = result.best.metrics["method"]
    loser = next(name for name in scores if name != winner)
    assert scores.keys() == {"supervised", "farcluss"}
    assert scores[winner] >= scores[loser]
    assert record["winner"] == winner
    assert json.loads((tmp_path / "run/metrics.json").read_text())["method"] == winner
    assert json.loads((tmp_path / "run" / loser / "metrics.json").read_text())["method"] == loser
    assert f"{winner} won by {100 * (scores[winner] - scores[loser]):.2f}" in result.lines[1]
    assert command_line(["evaluate", f"run={tmp_path / 'run'}"]) == 0
    again = api.run(*WORDS, output=tmp_path / "again")
    assert again.metrics["val"]["miou"] == scores[winner]
    assert again.folder == tmp_path / "again"
    refusal(lambda: train(tmp_path / "run"), "holds a finished run", "overwrite=true")
    assert train(tmp_path / "run", "overwrite=true").metrics.keys() == scores.keys()


def test_the_second_run_gets_the_steps_that_the_first_leaves_time_for(tiny_plugins):
    first, second = make_plan().runs
    metrics = {
        "time": {"train_seconds": 2 * first.steps * first.step_seconds, "evaluate_seconds": first.evaluation_seconds}
    }
    spent = sum(metrics["time"].values()) + 1
    left = 1 + second.evaluations * second.evaluation_seconds + 2.5 * 2 * second.step_seconds
    following = timed_training.retimed(second, first, metrics, spent, left)
    assert following.steps == 2  # twice as slow as it was measured
    assert f"train.steps={following.steps}" in following.overrides


def test_a_second_run_without_time_is_left_out(tiny_plugins, tmp_path, monkeypatch):
    plan = replace(make_plan("train.steps=30"), keeps_steps=False)
    monkeypatch.setattr(timed_training, "plan_training", lambda overrides, began: plan)
    result = run_within_time([*WORDS, f"output={tmp_path / 'run'}"], time.perf_counter() - 119)
    assert result.metrics.keys() == {"supervised"}
    assert "farcluss was left out" in result.lines[0]
    assert json.loads((tmp_path / "run/metrics.json").read_text())["status"] == "finished"


def test_a_stopped_command_goes_on(tiny_plugins, tmp_path, stop):
    stop(10)  # in the first run: measuring takes eight steps
    with pytest.raises(Interrupted):
        train(tmp_path / "run")
    refusal(lambda: train(tmp_path / "run"), "unfinished plan", "resume=true")
    refusal(lambda: train(tmp_path / "run", "resume=true", "optim.lr=0.1"), "planned for other arguments")
    result = train(tmp_path / "run", "resume=true")
    assert result.metrics.keys() == {"supervised", "farcluss"}
    assert all(metrics["step"] == 4 for metrics in result.metrics.values())


def test_the_labels_alone_are_trained_where_nothing_else_can_be_judged():
    facts = DataFacts(3, 3, 10, 20, 5, 40, 48, 1920, "", 0.0)
    rules = read_rules()

    def names(facts, *words):
        data = SimpleNamespace(facts=facts)
        return choose_runs(read_task(["dataset=tiny", "time=2m", *words], 0.0), rules, data).names

    assert names(facts) == ["supervised", "farcluss"]
    assert names(facts, "method=fixmatch") == ["supervised", "fixmatch"]
    assert names(facts, "method=supervised") == ["supervised"]
    assert names(replace(facts, unlabelled=0)) == ["supervised"]
    assert names(replace(facts, val=0)) == ["supervised"]
    assert names(replace(facts, val=0), "method=fixmatch") == ["fixmatch"]


def test_a_wrong_command_is_refused_in_one_line(tiny_plugins, capsys, tmp_path):
    wrong = {
        "time=5m": "a plan needs a data set",
        "dataset=tiny": "give time=30m",
        "dataset=tiny time=5": "has no unit",
        "dataset=tiny time=5m train.crp=3": "unknown key 'train.crp'",
        "dataset=tiny time=5m method=fixmach": "did you mean 'fixmatch'",
    }
    for words, part in wrong.items():
        assert command_line(["plan", *words.split()]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
    (tmp_path / "own.yaml").write_text("seed: 1\n")
    assert command_line(["run", "--config", str(tmp_path / "own.yaml"), "time=5m"]) == 2
    assert "leave one of them out" in capsys.readouterr().err
