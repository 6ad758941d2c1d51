"""`ssss search`: what is tried, that val is never looked at, that it goes on, and what it prints."""

import re
import typing
from pathlib import Path

import pytest
from ssss_zoo.plugins.baselines.fixmatch import FixMatch

from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison.search import (
    METHOD_ITSELF,
    default_search_folder,
    parse_choices,
    run_search,
    search_space,
    suggest,
)
from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import tiny_overrides
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
    assert sum(line.startswith("trial ") for line in told) == 4


def test_it_goes_on_to_more_and_refuses_other_words(tiny_search):
    tiny_search("trials=2", "try.method=fixmatch,supervised")
    found, told = tiny_search("trials=3", "try.method=fixmatch,supervised")
    assert told[0].startswith("1 of 3 trials to do")
    assert len(found.trials) == 2  # the third was one of the two: not run again
    assert told[-1].startswith("trial 2: as trial ")
    with pytest.raises(UserError, match="holds a search with other arguments"):
        tiny_search("trials=3", "try.method=fixmatch,cps")


def test_a_trial_that_cannot_run_is_told_of_and_passed_over(tiny_search):
    found, told = tiny_search("trials=2", "try.method=fixmatch,supervised", "try.model.encoder=test_resnet,nonsense")
    assert len(told) == 3
    assert len(found.trials) + sum("cannot run" in line for line in told) == 2


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
        "options.elsewhere.any": "1,2",  # no such method: its trials will say so
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
    hold_out(dataset, 0.4)
    assert not {sample.name for sample in dataset.val} & {sample.name for sample in dataset.unlabelled}
    assert len(dataset.unlabelled) == 3 + 7
