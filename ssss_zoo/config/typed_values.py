"""Checked text as an instance of a dataclass, by OmegaConf."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from omegaconf import OmegaConf, flag_override
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from ssss_zoo.config.fields import check_ranges, field_types
from ssss_zoo.errors import UserError, wrong_choice
from ssss_zoo.text import brief


def build_from_text(schema: type, text: Mapping[str, Any], prefix: str) -> Any:
    """`build_typed` from text for OmegaConf; each section is read by itself, so that equal sections are read once."""
    sections = section_types(schema)
    own = {name: value for name, value in text.items() if name not in sections}
    try:
        built: Any = OmegaConf.to_object(read_by_types(schema, json.dumps(own), prefix))
    except OmegaConfBaseException as error:
        raise readable(error, schema, prefix) from None
    parts = {name: build_from_text(part, text.get(name, {}), f"{prefix}{name}.") for name, part in sections.items()}
    return dataclasses.replace(built, **parts) if parts else built


@lru_cache(maxsize=512)
def read_by_types(schema: type, text: str, prefix: str) -> Any:
    """OmegaConf's tree of a dataclass without its sections, with the values that `text` gives as JSON. Kept, since it
    takes milliseconds and a comparison reads equal settings many times. Raises OmegaConf's errors, and UserError for a
    number out of its range."""
    values = OmegaConf.merge(defaults_of(schema), json.loads(text))
    check_ranges(schema, values, prefix)  # before a method's __post_init__ works with its options
    return values


@cache
def defaults_of(schema: type) -> Any:
    """OmegaConf's tree of a dataclass without its sections; nothing writes into it, since making one is slow."""
    defaults = OmegaConf.structured(schema)
    with flag_override(defaults, ["struct", "readonly"], False):
        for name in section_types(schema):
            del defaults[name]
    return defaults


@cache
def section_types(schema: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves, by name."""
    return {
        name: typing.cast(type, declared.kind)
        for name, declared in field_types(schema).items()
        if dataclasses.is_dataclass(declared.kind) and declared.container is None and not declared.optional
    }


def readable(error: OmegaConfBaseException, schema: type, prefix: str) -> UserError:
    """OmegaConf's error in our words: the key, what it takes, what came."""
    key = re.sub(r"\[\d+\]$", "", error.full_key or "")
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{prefix}{key} has no default: give {prefix}{key}=value")
    declared: Any = schema
    for name in key.split("."):
        declared = field_types(getattr(declared, "kind", declared)).get(name)
    if declared and declared.choices:
        return wrong_choice(f"{prefix}{key}", str(error.value), declared.choices)
    return UserError(brief(" ".join(str(error).split()), 200))
