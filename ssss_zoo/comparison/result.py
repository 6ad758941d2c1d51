"""The result of a comparison, as Python and notebooks get it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.comparison.records import ComparisonFigures, RowFigures, figures_tree
from ssss_zoo.notebook import data_frame, html_table
from ssss_zoo.text import count
from ssss_zoo.train.console import percent


@dataclass(frozen=True, repr=False)
class CompareResult:
    """folder: of the comparison; record: its figures; views: by logger, where to look at its runs."""

    folder: Path
    record: ComparisonFigures
    views: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, Any]:
        """The figures as compare.json holds them."""
        return figures_tree(self.record)

    @property
    def miou(self) -> dict[str, float | None]:
        """The mean mIoU in [0, 1] of each row over its seeds, at the last step."""
        return {name: row.last.mean for name, row in self.record.finished().items()}

    @property
    def iou(self) -> dict[str, dict[str, float | None]]:
        """The mean IoU in [0, 1] of each class, by row."""
        rows = self.record.finished().items()
        return {name: {label: iou.mean for label, iou in row.iou.items()} for name, row in rows}

    @property
    def report(self) -> Path:
        """The report, a page of HTML."""
        return self.folder / "report.html"

    def to_dataframe(self) -> Any:
        """The table as a pandas.DataFrame with a line for each row. Its figures are in [0, 1]. Raises UserError where
        pandas is not installed."""
        return data_frame([flat_row(row) for row in self.record.rows])

    def title(self) -> str:
        record = self.record
        rows, seeds = count(len(record.rows), "row"), count(len(record.seeds), "seed")
        failed = f", {count(len(record.failed), 'failed run')}" if record.failed else ""
        return f"{record.dataset} {record.split}, {rows}, {seeds}{failed}"

    def __repr__(self) -> str:
        best = max(((miou, name) for name, miou in self.miou.items() if miou is not None), default=None)
        figure = f"; highest mIoU {percent(best[0])} ({best[1]})" if best else ""
        return f"<CompareResult {self.title()}{figure}, {self.folder}>"

    def _repr_html_(self) -> str:
        """The table of mIoU and differences, as a notebook shows it."""
        columns = ("method", "mIoU, %", "sd", "over supervised", "interval")
        return html_table(f"{self.title()}. {self.record.headline}", columns, html_rows(self.record))


def flat_row(row: RowFigures) -> dict[str, Any]:
    """The figures of a row under names without a hierarchy; a row without a finished run has its name alone."""
    figures: dict[str, Any] = {"method": row.name, "seeds": len(row.seeds)}
    if row.statistics is None:
        return figures
    last, gain = row.statistics.last, row.statistics.over_supervised
    figures |= {"miou": last.mean, "miou_sd": last.std, "best_miou": row.statistics.best.mean}
    figures |= {
        "gain": gain and gain.mean,
        "gain_low": gain and gain.low,
        "gain_high": gain and gain.high,
        "train_seconds": row.statistics.train_seconds.mean,
        "peak_memory_bytes": row.statistics.peak_memory_bytes.mean,
    }
    return figures | {f"iou.{name}": iou.mean for name, iou in row.statistics.iou.items()}


def html_rows(record: ComparisonFigures) -> Iterator[tuple[str, ...]]:
    for row in record.rows:
        flat = flat_row(row)
        spread = "" if flat.get("miou_sd") is None else percent(flat["miou_sd"])
        gain = interval = ""
        if flat.get("gain") is not None:
            gain = f"{100 * flat['gain']:+.2f}"
            interval = f"{100 * flat['gain_low']:+.2f} to {100 * flat['gain_high']:+.2f}"
        yield row.name, percent(flat["miou"]) if "miou" in flat else "failed", spread, gain, interval
