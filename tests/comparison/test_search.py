"""`ssss search`: what is tried, that val is never looked at, that it goes on, and what it prints."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
from ssss_zoo.plugins.baselines.fixmatch import FixMatch

from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison.own_options import with_own_options
from ssss_zoo.comparison.search import default_search_folder, enqueue_trials, first_number, run_search
from ssss_zoo.comparison.search_space import (
    METHOD_ITSELF,
    check_tried_options,
    choose_settings,
    parse_choices,
    search_space,
    suggest,
)
from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.record_files import read_metrics
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.train import run
from ssss_zoo.train.setup import hold_out, open_dataset

optuna = pytest.importorskip("optuna")


@pytest.fixture
def tiny_search(tiny_plugins, tmp_path):
    """Words -> what a search of tiny runs found, and the lines that it told."""
    common = [word for word in tiny_overrides("train.steps=2") if not word.startswith(("method=", "seed=", "output="))]

    def find(*more):
        told = []
        output = f"output={tmp_path / 'search'}"
        return run_search([*common, output, "data.hold_out=0.4", *more], told.append), told

    return find


def test_methods_come_first_and_the_winner_is_the_best_of_all(tiny_search):
    found, told = tiny_search("trials=4", "try.method=fixmatch,supervised", "try.hooks.pixel_weight=own,u2pl")
    values = [value for _, value in found.trials]
    assert values == sorted(values, reverse=True)
    assert {tuple(words) for words, _ in found.trials} >= {("method=fixmatch",), ("method=supervised",)}
    assert found.single[1] == max(v for words, v in found.trials if not any(w.startswith("hooks") for w in words))
    assert found.command.startswith(f"ssss run {' '.join(found.trials[0][0])}")
    assert "hold_out" not in found.command
    assert len(told) == 5  # a line at the beginning, and one for each trial
    assert all(re.match(r"trial \d(: (mIoU \d+\.\d\d|as trial \d)| failed)", line) for line in told[1:])
    assert f"best {100 * values[0]:.2f}" in told[-1]


def test_it_goes_on_to_more_and_refuses_other_words(tiny_search):
    tiny_search("trials=2", "try.method=fixmatch,supervised")
    found, told = tiny_search("trials=3", "try.method=fixmatch,supervised")
    assert told[0].startswith("1 of 3 trials to do")
    assert len(found.trials) == 2  # the third was one of the two: not run again
    assert re.match(r"trial 2: as trial \d, method=\w+ \(3 of 3 done, best ", told[-1])
    with pytest.raises(UserError, match="holds a search with other arguments"):
        tiny_search("trials=3", "try.method=fixmatch,cps")


def test_a_trial_that_cannot_run_says_why_in_one_line(tiny_search):
    found, told = tiny_search("trials=2", "try.method=fixmatch,supervised", "try.model.encoder=test_resnet,nonsense")
    assert len(told) == 3
    failed = [line for line in told if re.search(r"^trial \d failed.*, method=\w+ model.encoder=nonsense: ", line)]
    assert len(found.trials) + len(failed) == 2
    assert all("nonsense" in line.partition(": ")[2] for line in failed)


def test_an_error_of_one_trial_does_not_end_the_others(tiny_search, monkeypatch, tmp_path):
    def broken(config, on_eval, shown_on):
        if config.method == "cps":
            raise ZeroDivisionError("of a plugin\nin two lines")
        return original(config, on_eval, shown_on)

    original = run.run_training
    monkeypatch.setattr(run, "run_training", broken)
    found, told = tiny_search("trials=2", "try.method=cps,supervised")
    file = tmp_path / "search/trials/0/traceback.txt"
    reason = f"ZeroDivisionError: of a plugin in two lines (see {file})"
    assert re.sub(r" after \d+ s", "", told[1]) == f"trial 0 failed, method=cps: {reason} (1 of 2 done, 1 failed)"
    assert "in broken" in file.read_text()
    assert [trial.overrides for trial in found.trials] == [["method=supervised"]]

    monkeypatch.setattr(run, "run_training", original)
    found, told = tiny_search("trials=2", "try.method=cps,supervised")
    assert told[0].startswith("1 of 2 trials to do")
    assert re.match(r"trial 0: mIoU \d+\.\d\d.*, method=cps", told[1])  # made again
    assert len(found.trials) == 2


def test_a_stopped_search_keeps_what_is_done_and_goes_on_within_the_trial(tiny_search, monkeypatch, tmp_path):
    arguments = ("trials=2", "try.method=supervised,fixmatch", "train.steps=4", "train.eval_every=2")
    reached = list[int]()

    def stop_after_an_evaluation(config, on_eval, shown_on):
        def stop(step, miou):
            reached.append(step)
            on_eval(step, miou)
            if config.method == "fixmatch" and step == 2:
                raise Interrupted("stopped by SIGINT")

        return original(config, stop, shown_on)

    original = run.run_training
    monkeypatch.setattr(run, "run_training", stop_after_an_evaluation)
    with pytest.raises(
        Interrupted, match=r"1 of 2 trials done, the best mIoU \d+\.\d\d with method=supervised; the same"
    ):
        tiny_search(*arguments)
    assert reached == [2, 4, 2]
    assert [path.name for path in (tmp_path / "search/trials").glob("*/last")] == ["last"]

    reached.clear()
    found, told = tiny_search(*arguments)
    assert told[0].startswith("1 of 2 trials to do")
    assert told[1].startswith("trial 1: mIoU")
    assert reached == [4]  # it went on from its checkpoint
    assert len(found.trials) == 2
    assert not list((tmp_path / "search/trials").glob("*/last"))


def test_a_trial_that_optuna_gives_up_counts_as_stopped(tiny_search, monkeypatch, tmp_path):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    found, told = tiny_search("trials=2", "try.method=supervised,fixmatch", "train.steps=4", "train.eval_every=2")
    assert re.match(r"trial 1: stopped halfway( after \d+ s)?, method=fixmatch \(2 of 2 done, best ", told[2])
    assert [trial.overrides for trial in found.trials] == [["method=supervised"]]
    assert read_metrics(tmp_path / "search/trials/1/metrics.json", "")["status"] == "stopped"
    assert not (tmp_path / "search/trials/1/last").exists()


def test_a_trial_whose_process_was_killed_is_made_again(tiny_search, tmp_path):
    arguments = ("trials=1", "try.method=supervised,fixmatch")
    with pytest.raises(UserError, match="no trial finished"):
        tiny_search(*arguments, "trials=1", "data.hold_out=0.01")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search/optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    enqueue_trials(study, {}, tmp_path / "search")
    study.ask()  # the waiting one, which then never ends
    enqueue_trials(study, {}, tmp_path / "search")
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert [first_number(trial) for trial in study.trials] == [0, 1, 0, 1]


def test_an_option_is_tried_only_where_its_method_is_part_of_the_trial(tiny_search):
    found, told = tiny_search(
        "trials=6",
        "try.method=fixmatch,supervised",
        "try.options.fixmatch.threshold=0.5,0.9",
        "options.fixmatch.partner=twin",
    )
    assert not [line for line in told if " failed" in line]
    settings = {tuple(trial.overrides) for trial in found.trials}
    assert ("method=supervised",) in settings
    assert settings - {("method=supervised",)} <= {
        ("method=fixmatch", f"options.fixmatch.threshold={value}") for value in ("0.5", "0.9")
    }
    own = "options.fixmatch.partner=twin"
    assert (own in found.command) == ("method=fixmatch" in found.command)


def test_a_hook_brings_the_options_of_its_method():
    space = search_space(
        ["try.method=cps,fixmatch", "try.hooks.class_weight=own,farcluss", "try.options.farcluss.top_k=2,3"]
    )
    common = ["options.fixmatch.threshold=0.5", "seed=1"]
    check_tried_options(space, common)
    method, top_k = {"method": "cps"}, {"options.farcluss.top_k": "3"}
    alone = optuna.trial.FixedTrial({**method, **top_k, "hooks.class_weight": "own"})
    assert choose_settings(alone, space, common) == ["method=cps"]
    mixed = optuna.trial.FixedTrial({**method, **top_k, "hooks.class_weight": "farcluss"})
    chosen = ["method=cps", "hooks.class_weight=farcluss", "options.farcluss.top_k=3"]
    assert choose_settings(mixed, space, common) == chosen
    assert with_own_options(common, chosen) == ["seed=1", *chosen]
    assert with_own_options(common, ["method=fixmatch"]) == [*common, "method=fixmatch"]


def test_an_option_of_a_method_that_no_trial_has_is_refused():
    space = search_space(["try.method=cps,fixmatch", "try.options.farcluss.top_k=2,3"])
    message = (
        r"^try\.options\.farcluss\.top_k is an option of 'farcluss', which no trial has; the trials have cps, fixm"
    )
    with pytest.raises(UserError, match=message):
        check_tried_options(space, [])
    with pytest.raises(UserError, match=r"^options\.u2pl\.strength is an option of 'u2pl'"):
        check_tried_options({}, ["method=cps", "options.u2pl.strength=1"])


def test_val_is_not_looked_at(tiny_plugins):
    words = [*tiny_overrides(), "data.hold_out=0.4"]
    config = resolve(words)
    whole = load("datasets", "tiny")(config.data)
    dataset, _ = open_dataset(load("datasets", "tiny"), config)
    names = {sample.name for sample in whole.labelled}
    assert {sample.name for sample in dataset.val} | {sample.name for sample in dataset.labelled} == names
    assert len(dataset.val) == 2
    assert not {sample.name for sample in dataset.val} & {sample.name for sample in dataset.labelled}
    assert dataset.fingerprint != whole.fingerprint
    again, _ = open_dataset(load("datasets", "tiny"), resolve(words))
    assert again.fingerprint == dataset.fingerprint


def test_too_much_or_too_little_held_out():
    with pytest.raises(UserError, match=r"data\.hold_out=0\.01 takes 0 of 10 labelled images"):
        open_dataset(load("datasets", "shapes"), resolve(["dataset=shapes", "data.hold_out=0.01"]))


def test_the_usual_space_is_methods_and_whose_weights():
    space = search_space([])
    assert {"fixmatch", "farcluss", "unimatch"} <= set(space["method"])
    assert not {"supervised", "stpp", "pixcon"} & set(space["method"])
    assert space["hooks.pixel_weight"][0] == METHOD_ITSELF
    assert "farcluss" in space["hooks.class_weight"]
    assert "method" not in search_space(["method=fixmatch", "try.optim.lr=1e-4..1e-2"])


def test_a_list_file_names_the_folder_of_a_search_as_that_of_a_run():
    folder = default_search_folder(["dataset=shapes", "data.split=lists/mine.txt"])
    assert str(folder) == "runs/search/shapes/mine"


def test_choices():
    assert parse_choices("try.a", "1e-4..1e-2") == (1e-4, 1e-2)
    assert parse_choices("try.a", "[1,2],3") == ["[1,2]", "3"]
    for text, said in (("1", "no choice"), ("2..1", "smaller"), ("a..b", "not a range")):
        with pytest.raises(UserError, match=said):
            parse_choices("try.a", text)


def test_an_option_without_values_is_searched_over_what_it_declares():
    space = search_space(
        [
            "method=farcluss",
            "try.options.fixmatch.threshold=",
            "try.options.fixmatch.partner=",
            "try.options.fixmatch.shared_pass=",
            "try.options.prevmatch.models=",
        ]
    )
    assert space == {
        "options.fixmatch.threshold": (0, 1),
        "options.fixmatch.partner": list(typing.get_args(typing.get_type_hints(FixMatch)["partner"])),
        "options.fixmatch.shared_pass": ["true", "false"],
        "options.prevmatch.models": (1, 100),
    }
    for key, takes in (
        ("options.farcluss.top_k", "a whole number, 1 to 1e+06"),  # wide: its range only keeps nonsense out
        ("options.stpp.scales", "a list, each a number, 0.1 to 4"),
        ("data.split", "text"),
    ):
        with pytest.raises(UserError, match=rf"^try\.{key}= leaves no choice; .*\({key} takes {re.escape(takes)}\)$"):
            search_space([f"try.{key}="])


def test_a_value_that_its_key_does_not_take_is_refused_before_any_trial():
    for argument, message in {
        "options.fixmatch.threshold=0.5..1.5": "options.fixmatch.threshold must be between 0 and 1; got 1.5",
        "options.fixmatch.threshold=0.5,-1": "options.fixmatch.threshold must be between 0 and 1; got -1",
        "options.fixmatch.partner=twin,mirror": "options.fixmatch.partner must be one of stream, twin,",
        "options.farcluss.top_k=1..2.5": "options.farcluss.top_k takes a whole number; got '2.5'",
        "options.fixmatch.treshold=0.5,0.9": "unknown key 'try.options.fixmatch.treshold'; did you mean 'try.options",
        "optim.lr=0.01,nonsense": "optim.lr takes a number; got 'nonsense'",
        "train.batch=2,0": "train.batch must be between 1 and 1e+09; got 0",
        "train.crop=[8,8],[8,a]": "train.crop takes a whole number; got 'a'",
        "train=1,2": "train is a section, it takes train.<key>=value; got '1'",
    }.items():
        with pytest.raises(UserError, match=rf"^{re.escape(message)}"):
            search_space(["method=fixmatch", f"try.{argument}"])


def test_values_that_their_keys_take_are_kept(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text((Path(__file__).parents[2] / "docs/examples/margin.py").read_text())
    given = {
        "hooks.pixel_weight": "own,none",
        "model": "dpt,smp",
        "train.crop": "[8,8],[16,16]",
        "data.split": "../a.txt,../b.txt",
    }
    space = search_space(["method=fixmatch", *(f"try.{key}={text}" for key, text in given.items())])
    assert space == {key: text.replace("],", "]|").split("|") if "[" in text else text.split(",")
                     for key, text in given.items()}  # fmt: skip
    assert search_space([f"method={own}", "try.options.mine.power=1..3"]) == {"options.mine.power": (1, 3)}
    with pytest.raises(UserError, match=r"options\.mine\.power takes a number"):
        search_space([f"method={own}", "try.options.mine.power=1,x"])


def test_a_whole_number_is_suggested_as_one():
    trial = optuna.trial.FixedTrial({"a": 3, "b": 0.25})
    assert suggest(trial, "a", parse_choices("try.a", "2..8", int)) == "3"
    assert suggest(trial, "b", parse_choices("try.b", "0..1", float)) == "0.25"


def test_the_command_line(tiny_plugins, tmp_path, capsys):
    common = [word for word in tiny_overrides("train.steps=1") if not word.startswith(("method=", "seed=", "output="))]
    words = [*common, f"output={tmp_path / 's'}", "trials=1", "data.hold_out=0.4", "try.method=fixmatch,cps"]
    assert command_line(["search", *words]) == 0
    out = capsys.readouterr().out
    assert "the winner" in out
    assert "ssss run method=fixmatch" in out
    assert command_line(["search", *words, "trials=none"]) == 2


def test_held_out_images_are_not_seen_without_their_labels_either(tiny_plugins):
    dataset = load("datasets", "tiny")(resolve(tiny_overrides()).data)
    dataset.unlabelled = [*dataset.labelled, *dataset.unlabelled]
    before = list(dataset.labelled)
    held_out = hold_out(dataset, 0.4)
    assert not {sample.name for sample in held_out.val} & {sample.name for sample in held_out.unlabelled}
    assert len(held_out.unlabelled) == 3 + 7
    assert list(dataset.labelled) == before  # the argument stays as it was
