"""Formats text for people: escapes control characters, shortens and wraps long text, counts things and bytes."""

from __future__ import annotations

import textwrap
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


def wrap_words(text: str, width: int, indent: str = "  ") -> str:
    """`text` in lines of at most `width` characters, where its words allow it: no word is broken. Every line after the
    first begins with `indent`."""
    return "\n".join(text_lines(text, width, indent))


def wrap_command(text: str, width: int) -> str:
    """As `wrap_words`, for a command of a shell: each line but the last ends with a backslash, so that it can be copied
    and pasted as a whole."""
    return " \\\n".join(text_lines(text, width - 2, "    "))


def text_lines(text: str, width: int, indent: str) -> list[str]:
    if len(text) <= width:
        return [text]
    wrapper = textwrap.TextWrapper(
        max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return wrapper.wrap(text)


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


def duration(seconds: float) -> str:
    """A duration as text: `1 h 05 min`, `3 min 20 s` or `8 s`; `?` for an infinite one."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
