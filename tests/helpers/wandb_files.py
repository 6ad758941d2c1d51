"""Reads the file in which W&B keeps a run offline: records in the log format of LevelDB."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

FILE_HEADER = 7  # bytes before the first record
BLOCK = 32768  # bytes; no record's header crosses the end of a block
RECORD_HEADER = struct.Struct("<IHB")  # checksum, length, type
WHOLE, FIRST, MIDDLE, END = 1, 2, 3, 4  # types: a record may be cut into several pieces


def read_records(file: Path) -> list[Any]:
    """The records of a file, as W&B's own message class."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, piece = file.read_bytes(), FILE_HEADER, b""
    records = []
    while at + RECORD_HEADER.size <= len(content):
        left = BLOCK - at % BLOCK
        if left < RECORD_HEADER.size:
            at += left
            continue
        _, length, kind = RECORD_HEADER.unpack_from(content, at)
        at += RECORD_HEADER.size
        piece += content[at : at + length]
        at += length
        if kind in (WHOLE, END):
            records.append(Record.FromString(piece))
            piece = b""
    return records


def config_of(records: list[Any]) -> dict[str, Any]:
    """The parameters of the run."""
    runs = [record.run for record in records if record.HasField("run")]
    return {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}


def history_of(records: list[Any]) -> list[dict[str, Any]]:
    """What was logged at each step: figures, and a mapping for each picture and table."""
    return [history_row(record.history) for record in records if record.HasField("history")]


def history_row(history: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in history.item:
        name, *inner = list(item.nested_key) or [item.key]
        value = json.loads(item.value_json)
        row[name] = {**row.get(name, {}), inner[0]: value} if inner else value
    return row
