"""Class lists, as text and as YAML: names, values and colours, and the error for each wrong line."""

import pytest

from helpers.errors import refusal
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.classes import read_class_list, read_classes


def test_class_list_with_and_without_colours(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("sky 128 128 128\ntraffic light\n\nroad, 1, 2, 3\n")
    names, colours = read_classes(path)
    assert names == ("sky", "traffic light", "road")
    assert colours == ((128, 128, 128), class_colours(2)[1], (1, 2, 3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\nb\na", ["line 3", "'a'", "twice"]),
        ("a\nb 1 2 256", ["line 2", "'b'", "not in 0 to 255"]),
        ("", ["0 classes"]),
        ("a", ["1 classes"]),
        ("\n".join(str(i) for i in range(256)), ["256 classes"]),
    ],
)
def test_wrong_class_list_is_named(tmp_path, text, words):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    refusal(lambda: read_classes(path), str(path), *words)


@pytest.mark.parametrize(
    "text",
    [
        "- {name: sky, value: 3, colour: [1, 2, 3]}\n- {name: road, value: 9}\n",
        "classes:\n- {name: sky, value: 3, color: [1, 2, 3]}\n- {value: 9, name: road}\n",
    ],
)
def test_a_yaml_list(tmp_path, text):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    lines = read_class_list(path)
    assert [(line.name, line.value, line.colour) for line in lines] == [("sky", 3, (1, 2, 3)), ("road", 9, None)]
    path.write_text("3: sky\n9: road\n")
    assert [(line.name, line.value) for line in read_class_list(path)] == [("sky", 3), ("road", 9)]
    path.write_text("[sky, road]")
    assert [(line.name, line.value) for line in read_class_list(path)] == [("sky", None), ("road", None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- sky\n- {nam: road}", ["entry 2", "'nam'", "expected a name"]),
        ("- sky\n- {name: road, value: x}", ["entry 2", "whole number"]),
        ("- sky\n- {name: road, colour: [1, 2]}", ["entry 2", "[R, G, B]"]),
        ("just words", ["no list of classes"]),
        ("a: [", ["cannot read"]),
    ],
)
def test_a_wrong_yaml_list_is_named(tmp_path, text, words):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)


def test_a_value_given_twice_is_named(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("1: sky\n1: road")
    refusal(lambda: read_class_list(path), "line 2", "'road'", "value 1", "line 1")


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("# ids of the masks\nsky\nroad  # grey\n#\n", ["sky", "road"], [None, None]),
        ("-1: void\n0: C# code\n1: #2", ["void", "C# code", "#2"], [-1, 0, 1]),
        ("1 euro\ncent\n", ["1 euro", "cent"], [None, None]),
        ("name\nvalue\n", ["name", "value"], [None, None]),
    ],
)
def test_lines_of_a_text_list(tmp_path, text, names, values):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    lines = read_class_list(path)
    assert [line.name for line in lines] == names
    assert [line.value for line in lines] == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#comment\nsky\nroad", ["line 1", "a comment or a class", "'# '"]),
        ("name,r,g,b\nsky,1,2,3\nroad,3,4,5", ["line 1", "looks like a heading"]),
        ("id name\n0: sky\n1: road", ["line 1", "looks like a heading"]),
        ("0 sky\n255 road", ["line 1", "'VALUE: name'"]),
        ("0,sky\n1,road", ["line 1", "'VALUE: name'"]),
        ("99999999999: sky\n1: road", ["line 1", "32 bits"]),
    ],
)
def test_a_line_that_may_mean_two_things_is_asked_about(tmp_path, text, words):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)


@pytest.mark.parametrize("word", ["off", "no", "Yes", "0x10", "1_8", "12:30", "1e3", "null", "~", "007"])
def test_what_yaml_takes_for_something_else_stays_a_name(tmp_path, word):
    path = tmp_path / "classes.yaml"
    for text in (f"[sky, {word}]", f"- sky\n- {{name: {word}}}", f"0: sky\n1: {word}"):
        path.write_text(text)
        assert [line.name for line in read_class_list(path)] == ["sky", word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3: sky\n3: road", ["'3' twice"]),
        ("- {name: a, name: b}\n- c", ["'name' twice"]),
        ("[" * 90 + "]" * 90, ["nested too deeply"]),
        ("&a [*a, *a]", ["nested too deeply"]),
    ],
)
def test_yaml_that_says_two_things_or_never_ends_is_named(tmp_path, text, words):
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    refusal(lambda: read_class_list(path), str(path), *words)
