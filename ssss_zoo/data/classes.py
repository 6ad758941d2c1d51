"""Class lists: the name of each class, its colour, and the value that masks hold for it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.folder.list_rows import read_text_lines
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE

CLASS_LIST_NAMES = ("classes.txt", "classes.yaml", "classes.yml")
VOID_NAMES = ("void", "ignore")  # a class of this name does not count, and neither do its pixels
CLASS_LINE = re.compile(r"(?:(-?\d+)\s*[:=]\s*)?(.*?\S)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?")
COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$")  # from a lone # to the end of a line
HEADING_WORDS = {
    *("id", "index", "value", "label", "class", "name"),
    *("r", "g", "b", "red", "green", "blue", "color", "colour"),
}
YAML_DEPTH = 4  # levels of nesting: classes, their list, one of them, its colour
HIGHEST_VALUE = 2**32 - 1  # of a class; the lowest value is its negative


@dataclass(frozen=True)
class ClassLine:
    """A class of a list. value: what single-channel masks hold for it, None where the list gives none; colour: how it
    is displayed, and what colour masks hold for it."""

    name: str
    value: int | None = None
    colour: Colour | None = None

    @property
    def void(self) -> bool:
        return self.name.lower() in VOID_NAMES


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of the classes whose ids masks hold, in the order of the ids; see `read_class_list`."""
    lines = read_class_list(path)
    return tuple(line.name for line in lines), display_colours(lines)


def display_colours(lines: Sequence[ClassLine]) -> tuple[Colour, ...]:
    """A colour for each class: its own, else a generated one."""
    return tuple(line.colour or other for line, other in zip(lines, class_colours(len(lines)), strict=True))


def read_class_list(path: Path) -> list[ClassLine]:
    """The classes of a list, void ones included.

    A text file has one class per line, `name`, `name R G B`, `VALUE: name` or `VALUE: name R G B`, and comments that
    begin with a lone `#`. A YAML file has a list of names, a list of mappings with name, value and colour (or color),
    or one mapping of values to names; a name that YAML would read as a boolean or a number stays text.

    Raises UserError, naming file and line, for what cannot be read, for a name or value that occurs twice, and for
    fewer than 2 or more than 255 classes (void not counted).
    """
    lines = parse_yaml_list(path) if path.suffix in (".yaml", ".yml") else parse_text_list(path)
    first: dict[Any, str] = {}
    for where, line in lines.items():
        for key, what in ((line.name, "is named"), (line.value, f"has the value {line.value} that is given")):
            if key is not None and key in first:
                raise UserError(f"{where}: class '{line.name}' {what} twice, first in {first[key]}")
            first[key] = where
        if line.colour and not 0 <= min(line.colour) <= max(line.colour) <= 255:
            raise UserError(f"{where}: a colour of class '{line.name}' is not in 0 to 255: {line.colour}")
        if line.value is not None and abs(line.value) > HIGHEST_VALUE:
            raise UserError(f"{where}: the value of class '{line.name}' has more than 32 bits: {brief(line.value)}")
    count = sum(not line.void for line in lines.values())
    if not 2 <= count <= IGNORE:
        raise UserError(f"{path} names {count} classes; expected 2 to {IGNORE}, one per line")
    return list(lines.values())


def parse_text_list(path: Path) -> dict[str, ClassLine]:
    """The classes of a text file by their place (file and line). Blank lines and comments are skipped.

    Raises UserError for ambiguous lines: `#name`, a heading, values in front without a colon.
    """
    lines = read_text_lines(path)
    texts = {f"{path} line {number}": COMMENT.sub("", text).strip() for number, text in enumerate(lines, 1)}
    texts = {where: text for where, text in texts.items() if text}
    check_ambiguous_lines(texts)
    found = {}
    for where, text in texts.items():
        match = CLASS_LINE.fullmatch(text)
        if match:
            value, name, *channels = match.groups()
            red, green, blue = (int(channel or 0) for channel in channels)
            colour = (red, green, blue) if channels[0] else None
            found[where] = ClassLine(name, int(value) if value else None, colour)
    return found


def check_ambiguous_lines(texts: Mapping[str, str]) -> None:
    """Raise UserError for a line that can be read in two ways. texts: the lines of a class list by their place."""
    for where, text in texts.items():
        if text.startswith("#"):
            remedy = "a comment starts with '# '; a class with this name is written 'VALUE: #name'"
            raise UserError(f"{where}: is '{brief(text)}' a comment or a class? {remedy}")
        tokens = re.split(r"[\s,;]+", text.lower())
        if len(tokens) > 1 and set(tokens) <= HEADING_WORDS:
            remedy = "start it with '# ', or write 'VALUE: name' for a class with this name"
            raise UserError(f"{where}: '{brief(text)}' looks like a heading: {remedy}")
    numbers = [re.match(r"(-?\d+)[\s,;]+[^\d\s:=]", text) for text in texts.values()]
    if len(texts) > 1 and all(numbers):
        where, text = next(iter(texts.items()))
        raise UserError(
            f"{where}: is the number in front of '{brief(text)}' and of every class the value in the masks, or part of "
            "the name? write 'VALUE: name' in each line"
        )


def parse_yaml_list(path: Path) -> dict[str, ClassLine]:
    """The classes of a YAML file by their place (file and entry). Every scalar is read as text."""
    import yaml

    try:
        node = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
        content = read_yaml_node(node, path, YAML_DEPTH)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"cannot read {path}: it is nested too deeply for a list of classes") from None
    if isinstance(content, dict) and set(content) == {"classes"}:
        content = content["classes"]
    if isinstance(content, dict):
        content = [{"value": value, "name": name} for value, name in content.items()]
    if not isinstance(content, list):
        raise UserError(f"{path} holds no list of classes: give names, or name, value and colour of each")
    return {f"{path} entry {number}": parse_yaml_entry(path, number, entry) for number, entry in enumerate(content, 1)}


def read_yaml_node(node: Any, path: Path, depth: int) -> Any:
    """The lists, mappings and texts of a composed YAML node.

    Raises UserError for more than `depth` levels of nesting, and for a key that occurs twice: YAML would keep the last
    one.
    """
    if node is None or isinstance(node.value, str):
        return node.value if node else None
    if depth == 0:
        raise UserError(f"cannot read {path}: it is nested too deeply for a list of classes")
    if node.id == "sequence":
        return [read_yaml_node(child, path, depth - 1) for child in node.value]
    keys = [str(read_yaml_node(key, path, depth - 1)) for key, _ in node.value]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has '{brief(twice)}' twice, in the mapping from line {node.start_mark.line + 1} on")
    return {key: read_yaml_node(value, path, depth - 1) for key, (_, value) in zip(keys, node.value, strict=True)}


def parse_yaml_entry(path: Path, number: int, entry: Any) -> ClassLine:
    """A class of a YAML file. Raises UserError where the entry is neither a name nor a mapping of the known keys."""
    given = entry if isinstance(entry, dict) else {"name": entry}
    name = given.get("name")
    value = given.get("value", "0")
    colour: Any = given.get("colour", given.get("color", ["0", "0", "0"]))
    known = set(given) <= {"name", "value", "colour", "color"} and is_whole_number(value)
    three = isinstance(colour, list) and len(colour) == 3 and all(is_whole_number(channel) for channel in colour)
    if not (known and three and isinstance(name, str) and name.strip()):
        raise UserError(
            f"{path} entry {number}: {brief(entry)} is no class; expected a name, or name, value (a whole number) and "
            "colour ([R, G, B])"
        )
    red, green, blue = (int(channel) for channel in colour)
    has_colour = "colour" in given or "color" in given
    return ClassLine(name.strip(), int(value) if "value" in given else None, (red, green, blue) if has_colour else None)


def is_whole_number(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"-?\d{1,20}", text.strip()) is not None
