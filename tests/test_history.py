"""history.jsonl: lines that survive a kill, and damaged lines that cost no other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.failures import FULL_DISK, raising
from ssss_zoo.errors import UserError
from ssss_zoo.train.history import History, open_history, read_history


def opened(file: Path, step: int) -> History:
    return open_history(file, file.with_name("history.jsonl.damaged"), step)


def steps(file: Path) -> list[int]:
    return [line["step"] for line in read_history(file)]


def test_a_history_is_a_line_of_json_a_call(tmp_path):
    history = opened(tmp_path / "history.jsonl", 0)
    history.write({"step": 1, "losses": {"total": 0.5}})
    history.write({"step": 2, "val": {"miou": None}})
    texts = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in texts] == [
        {"step": 1, "losses": {"total": 0.5}},
        {"step": 2, "val": {"miou": None}},
    ]


@pytest.mark.parametrize(("at", "kept"), [(0, []), (2, [1, 2, 2]), (3, [1, 2, 2, 3]), (9, [1, 2, 2, 3, 4])])
def test_opened_at_a_step_it_forgets_what_came_after(at, kept, tmp_path):
    file = tmp_path / "history.jsonl"
    history = opened(file, 0)
    for step in (1, 2, 2, 3, 4):
        history.write({"step": step})
    opened(file, at)
    assert steps(file) == kept


def test_a_last_line_that_a_kill_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "los')
    assert steps(file) == [1, 2]
    history = opened(file, 9)
    history.write({"step": 3})
    assert steps(file) == [1, 2, 3]
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


DAMAGED = {
    "cut in half": b'{"step": 2, "los',
    "two in one": b'{"step": 2, "lo{"step": 2}',
    "not UTF-8": b'{"step": 2, "stage": "\xff"}',
    "a list": b"[2]",
    "null": b"null",
    "a number": b"2",
    "no step": b'{"stage": "train"}',
    "a step that is text": b'{"step": "2"}',
    "losses that are none": b'{"step": 2, "losses": {"total": null}}',
    "not a number": b'{"step": 2, "lr": NaN}',
    "figures without mIoU": b'{"step": 2, "val": {"step": 2}}',
    "nested": b"[" * 50_000,
    "zeros": b"\0" * 40,
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_costs_no_other_and_the_file_is_kept_aside(line, tmp_path, warnings):
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n{"step": 4}\n{"step": 5, "cut')
    before = file.read_bytes()
    assert steps(file) == [1, 3, 4]
    assert warnings() == [f"{file}: line 2 is damaged, left out"]
    opened(file, 3)
    assert file.read_text() == '{"step": 1}\n{"step": 3}\n'
    assert (tmp_path / "history.jsonl.damaged").read_bytes() == before
    assert warnings()[1:] == [
        f"{file}: line 2 is damaged, left out; the file as it was is kept as history.jsonl.damaged"
    ]
    file.write_bytes(line + b"\n" + line + b"\n")
    opened(file, 3)
    assert (tmp_path / "history.jsonl.damaged").read_bytes() == before + line + b"\n" + line + b"\n"
    assert "2 lines are damaged" in warnings()[-1]


def test_a_history_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*history.jsonl: Is a directory"):
        read_history(tmp_path / "history.jsonl")


def test_a_history_that_was_never_written_is_empty(tmp_path):
    assert read_history(tmp_path / "history.jsonl") == []
    opened(tmp_path / "history.jsonl", 5)
    assert steps(tmp_path / "history.jsonl") == []


def test_a_number_that_is_none_is_refused_and_nothing_is_written(tmp_path):
    history = opened(tmp_path / "history.jsonl", 0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        history.write({"step": 1, "loss": float("nan")})
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    history = opened(tmp_path / "history.jsonl", 0)
    monkeypatch.setattr(Path, "open", raising(FULL_DISK))
    with pytest.raises(UserError, match=r"cannot write .*history.jsonl: No space left on device; free some space"):
        history.write({"step": 1})


def test_a_full_disk_on_resuming_is_one_line_and_loses_no_line(tmp_path):
    """In a process of its own, whose files may not grow."""
    file = tmp_path / "history.jsonl"
    file.write_text("".join(json.dumps({"step": step, "filler": "x" * 100}) + "\n" for step in range(100)))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ssss_zoo.errors import UserError\n"
        "from ssss_zoo.train.history import open_history\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    open_history(Path(sys.argv[1]), Path(sys.argv[1] + '.damaged'), 90)\n"
        "except UserError as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert len(steps(file)) >= 91
    assert done.stdout.startswith("refused: cannot write"), done.stderr[-300:]
