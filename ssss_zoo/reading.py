"""Text from files and the command line, as trees, and read by the types of a dataclass."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssss_zoo.errors import UserError, unknown

SHORT = {"model": "model.name", "plugins": "plugins.names"}  # a section given one word means this key of it


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """`key=value` words of the command line as a nested tree of text; the last one of a key wins."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[\w.+-]+", key):
            raise UserError(f"expected key=value, got '{word}'; for example train.steps=100")
        merge(tree, nest(SHORT.get(key, key), read_brackets(key, text)))
    return tree


def read_brackets(key: str, text: str) -> Any:
    """`[a, b]` and `{a: b}` as YAML, everything else as it stands. Raises UserError when a bracket is left open."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return yaml.load(text, yaml.BaseLoader)  # the loader that makes text and nothing else
    except yaml.YAMLError as error:
        raise UserError(f"{key}={text} is no list or mapping: {' '.join(str(error).split())}") from None


def read_file(path: Path) -> dict[str, Any]:
    """A YAML file as a tree of text. Raises UserError when it is not there or not a mapping."""
    try:
        tree = yaml.load(path.read_text(), yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"cannot read the configuration {path}: it is not a text file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree in (None, ""):
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, found {type(tree).__name__}")
    return {section: value for key, item in tree.items() for section, value in expand(key, item).items()}


def expand(key: str, item: Any) -> dict[str, Any]:
    return nest(SHORT[key], item) if key in SHORT and not isinstance(item, dict) else {key: item}


def nest(key: str, value: Any) -> dict[str, Any]:
    """`a.b.c`, v as {a: {b: {c: v}}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `layer` over `base`, in place: mappings merge, everything else is replaced."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
    return base


def typed(schema: type, tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The text of `tree` read by the field types of the dataclass `schema`; UserError at an unknown key."""
    hints = typing.get_type_hints(schema)
    names = [f.name for f in dataclasses.fields(schema) if f.init]
    values = {}
    for key, value in tree.items():
        if key not in names:
            raise unknown("key", f"{prefix}{key}", [f"{prefix}{name}" for name in names])
        values[key] = read_value(value, hints[key], f"{prefix}{key}")
    return values


def read_value(value: Any, kind: Any, key: str) -> Any:
    """One value by its type: dataclass, dict, list, optional or scalar. A scalar for a list is a list of one."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"{key} is a section, it takes {key}.<key>=value; got '{value}'")
        return typed(typing.cast(type, kind), value, f"{key}.")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in arguments:
        absent = value is None or value in ("null", "none", "~", "")
        return None if absent else read_value(value, next(a for a in arguments if a is not type(None)), key)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{key} takes {key}.<name>=value; got '{value}'")
        return dict(value)
    if origin is list:
        parts = value if isinstance(value, list) else [part for part in str(value).split(",") if part]
        return [read_scalar(part, arguments[0], key) for part in parts]
    return read_scalar(value, kind, key)


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
        if kind is int and not re.fullmatch(r"[+-]?\d+", text):
            raise ValueError
        number = kind(text)
    except ValueError:
        raise UserError(f"{key} takes {READERS.get(kind, kind.__name__)}; got '{value}'") from None
    if kind is float and not math.isfinite(number):
        raise UserError(f"{key} must be a finite number; got {text}")
    return number
