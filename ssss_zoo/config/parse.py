"""Text from files and the command line, as trees, and read by the types of a dataclass."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ssss_zoo.config.yaml_text import DEEPEST, parse, place_of, read_yaml, told_at
from ssss_zoo.errors import UserError, check_choice, unknown
from ssss_zoo.text import brief

SHORT = {"model": "model.name", "plugins": "plugins.names"}  # a section given one word means this key of it
KEY = re.compile(r"[\w+-]+(\.[\w+-]+)*")
DIGITS = 18  # of a whole number at most: what 64 bits hold


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of the command line as a nested tree of text; the last one of a key wins."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not KEY.fullmatch(key):
            raise UserError(f"expected key=value, got '{brief(word)}'; for example train.steps=100")
        if key.count(".") > DEEPEST:
            raise UserError(f"{brief(key)} has {key.count('.') + 1} parts; a key has three at most, as train.steps")
        merge(tree, nest(SHORT.get(key, key), read_brackets(key, text)))
    return tree


def read_brackets(key: str, text: str) -> Any:
    """`[a, b]` and `{a: b}` as YAML, everything else as it stands. Raises UserError when a bracket is left open."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return parse(text)
    except UserError as error:
        raise UserError(f"{brief(key)}={brief(text)} is no list or mapping: {error}") from None


def read_file(path: Path) -> dict[str, Any]:
    """A YAML file as a tree of text. Raises UserError when it is not there or not a mapping."""
    tree = read_yaml(path)
    if tree in (None, ""):
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, found {'list' if isinstance(tree, list) else 'str'}")
    return {section: value for key, item in tree.items() for section, value in expand(key, item).items()}


def expand(key: str, item: Any) -> dict[str, Any]:
    return nest(SHORT[key], item) if key in SHORT and not isinstance(item, dict) else {key: item}


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b.c`, v as {a: {b: {c: v}}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `layer` over `base`, in place: mappings merge, everything else is replaced. `layer` stays as it is."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base.pop(key, None)  # the key that stays is the later one: it knows its place
            base[key] = merge({}, value) if isinstance(value, Mapping) else value
    return base


def section(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A copy of a section; an empty one where it is not there, or is something else, which `typed` refuses."""
    found = tree.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


# --- where a mistake stands -----------------------------------------------------------------------------------------


def places(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Of each key of a tree, `a.b.c`, the file and line that its value stands in; without those that no file gave."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= places(value, f"{prefix}{key}.")
        elif place := place_of(value):
            found[f"{prefix}{key}"] = place
    return found


@contextmanager
def told_where(known: Mapping[str, str]) -> Iterator[None]:
    """A UserError from within is told with the place of the first key that its message names. known: places of keys."""
    try:
        yield
    except UserError as error:
        if error.place is None:
            named = (SHORT.get(word, word) for word in re.findall(r"[\w.+-]*\w", str(error)))
            error.place = next((known[key] for key in named if key in known), None)
        raise


# --- values by their types ------------------------------------------------------------------------------------------


def typed(schema: type, tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The text of `tree` read by the field types of the dataclass `schema`; UserError at an unknown key."""
    kinds = kinds_of(schema)
    values = {}
    for key, value in tree.items():
        with told_at(value, key):
            if key not in kinds:
                raise unknown("key", f"{prefix}{key}", [f"{prefix}{name}" for name in kinds])
            values[str(key)] = read_value(value, kinds[key], f"{prefix}{key}")
    return values


@cache
def kinds_of(schema: type) -> dict[str, Any]:
    """The type of each field of a dataclass that can be given."""
    hints = typing.get_type_hints(schema)  # without `Annotated`: `check_ranges` reads them
    return {f.name: hints[f.name] for f in dataclasses.fields(schema) if f.init}


def read_value(value: Any, kind: Any, key: str) -> Any:
    """One value by its type: dataclass, dict, list, optional or scalar. A scalar for a list is a list of one."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{key} is a section, it takes {key}.<key>=value; got '{brief(value)}'")
        return typed(typing.cast(type, kind), value, f"{key}.")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in arguments:
        absent = value is None or value in ("null", "none", "~", "")
        return None if absent else read_value(value, next(a for a in arguments if a is not type(None)), key)
    if origin is typing.Literal:
        check_choice(key, read_scalar(value, str, key), arguments)
        return str(value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{key} takes {key}.<name>=value; got '{brief(value)}'")
        return {str(name): read_value(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
    if origin is list:
        parts = [value] if isinstance(value, Mapping) else value  # a mapping is no list, and refused as a value
        parts = parts if isinstance(parts, list) else [part for part in str(value).split(",") if part]
        return [read_scalar(part, arguments[0], key) for part in parts]
    return value if kind is Any else read_scalar(value, kind, key)


READERS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def read_scalar(value: Any, kind: type, key: str) -> Any:
    """Text as a bool, a whole number, a finite number or text. Raises UserError when it is none."""
    if kind not in READERS:
        raise UserError(f"{key} is declared as {kind}; an option may be str, int, float, bool, a list of one, or None")
    text = str(value).strip()
    try:
        if isinstance(value, (list, Mapping)):
            raise ValueError
        if kind is bool:
            return (TRUE + FALSE).index(text.lower()) < len(TRUE)
        if kind is int and not re.fullmatch(r"[+-]?[0-9]+", text):
            raise ValueError
        if kind is float and not re.fullmatch(r"[0-9a-zA-Z.+-]+", text):  # Python reads 1_0, and digits of any script
            raise ValueError
        number = kind(text if kind is not int or len(text) <= DIGITS else "0")
    except ValueError:
        raise UserError(f"{key} takes {READERS[kind]}; got '{brief(value)}'") from None
    if kind is int and len(text) > DIGITS:
        raise UserError(f"{key} takes a whole number of at most {DIGITS} digits; got {brief(text)}")
    if kind is float and not math.isfinite(number):
        raise UserError(f"{key} must be a finite number; got {brief(text)}")
    if kind is str and "\0" in text:
        raise UserError(f"{key} takes text without NUL characters; got '{brief(text)}'")
    return number


def flatten_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as one mapping with `a.b.c` keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves
