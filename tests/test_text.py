"""Names and values of other people in a line of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssss_zoo.text import brief, count, visible


@pytest.mark.parametrize("plain", ["", "sky [blue]", "straße", "道路", "a$\\frac$b", "[/b]", "a//b"])
def test_what_people_write_stays(plain):
    assert visible(plain) == plain


@pytest.mark.parametrize(
    ("steering", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff.png", r"\udcff.png"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_an_escape(steering, shown):
    assert visible(steering) == shown


@given(st.text(st.characters()))
def test_what_is_shown_can_be_printed_on_one_line(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


def test_a_long_value_keeps_its_beginning_and_its_end():
    assert brief("a" * 80) == "a" * 80
    assert brief("begin" + "x" * 500 + "end") == "begin" + "x" * 55 + "…" + "x" * 16 + "end"


@given(st.text(st.characters()), st.integers(8, 100))
def test_no_value_is_longer_than_asked_for(text, most):
    assert len(brief(text, most)) <= most


@pytest.mark.parametrize(("number", "told"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (4500, "4,500 images")])
def test_one_is_no_plural(number, told):
    assert count(number, "image") == told
