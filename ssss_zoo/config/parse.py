"""Text of files and of the command line as nested mappings, and these as an instance of a dataclass."""

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

from ssss_zoo.config.fields import KIND_NAMES, FieldType, field_types
from ssss_zoo.config.yaml_text import MAX_DEPTH, located, location_of, parse_yaml, read_yaml
from ssss_zoo.errors import UserError, unknown
from ssss_zoo.text import brief

MAIN_KEYS = {"model": "name", "plugins": "names"}  # a section given one value means this key of it
KEY = re.compile(r"[\w+-]+(\.[\w+-]+)*")
MAX_DIGITS = 18  # of a whole number: what 64 bits hold
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and what Python makes of bytes that are not UTF-8
ABSENT = ("null", "none", "~", "")  # the ways to write that a key has no value
BRITISH = {"labeled": "labelled", "unlabeled": "unlabelled", "gray": "grey", "center": "centre", "color": "colour",
           "colors": "colours", "normalizer": "normaliser"}  # fmt: skip

Tree = dict[str, Any]  # nested mappings and lists of text


# --- trees of text --------------------------------------------------------------------------------------------------


def parse_overrides(overrides: Iterable[str]) -> Tree:
    """The `key=value` arguments of a command line as a tree; the last one of a key wins. Raises UserError for an
    argument of another form."""
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not KEY.fullmatch(key):
            raise UserError(f"expected key=value, got '{brief(override)}'; for example train.steps=100")
        if key.count(".") > MAX_DEPTH:
            raise UserError(f"{brief(key)} has {key.count('.') + 1} parts; a key has three at most, as train.steps")
        tree = merge(tree, nest(full_key(key), parse_brackets(key, text)))
    return tree


def split_overrides(overrides: Iterable[str], *keys: str) -> tuple[dict[str, str], list[str]]:
    """The text of `keys` by key, of each the last one, and all other overrides as they are.

    A key that ends in a dot, such as `vary.`, stands for all keys below it. An argument without `=` is among the
    others, where `parse_overrides` refuses it.
    """
    prefixes = tuple(key for key in keys if key.endswith("."))
    texts: dict[str, str] = {}
    others: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and (key in keys or key.startswith(prefixes)):
            texts[key] = text
        else:
            others.append(override)
    return texts, others


def parse_brackets(key: str, text: str) -> Any:
    """`[a, b]` and `{a: b}` as YAML, everything else as it stands. Raises UserError when a bracket is left open."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return parse_yaml(text)
    except UserError as error:
        raise UserError(f"{brief(key)}={brief(text)} is not a list or mapping: {error}") from None


def read_file(path: Path) -> Tree:
    """A YAML file as a tree. Raises UserError when it is not there or not a mapping."""
    tree = read_yaml(path)
    if tree in (None, ""):
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold keys and values, found {'list' if isinstance(tree, list) else 'str'}")
    return {
        key: {MAIN_KEYS[key]: value} if key in MAIN_KEYS and not isinstance(value, dict) else value
        for key, value in tree.items()
    }


def full_key(key: str) -> str:
    """`model` as `model.name`; other keys as they are."""
    return f"{key}.{MAIN_KEYS[key]}" if key in MAIN_KEYS else key


def nest(key: str, value: Any) -> Tree:
    """`a.b.c`, v as {a: {b: {c: v}}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return typing.cast(Tree, value)


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> Tree:
    """A new tree with `layer` over `base`: mappings are merged, anything else is replaced and its key comes last."""
    merged = dict(base)
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged.pop(key, None)  # of two equal keys the later one knows its line
            merged[key] = merge({}, value) if isinstance(value, Mapping) else value
    return merged


def section(tree: Mapping[str, Any], key: str) -> Tree:
    """A section of the tree; an empty one where the key is not there or has a single value."""
    found = tree.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def flatten_keys(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as one mapping with `a.b.c` keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten_keys(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def override_value(value: object) -> str:
    """A value as text for the command line."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"[{','.join(map(override_value, value))}]" if isinstance(value, list) else str(value)


def british(key: str) -> str:
    """A key with each part of its name spelt as ours are: `unlabeled` as `unlabelled`, `gray` as `grey`."""
    return re.sub(r"[a-z]+", lambda part: BRITISH.get(part[0], part[0]), key)


# --- the line of a mistake ------------------------------------------------------------------------------------------


def locations(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """For each key of a tree, as `a.b.c`, the file and line that its value stands in; only those that a file gave."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= locations(value, f"{prefix}{key}.")
        elif location := location_of(value):
            found[british(f"{prefix}{key}")] = location
    return found


@contextmanager
def located_by_key(known: Mapping[str, str]) -> Iterator[None]:
    """Give a UserError from within the location of the first key that its message names. known: locations of keys."""
    try:
        yield
    except UserError as error:
        if error.location is None:
            named = map(full_key, re.findall(r"[\w.+-]*\w", str(error)))
            error.location = next((known[key] for key in named if key in known), None)
        raise


# --- values by their types ------------------------------------------------------------------------------------------


def build_typed(schema: type, tree: Mapping[str, Any], prefix: str = "") -> Any:
    """An instance of the dataclass `schema` from a tree of text, which OmegaConf reads by the types of the fields.

    prefix: of the keys in messages, as `options.fixmatch.`. Raises UserError for an unknown key, a value of another
    type or out of its range, and a field that has no default and is not given.
    """
    from ssss_zoo.config.typed_values import (
        build_from_text,  # OmegaConf takes longer to import than a list of names takes
    )

    return build_from_text(schema, text_for_omegaconf(schema, tree, prefix), prefix)


def parse_value(value: Any, hint: Any, key: str) -> Any:
    """A value that belongs to no schema, such as `plugins.trust`, by its type. Raises UserError as
    `build_typed` does."""
    prefix, name = key[: key.rfind(".") + 1], key.rpartition(".")[2]
    return getattr(build_typed(single_field(name, hint), {name: value}, prefix), name)


@cache
def single_field(name: str, hint: Any) -> type:
    return dataclasses.make_dataclass("Single", [(name, hint)])


def text_for_omegaconf(schema: type, tree: Mapping[str, Any], prefix: str) -> Tree:
    """The tree with each key in our spelling and each value as `text_of_field` makes it. Raises UserError for a key
    that the dataclass does not have."""
    declared, text = field_types(schema), Tree()
    for key, value in tree.items():
        name = key if key in declared else british(key)
        with located(value, key):
            if name not in declared:
                raise unknown("key", f"{prefix}{key}", [f"{prefix}{known}" for known in declared])
            text.pop(name, None)
            text[str(name)] = text_of_field(value, declared[name], f"{prefix}{name}")
    return text


def text_of_field(value: Any, declared: FieldType, key: str) -> Any:
    """The value of a field for OmegaConf: None where it is absent, one value for a list as a list, and text that it
    neither resolves nor reads more freely than we do. Raises UserError for a value of another shape."""
    if declared.optional and (value.strip() if isinstance(value, str) else value) in (None, *ABSENT):
        return None
    if declared.container is list:
        return [plain_text(part, declared.kind, key) for part in split_list(value)]
    if not isinstance(value, Mapping) and dataclasses.is_dataclass(declared.kind):
        raise no_section(key, value)
    if not isinstance(value, Mapping) and declared.container is dict:
        raise UserError(f"{key} takes {key}.<name>=value; got '{brief(value)}'")
    if declared.container is dict:
        return {str(name): plain_text(item, declared.kind, f"{key}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(declared.kind):
        return text_for_omegaconf(typing.cast(type, declared.kind), value, f"{key}.")
    return plain_text(value, declared.kind, key)


def split_list(value: Any) -> list[Any]:
    """The elements of a list, of `a,b`, or of a single value."""
    if isinstance(value, (list, Mapping)):
        return value if isinstance(value, list) else [value]  # a mapping is refused as an element
    return [part for part in str(value).split(",") if part]


PATTERNS = {  # narrower than Python and OmegaConf, which read 1_0, digits of any script, and any number as true
    bool: re.compile(r"true|yes|on|1|false|no|off|0", re.IGNORECASE),
    int: re.compile(r"[+-]?[0-9]+"),
    float: re.compile(r"[+-]?(nan|inf(inity)?|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)", re.IGNORECASE),
}


def plain_text(value: Any, kind: type, key: str) -> Any:
    """A single value as text that OmegaConf may read; for `Any` a tree of such text. Raises UserError where it is not
    of this kind."""
    if kind is Any:
        return without_references(value, key)
    text = str(value).strip()
    if kind not in KIND_NAMES:
        raise UserError(f"{key} is declared as {kind}; an option may be str, int, float, bool, a list of one, or None")
    if isinstance(value, (list, Mapping)) or (kind in PATTERNS and not PATTERNS[kind].fullmatch(text)):
        raise UserError(f"{key} takes {KIND_NAMES[kind]}; got '{brief(value)}'")
    if kind is int and len(text) > MAX_DIGITS:
        raise UserError(f"{key} takes a whole number of at most {MAX_DIGITS} digits; got {brief(text)}")
    if kind is float and not math.isfinite(float(text)):
        raise UserError(f"{key} must be a finite number; got {brief(text)}")
    return without_references(text, key)


def without_references(value: Any, key: str) -> Any:
    """A tree whose text OmegaConf leaves as it stands: `${...}` refers to nothing. Raises UserError for `???`, its mark
    of a missing value, and for text that no file of a run could hold."""
    if isinstance(value, Mapping):
        return {str(name): without_references(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [without_references(item, key) for item in value]
    if value == "???":
        raise UserError(f"{key} is given as '???', which means no value: give a value, or remove the setting")
    if isinstance(value, str) and UNWRITABLE.search(value):
        raise UserError(f"{key} takes text in UTF-8 without NUL characters; got '{brief(value)}'")
    return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", value) if isinstance(value, str) else value


def no_section(key: str, value: Any) -> UserError:
    return UserError(f"{key} is a section, it takes {key}.<key>=value; got '{brief(value)}'")
