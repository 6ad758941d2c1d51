"""How a setting or a method's option is declared: by its type, with its range or its choices in the same line.

    threshold: Annotated[float, Range(0, 1)] = 0.95
    partner: Literal["stream", "twin", "next"] = "stream"

Messages, the settings page, `ssss card` and `ssss search` all read that line.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, replace
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal

from ssss_zoo.errors import check_range

KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value that a number may have, or each number of a list."""

    low: float
    high: float = math.inf


@dataclass(frozen=True)
class FieldType:
    """The declared type of a field. kind: bool, int, float, str, Any or a dataclass. container: list or dict where the
    field holds several values of this kind. optional: the field may be None. bounds, choices: what each value must keep
    to."""

    kind: Any
    container: type | None = None
    optional: bool = False
    bounds: Range | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`a number, 0 to 1`, as the settings page and cards show it."""
        text = " or ".join(f"`{choice}`" for choice in self.choices) or KIND_NAMES.get(self.kind, "any value")
        if self.bounds:
            least, most = f"{self.bounds.low:g}", f"{self.bounds.high:g}"
            text += f", at least {least}" if self.bounds.high == math.inf else f", {least} to {most}"
        if self.container is list:
            text = f"a list, each {text}"
        if self.container is dict:
            text = "names and values"
        return f"{text}; or nothing" if self.optional else text


@cache
def field_types(schema: type) -> dict[str, FieldType]:
    """The types of those fields of a dataclass that a person can set, by name."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return {
        field.name: read_hint(hints[field.name])
        for field in dataclasses.fields(schema)
        if field.init and not field.metadata.get("omegaconf_ignore")
    }


def read_hint(hint: Any) -> FieldType:
    """A type annotation as a FieldType: `Annotated[int | None, Range(1)]`, `Literal["a", "b"]`, `list[float]`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = [mark for mark in arguments[1:] if isinstance(mark, Range)]
        return replace(read_hint(arguments[0]), bounds=bounds[0] if bounds else None)
    if origin is Literal:
        return FieldType(str, choices=arguments)
    if NoneType in arguments:
        (declared,) = [argument for argument in arguments if argument is not NoneType]
        return replace(read_hint(declared), optional=True)
    if origin in (list, dict):
        return replace(read_hint(arguments[-1]), container=origin)
    return FieldType(hint)


def check_ranges(schema: type, values: Any, prefix: str = "") -> None:
    """Raise UserError for a number outside the range that its field declares; sections are checked by themselves.
    values: an instance of the dataclass `schema`, or whatever has its attributes. prefix: of its keys in the message,
    as `options.fixmatch.`."""
    for name, declared in field_types(schema).items():
        if declared.bounds:
            value = getattr(values, name)
            for number in value if declared.container else [value]:
                if number is not None:
                    check_range(f"{prefix}{name}", number, declared.bounds.low, declared.bounds.high)
