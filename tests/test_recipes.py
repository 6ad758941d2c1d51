"""Recipes of methods and data sets: how they are joined, that all of them resolve, and releases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from helpers.configs import file_of, message
from ssss_zoo.config.layers import recipes, release_layers
from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_tree, as_yaml

ROOT = Path(__file__).parents[1]


def test_an_addition_stands_on_its_base_only_where_it_is_named_first():
    assert resolve(["method=pixcon"]).plugins.names == ["unimatch_v2", "pixcon"]
    assert resolve(["method=unimatch+pixcon"]).plugins.names == ["unimatch", "pixcon"]
    alone, named = (resolve([f"method={m}", "dataset=cityscapes"]) for m in ("prevmatch", "unimatch+prevmatch"))
    assert alone.options == named.options  # the base's recipe comes along


# --- the recipes that come along ------------------------------------------------------------------------------------


def made_of(method: str) -> list[str]:
    """The plugins of a recipe: its own word, else its name, after those of its base."""
    recipe = yaml.safe_load((ROOT / "configs" / "method" / f"{method}.yaml").read_text())
    base = recipe["base"].split("+") if "base" in recipe else []
    return [*base, *recipe.get("plugins", {}).get("names", [method])]


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(dataset, marks=() if dataset in ("shapes", "voc") else pytest.mark.long)
        for dataset in recipes("dataset")
    ],
)
def test_every_recipe_resolves_and_has_the_options_that_it_is_given(dataset, tmp_path):
    """Of every method, for this data set."""
    from ssss_zoo.engine.registry import build_methods

    for method in recipes("method"):
        config = resolve([f"method={method}", f"dataset={dataset}"])
        assert (config.method, config.dataset) == (method, dataset)
        assert config.plugins.names == made_of(method)
        assert (config.train.steps is None) != (config.train.epochs is None)  # each data set names a budget
        if dataset in ("shapes", "voc"):  # one of each part is enough
            assert resolve([], file_of(tmp_path, as_yaml(config))) == config
        assert list(build_methods(config)) == made_of(method)


def test_every_number_of_a_recipe_has_a_source():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert {str(file): bare for file in files if (bare := without_source(file.read_text().splitlines()))} == {}


def without_source(lines):
    """The lines of a recipe with a number and no word of where it comes from."""
    header = " ".join(line for line in lines if line.startswith("#"))
    if not lines[0].startswith("#") or not re.search(r"arXiv|release|our choice|paper", header):
        return lines[:1]  # it does not say at its top
    if len(lines) <= 10 and re.search(r"our choice|release", header):
        return []  # a short file whose first lines speak for all of its numbers
    return [line for line in lines if re.search(r":\s*[\[\"]?-?\d", line) and "#" not in line]


# --- as a release's figures were made -------------------------------------------------------------------------------

BENCHMARKS = ("voc", "cityscapes")


def with_release():
    return [(name, data) for name in sorted(recipes("method")) for data in BENCHMARKS if release_layers(name, data, {})]


@pytest.mark.parametrize(("method", "dataset"), with_release())
def test_release_lays_its_switches_over_the_recipe_and_nothing_else(method, dataset):
    from ssss_zoo.engine.registry import build_methods

    plain, released = (resolve([f"method={name}", f"dataset={dataset}"]) for name in (method, f"{method}:release"))
    assert released.method == f"{method}:release"
    assert list(build_methods(released)) == list(build_methods(plain)) == made_of(method)
    before, after = (flatten_keys(as_tree(one)) for one in (plain, released))
    changed = {key for key in after if after[key] != before.get(key)} - {"method"}
    told = {key for layer in release_layers(method, dataset, {}) for key in flatten_keys(layer)}
    assert changed
    assert changed <= told | {"train.epochs"}  # whose place steps may take


@pytest.mark.parametrize(
    ("method", "dataset", "key", "value"),
    [
        ("unimatch", "voc", "partner", "twin"),
        ("fixmatch", "cityscapes", "partner", "twin"),
        ("corrmatch", "voc", "kl_in_box", "true"),
        ("cps_cutmix", "cityscapes", "partner", "twin"),
        ("prevmatch", "voc", "store", "best"),
        ("prevmatch", "cityscapes", "image_factor", "4"),
        ("rankmatch", "voc", "partner", "twin"),  # UniMatch's, on which it stands
        ("u2pl", "voc", "release_bugs", "true"),
    ],
)
def test_release_knows_the_switches_that_four_cards_had(method, dataset, key, value):
    options = resolve([f"method={method}:release", f"dataset={dataset}"]).options
    assert value in {str(of.get(key)).removesuffix(".0") for of in options.values()}


def test_words_and_protocols_lie_over_release():
    assert (
        resolve(["method=unimatch:release", "options.unimatch.partner=next"]).options["unimatch"]["partner"] == "next"
    )
    assert resolve(["method=unimatch+rankmatch:release", "dataset=voc"]).options["unimatch"]["partner"] == "twin"
    written = resolve(["method=unimatch:release", "dataset=voc", "train.eval_every=3"])
    assert (written.train.eval_every, written.train.eval_epochs) == (3, None)


def test_a_resolved_release_reads_back_to_itself(tmp_path):
    config = resolve(["method=prevmatch:release", "dataset=cityscapes"])
    assert resolve([], file_of(tmp_path, as_yaml(config))) == config


def test_a_release_that_is_none_is_refused_with_those_that_are():
    said = message(["method=farcluss:release", "dataset=voc"])
    assert "ssss card farcluss" in said
    assert all(name in said for name in ("unimatch", "prevmatch", "rankmatch"))
    assert "esl" not in said
    for word in ("unimatch:relase", "unimatch:release+pixcon", "unimatch:"):
        assert "a method is followed by :release or nothing" in message([f"method={word}"])


def test_a_method_of_ones_own_may_have_a_release(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("")
    Path("mine.yaml").write_text("train: {steps: 3}\nrelease: {train: {steps: 5}}\n")
    assert resolve(["method=./mine.py"]).train.steps == 3
    released = resolve(["method=./mine.py:release"])
    assert (released.method, released.train.steps, released.plugins.names) == ("mine:release", 5, ["mine"])


def test_a_tree_is_flattened_to_dotted_keys():
    assert flatten_keys({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}) == {
        "a.b.c": 1,
        "a.d": [1, 2],
        "e": None,
    }
