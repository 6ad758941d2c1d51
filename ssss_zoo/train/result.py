"""The result of a run, as Python and notebooks get it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.notebook import data_frame, html_table
from ssss_zoo.record_files import Metrics
from ssss_zoo.train.console import percent
from ssss_zoo.train.history import read_history
from ssss_zoo.train.run_folder import RunFolder


@dataclass(frozen=True, repr=False)
class RunResult:
    """The folder of a finished run, and its figures as in metrics.json. views: by logger, where to look at the run."""

    folder: Path
    metrics: Metrics
    views: tuple[str, ...] = ()

    @property
    def miou(self) -> float | None:
        """The mIoU in [0, 1] of the network that the run reports, at the last step. None without validation images."""
        return self.metrics["val"].get("miou")

    @property
    def iou(self) -> dict[str, float | None]:
        """The IoU in [0, 1] of each class, at the last step; None for a class that no validation image shows."""
        return dict(self.metrics["val"].get("iou", {}))

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl: one for each logged step and each evaluation."""
        return read_history(RunFolder(self.folder).history)

    def to_dataframe(self) -> Any:
        """The history as a pandas.DataFrame, a column for each figure: `step`, `lr`, `losses.supervised`, `val.miou`,
        `val.iou.CLASS`. Raises UserError where pandas is not installed."""
        return data_frame([flatten_keys(line) for line in self.history])

    def title(self) -> str:
        metrics = self.metrics
        figure = "no validation images" if self.miou is None else f"mIoU {percent(self.miou)}"
        network = f" ({metrics['val']['network']})" if metrics["val"].get("network") else ""
        run = f"{metrics['method']} on {metrics['dataset']} {metrics['split']}, seed {metrics['seed']}"
        return f"{run}: {figure}{network}, {metrics['step']} steps"

    def __repr__(self) -> str:
        return f"<RunResult {self.title()}, {self.folder}>"

    def _repr_html_(self) -> str:
        """The table of classes, as a notebook shows it."""
        best = self.metrics["best"].get("iou", {})
        rows = [(name, percent(iou), percent(best.get(name))) for name, iou in self.iou.items()]
        means = ("mIoU", percent(self.miou), percent(self.metrics["best"].get("miou")))
        return html_table(f"{self.title()}. In {self.folder}", ("IoU, %", "last", "best"), [*rows, means])
