"""The specification of each hook is complete, and implementations follow it."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

from ssss_zoo.engine.defaults import Defaults
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import HOOK_MARK, HOOKS, implemented_hooks, load
from ssss_zoo.toolkit import hookspecs

ROOT = Path(__file__).parents[2]
METHODS = [path for path in (ROOT / "plugins").rglob("*.py") if path.name != "__init__.py"]


def missing(hook: str) -> list[str]:
    """What the docstring of a hook's specification leaves out: how answers combine, what comes back, what silence
    means."""
    function = getattr(hookspecs, hook)
    text = " ".join((function.__doc__ or "").split())
    first = function.ssss_zoo_spec["firstresult"]
    rules = {"whether the first answer counts": ("The first answer counts" in text) == first}
    if function.__annotations__["return"] in ("None", None):
        rules |= {"when it is called": text.startswith("Called")}
    else:
        rules |= {
            "who is asked": first or re.search(r"(Every plugin|Every loaded plugin) is asked", text),
            "how answers combine": first
            or re.search(r"answers are multiplied|terms are summed|Returns named modules", text),
            "what silence means": re.search(r"Silence means|None means", text),
            "what it returns": re.search(r"[Rr]eturns|The networks to train", text),
        }
    return [rule for rule, holds in rules.items() if not holds]


def test_every_hook_says_how_answers_combine_what_comes_back_and_what_silence_means():
    assert {hook: gaps for hook in HOOKS if (gaps := missing(hook))} == {}


def test_a_specification_takes_no_default_values_and_does_nothing():
    module = ast.parse(inspect.getsource(hookspecs))
    definitions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    defaults = [
        f"{hook}: {parameter.name}"
        for hook in HOOKS
        for parameter in inspect.signature(getattr(hookspecs, hook)).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    ]
    bodies = [hook for hook in HOOKS if [type(node) for node in definitions[hook].body] != [ast.Expr]]  # its docstring
    assert defaults + bodies == []


def implementations() -> list[tuple[str, ast.FunctionDef]]:
    """(file and function, function) of every function of a method that is marked as a hook."""
    return [
        (f"{path.stem}.{node.name}", node)
        for path in METHODS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and any("hookimpl" in ast.unparse(mark) for mark in node.decorator_list)
    ]


def test_an_implementation_names_arguments_of_its_specification_without_defaults():
    found = implementations()
    assert len(found) > len(METHODS)
    assert [name for name, function in found if function.name not in HOOKS] == []
    unknown = [
        (name, extra)
        for name, function in found
        if (
            extra := {argument.arg for argument in function.args.args}
            - {"self", *inspect.signature(getattr(hookspecs, function.name)).parameters}
        )
    ]
    assert unknown + [name for name, function in found if function.args.defaults] == []


def test_every_hook_is_answered_by_some_method_or_by_the_defaults():
    answered = set(implemented_hooks(Defaults))
    for name in installed("methods"):
        answered |= set(implemented_hooks(load("methods", name)))
    assert set(HOOKS) - answered <= {"after_eval"}, "no new hook without a method that uses it"


def test_the_mark_is_the_one_that_pluggy_leaves():
    assert hasattr(Defaults.make_students, HOOK_MARK)
