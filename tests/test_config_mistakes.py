"""Mistakes in a configuration, on the command line and in files: one short line each, with its place."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.configs import file_of, message, numeric_keys
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.errors import UserError

# --- mistakes in writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train.stpes=3", "unknown key 'train.stpes'; did you mean 'train.steps'?"),
        ("trian.steps=3", "unknown key 'trian'; did you mean 'train'?"),
        ("sede=1", "unknown key 'sede'; did you mean 'seed'?"),
        ("model.encodr=x", "unknown key 'model.encodr'; did you mean 'model.encoder'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(word, expected):
    assert message([word]).startswith(expected)


@pytest.mark.parametrize("word", ["farcluss", "--steps", "=3", "a b=3", "seed"])
def test_a_word_that_is_no_pair_says_what_one_looks_like(word):
    assert message([word]) == f"expected key=value, got '{word}'; for example train.steps=100"


@pytest.mark.parametrize("word", ["train.crop=[160,208", "data.root=[a]/b", "options={a"])
def test_a_bracket_left_open_is_one_line(word):
    assert word.partition("=")[0] in message([word])


def test_a_method_or_data_set_must_be_a_name():
    for key in ("method", "dataset"):
        assert message([f"{key}="]) == f"{key} takes a name; got ''"
        assert message([f"{key}=[a,b]"]).startswith(f"{key} takes a name")


def test_a_configuration_file_that_cannot_be_read_is_named(tmp_path):
    assert str(tmp_path / "none.yaml") in message([], tmp_path / "none.yaml")
    assert str(tmp_path) in message([], tmp_path)
    for text in ("a: [1", "a: b: c", "\t- x"):
        assert "is not valid YAML" in message([], file_of(tmp_path, text))
    assert "must hold keys and values, found list" in message([], file_of(tmp_path, "- a\n- b\n"))
    assert "must hold keys and values, found str" in message([], file_of(tmp_path, "hello"))


def test_a_configuration_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(bytes(range(128, 256)))
    assert "photo.png" in message([], path)


def test_a_section_given_one_value_is_refused_whatever_comes_later(tmp_path):
    assert "train is a section" in message([], file_of(tmp_path, "train: 5"))
    message(["train.steps=3", "train.batch=2"], file_of(tmp_path, "train: 5"))


def test_an_empty_configuration_file_changes_nothing(tmp_path):
    for text in ("", "# a comment\n"):
        assert resolve([], file_of(tmp_path, text)) == resolve([])


def test_a_yaml_file_cannot_make_objects(tmp_path):
    path = file_of(tmp_path, "data: {root: !!python/object/apply:os.getcwd []}")
    message([], path)


DEEP = 5000
ODD_FILES = {  # content of a file -> what its one line says after the file's name
    "a: 1\na: 2\n": "is not valid YAML: line 2: 'a' is given twice, first in line 1",
    "seed: 1\ntrain: {steps: 3, steps: 4}": "is not valid YAML: line 2: 'steps' is given twice, first in line 2",
    "a: &x [1, 2]\nb: *x\n": "is not valid YAML: line 2: '*x' is an alias of another part; write that",
    "base: &x {a: 1}\ntrain: {<<: *x}\n": "is not valid YAML: line 2: '*x' is an alias of another part",
    "? [a]\n: 1\n": "is not valid YAML: line 1: a key must be a word",
    "a: 1\n---\nb: 2\n": "is not valid YAML: line 2: but found another document",
    "train: " + "[" * DEEP: "is not valid YAML: more than 20 nested levels",
    "train: " + "{a: " * DEEP + "1" + "}" * DEEP: "is not valid YAML: more than 20 nested levels",
    "a: 'x\0'": "is not valid YAML: its character 6 is U+0000, which YAML does not allow",
    "train:\n  steps: x\n": ", line 2: train.steps takes a whole number; got 'x'",
    "train:\n  stpes: 1\n": ", line 2: unknown key 'train.stpes'; did you mean 'train.steps'?",
    "seed: 1\ntrain:\n  steps: 0\n": ", line 3: train.steps must be between 1 and 1e+09; got 0",
    "train:\n  crop: [1, 2, 3]\n": ", line 2: train.crop takes one side or [height, width] in pixels; got [1, 2, 3]",
    "train: 5\n": ", line 1: train is a section, it takes train.<key>=value; got '5'",
    "train: []\n": ", line 1: train is a section, it takes train.<key>=value; got '[]'",
    "seed: 1\noptim:\n  name: sdg\n": ", line 3: optim.name must be one of sgd, adamw; got 'sdg'",
    'output: "x\\0y"\n': ", line 1: output takes text in UTF-8 without NUL characters",
    "a: " + "x" * (1 << 20): ": it has more than 1,048,576 bytes; a configuration is a short text",
}


@pytest.mark.parametrize(("text", "said"), ODD_FILES.items(), ids=range(len(ODD_FILES)))
def test_a_mistake_in_a_file_is_told_in_one_short_line_with_its_place(text, said, tmp_path):
    told = message([], file_of(tmp_path, text)).removeprefix("cannot read the configuration ")
    assert told.startswith(f"{tmp_path / 'own.yaml'}{' ' if said.startswith('is') else ''}{said}")
    assert len(told) < 600


def test_a_mistake_of_the_words_is_not_told_as_the_files(tmp_path):
    own = file_of(tmp_path, "method: fixmatch\ntrain:\n  steps: 3\noptions: {fixmatch: {threshold: 0.5}}\n")
    assert message(["train.steps=0"], own).startswith("train.steps must be")
    assert message(["train.steps=x"], own).startswith("train.steps takes")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_mark_of_utf_8_and_the_line_ends_of_windows_change_nothing(ending, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_bytes(b"\xef\xbb\xbf" + ending.join(["seed: 3", "train:", "  steps: 7", ""]).encode())
    assert (resolve([], own).seed, resolve([], own).train.steps) == (3, 7)


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert message([], path) == f"cannot read the configuration {path}: it is no regular file"


ODD_WORDS = [
    *("", "=x", "a..b=1", ".a=1", "a.=1", "a b=1", "a" * 40_000, ".".join("a" * DEEP) + "=1", "\udcff=1", "-a=1"),
    *(f"train.steps={value}" for value in ("9" * DEEP, "9" * 18, "x" * 40_000, "１２", "²", "1_0", "\udcff", "nan")),
    *(f"optim.lr={value}" for value in ("1e999", "nan", "-inf", "1_0", "１", "0x10", "9" * DEEP, "x" * 40_000)),
    *(f"train.crop={value}" for value in ("[" * DEEP, "[" * DEEP + "]" * DEEP, "[&a 1,*a]", "{a: 1, a: 2}", "[\0]")),
    *(f"{key}={'{a: ' * DEEP}1{'}' * DEEP}" for key in ("options", "hooks", "train", "options.fixmatch.threshold")),
    "options.fixmatch.threshold=[&a [1,1],&b [*a,*a],&c [*b,*b]]",
    "method=" + "x" * 40_000 + ".py",
    "method=~nobody-of-that-name/x.py",
    "model.dropout=1",
    "optim.weight_decay=1000",
    "augment.blur_sigma=[1e-6,1e6]",
    "augment.scale=[1,1e6]",
    "seed=" + "9" * 400,
    "plugins.trust=maybe",
    "output=a\0b",
]


@pytest.mark.parametrize("word", ODD_WORDS, ids=range(len(ODD_WORDS)))
def test_an_odd_word_is_one_short_line(word):
    assert len(message([word])) < 600


def test_command_lines_made_of_odd_parts_resolve_or_are_one_line():
    draw = random.Random(0)
    values = [word.partition("=")[2] for word in ODD_WORDS] + ["", "none", "${a}", "{a: 1}", "a+a", "[[]]", "x\ny", "~"]
    keys = [
        *numeric_keys(),
        "method",
        "dataset",
        "model",
        "hooks.x",
        "options.a.b",
        "plugins.path",
        "data.ignore",
        "seed",
    ]
    for _ in range(150):
        words = [f"{draw.choice(keys)}={draw.choice(values)}" for _ in range(draw.randint(1, 3))]
        with suppress(UserError):
            as_yaml(resolve(["train.steps=1", *words]))
