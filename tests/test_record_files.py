"""What a run left behind is read back by its types: whatever is wrong with a file is one line that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssss_zoo.errors import UserError
from ssss_zoo.record_files import FORMAT, Metrics, check_record, read_metrics, read_record

SCORES = {"miou": 0.5, "iou": {"sky": 0.5, "sea": None}, "pixel_accuracy": 0.75}
VAL = {"step": 4, "network": "student", **SCORES, "student": SCORES}
METRICS: dict[str, Any] = {
    "format": FORMAT, "status": "finished", "method": "fixmatch", "dataset": "shapes", "split": "all", "seed": 0,
    "step": 4, "val": VAL, "best": VAL, "time": {"train_seconds": 1, "evaluate_seconds": 0.5, "data_wait_seconds": 0.0,
    "steps_per_second": None, "peak_memory_bytes": None}, "environment": {}, "data": {"labelled": 1, "unlabelled": 2,
    "val": 3, "fingerprint": "a"}, "pseudo_labels": None, "absent_classes": "exclude",
    "protocol": {"name": None, "digest": "b", "settings": {}, "lists": {}},
}  # fmt: skip
REMEDY = "train it again"
OPTIONAL = {"format", "val.pixel_accuracy", "best.pixel_accuracy", "val.student.pixel_accuracy",
            "best.student.pixel_accuracy"}  # fmt: skip


def places(tree: dict[str, Any], under: str = "") -> list[str]:
    """The place of each key that the record must have, `a.b.c`; names of classes are nobody's keys."""
    found = []
    for key, value in tree.items():
        found.append(f"{under}{key}")
        found += places(value, f"{under}{key}.") if isinstance(value, dict) and key != "iou" else []
    return found


def changed(place: str, change) -> dict[str, Any]:
    """METRICS with the mapping that holds `place` changed by `change(mapping, key)`."""
    tree = part = json.loads(json.dumps(METRICS))
    *above, key = place.split(".")
    for name in above:
        part = part[name]
    change(part, key)
    return tree


def refused(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_metrics(file, REMEDY)
    assert str(caught.value).startswith((f"{file} is ", f"cannot read {file}: "))
    assert str(caught.value).endswith(f"; {REMEDY}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_record_comes_back_as_it_was_written_with_keys_of_later_versions(tmp_path):
    file = tmp_path / "metrics.json"
    for record in (METRICS, METRICS | {"later": [1]}, changed("format", dict.__delitem__), METRICS | {"val": {}}):
        file.write_text(json.dumps(record))
        assert read_metrics(file, REMEDY) == record


DAMAGED = {
    "empty": (b"", "it is empty"),
    "a mapping of nothing": (b"{}", "'status' is missing (and 13 more)"),
    "a list": (b"[]", "it holds a list, not keys and values"),
    "null": (b"null", "it holds nothing, not keys and values"),
    "text": (b'"finished"', "it holds text, not keys and values"),
    "not UTF-8": (b"\xff\xfe{}", "it is not text in UTF-8"),
    "cut in half": (json.dumps(METRICS).encode()[:300], "it is not JSON"),
    "no number": (b'{"step": NaN}', "NaN is no number"),
    "too large a number": (b'{"step": 1e999}', "1e999 is no number"),
    "too long a number": (b'{"step": ' + b"1" * 5000 + b"}", "it is not JSON"),
    "nested": (b"[" * 100_000, "it is nested too deeply"),
}


@pytest.mark.parametrize(("content", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_one_line_that_names_the_file_and_what_to_do(content, expected, tmp_path):
    file = tmp_path / "metrics.json"
    file.write_bytes(content)
    assert expected in refused(file)


@pytest.mark.parametrize("place", sorted({*places(METRICS)} - OPTIONAL))
def test_a_key_that_is_missing_is_named(place, tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(changed(place, dict.__delitem__)))
    assert f"'{place}' is missing" in refused(file)


@pytest.mark.parametrize("place", sorted({*places(METRICS)} - {"format"}))
@pytest.mark.parametrize("value", [True, "x" * 200, [1]], ids=["true", "long text", "list"])
def test_a_value_of_another_type_is_named_and_cut_to_a_length(place, value, tmp_path):
    before = METRICS
    for part in place.split("."):
        before = before[part]
    if isinstance(value, str) and (isinstance(before, str) or place == "protocol.name"):
        pytest.skip("text is what it takes")
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(changed(place, lambda part, key: part.__setitem__(key, value))))
    said = refused(file)
    assert f"'{place}' should be " in said
    assert len(said) < len(str(file)) + 250


def test_what_is_not_there_or_no_file_is_said(tmp_path):
    assert "is not there" in refused(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").mkdir()
    assert "is not a file" in refused(tmp_path / "metrics.json")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refused(tmp_path / "pipe")


def test_a_record_of_a_newer_version_asks_for_an_upgrade_before_anything_else(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps({"format": FORMAT + 2}))
    with pytest.raises(UserError) as caught:
        read_record(file, Metrics, REMEDY)
    assert str(caught.value) == (
        f"{file} was written by a newer ssss-zoo (format {FORMAT + 2}, this one reads up to {FORMAT}): upgrade"
    )


@pytest.mark.parametrize("number", [True, "1", 1.0, -1, None])
def test_a_format_that_is_no_number_is_damage(number, tmp_path):
    with pytest.raises(UserError, match="'format' should be a whole number"):
        check_record(METRICS | {"format": number}, Metrics, tmp_path, REMEDY)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(), LEAVES, max_size=3)


@given(st.sampled_from(places(METRICS)), VALUES)
def test_whatever_a_key_holds_a_record_is_read_or_refused_in_one_line(place, value):
    said = "m.json "
    try:
        check_record(changed(place, lambda part, key: part.__setitem__(key, value)), Metrics, Path("m.json"), REMEDY)
    except UserError as error:
        said = str(error)
    assert said.startswith("m.json ")
    assert said.isprintable()
