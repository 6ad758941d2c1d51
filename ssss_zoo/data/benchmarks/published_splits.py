"""The split lists that the field shares: which there are, and whether a file is one of them, byte for byte."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

UNKNOWN_LIST = "unknown"


@dataclass(frozen=True)
class PublishedList:
    """A list of the field. path: below `splits/`; lines: images in it; family: whose partition, empty for lists that
    all families share; sha256: of the file as released, None where we never had it in hand."""

    path: str
    lines: int
    family: str = ""
    sha256: str | None = None


@cache
def published_lists(dataset: str) -> dict[str, PublishedList]:
    """The lists of a benchmark by their path; none for a data set without any."""
    table = yaml.safe_load(files("ssss_zoo.data.benchmarks").joinpath("split_lists.yaml").read_text("utf-8"))
    return {path: PublishedList(path, **entry) for path, entry in table.get(dataset, {}).items()}


def split_family(dataset: str, split: str) -> str:
    """Whose partition the split of a benchmark is, such as `cps` for 1/8 of VOC; empty where none is known."""
    entry = published_lists(dataset).get(f"{split.replace('/', '_')}/labeled.txt")
    return entry.family if entry else ""


def identify_list(file: Path, dataset: str) -> dict[str, Any]:
    """What a list is: its digest, and the path of the known list that it is byte for byte, else `unknown`."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found = next((entry for entry in published_lists(dataset).values() if entry.sha256 == digest), None)
    return {"sha256": digest, "list": f"{dataset}/{found.path}" if found else UNKNOWN_LIST}
