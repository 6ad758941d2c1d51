"""What `ssss search` tries: the choices of its arguments, and the settings of a trial.

The space is conditional: an option is part of a trial only where its method is."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from ssss_zoo.comparison.own_options import method_names, option_method
from ssss_zoo.comparison.plan import split_commas
from ssss_zoo.config.fields import FieldType, field_types, read_hint
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import british, full_key, parse_brackets, parse_value, read_file, split_overrides
from ssss_zoo.config.python_files import python_files_in
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.catalog import list_hooks
from ssss_zoo.engine.plugin_source import installed, read_plugin
from ssss_zoo.errors import UserError, unknown

LOGARITHMIC_SPAN = 10  # a range whose ends differ by more than this factor is searched on a logarithmic scale
MIXED_HOOKS = ("hooks.pixel_weight", "hooks.class_weight")  # searched where the arguments name nothing
LEARNING_HOOKS = (
    "make_students",
    "make_teacher",
    "pseudo_label",
    "pixel_weight",
    "regularize",
)  # use unlabelled images
METHOD_ITSELF = "own"  # the value of a hook that the method itself answers
WIDEST_DECLARED_RANGE = 100  # wider declared ranges only keep nonsense out, and are not searched (our choice)

Choices = list[str] | tuple[float, float]  # values, or the ends of a range
SearchSpace = dict[str, Choices]  # by key of the configuration


def search_space(overrides: Sequence[str]) -> SearchSpace:
    """The choices of the `try.<key>=...` arguments; without any, the methods, and whose weights they take. Raises
    UserError for an argument that leaves no choice, and for a value that its key does not take."""
    given, _ = split_overrides(overrides, "try.")
    space: SearchSpace = {}
    for key, text in given.items():
        name = key.removeprefix("try.")
        space[name] = parse_choices(key, text, declared_hint(name, overrides))
    if not space:
        answered = {hook["name"]: hook["answered_by"] for hook in list_hooks()}
        space = {key: [METHOD_ITSELF, *answered[key.removeprefix("hooks.")]] for key in MIXED_HOOKS}
    if "method" not in space and not any(argument.startswith("method=") for argument in overrides):
        space = {"method": independent_methods(), **space}
    return space


def independent_methods() -> list[str]:
    """The recipes that add to no other method, train in one stage, and learn from unlabelled images."""
    answered = {hook["name"]: set(hook["answered_by"]) for hook in list_hooks()}
    learning = set().union(*(answered[hook] for hook in LEARNING_HOOKS)) - answered["plan_stages"]
    methods = []
    for name, path in recipes("method").items():
        if "base" not in read_file(path) and resolve([f"method={name}", "train.steps=1"]).plugins.names[0] in learning:
            methods.append(name)
    return sorted(methods)


def parse_choices(key: str, text: str, hint: Any = Any) -> Choices:
    """`a,b` as values, `1e-4..1e-2` as a range, and no text as all values that the type annotation `hint` declares.
    Raises UserError where none of them leaves a choice, and for a value that is not of the declared type and range."""
    declared = read_hint(hint)
    if not text:
        return declared_choices(key, declared)
    if ".." in text and declared.kind is not str:
        return parse_range(key, text, hint)
    values = split_commas(text)
    if len(values) < 2:
        raise UserError(f"{key}={text} offers no choice; give two values or more, or a range as 1e-4..1e-2")
    check_values(key, values, hint)
    return values


def parse_range(key: str, text: str, hint: Any) -> tuple[float, float]:
    """The ends of a range as numbers of the declared type. Raises UserError as `parse_choices` does."""
    low, _, high = text.partition("..")
    try:
        bounds = (float(low), float(high))
    except ValueError:
        raise UserError(f"{key}={text} is not a range; expected two numbers, as 1e-4..1e-2") from None
    if not bounds[0] < bounds[1]:
        raise UserError(f"{key}={text}: the first number must be the smaller one")
    check_values(key, [low, high], hint)
    return (int(low), int(high)) if read_hint(hint).kind is int else bounds


def check_values(key: str, values: Sequence[str], hint: Any) -> None:
    """Raise UserError for a value that is not of the declared type, or not within the declared range or choices."""
    if hint is not Any:
        name = key.removeprefix("try.")
        for value in values:
            parse_value(parse_brackets(name, value), hint, name)


def declared_choices(key: str, declared: FieldType) -> Choices:
    """The values or the range that a field declares. Raises UserError where it declares none that can be searched."""
    if declared.choices:
        return list(declared.choices)
    if declared.kind is bool:
        return ["true", "false"]
    bounds = declared.bounds
    if bounds is None or declared.container or bounds.high - bounds.low > WIDEST_DECLARED_RANGE:
        name, takes = key.removeprefix("try."), str(declared)
        raise UserError(f"{key}= leaves no choice; give values, or a range as 1e-4..1e-2 ({name} takes {takes})")
    return (int(bounds.low), int(bounds.high)) if declared.kind is int else (bounds.low, bounds.high)


def declared_hint(key: str, overrides: Sequence[str]) -> Any:
    """The type annotation of a key of the configuration or of a method's option; Any for a key without one, such as
    `hooks.pixel_weight`. Raises UserError for an unknown key."""
    schema: Any = Config
    hint: Any = Any
    parts = full_key(key).split(".")
    if parts[0] == "options" and len(parts) > 2:
        schema = option_schema(parts[1], overrides)
        parts = parts[2:]
    for part in parts:
        if not is_dataclass(schema):
            return Any
        fields = field_types(typing.cast(type, schema))
        name = part if part in fields else british(part)
        if name not in fields:
            prefix = key[: len(key) - len(part)]
            raise unknown("key", f"try.{key}", [f"try.{prefix}{field}" for field in fields])
        hint = typing.get_type_hints(schema, include_extras=True)[name]
        schema = None if fields[name].container else fields[name].kind
    return hint


def option_schema(method: str, overrides: Sequence[str]) -> type | None:
    """The class of an installed method, or of one in a Python file that the arguments name; None for no such method."""
    naming, _ = split_overrides(overrides, "method", "try.method", "plugins.path", "hooks.", "try.hooks.")
    files = python_files_in(list(naming.values()))
    source = None if files or method not in installed("methods") else read_plugin("methods", method)
    if source and source.options:
        return source.options
    from ssss_zoo.engine.registry import load, local_methods  # imports torch

    local = local_methods([str(path) for path in files.values()])
    if method in local or method not in installed("methods"):
        return local.get(method)
    return typing.cast(type, load("methods", method))


def suggest(trial: Any, key: str, choices: Choices) -> str:
    """The value that Optuna chooses for a key, as text."""
    if isinstance(choices, list):
        return str(trial.suggest_categorical(key, choices))
    low, high = choices
    log = low > 0 and high / low > LOGARITHMIC_SPAN
    if isinstance(low, int):
        return str(trial.suggest_int(key, low, high, log=log))
    return f"{trial.suggest_float(key, low, high, log=log):.4g}"


def choose_settings(trial: Any, space: SearchSpace, common: Sequence[str]) -> list[str]:
    """The `key=value` arguments that Optuna chooses for a trial. An option is among them only where the trial has its
    method. common: the arguments that all trials share."""
    chosen = {key: suggest(trial, key, choices) for key, choices in space.items() if option_method(key) is None}
    methods = method_names([*common, *chosen_overrides(chosen)])
    chosen |= {key: suggest(trial, key, choices) for key, choices in space.items() if option_method(key) in methods}
    return chosen_overrides({key: chosen[key] for key in space if key in chosen})


def chosen_overrides(chosen: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in chosen.items() if value != METHOD_ITSELF]


# --- options of methods ---------------------------------------------------------------------------------------------


def check_tried_options(space: SearchSpace, common: Sequence[str]) -> None:
    """Raise UserError for an option, tried or given, of a method that no trial has."""
    mains = [[f"method={method}"] for method in space_methods(space)] or [[]]
    hooks = [f"{key}={value}" for key, values in space.items() if key.startswith("hooks.")
             for value in values if value != METHOD_ITSELF]  # fmt: skip
    found = {name for chosen in (*mains, *([*mains[0], hook] for hook in hooks))
             for name in method_names([*common, *chosen])}  # fmt: skip
    given = {key: key for key in (argument.partition("=")[0] for argument in common)}
    for key, shown in (given | {key: f"try.{key}" for key in space}).items():
        method = option_method(key)
        if method is not None and method not in found:
            names = ", ".join(sorted(found))
            raise UserError(f"{shown} is an option of '{method}', which no trial has; the trials have {names}")


def space_methods(space: SearchSpace) -> list[str]:
    """The methods that are tried; none where the arguments name one."""
    methods = space.get("method", [])
    return methods if isinstance(methods, list) else []
