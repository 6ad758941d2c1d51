"""Methods by name: found, built from options, registered for the chosen hooks alone; a broken one hurts no other."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from helpers.methods import answers, configured, message
from ssss_zoo.engine.catalog import listing
from ssss_zoo.engine.registry import (
    CHOOSABLE_HOOKS,
    HOOKS,
    UNCHOSEN_HOOKS,
    build_methods,
    implemented_hooks,
    installed,
    load,
    make_manager,
    who_answers,
    with_options,
)
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.types import Progress, PseudoLabel, Views

BUILT_IN = {"farcluss", "fixmatch", "supervised", "unimatch"}


@dataclass(eq=False)
class Weigher:
    """A method with one hook, for this file."""

    value: float = 2.0
    paper: ClassVar[str] = "none"

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return torch.full_like(label.confidence, self.value)


# --- names ----------------------------------------------------------------------------------------------------------


def test_the_hooks_are_those_of_the_specification():
    assert set(HOOKS) == {
        "setup", "make_students", "make_teacher", "plan_stages", "make_views", "pseudo_label", "pixel_weight",
        "refine", "class_weight", "regularize", "after_step", "after_eval",
    }  # fmt: skip
    assert set(CHOOSABLE_HOOKS) == set(HOOKS) - set(UNCHOSEN_HOOKS)


def test_installed_names_nothing_but_entry_points_of_the_kind():
    assert set(installed("methods")) >= BUILT_IN
    assert set(installed("datasets")) >= {"voc", "cityscapes", "camvid", "folder", "shapes"}
    assert set(installed("models")) >= {"deeplabv3plus"}


WRONG_NAMES = [
    (["method=fixmach"], "unknown method 'fixmach' in method=fixmach; did you mean 'fixmatch'?  known: "),
    (["method=fixmatch+unimtch"], "unknown method 'unimtch' in method=fixmatch+unimtch; did you mean 'unimatch'?"),
    (["hooks.pixel_weight=farclus"], "unknown method 'farclus' in hooks.pixel_weight=farclus; did you mean 'far"),
    (["hooks.pixel_wieght=fixmatch"], "unknown hook 'pixel_wieght' in hooks.pixel_wieght=fixmatch; did you mean '"),
    (["hooks.setup=fixmatch"], "unknown hook 'setup' in hooks.setup=fixmatch"),
    (["method=fixmatch", "options.fixmtch.threshold=1"], "unknown method 'fixmtch' in options.fixmtch (only the m"),
    (["method=fixmatch", "options.unimatch.threshold=1"], "unknown method 'unimatch' in options.unimatch"),
    (["method=fixmatch", "options.fixmatch.treshold=1"], "unknown key 'options.fixmatch.treshold'; did you mean"),
    (["method=fixmatch", "options.fixmatch.threshold=2"], "options.fixmatch.threshold must be between 0 and 1;"),
    (["method=fixmatch", "options.fixmatch.threshold=x"], "options.fixmatch.threshold takes a number; got 'x'"),
    (["method=fixmatch", "options.fixmatch.partner=nxt"], "options.fixmatch.partner must be one of"),
    (["method=farcluss", "options.farcluss.top_k=1.5"], "options.farcluss.top_k takes a whole number"),
    (["method=fixmatch", "hooks.class_weight=unimatch"], "hooks.class_weight=unimatch: method 'unimatch' does not"),
    (["method=fixmatch+"], "unknown method ''"),
]


def test_a_wrong_name_is_one_line_with_the_nearest_right_one():
    found = [(message(*overrides), expected) for overrides, expected in WRONG_NAMES]
    assert [text for text, expected in found if not text.startswith(expected)] == []


def test_an_option_that_is_no_section_is_one_line():
    assert "options.fixmatch" in message("method=fixmatch", "options.fixmatch=0.9")


def test_an_unknown_data_set_or_network_names_the_nearest():
    with pytest.raises(UserError, match="unknown data set 'shaps' in dataset=shaps; did you mean 'shapes'"):
        load("datasets", "shaps", "dataset=shaps")
    with pytest.raises(UserError, match=r"unknown model 'deeplab'.*known: deeplabv3plus"):
        load("models", "deeplab")


# --- somebody else's package ----------------------------------------------------------------------------------------


def test_a_broken_plugin_is_listed_as_broken_and_hurts_nobody_else(add_entry_points):
    add_entry_points(
        EntryPoint("gone", "no_such_package.at_all:Thing", "ssss_zoo.methods"),
        EntryPoint("renamed", "ssss_zoo.plugins.baselines.fixmatch:NoSuchClass", "ssss_zoo.methods"),
    )
    found = {item["name"]: item for item in listing("methods")}
    assert found.keys() >= {*BUILT_IN, "gone", "renamed"}
    assert found["gone"]["about"].startswith("BROKEN: ")
    assert "ModuleNotFoundError: No module named 'no_such_package'" in found["gone"]["about"]
    assert "NoSuchClass" in found["renamed"]["about"]
    assert not any(found[name]["about"].startswith("BROKEN") for name in BUILT_IN)
    assert answers("method=fixmatch")["pixel_weight"] == ["fixmatch"]
    answered = {item["name"]: item["answered_by"] for item in listing("hooks")}
    assert "gone" not in answered["pixel_weight"]
    assert "fixmatch" in answered["pixel_weight"]


def test_using_a_broken_plugin_names_its_package_and_fault(add_entry_points):
    add_entry_points(EntryPoint("gone", "no_such_package.at_all:Thing", "ssss_zoo.methods"))
    assert message("method=gone").startswith("method 'gone' of package no_such_package.at_all:Thing cannot be loaded: ")


def test_a_plugin_that_is_no_dataclass_is_refused(add_entry_points):
    add_entry_points(
        EntryPoint("json", "json:JSONDecoder", "ssss_zoo.methods"), EntryPoint("f", "json:dumps", "ssss_zoo.methods")
    )
    assert "method 'json' must be a dataclass with hook implementations" in message("method=json")
    assert "method 'f' must be a dataclass with hook implementations" in message("method=f")


def test_a_third_party_method_works_as_a_built_in_one_does(add_entry_points):
    add_entry_points(EntryPoint("weigher", f"{__name__}:Weigher", "ssss_zoo.methods"))
    config = configured("method=weigher", "options.weigher.value=3")
    methods = build_methods(config)
    assert methods["weigher"].value == 3.0
    assert who_answers(make_manager(config, methods).hook)["pixel_weight"] == ["weigher"]
    assert answers("method=fixmatch", "hooks.pixel_weight=weigher")["pixel_weight"] == ["weigher"]


@pytest.mark.parametrize(("kind", "name"), [("methods", "fixmatch"), ("datasets", "shapes"), ("models", "dpt")])
def test_a_name_that_two_packages_register_is_refused_where_it_is_used(kind, name, add_entry_points):
    add_entry_points(EntryPoint(name, "their_package.idea:Mine", f"ssss_zoo.{kind}"))
    with pytest.raises(UserError, match=rf"'{name}' is registered by several packages, ssss-zoo and their_package"):
        load(kind, name)
    item = next(item for item in listing(kind) if item["name"] == name)
    assert "their_package" in item["package"]
    assert item["about"].startswith("BROKEN: ")
    assert load("methods", "unimatch")  # nobody else is hurt


# --- who answers ----------------------------------------------------------------------------------------------------


def test_a_method_answers_what_it_implements_and_defaults_the_rest():
    found = answers("method=fixmatch")
    assert found["make_views"] == found["pixel_weight"] == found["make_teacher"] == ["fixmatch"]
    assert found["pseudo_label"] == found["plan_stages"] == found["make_students"] == ["default"]
    assert found["class_weight"] == []


def test_the_leftmost_method_is_asked_first():
    assert answers("method=unimatch+fixmatch")["pixel_weight"] == ["unimatch", "fixmatch"]
    assert answers("method=fixmatch+unimatch")["make_views"] == ["fixmatch", "unimatch"]
    config = configured("method=unimatch+supervised")
    views = make_manager(config, build_methods(config)).hook.make_views(size=(2, 8, 8), progress=Progress(0, 2, 1))
    assert len(views.views) == 3  # unimatch's, not supervised's none
    config = configured("method=supervised+unimatch")
    views = make_manager(config, build_methods(config)).hook.make_views(size=(2, 8, 8), progress=Progress(0, 2, 1))
    assert isinstance(views, Views)
    assert views.views == ()


def test_a_named_hook_is_answered_by_those_named_and_nobody_else():
    found = answers("method=fixmatch", "hooks.pixel_weight=farcluss", "hooks.pseudo_label=farcluss")
    assert found["pixel_weight"] == found["pseudo_label"] == ["farcluss"]
    assert found["make_views"] == found["make_teacher"] == ["fixmatch"]  # farcluss was not chosen for them
    assert found["regularize"] == []
    assert found["setup"] == found["after_step"] == ["farcluss"]  # its state hooks come along


def test_the_leftmost_named_for_a_hook_is_asked_first_whatever_the_method_is():
    assert answers("method=fixmatch", "hooks.make_views=unimatch+fixmatch")["make_views"] == ["unimatch", "fixmatch"]


def test_a_hook_of_a_method_that_is_not_named_is_not_asked():
    found = answers("method=unimatch+farcluss", "hooks.pixel_weight=unimatch")
    assert found["pixel_weight"] == ["unimatch"]
    assert found["class_weight"] == ["farcluss"]


def test_none_silences_a_hook():
    found = answers("method=farcluss", "hooks.regularize=none", "hooks.pseudo_label=none")
    assert found["regularize"] == []
    assert found["pseudo_label"] == ["default"]


def test_a_method_that_answers_one_hook_twice_is_refused():
    for hook in ("pixel_weight", "regularize"):
        assert message(f"hooks.{hook}=farcluss+farcluss") == (
            f"hooks.{hook}=farcluss+farcluss names 'farcluss' twice; each method answers once"
        )


def test_options_are_typed_and_written_back_in_full():
    config = configured("method=fixmatch", "options.fixmatch.threshold=1")
    methods = build_methods(config)
    assert config.options == {"fixmatch": {"threshold": "1"}}
    config = with_options(config, methods)
    assert config.options.keys() == {"fixmatch"}
    assert config.options["fixmatch"].keys() == {field.name for field in dataclasses.fields(methods["fixmatch"])}
    assert config.options["fixmatch"]["partner"] == "stream"
    assert isinstance(config.options["fixmatch"]["threshold"], float)
    assert methods["fixmatch"].threshold == 1.0
    assert isinstance(methods["fixmatch"].threshold, float)


def test_options_of_a_method_that_answers_one_hook_are_read():
    config = configured("method=fixmatch", "hooks.class_weight=farcluss", "options.farcluss.rebalance=off")
    assert build_methods(config)["farcluss"].rebalance == "off"


def test_written_back_options_build_the_same_method_again():
    config = configured("method=farcluss", "options.farcluss.top_k=2", "options.farcluss.contrast=off")
    methods = build_methods(config)
    first, again = methods["farcluss"], build_methods(with_options(config, methods))["farcluss"]
    assert vars(first) == vars(again)


def test_implements_names_marked_functions_only():
    class Some:
        @hookimpl
        def setup(self) -> None: ...

        def pixel_weight(self) -> None: ...

    assert implemented_hooks(Some) == ["setup"]


def test_watch_sees_every_answer_with_plugin_and_hook():
    seen: list[tuple[str, str]] = []

    def watch(plugin: str, hook: str, function: Any) -> Any:
        @functools.wraps(function)
        def watched(*arguments: Any) -> Any:
            seen.append((plugin, hook))
            return function(*arguments)

        return watched

    config = configured("method=fixmatch")
    manager = make_manager(config, build_methods(config), watch)
    label = PseudoLabel(torch.zeros(1, 2, 2).long(), torch.ones(1, 2, 2), torch.ones(1, 2, 2).bool())
    asked = {"probs": torch.ones(1, 3, 2, 2) / 3, "label": label, "stream": "unlabelled", "progress": Progress(0, 1, 1)}
    assert len(manager.hook.pixel_weight(**asked)) == 1
    manager.hook.make_students(make_network=lambda: torch.nn.Identity())
    assert seen == [("fixmatch", "pixel_weight"), ("default", "make_students")]


def test_one_manager_a_run():
    config = configured("method=fixmatch")
    methods = build_methods(config)
    assert make_manager(config, methods) is not make_manager(config, methods)
