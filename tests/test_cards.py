"""Every method of ours has a card that is true to the code, a recipe, and a step worked out by hand."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ssss_zoo.cli import command_line
from ssss_zoo.errors import UserError
from ssss_zoo.listing import card
from ssss_zoo.plugins import implements, installed, load
from ssss_zoo.recipes import recipes

HEADINGS = ["Idea", "Hooks", "Knobs", "Cost", "Classes", "Published", "Deviations", "Citation"]
OURS = sorted(name for name, point in installed("methods").items() if point.module.startswith("ssss_plugins"))
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


def test_a_card_is_shown_and_a_missing_one_is_one_line(capsys, monkeypatch):
    assert command_line(["card", "fixmatch"]) == 0
    assert "threshold" in capsys.readouterr().out
    assert command_line(["card", "fixmach"]) == 2
    assert "did you mean 'fixmatch'" in capsys.readouterr().err
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(UserError, match="comes without a card"):
        card("fixmatch")
