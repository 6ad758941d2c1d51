"""YAML that somebody wrote, read as words and nothing else: no objects, no part that stands for another, no key twice,
and bounds on size and depth. Each word knows the file and line that it stands in."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

MOST = 1 << 20  # bytes of a file (our choice: a resolved configuration has 3,000)
DEEPEST = 20  # parts within parts (our choice: a configuration has three)


class Word(str):
    """A piece of text. place: the file and line that it stands in, `` for one of the command line."""

    place = ""


class Loader(yaml.BaseLoader):
    """The loader that makes text, lists and mappings alone. file: named in the place of each word."""

    file, depth = "", 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Raises YAMLError at an alias (a few lines of them stand for more text than memory holds) and in the depth."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise fault(event, f"'*{event.anchor}' stands for another part of the text; write that part out")
        if self.depth > DEEPEST:
            raise fault(event, f"more than {DEEPEST} parts within each other")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> Word:
        word = Word(super().construct_scalar(node))
        word.place = f"{self.file}, line {node.start_mark.line + 1}" if self.file else ""
        return word

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Raises YAMLError at a key that is no word, or there twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise fault(key, "a key must be a word")
            if key.value in lines:
                raise fault(key, f"'{brief(key.value)}' is there twice, first in line {lines[key.value]}")
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def fault(at: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=at.start_mark)


def parse(text: str, file: str = "") -> Any:
    """The text as lists and mappings of words. Raises UserError that begins with the line of the fault."""
    loader = None
    try:
        loader = Loader(text)
        loader.file = file
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark and "\n" in text.strip() else ""
        raise UserError(f"{line}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"its character {error.position + 1} is U+{error.character:04X}, which no YAML may hold"
        ) from None
    finally:
        if loader:
            loader.dispose()


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8. Raises UserError when it is not there, no regular file, no text, or too large."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(
                f"cannot read the configuration {path}: it is {'a folder' if path.is_dir() else 'no regular file'}"
            )
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UserError(f"cannot read the configuration {brief(path)}: that is no path") from None
    if len(content) > MOST:
        raise UserError(
            f"cannot read the configuration {path}: it has more than {MOST:,} bytes; a configuration is a short text"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the configuration {path}: it is not a text file in UTF-8 (byte {error.start + 1})"
        ) from None


def read_yaml(path: Path) -> Any:
    """A YAML file as lists and mappings of words, not to be written into. Raises UserError, naming the file, as
    `read_text` and `parse` do."""
    return parsed(read_text(path), path)


@lru_cache(maxsize=128)  # a run reads some recipes four times, a comparison every recipe for each of its cells
def parsed(text: str, path: Path) -> Any:
    """The text of `path`, as `read_yaml`."""
    try:
        return parse(text, str(path))
    except UserError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


# --- where a mistake stands -----------------------------------------------------------------------------------------


def place_of(value: Any) -> str:
    """The file and line of a word, or of the first word of a list or mapping; nothing where no file gave it."""
    if isinstance(value, (list, Mapping)):
        parts = [part for item in value.items() for part in item] if isinstance(value, Mapping) else value
        return next((place for part in parts if (place := place_of(part))), "")
    return value.place if isinstance(value, Word) else ""


@contextmanager
def told_at(*values: Any) -> Iterator[None]:
    """A UserError from within is told with the place of the first of `values` that has one, unless it knows better."""
    try:
        yield
    except UserError as error:
        if error.place is None:
            error.place = next((place for value in values if (place := place_of(value))), "")
        raise
