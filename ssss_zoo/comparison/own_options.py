"""Which options belong to a run of a comparison or a search: those of the methods that it has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from ssss_zoo.config.resolve import resolve

NAMING = ("method=", "hooks.", "plugins.")  # the beginnings of the arguments that name methods
NO_METHOD = {"none", "null", ""}  # what `hooks.<hook>` may hold in place of names


def option_method(key: str) -> str | None:
    """The method whose option a key is; None for other keys."""
    parts = key.split(".")
    return parts[1] if parts[0] == "options" and len(parts) > 2 else None


def method_names(overrides: Iterable[str]) -> frozenset[str]:
    """The methods of a run: those of `method`, and those that answer single hooks. Other arguments are not read."""
    return method_names_of(tuple(argument for argument in overrides if argument.startswith(NAMING)))


@cache
def method_names_of(overrides: tuple[str, ...]) -> frozenset[str]:
    config = resolve(overrides)
    answering = {name for names in config.hooks.values() for name in names.split("+")}
    return frozenset({*config.plugins.names, *answering} - NO_METHOD)


def with_own_options(common: Sequence[str], own: Sequence[str]) -> list[str]:
    """The arguments of a run: those that all runs share without the options of methods that this run does not have,
    then its own."""
    methods = method_names([*common, *own])
    kept = [argument for argument in common if option_method(argument.partition("=")[0]) in (None, *methods)]
    return [*kept, *own]
