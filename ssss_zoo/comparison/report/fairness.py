"""Whether the rows of a comparison share protocol, settings and initial weights, and where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssss_zoo.comparison.records import RowFigures
from ssss_zoo.config.parse import flatten_keys, read_file
from ssss_zoo.train.resume import MAY_DIFFER
from ssss_zoo.train.run_folder import RunFolder

ROW_KEYS = ("method", "hooks.", "options.", "plugins.", "seed")  # beginnings of keys in which rows are meant to differ


def protocol_differences(rows: Sequence[RowFigures]) -> list[str]:
    """One line for each row whose protocol differs from the first row's, with the settings that differ."""
    known = [(row.name, row.statistics.protocol) for row in rows if row.statistics]
    lines = []
    for name, protocol in known[1:]:
        first_name, first = known[0]
        if protocol.digest != first.digest:
            keys = differing_leaves(first.settings, protocol.settings)
            lines.append(f"{name} is scored in another way than {first_name}: {', '.join(keys)}")
    return lines


def differing_leaves(one: Any, other: Any, prefix: str = "") -> list[str]:
    """`key=a, not b` for every leaf of two trees that differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [line for key in keys for line in differing_leaves(one.get(key), other.get(key), f"{prefix}{key}.")]
    return [] if one == other else [f"{prefix[:-1]}={other}, not {one}"]


def compared_settings(folder: RunFolder) -> dict[str, str]:
    """The settings of a run by key, without method, options, seed, and the places of its files."""
    settings = flatten_keys(read_file(folder.config))
    compared = {key: value for key, value in settings.items() if key not in MAY_DIFFER and not key.startswith(ROW_KEYS)}
    return {key: f"[{','.join(value)}]" if isinstance(value, list) else str(value) for key, value in compared.items()}


def differing_settings(settings: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The keys in which rows differ, with the value of each row. settings: by row and key."""
    keys = sorted({key for of_row in settings.values() for key in of_row})
    values = {key: {name: of_row.get(key, "-") for name, of_row in settings.items()} for key in keys}
    return {key: of_key for key, of_key in values.items() if len(set(of_key.values())) > 1}


def differing_first_weights(digests: Mapping[str, Sequence[tuple[int, str]]]) -> list[str]:
    """The rows whose networks began with other weights than the first row's with the same seed. digests: by row, the
    seed of each run and the digest of its initial weights."""
    first: dict[int, str] = {}
    for of_row in digests.values():
        first = dict(of_row) | first
    return [name for name, of_row in digests.items() if any(first[seed] != digest for seed, digest in of_row)]
