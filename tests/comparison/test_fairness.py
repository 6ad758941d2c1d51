"""Whether rows share protocol, settings and initial weights."""

import json

import pytest
import yaml

from helpers.comparisons import finished_row
from ssss_zoo.comparison.records import ScoringProtocol
from ssss_zoo.comparison.report.fairness import (
    compared_settings,
    differing_first_weights,
    differing_leaves,
    differing_settings,
    protocol_differences,
)
from ssss_zoo.train.run_folder import RunFolder


def row_with_protocol(name, settings):
    protocol = ScoringProtocol(name=None, digest=str(settings), settings=settings, lists={})
    return finished_row(name, protocol=protocol)


def test_rows_with_another_protocol_are_listed_with_its_settings():
    one = {"crop": [321], "evaluate": {"absent": "zero", "mode": "whole"}}
    other = {"crop": [513], "evaluate": {"absent": "exclude", "mode": "whole"}}
    assert differing_leaves(one, other) == ["crop=[513], not [321]", "evaluate.absent=exclude, not zero"]
    rows = [row_with_protocol(name, settings) for name, settings in (("a", one), ("b", other), ("c", one))]
    assert protocol_differences(rows) == [
        "b is scored in another way than a: crop=[513], not [321], evaluate.absent=exclude, not zero"
    ]


def test_settings_that_not_all_rows_share():
    given = {
        "a": {"lr": "1", "crop": "[8]"},
        "b": {"lr": "2", "crop": "[8]"},
        "c": {"lr": "1", "crop": "[8]", "x": "0"},
    }
    assert differing_settings(given) == {
        "lr": {"a": "1", "b": "2", "c": "1"},
        "x": {"a": "-", "b": "-", "c": "0"},
    }
    assert differing_settings({}) == {}


def test_settings_of_a_run_leave_out_method_seed_and_places(tmp_path):
    told = {
        "method": "a",
        "seed": 3,
        "output": "x",
        "options": {"a": {"b": 1}},
        "train": {"crop": [96, 128], "workers": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told))
    assert compared_settings(RunFolder(tmp_path)) == {"train.crop": "[96,128]"}


def test_first_weights_are_compared_seed_by_seed():
    same = {"a": [(0, "x"), (1, "y")], "b": [(1, "y"), (0, "x")]}
    assert differing_first_weights(same) == []
    assert differing_first_weights(same | {"c": [(0, "x"), (1, "x")]}) == ["c"]
    assert differing_first_weights({"a": [], "b": [(0, "x")], "c": [(0, "y")]}) == ["c"]


@pytest.mark.long
def test_rows_of_a_comparison_start_from_the_same_weights(tiny_compare):
    figures = tiny_compare("methods=fixmatch,cps,farcluss,fixmatch:model.mean=[0.5,0.5,0.5]", "seeds=0,1").figures
    assert figures["first_weights_differ"] == []
    assert list(figures["settings_differ"]) == ["model.mean"]
    runs = [json.loads(file.read_text()) for file in tiny_compare.folder.glob("runs/*/*/metrics.json")]
    assert len(runs) == 10
    assert (
        len({(run["seed"], run["first_weights"]) for run in runs}) == len({run["first_weights"] for run in runs}) == 2
    )
