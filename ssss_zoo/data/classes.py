"""What classes are called, which colours they are shown in, and what masks hold for them: what a class list says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.data.folder.tables import read_lines
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import IGNORE

FILES = ("classes.txt", "classes.yaml", "classes.yml")
VOID = ("void", "ignore")  # a class of this name is none: its pixels do not count
LINE = re.compile(r"(?:(-?\d+)\s*[:=]\s*)?(.*?\S)(?:[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+))?")
COMMENT = re.compile(r"(?:^|\s)#(?:\s.*)?$")  # from a lone # to the end of a line
HEADING = {"id", "index", "value", "label", "class", "name", "r", "g", "b", "red", "green", "blue", "color", "colour"}
DEPTH = 4  # of a YAML file: classes, their list, one of them, its colour
HIGHEST = 2**32 - 1  # of a value, and its negative the lowest

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
    """The classes of a list. Text: one a line, `name`, `name R G B`, `VALUE: name` or `VALUE: name R G B`, and
    comments from a lone `#` on. YAML: a list of names, a list of mappings with name, value and colour (or color), or
    one mapping of values to names; what YAML takes for a truth value or a number in base 16 stays a name.

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
        if line.colour and not 0 <= min(line.colour) <= max(line.colour) <= 255:
            raise UserError(f"{where}: a colour of class '{line.name}' is not in 0 to 255: {line.colour}")
        if line.value is not None and abs(line.value) > HIGHEST:
            raise UserError(f"{where}: the value of class '{line.name}' has more than 32 bits: {brief(line.value)}")
    found = [line for _, line in lines]
    count = sum(not line.void for line in found)
    if not 2 <= count <= IGNORE:
        raise UserError(f"{path} names {count} classes; expected 2 to {IGNORE}, one a line")
    return found


def text_lines(path: Path) -> list[tuple[str, ClassLine]]:
    """The lines of a text file that are not blank and no comment (from a lone `#` on), and where each stands.

    Raises UserError for lines that may mean two things: `#name`, a heading, values in front without a colon.
    """
    texts = {f"{path} line {number}": COMMENT.sub("", text).strip() for number, text in enumerate(read_lines(path), 1)}
    texts = {where: text for where, text in texts.items() if text}
    check_meaning(texts)
    found = []
    for where, text in texts.items():
        match = LINE.fullmatch(text)
        if match:
            value, name, *parts = match.groups()
            red, green, blue = (int(part or 0) for part in parts)
            colour = (red, green, blue) if parts[0] else None
            found.append((where, ClassLine(name, int(value) if value else None, colour)))
    return found


def check_meaning(texts: Mapping[str, str]) -> None:
    """Raise UserError, naming the place, for a text of a class list that may mean two things."""
    for where, text in texts.items():
        if text.startswith("#"):
            mend = "a comment begins with '# ', a class called so is written 'VALUE: #name'"
            raise UserError(f"{where}: is '{brief(text)}' a comment or a class? {mend}")
        if len(words := re.split(r"[\s,;]+", text.lower())) > 1 and set(words) <= HEADING:
            mend = "begin it with '# ', or write 'VALUE: name' for a class called so"
            raise UserError(f"{where}: '{brief(text)}' looks like a heading: {mend}")
    numbers = [re.match(r"(-?\d+)[\s,;]+[^\d\s:=]", text) for text in texts.values()]
    if len(texts) > 1 and all(numbers):
        where, text = next(iter(texts.items()))
        raise UserError(
            f"{where}: is the number in front of '{brief(text)}' and of every class the value in the masks, or part of "
            "the name? write 'VALUE: name' a line"
        )


def yaml_lines(path: Path) -> list[tuple[str, ClassLine]]:
    """The entries of a YAML file, and where each stands; every scalar is text, as it is written."""
    import yaml

    try:
        node = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
        content = plain(node, path, DEPTH)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"cannot read {path}: it is nested too deeply for a list of classes") from None
    if isinstance(content, dict) and set(content) == {"classes"}:
        content = content["classes"]
    entries = (
        [{"value": value, "name": name} for value, name in content.items()] if isinstance(content, dict) else content
    )
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list of classes: give names, or name, value and colour of each")
    return [(f"{path} entry {number}", yaml_line(path, number, entry)) for number, entry in enumerate(entries, 1)]


def plain(node: Any, path: Path, depth: int) -> Any:
    """Lists, mappings and texts of a composed YAML node. Raises UserError for what is nested more than `depth` times,
    and for a key that is there twice, of which YAML would keep the last."""
    if node is None or isinstance(node.value, str):
        return node.value if node else None
    if depth == 0:
        raise UserError(f"cannot read {path}: it is nested too deeply for a list of classes")
    if node.id == "sequence":
        return [plain(child, path, depth - 1) for child in node.value]
    keys = [str(plain(key, path, depth - 1)) for key, _ in node.value]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has '{brief(twice)}' twice, in the mapping from line {node.start_mark.line + 1} on")
    return {key: plain(value, path, depth - 1) for key, (_, value) in zip(keys, node.value, strict=True)}


def yaml_line(path: Path, number: int, entry: Any) -> ClassLine:
    """One entry of a YAML file. Raises UserError where it is neither a name nor a mapping of the known keys."""
    given = entry if isinstance(entry, dict) else {"name": entry}
    name, value = given.get("name"), given.get("value", "0")
    colour: Any = given.get("colour", given.get("color", ["0", "0", "0"]))
    known = set(given) <= {"name", "value", "colour", "color"} and whole_number(value)
    three = isinstance(colour, list) and len(colour) == 3 and all(whole_number(part) for part in colour)
    if not (known and three and isinstance(name, str) and name.strip()):
        raise UserError(
            f"{path} entry {number}: {brief(entry)} is no class; expected a name, or name, value (a whole number) and "
            "colour ([R, G, B])"
        )
    red, green, blue = (int(part) for part in colour)
    has_colour = "colour" in given or "color" in given
    return ClassLine(name.strip(), int(value) if "value" in given else None, (red, green, blue) if has_colour else None)


def whole_number(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"-?\d{1,20}", text.strip()) is not None


def palette(count: int) -> tuple[Colour, ...]:
    """`count` distinct colours, black first: the bits of an id, lowest first, become the high bits of red, green and
    blue in turn (the colour map of the PASCAL VOC development kit)."""
    return tuple(bit_colour(index) for index in range(count))


def bit_colour(index: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return (channels[0], channels[1], channels[2])
