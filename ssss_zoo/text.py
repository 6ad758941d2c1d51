"""Formats values for a one-line message: escapes control characters, shortens long text, counts things and bytes."""

from __future__ import annotations

import unicodedata

LONGEST = 80  # characters of a value in a message (our choice)
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories: control, direction, surrogate, line end


def visible(text: str) -> str:
    """`text` with escapes for the characters that are invisible or that control a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if hides(letter) else letter for letter in text)


def hides(letter: str) -> bool:
    return unicodedata.category(letter) in HIDDEN


def brief(value: object, most: int = LONGEST) -> str:
    """A value for a message: escaped as by `visible`, and cut in the middle to `most` characters."""
    text = visible(str(value))
    kept = most - 1
    return text if len(text) <= most else f"{text[: kept - kept // 4]}…{text[len(text) - kept // 4 :]}"


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(size: float) -> str:
    """A number of bytes, such as `1.5 GB`, `20 MB`."""
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
