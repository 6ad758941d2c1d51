"""Docstrings name fields and arguments at the beginning of a line, `name: what it is`: in the site these are lists."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

LINE = re.compile(r"^(\w+(?:, \w+)*): (?=\S)", re.MULTILINE)


class Fields(Extension):
    """Each such line becomes an item; the lines below it go with it. The first line is the summary and stays."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        summary, gap, rest = obj.docstring.value.partition("\n\n")
        obj.docstring.value = summary + gap + LINE.sub(r"\n* **\1**: ", rest)
