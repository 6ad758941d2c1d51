"""`ssss search`: what is tried, that val is never looked at, that it goes on, and what it prints."""

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison.search import METHOD_ITSELF, default_search_folder, parse_choices, run_search, search_space
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
    found, told = tiny_search("trials=2", "try.method=fixmatch,supervised", "try.optim.lr=0.01,nonsense")
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
    for text, said in (("1", "no choice"), ("2..1", "smaller"), ("a..b", "no range")):
        with pytest.raises(UserError, match=said):
            parse_choices("try.a", text)


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
