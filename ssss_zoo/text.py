"""Text that other people wrote, names of files and classes above all, made fit for a line on a screen."""

from __future__ import annotations

import unicodedata

LONGEST = 80  # characters of a value in a message (our choice)
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories: controls, directions, halves of a pair, line ends


def visible(text: str) -> str:
    """`text` with each character that would steer a terminal, or be seen by nobody, as its escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if hides(letter) else letter for letter in text)


def hides(letter: str) -> bool:
    return unicodedata.category(letter) in HIDDEN


def brief(value: object, most: int = LONGEST) -> str:
    """A value in a message: visible, and of more than `most` characters the beginning and the end."""
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
