"""Reads YAML as nested lists and mappings of text, and nothing else; writes YAML.

No objects, no aliases, no key twice, and bounds on size and depth. Each text knows the file and line it stands in.
"""

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

try:
    from yaml import CSafeDumper as SafeDumper  # writes ten times faster; PyYAML has it where libyaml is there
except ImportError:
    from yaml import SafeDumper  # type: ignore[assignment]

MAX_BYTES = 1 << 20  # of a file (our choice: a resolved configuration has 3,000)
MAX_DEPTH = 20  # of parts within each other (our choice: a configuration has three)


class LocatedText(str):
    """Text of a file. location: the file and line that it stands in; `` for text of the command line."""

    location = ""


class TextLoader(yaml.BaseLoader):
    """Makes text, lists and mappings alone. file: for the location of each text."""

    file, depth = "", 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Raises YAMLError at an alias, since a few lines of them stand for more text than memory holds, and below
        MAX_DEPTH."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml_error(event, f"'*{event.anchor}' is an alias of another part; write that part out")
        if self.depth > MAX_DEPTH:
            raise yaml_error(event, f"more than {MAX_DEPTH} nested levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_scalar(self, node: Any) -> LocatedText:
        text = LocatedText(super().construct_scalar(node))
        text.location = f"{self.file}, line {node.start_mark.line + 1}" if self.file else ""
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Raises YAMLError at a key that is a list or a mapping, or that is there twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml_error(key, "a key must be a word")
            if key.value in lines:
                raise yaml_error(key, f"'{brief(key.value)}' is given twice, first in line {lines[key.value]}")
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def yaml_error(node: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def parse_yaml(text: str, file: str = "") -> Any:
    """The text as lists and mappings of LocatedText. Raises UserError that begins with the line of the mistake."""
    loader = None
    try:
        loader = TextLoader(text)
        loader.file = file
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark and "\n" in text.strip() else ""
        raise UserError(f"{line}{error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        raise UserError(
            f"its character {error.position + 1} is U+{error.character:04X}, which YAML does not allow"
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
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UserError(f"cannot read the configuration {brief(path)}: this is not a path") from None
    if len(content) > MAX_BYTES:
        raise UserError(
            f"cannot read the configuration {path}: it has more than {MAX_BYTES:,} bytes; a configuration is a short "
            "text"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read the configuration {path}: it is not a text file in UTF-8 (byte {error.start + 1})"
        ) from None


def read_yaml(path: Path) -> Any:
    """A YAML file as lists and mappings of text, which must not be changed: files that did not change are parsed once.
    Raises UserError, naming the file, as `read_text` and `parse_yaml` do."""
    return parse_file_text(read_text(path), path)


@lru_cache(maxsize=128)  # a comparison reads every recipe again for each of its runs
def parse_file_text(text: str, path: Path) -> Any:
    try:
        return parse_yaml(text, str(path))
    except UserError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


# --- the line of a mistake ------------------------------------------------------------------------------------------


def location_of(value: Any) -> str:
    """The file and line of a text, or of the first text of a list or mapping; `` where no file gave it."""
    if isinstance(value, (list, Mapping)):
        parts = [part for item in value.items() for part in item] if isinstance(value, Mapping) else value
        return next((location for part in parts if (location := location_of(part))), "")
    return value.location if isinstance(value, LocatedText) else ""


@contextmanager
def located(*values: Any) -> Iterator[None]:
    """Give a UserError from within the location of the first of `values` that has one, unless it has its own."""
    try:
        yield
    except UserError as error:
        if error.location is None:
            error.location = next((location for value in values if (location := location_of(value))), "")
        raise


# --- writing --------------------------------------------------------------------------------------------------------


class TextDumper(SafeDumper):
    """Writes text as text, whatever it looks like, and without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


TextDumper.add_multi_representer(str, lambda dumper, text: dumper.represent_str(str(text)))


def write_yaml(tree: Mapping[str, Any]) -> str:
    """The tree as YAML that `read_yaml` reads back, one line a value."""
    return yaml.dump(tree, Dumper=TextDumper, sort_keys=False, allow_unicode=True, width=MAX_BYTES)
