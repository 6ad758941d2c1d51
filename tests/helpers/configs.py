"""Configurations that tests resolve: a file of one's own, the message of a mistake, the keys that take numbers."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.errors import UserError


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


def message(words: list[str], config_file: Path | None = None) -> str:
    """The one-line error of a configuration that must not resolve."""
    with pytest.raises(UserError) as caught:
        resolve(words, config_file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numeric_keys() -> list[str]:
    """Every key of the schema that takes a number or a list of floats."""
    keys = []
    for section in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[section.name]
        if dataclasses.is_dataclass(kind):
            for key, hint in typing.get_type_hints(kind).items():
                if float in (hint, *typing.get_args(hint)):
                    keys.append(f"{section.name}.{key}")
    return keys
