"""What the rows of a comparison share, and what not: protocol, settings, first weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import flatten_keys, read_file
from ssss_zoo.train.resume import MAY_DIFFER

OF_ROW = ("method", "hooks.", "options.", "plugins.", "seed")  # settings in which rows and seeds may differ


def what_differs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line on each row whose protocol is another than the first row's, with the settings that differ."""
    known = [row for row in rows if row["seeds"]]
    lines = []
    for row in known[1:]:
        one, other = known[0]["protocol"], row["protocol"]
        if one["digest"] != other["digest"]:
            keys = differing(one["settings"], other["settings"])
            lines.append(f"{row['name']} is scored otherwise than {known[0]['name']}: {', '.join(keys)}")
    return lines


def differing(one: Any, other: Any, prefix: str = "") -> list[str]:
    """`key=a, not b` of every leaf that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [line for key in keys for line in differing(one.get(key), other.get(key), f"{prefix}{key}.")]
    return [] if one == other else [f"{prefix[:-1]}={other}, not {one}"]


def settings_of(folder: Path) -> dict[str, str]:
    """What a run was told, by key, but for its method, options, seed and places."""
    told = {
        key: value for key, value in flatten_keys(read_file(folder / "config.yaml")).items() if key not in MAY_DIFFER
    }
    text = {key: f"[{','.join(value)}]" if isinstance(value, list) else str(value) for key, value in told.items()}
    return {key: value for key, value in text.items() if not key.startswith(OF_ROW)}


def settings_differ(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The keys that not all rows share, with the value of each row by its name."""
    keys = sorted({key for of_row in settings.values() for key in of_row})
    values = {key: {name: of_row.get(key, "-") for name, of_row in settings.items()} for key in keys}
    return {key: of_key for key, of_key in values.items() if len(set(of_key.values())) > 1}


def first_weights_differ(digests: Mapping[str, Sequence[tuple[int, str]]]) -> list[str]:
    """The rows whose networks began with other weights than the first row's, with the same seed. digests: of the first
    weights, with the seed of the run, by row."""
    found: list[str] = []
    first: dict[int, str] = {}
    for name, of_row in digests.items():
        if any([first.setdefault(seed, digest) != digest for seed, digest in of_row]):
            found.append(name)
    return found
