"""The measured cost of each network of a comparison. Runs with the same network share one measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.records import REMAKE
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.network_cost import NetworkCost
from ssss_zoo.record_files import FORMAT, check_dataclass, read_record


@dataclass(frozen=True, kw_only=True)
class MeasuredCost:
    """network_cost.json of a run. key: see `network_cost.cost_key`."""

    format: int = FORMAT
    key: str
    cost: NetworkCost


def read_network_cost(folder: ComparedRunFolder) -> MeasuredCost | None:
    """The cost of a run's network; None for a run that an earlier version scored. Raises UserError for a damaged
    file."""
    if not folder.cost.exists():
        return None
    return check_dataclass(read_record(folder.cost, dict[str, Any], REMAKE), MeasuredCost, folder.cost, REMAKE)


def find_measured_cost(folder: ComparedRunFolder, key: str) -> NetworkCost | None:
    """The cost of this key that another run of the comparison measured; None where none did."""
    rows = folder.path.parents[1]
    for file in sorted(rows.glob(f"*/seed*/{folder.cost.name}")):
        measured = whole_network_cost(ComparedRunFolder(Path(file).parent))
        if measured and measured.key == key:
            return measured.cost
    return None


def whole_network_cost(folder: ComparedRunFolder) -> MeasuredCost | None:
    """The cost of a run's network; None where there is none, or the file is damaged."""
    try:
        return read_network_cost(folder)
    except UserError:
        return None
