"""What classes are called, which colours they are shown in, and what masks hold for them: what a class list says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.data.tables import read_lines
from ssss_zoo.errors import UserError
from ssss_zoo.records import IGNORE

FILES = ("classes.txt", "classes.yaml", "classes.yml")
VOID = ("void", "ignore")  # a class of this name is none: its pixels do not count
LINE = re.compile(r"(?:(\d+)\s*[:=]\s*)?(.*?\S)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassLine:
    """A class of a list. value: what single-channel masks hold for it, None where the list does not say; colour: what
    it is shown in, and what colour masks hold for it."""

    name: str
    value: int | None = None
    colour: Colour | None = None

    @property
    def void(self) -> bool:
        return self.name.lower() in VOID


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of a class list whose masks hold ids, in the order of ids; see `read_class_list`."""
    lines = read_class_list(path)
    return tuple(line.name for line in lines), shown_colours(lines)


def shown_colours(lines: Sequence[ClassLine]) -> tuple[Colour, ...]:
    """A colour for each class: its own, else a generated one."""
    return tuple(line.colour or other for line, other in zip(lines, palette(len(lines)), strict=True))


def read_class_list(path: Path) -> list[ClassLine]:
    """The classes of a list. Text: one a line, `name`, `name R G B`, `VALUE: name` or `VALUE: name R G B`. YAML: a list
    of names, a list of mappings with name, value and colour (or color), or one mapping of values to names.

    Raises UserError, naming file and line, at what cannot be read, at a name or value that is there twice, and for
    fewer than 2 or more than 255 classes (void not counted).
    """
    lines = yaml_lines(path) if path.suffix in (".yaml", ".yml") else text_lines(path)
    seen: dict[Any, str] = {}
    for where, line in lines:
        for key, what in ((line.name, "is named"), (line.value, f"has the value {line.value} that is given")):
            if key is not None and key in seen:
                raise UserError(f"{where}: class '{line.name}' {what} twice, first in {seen[key]}")
            seen[key] = where
        if line.colour and max(line.colour) > 255:
            raise UserError(f"{where}: a colour of class '{line.name}' is above 255: {line.colour}")
    found = [line for _, line in lines]
    count = sum(not line.void for line in found)
    if not 2 <= count <= IGNORE:
        raise UserError(f"{path} names {count} classes; expected 2 to {IGNORE}, one a line")
    return found


def text_lines(path: Path) -> list[tuple[str, ClassLine]]:
    """The lines of a text file that are not blank, and where each stands."""
    found = []
    for number, text in enumerate(read_lines(path), 1):
        match = LINE.fullmatch(text)
        if match:
            value, name, *parts = match.groups()
            red, green, blue = (int(part or 0) for part in parts)
            colour = (red, green, blue) if parts[0] else None
            found.append((f"{path} line {number}", ClassLine(name, int(value) if value else None, colour)))
    return found


def yaml_lines(path: Path) -> list[tuple[str, ClassLine]]:
    """The entries of a YAML file, and where each stands."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if isinstance(content, dict) and set(content) == {"classes"}:
        content = content["classes"]
    entries = (
        [{"value": value, "name": name} for value, name in content.items()] if isinstance(content, dict) else content
    )
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list of classes: give names, or name, value and colour of each")
    return [(f"{path} entry {number}", yaml_line(path, number, entry)) for number, entry in enumerate(entries, 1)]


def yaml_line(path: Path, number: int, entry: Any) -> ClassLine:
    """One entry of a YAML file. Raises UserError where it is neither a name nor a mapping of the known keys."""
    given = entry if isinstance(entry, dict) else {"name": entry}
    name, value = given.get("name"), given.get("value")
    colour = given.get("colour", given.get("color"))
    known = set(given) <= {"name", "value", "colour", "color"} and isinstance(name, (str, int))
    right = value is None or (type(value) is int and value >= 0)
    three = colour is None or (isinstance(colour, list) and len(colour) == 3 and all(type(c) is int for c in colour))
    if not (known and right and three):
        raise UserError(
            f"{path} entry {number}: {entry!r} is no class; expected a name, or name, value (a whole number) and "
            "colour ([R, G, B])"
        )
    return ClassLine(str(name), value, (colour[0], colour[1], colour[2]) if colour else None)


def palette(count: int) -> tuple[Colour, ...]:
    """`count` distinct colours, black first: the bits of an id, lowest first, become the high bits of red, green and
    blue in turn (the colour map of the PASCAL VOC development kit)."""
    return tuple(bit_colour(index) for index in range(count))


def bit_colour(index: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return (channels[0], channels[1], channels[2])
