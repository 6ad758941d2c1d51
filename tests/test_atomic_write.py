"""A file or a folder is replaced whole or not at all, whatever the disk or a kill does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.failures import FULL_DISK, Killed, raising
from ssss_zoo.atomic_write import replacing_file, replacing_folder, write_json, write_text
from ssss_zoo.errors import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill_the_disk(file: Path) -> None:
    file.write_text("half")
    raise FULL_DISK


def test_json_is_replaced_whole(tmp_path):
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    write_json(file, {"a": [2, None]})
    assert json.loads(file.read_text()) == {"a": [2, None]}
    assert file.read_text().endswith("}\n")
    assert names(tmp_path) == ["metrics.json"]


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    file = tmp_path / "metrics.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    assert json.loads(file.read_text()) == {"a": 1}
    assert names(tmp_path) == ["metrics.json"]


@pytest.mark.parametrize("where", ["ssss_zoo.atomic_write.flush_to_disk", "ssss_zoo.atomic_write.os.replace"])
def test_a_disk_that_refuses_leaves_the_old_small_file_and_one_line(where, tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_text(file, "old")
    monkeypatch.setattr(where, raising(FULL_DISK))
    with pytest.raises(UserError, match=r"cannot write .*config.yaml: No space left on device; free some space"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert names(tmp_path) == ["config.yaml"]


def test_a_kill_while_a_small_file_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr("ssss_zoo.atomic_write.os.replace", raising(Killed()))
        with pytest.raises(Killed):
            write_text(file, "new")
    assert file.read_text() == "old"
    write_text(file, "newer")
    assert file.read_text() == "newer"
    assert names(tmp_path) == ["config.yaml"]


def test_an_error_while_a_file_is_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"), replacing_file(file, flush=False) as new:
        fill_the_disk(new)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["image.png"]
    with replacing_file(file, flush=False) as new:
        new.write_bytes(b"new")
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["image.png"]


def test_a_folder_is_replaced_whole_and_an_error_leaves_the_old_one(tmp_path):
    folder = tmp_path / "a" / "last"
    for text in ("old", "new"):
        with replacing_folder(folder) as new:
            (new / f"{text}.txt").write_text(text)
    assert names(folder) == ["new.txt"]
    with pytest.raises(OSError, match="No space"), replacing_folder(folder) as new:
        fill_the_disk(new / "half.txt")
    assert names(folder) == ["new.txt"]
    assert names(folder.parent) == ["last"]


def test_what_a_killed_process_left_beside_a_folder_is_replaced(tmp_path):
    (tmp_path / "last.new").mkdir()
    (tmp_path / "last.new" / "half.txt").touch()
    with replacing_folder(tmp_path / "last") as new:
        (new / "whole.txt").touch()
    assert names(tmp_path / "last") == ["whole.txt"]
    assert names(tmp_path) == ["last"]
