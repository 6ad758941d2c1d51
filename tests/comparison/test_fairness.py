"""What rows share and what not: protocol, settings, first weights; and why published figures do not compare."""

import json

import pytest
import yaml
from test_compare import tiny_compare  # noqa: F401 - a fixture

from ssss_zoo.comparison.report.fairness import (
    differing,
    first_weights_differ,
    settings_differ,
    settings_of,
    what_differs,
)
from ssss_zoo.comparison.report.published import SOURCES, Orders, beside, entries, orders
from ssss_zoo.comparison.report.tables import notes
from ssss_zoo.config.layers import recipes
from ssss_zoo.data.benchmarks.published_splits import split_family


def test_what_differs_names_the_settings():
    one = {"crop": [321], "evaluate": {"absent": "zero", "mode": "whole"}}
    other = {"crop": [513], "evaluate": {"absent": "exclude", "mode": "whole"}}
    assert differing(one, other) == ["crop=[513], not [321]", "evaluate.absent=exclude, not zero"]
    rows = [
        {"name": name, "seeds": [0], "protocol": {"digest": str(settings), "settings": settings}}
        for name, settings in (("a", one), ("b", other), ("c", one))
    ]
    assert what_differs(rows) == [
        "b is scored otherwise than a: crop=[513], not [321], evaluate.absent=exclude, not zero"
    ]


def test_settings_that_not_all_rows_share():
    given = {
        "a": {"lr": "1", "crop": "[8]"},
        "b": {"lr": "2", "crop": "[8]"},
        "c": {"lr": "1", "crop": "[8]", "x": "0"},
    }
    assert settings_differ(given) == {
        "lr": {"a": "1", "b": "2", "c": "1"},
        "x": {"a": "-", "b": "-", "c": "0"},
    }
    assert settings_differ({}) == {}


def test_settings_of_a_run_leave_out_method_seed_and_places(tmp_path):
    told = {
        "method": "a",
        "seed": 3,
        "output": "x",
        "options": {"a": {"b": 1}},
        "train": {"crop": [96, 128], "workers": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(told))
    assert settings_of(tmp_path) == {"train.crop": "[96,128]"}


def test_first_weights_are_compared_seed_by_seed():
    same = {"a": [(0, "x"), (1, "y")], "b": [(1, "y"), (0, "x")]}
    assert first_weights_differ(same) == []
    assert first_weights_differ(same | {"c": [(0, "x"), (1, "x")]}) == ["c"]
    assert first_weights_differ({"a": [], "b": [(0, "x")], "c": [(0, "y")]}) == ["c"]


def test_rows_of_a_comparison_start_from_the_same_weights(tiny_compare):  # noqa: F811
    figures = tiny_compare("methods=fixmatch,cps,farcluss,fixmatch:model.mean=[0.5,0.5,0.5]", "seeds=0,1").figures
    assert figures["first_weights_differ"] == []
    assert list(figures["settings_differ"]) == ["model.mean"]
    assert not any(note.startswith("NOT") for note in notes(figures))
    assert any(note.startswith("NOT THE SAME START") for note in notes(figures | {"first_weights_differ": ["cps"]}))
    runs = [json.loads(file.read_text()) for file in tiny_compare.folder.glob("runs/*/*/metrics.json")]
    assert len(runs) == 10
    assert (
        len({(run["seed"], run["first_weights"]) for run in runs}) == len({run["first_weights"] for run in runs}) == 2
    )


# --- published ------------------------------------------------------------------------------------------------------


def test_published_figures_are_of_methods_splits_and_sources_that_we_know():
    assert len(entries()) > 70
    for entry in entries():
        assert set(entry) <= {"method", "dataset", "encoder", "crop", "source", "note", "of", "miou"}, entry
        assert 20 <= entry.get("of", 20) <= 240, entry
        assert set(entry["method"].split("+")) <= set(recipes("method")), entry
        assert entry["source"] in SOURCES, entry
        families = {split_family(entry["dataset"], split) for split in entry["miou"]}
        assert len(families) == 1, entry
        assert all(families), entry
        assert all(30 < value < 95 for value in entry["miou"].values()), entry


def figures(dataset, split, words=(), **changes):
    settings = {"model.encoder": "resnet101", "model.weights": "imagenet", "train.crop": "[321]"} | changes
    rows = [
        {
            "name": name,
            "seeds": [0],
            "words": [f"method={name}"],
            "settings": settings,
            "protocol": {"name": "voc-classic"},
            "last": {"mean": mean},
        }
        for name, mean in (("supervised", 0.6), ("unimatch", 0.5), ("mine", 0.9))
    ]
    return {"dataset": dataset, "split": split, "words": list(words), "budget": "steps", "rows": rows}


def reasons_of(given, row, crop):
    lines = [line for line in beside(given) if line["row"] == row and line["where"].endswith(f"crop {crop}")]
    return next(line["reasons"] for line in lines if "resnet101" in line["where"])


def test_a_figure_of_the_same_protocol_network_and_budget_compares():
    assert reasons_of(figures("voc", "183"), "unimatch", 321) == []


def test_what_is_not_the_same_is_said():
    assert reasons_of(figures("voc", "183"), "supervised", 513) == ["crop [321] here"]
    other = figures("voc", "183", ["train.steps=9"], **{"model.encoder": "resnet50", "model.weights": "none"})
    assert reasons_of(other, "unimatch", 321) == [
        "encoder resnet50 here",
        "encoder not pre-trained here",
        "budget of our choice here (train.steps=9)",
    ]
    assert reasons_of(figures("camvid", "1/8"), "unimatch", 321) == ["another data set"]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [([5, 5, 5], "5"), ([80], "80"), ([5, 80, 7], "5 to 80"), ([None], "an unknown number"), ([], "an unknown number")],
)
def test_it_is_said_of_how_many_evaluations_each_best_was_chosen(numbers, said):
    given = figures("voc", "183")
    given["rows"][1] |= {"best_of": numbers}
    line = next(line for line in beside(given) if line["row"] == "unimatch" and "crop 321" in line["where"])
    assert line["chosen"] == f"best of 80 there, of {said} here"


def test_a_row_as_its_release_has_the_methods_published_figures_and_its_encoder_any_stem():
    given = figures("voc", "183", **{"model.encoder": "resnet101_deep_stem"})
    given["rows"][1] |= {"name": "unimatch:release", "words": ["method=unimatch:release"]}
    assert reasons_of(given, "unimatch:release", 321) == []


def test_two_orders_of_the_rows_that_have_a_published_figure():
    given = figures("voc", "183")
    both = Orders("resnet101", ["supervised", "unimatch"], ["unimatch", "supervised"])
    assert orders(given, beside(given)) == both
    assert orders(given, []) is None
