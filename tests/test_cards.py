"""Every method of ours has a card that is true to the code, a recipe, and a step worked out by hand."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.fields import field_types
from ssss_zoo.config.layers import read_recipe, recipes, release_layers
from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_tree
from ssss_zoo.engine.catalog import full_card, option_table, read_card
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import implemented_hooks, load
from ssss_zoo.errors import UserError

HEADINGS = ["Idea", "Hooks", "Knobs", "Cost", "Classes", "Published", "Deviations", "Citation"]
METHODS = sorted(name for name, point in installed("methods").items() if point.module.startswith("ssss_zoo.plugins"))


@cache
def card_of(name: str) -> str:
    return read_card(name)


@cache
def parts(name: str) -> dict[str, str]:
    """The text under each heading."""
    found = re.split(r"^## (.+)$", card_of(name), flags=re.MULTILINE)
    return dict(zip(found[1::2], (text.strip() for text in found[2::2]), strict=True))


def test_a_card_has_all_headings_and_something_under_each():
    assert [name for name in METHODS if not card_of(name).startswith("# ")] == []
    assert {name: list(parts(name)) for name in METHODS} == dict.fromkeys(METHODS, HEADINGS)
    assert [(name, heading) for name in METHODS for heading, text in parts(name).items() if len(text) <= 2] == []
    assert [(name, line) for name in METHODS for line in card_of(name).splitlines() if len(line) > 130] == []


def test_a_card_names_the_hooks_that_the_method_answers():
    named = {name: re.findall(r"^- `(\w+)`", parts(name)["Hooks"], flags=re.MULTILINE) for name in METHODS}
    assert {name: sorted(hooks) for name, hooks in named.items()} == {
        name: sorted(implemented_hooks(load("methods", name))) for name in METHODS
    }


def test_a_card_names_options_that_there_are():
    options = {name: {field.name for field in dataclasses.fields(load("methods", name))} for name in METHODS}
    named = {name: set(re.findall(rf"options\.{name}\.(\w+)", card_of(name))) for name in METHODS}
    assert {name: unknown for name in METHODS if (unknown := named[name] - options[name])} == {}
    assert [name for name in METHODS if options[name] and not named[name]] == []


def test_below_a_card_stands_every_option_with_what_it_takes_and_its_default():
    rows = {
        name: re.findall(r"^\| `options\.(\w+)\.(\w+)` \| (.+) \|.*\|$", full_card(name), re.MULTILINE)
        for name in METHODS
    }
    assert {name: [(owner, option) for owner, option, _ in rows[name]] for name in METHODS} == {
        name: [(name, option) for option in field_types(load("methods", name))] for name in METHODS
    }
    assert "| `options.fixmatch.threshold` | a number, 0 to 1 | `0.95` |\n" in full_card("fixmatch")
    assert "| `options.stpp.scales` | a list, each a number, 0.1 to 4 | `[0.5, 0.75, 1.0, 1.5, 2.0]` |" in full_card(
        "stpp"
    )
    assert [name for name in METHODS if not full_card(name).startswith(read_card(name))] == []
    without = [name for name in METHODS if not field_types(load("methods", name))]
    assert [name for name in without if full_card(name) != read_card(name)] == []
    assert option_table("broken", int) == "", "a class that is no dataclass has no options"


def test_a_card_cites_a_paper():
    assert [name for name in METHODS if not re.search(r"\b(19|20)\d\d\b|every paper", parts(name)["Citation"])] == []


def test_every_method_has_a_recipe_and_a_step_by_hand():
    """A step of the engine is in its tests, and a loss is held to what was worked out by hand."""
    assert set(METHODS) <= set(recipes("method"))
    tests = {name: (Path(__file__).parent / "plugins" / f"test_{name}.py").read_text() for name in METHODS}
    steps = r"engine\.step|engine\.losses|assert_step|take_step"
    assert [name for name, source in tests.items() if not re.search(steps, source)] == []
    assert [name for name, source in tests.items() if "rel=1e-6" not in source and "assert_step" not in source] == []


# --- what cards say and what recipes do ------------------------------------------------------------------------------

BENCHMARKS = ("voc", "cityscapes")
SECTIONS = "(?:options|train|model|optim|augment|evaluate|loss)"
RECIPES = {"cps": ("cps", "cps_cutmix"), "fixmatch": ("fixmatch", "fixmatch_v2")}  # of the cards that speak of two


@cache
def settings(name: str, dataset: str) -> list[dict[str, str]]:
    """Every resolved value of a card's recipes on a data set, by its key, as text."""
    found = []
    for recipe in RECIPES.get(name, (name,)):
        config = as_tree(resolve([f"method={recipe}", f"dataset={dataset}"]))
        found.append({key: text_of(value) for key, value in flatten_keys(config).items()})
    return found


def text_of(value: object) -> str:
    return str(value).replace(" ", "").replace("'", "").lower().removesuffix(".0")


def switches(name: str) -> list[tuple[str, str]]:
    """`key=value` in the card's deviations: the release's, or a way to have what a recipe here does not do."""
    return re.findall(rf"\b({SECTIONS}\.[\w.]+)=([^`\s]+)", parts(name)["Deviations"])


def test_every_setting_on_a_card_can_be_set():
    for name in METHODS:
        for key, value in re.findall(r"\b((?:train|model|optim|augment|evaluate|loss)\.\w+)=([^`\s]+)", card_of(name)):
            resolve([f"method={name}", f"{key}={value}"])


def test_releases_and_protocols_on_a_card_exist():
    releases = {method for name in METHODS for method in re.findall(r"method=([\w+]+):release", card_of(name))}
    assert [
        method for method in releases if not any(release_layers(method, dataset, {}) for dataset in BENCHMARKS)
    ] == []
    protocols = {protocol for name in METHODS for protocol in re.findall(r"protocol=([\w-]+)", card_of(name))}
    assert protocols <= set(recipes("protocol"))


DONE = {  # what a recipe does and its card explains, as no deviation
    "stpp": {"options.stpp.select", "options.stpp.budget"},
    "u2pl": {"augment.scale_law"},
    "pixcon": {"optim.decay_all"},
}


def test_no_card_offers_as_another_way_what_its_recipe_already_does():
    wrong = []
    for name in METHODS:
        for key, value in switches(name):
            held = [found.get(key) for dataset in BENCHMARKS for found in settings(name, dataset)]
            if key in DONE.get(name, ()) and text_of(value) not in held:
                wrong.append(f"{name}: {key}={value} is not what the recipe does")
            elif key not in DONE.get(name, ()) and all(one == text_of(value) for one in held):
                wrong.append(f"{name}: {key}={value} is what the recipe does everywhere")
    assert wrong == []


def test_a_card_names_every_switch_of_its_release():
    """But how often it evaluates, which every release shares, and what a card of many numbers says in words."""
    missing = []
    for name in METHODS:
        recipe = read_recipe(name, {})
        layers = [recipe.release, *(recipe.release_by_dataset.get(dataset, {}) for dataset in BENCHMARKS)]
        for layer in layers:
            for key, value in flatten_keys(layer).items():
                in_words = key == "train.eval_epochs" or (name == "cutmix_seg" and not key.startswith("options."))
                if not in_words and not re.search(rf"{re.escape(key)}={re.escape(str(value))}", card_of(name)):
                    missing.append(f"{name}: {key}={value}")
    assert missing == []


SAYINGS = {  # words of a card: what its recipes then have on Cityscapes, or on VOC
    r"windows[^.]*\bcut at the border": ("cityscapes", "evaluate.edge", "cut"),
    r"shifted to end": ("cityscapes", "evaluate.edge", "shift"),
    r"logits of windows are\s+averaged": ("cityscapes", "evaluate.sums", "logits"),
    r"averaged\s+after the softmax": ("cityscapes", "evaluate.sums", "softmax"),
    r"hard pixels (?:on Cityscapes )?are\s+chosen": ("cityscapes", "loss.supervised", "ohem"),
    r"(?:padding|padded|pad)[^.]*\bmean\s+colour, as in the release": ("voc", "augment.pad_fill", "mean"),
    r"[Pp]adding has the mean colour": ("voc", "augment.pad_fill", "mean"),
    r"[Pp]adding is filled with 0": ("voc", "augment.pad_fill", "black"),
    r"padding is right and bottom": ("voc", "augment.pad_place", "end"),
    r"padding is around the image": ("voc", "augment.pad_place", "centre"),
    r"VOC is scored on whole images": ("voc", "evaluate.mode", "whole"),
    r"VOC is scored on padded 513 centre crops": ("voc", "evaluate.mode", "centre"),
    r"BatchNorm is trained": ("voc", "model.freeze_norm", "false"),
    r"ResNet-50 with its 7 x 7 stem": ("voc", "model.encoder", "resnet50.tv_in1k"),
}


def test_what_a_card_says_of_crops_and_scoring_is_what_a_recipe_does():
    said = [(name, *SAYINGS[saying]) for name in METHODS for saying in SAYINGS if re.search(saying, card_of(name))]
    assert [
        (name, dataset, key, value)
        for name, dataset, key, value in said
        if value not in [found[key] for found in settings(name, dataset)]
    ] == []


def test_each_saying_is_looked_for_where_it_was_wrong():
    """Cards said once that UniMatch's windows are shifted, and those of CPS averaged after the softmax."""
    assert re.search(next(iter(SAYINGS)), card_of("unimatch"))
    assert sum(any(re.search(saying, card_of(name)) for name in METHODS) for saying in SAYINGS) >= 9


def test_crops_on_a_card_are_those_of_its_recipes():
    """`crop 321` beside VOC's published figures, `crop 801` beside Cityscapes'."""
    wrong = {}
    for name in METHODS:
        said = {int(number) for number in re.findall(r"crop (\d{3})\b", parts(name)["Published"])}
        sides = {
            int(found["train.crop"].strip("[]").split(",")[0])
            for dataset in BENCHMARKS
            for found in settings(name, dataset)
        }
        if said and not said & sides:
            wrong[name] = (said, sides)
    assert set(wrong) <= {"pixcon"}  # whose figure at crop 686 stands beside the published UniMatch V2's


def test_numbers_for_voc_and_cityscapes_are_those_of_the_recipe():
    """`options.cps.weight` (1.5 VOC, 6 Cityscapes ...): the numbers after an option, by data set."""
    pattern = r"`(options\.[\w.]+)` \(([\d.]+) VOC, ([\d.]+) Cityscapes"
    said = [
        (name, key, dataset, number)
        for name in METHODS
        for key, voc, city in re.findall(pattern, card_of(name))
        for dataset, number in (("voc", voc), ("cityscapes", city))
    ]
    assert [
        (name, key, dataset, number)
        for name, key, dataset, number in said
        if text_of(float(number)) not in [text_of(found[key]) for found in settings(name, dataset)]
    ] == []


def test_a_card_is_shown_and_a_missing_one_is_one_line(capsys, monkeypatch):
    assert command_line(["card", "fixmatch"]) == 0
    out = capsys.readouterr().out
    assert "Idea" in out
    assert "options.fixmatch.threshold" in out
    assert "a number, 0 to 1" in out
    assert command_line(["card", "fixmach"]) == 2
    assert "did you mean 'fixmatch'" in capsys.readouterr().err
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(UserError, match="has no card"):
        read_card("fixmatch")
