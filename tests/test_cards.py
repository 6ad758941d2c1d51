"""Every method of ours has a card that is true to the code, a recipe, and a step worked out by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.layers import method_recipe, recipes, release_layers
from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.schema import resolve
from ssss_zoo.engine.catalog import card
from ssss_zoo.engine.registry import implements, installed, load
from ssss_zoo.errors import UserError

HEADINGS = ["Idea", "Hooks", "Knobs", "Cost", "Classes", "Published", "Deviations", "Citation"]
OURS = sorted(name for name, point in installed("methods").items() if point.module.startswith("ssss_zoo.plugins"))
every_method = pytest.mark.parametrize("name", OURS)


def parts(name: str) -> dict[str, str]:
    """The text under each heading."""
    found = re.split(r"^## (.+)$", card(name), flags=re.MULTILINE)
    return dict(zip(found[1::2], (text.strip() for text in found[2::2]), strict=True))


@every_method
def test_a_card_has_all_headings_and_something_under_each(name):
    assert card(name).startswith("# ")
    assert list(parts(name)) == HEADINGS
    assert all(len(text) > 2 for text in parts(name).values())
    assert all(len(line) <= 130 for line in card(name).splitlines())


@every_method
def test_a_card_names_the_hooks_that_the_method_answers(name):
    named = re.findall(r"^- `(\w+)`", parts(name)["Hooks"], flags=re.MULTILINE)
    assert sorted(named) == sorted(implements(load("methods", name)))


@every_method
def test_a_card_names_options_that_there_are(name):
    known = {field.name for field in dataclasses.fields(load("methods", name))}
    named = set(re.findall(rf"options\.{name}\.(\w+)", card(name)))
    assert named <= known, named - known
    assert named or not known


@every_method
def test_a_card_cites_a_paper(name):
    assert re.search(r"\b(19|20)\d\d\b|every paper", parts(name)["Citation"])


@every_method
def test_every_method_has_a_recipe_and_a_step_by_hand(name):
    assert name in recipes("method")
    source = (Path(__file__).parent / "plugins" / f"test_{name}.py").read_text()
    assert re.search(r"engine\.step|engine\.losses|assert_step|take_step", source), "no step of the engine in its tests"
    assert "rel=1e-6" in source or "assert_step" in source, "no loss is held to what was worked out by hand"


# --- what cards say and what recipes do ------------------------------------------------------------------------------

BENCHMARKS = ("voc", "cityscapes")
SECTIONS = "(?:options|train|model|optim|augment|evaluate|loss)"
RECIPES = {"cps": ("cps", "cps_cutmix"), "fixmatch": ("fixmatch", "fixmatch_v2")}  # of the cards that speak of two


def settings(name: str, dataset: str) -> list[dict[str, str]]:
    """Every resolved value of a card's recipes on a data set, by its key, as text."""
    found = []
    for recipe in RECIPES.get(name, (name,)):
        config = dataclasses.asdict(resolve([f"method={recipe}", f"dataset={dataset}"]))
        found.append({key: text_of(value) for key, value in flatten_keys(config).items()})
    return found


def text_of(value: object) -> str:
    return str(value).replace(" ", "").replace("'", "").lower().removesuffix(".0")


def switches(name: str) -> list[tuple[str, str]]:
    """`key=value` in the card's deviations: the release's, or a way to have what a recipe here does not do."""
    return re.findall(rf"\b({SECTIONS}\.[\w.]+)=([^`\s]+)", parts(name)["Deviations"])


@every_method
def test_every_setting_on_a_card_can_be_set(name):
    for key, value in re.findall(r"\b((?:train|model|optim|augment|evaluate|loss)\.\w+)=([^`\s]+)", card(name)):
        resolve([f"method={name}", f"{key}={value}"])
    for method in re.findall(r"method=([\w+]+:release)", card(name)):
        assert any(release_layers(method.removesuffix(":release"), data, {}) for data in BENCHMARKS), method
    for protocol in re.findall(r"protocol=([\w-]+)", card(name)):
        assert protocol in recipes("protocol")


DONE = {  # what a recipe does and its card explains, as no deviation
    "stpp": {"options.stpp.select", "options.stpp.budget"},
    "u2pl": {"augment.scale_law"},
    "pixcon": {"optim.decay_all"},
}


@every_method
def test_no_card_offers_as_another_way_what_its_recipe_already_does(name):
    for key, value in switches(name):
        held = [found.get(key) for data in BENCHMARKS for found in settings(name, data)]
        if key in DONE.get(name, ()):
            assert text_of(value) in held, f"{key}={value} is not what the recipe does"
        else:
            assert any(one != text_of(value) for one in held), f"{key}={value} is what the recipe does everywhere"


@every_method
def test_a_card_names_every_switch_of_its_release(name):
    """But how often it evaluates, which every release shares, and what a card of many numbers says in words."""
    for dataset in BENCHMARKS:
        own = method_recipe(name, {}).get("release", {})
        for layer in (own, own.get("datasets", {}).get(dataset, {})):
            for key, value in flatten_keys({k: v for k, v in layer.items() if k != "datasets"}).items():
                if key == "train.eval_epochs" or (name == "cutmix_seg" and not key.startswith("options.")):
                    continue
                assert re.search(rf"{re.escape(key)}={re.escape(str(value))}", card(name)), f"{key}={value}"


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


@every_method
@pytest.mark.parametrize("saying", SAYINGS)
def test_what_a_card_says_of_crops_and_scoring_is_what_a_recipe_does(name, saying):
    if re.search(saying, card(name)):
        dataset, key, value = SAYINGS[saying]
        assert value in [found[key] for found in settings(name, dataset)]


def test_each_saying_is_looked_for_where_it_was_wrong():
    """Cards said once that UniMatch's windows are shifted, and those of CPS averaged after the softmax."""
    assert re.search(next(iter(SAYINGS)), card("unimatch"))
    assert sum(any(re.search(saying, card(name)) for name in OURS) for saying in SAYINGS) >= 9


@every_method
def test_crops_on_a_card_are_those_of_its_recipes(name):
    """`crop 321` beside VOC's published figures, `crop 801` beside Cityscapes'."""
    said = {int(number) for number in re.findall(r"crop (\d{3})\b", parts(name)["Published"])}
    if said and name != "pixcon":  # whose figure at crop 686 stands beside the published UniMatch V2's
        sides = {int(found["train.crop"].strip("[]").split(",")[0]) for d in BENCHMARKS for found in settings(name, d)}
        assert said & sides, f"of {said} none is in {sides}"


@every_method
def test_numbers_for_voc_and_cityscapes_are_those_of_the_recipe(name):
    """`options.cps.weight` (1.5 VOC, 6 Cityscapes ...): the numbers after an option, by data set."""
    for key, voc, city in re.findall(r"`(options\.[\w.]+)` \(([\d.]+) VOC, ([\d.]+) Cityscapes", card(name)):
        for dataset, number in (("voc", voc), ("cityscapes", city)):
            assert text_of(float(number)) in [text_of(found[key]) for found in settings(name, dataset)]


def test_a_card_is_shown_and_a_missing_one_is_one_line(capsys, monkeypatch):
    assert command_line(["card", "fixmatch"]) == 0
    assert "threshold" in capsys.readouterr().out
    assert command_line(["card", "fixmach"]) == 2
    assert "did you mean 'fixmatch'" in capsys.readouterr().err
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(UserError, match="comes without a card"):
        card("fixmatch")
