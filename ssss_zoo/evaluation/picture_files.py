"""The file of a picture that a command draws, and the arguments that mean nothing to such a command."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path

from ssss_zoo.config.parse import parse_value
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.text import brief

PICTURE_KEYS = {"file": "", "overwrite": "false"}  # overrides that are not configuration, with their defaults
PICTURE_SUFFIXES = (".png", ".jpg")


def picture_file(usual: str, file: str, overwrite: str) -> Path:
    """The file to write a picture to: the one that `file=` names, or `usual` with the next free number.

    Raises UserError for another suffix, for a folder that does not exist, and for a file that exists, unless
    `overwrite` is `true`.
    """
    replace_it = parse_value(overwrite, bool, "overwrite")
    path = expanded(file or usual)
    if path.suffix.lower() not in PICTURE_SUFFIXES or not path.absolute().parent.is_dir():
        raise UserError(f"file={path} takes a .png or .jpg in a folder that is there")
    if replace_it or not path.exists():
        return path
    if file:
        raise UserError(f"file={path} exists: give another name, or overwrite=true to replace it")
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(other for other in numbered if not other.exists())


def check_picture_keys(command: str, overrides: Iterable[str], refused: Collection[str]) -> None:
    """Raise UserError for an override that the command would ignore. refused: keys, and sections that end in a dot."""
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        if any(f"{key}." == entry or key == entry or (entry[-1] == "." and key.startswith(entry)) for entry in refused):
            what = "file= names the picture" if key == "output" else "leave it out"
            raise UserError(f"{command} does not use {brief(key)}=, since it draws one picture: {what}")
