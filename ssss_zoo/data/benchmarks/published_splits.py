"""The split lists that papers share: which ones there are, and whether a file is one of them, byte for byte."""

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
    """A published split list.

    path: below `splits/`. lines: the number of images. family: the release whose partition it belongs to, empty for a
    list that all releases share. sha256: of the released file, None where we have not seen it.
    """

    path: str
    lines: int
    family: str = ""
    sha256: str | None = None


@cache
def published_lists(dataset: str) -> dict[str, PublishedList]:
    """The published lists of a benchmark by their path; empty for a data set without any."""
    table = yaml.safe_load(files("ssss_zoo.data.benchmarks").joinpath("split_lists.yaml").read_text("utf-8"))
    return {path: PublishedList(path, **entry) for path, entry in table.get(dataset, {}).items()}


def split_family(dataset: str, split: str) -> str:
    """The release whose partition a split is, such as `cps` for 1/8 of VOC; empty where it is unknown."""
    entry = published_lists(dataset).get(f"{split.replace('/', '_')}/labeled.txt")
    return entry.family if entry else ""


def identify_list(file: Path, dataset: str) -> dict[str, Any]:
    """The SHA-256 of a list file, and the path of the published list with the same one, else `unknown`."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found = next((entry for entry in published_lists(dataset).values() if entry.sha256 == digest), None)
    return {"sha256": digest, "list": f"{dataset}/{found.path}" if found else UNKNOWN_LIST}
