"""Logs a run to TensorBoard: one event file for each process of the run, in the folder `tensorboard` of the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssss_zoo.train.logger import Logger, TrackedRun, TrackedTable

TENSORBOARD_FOLDER = "tensorboard"
FLUSH_SECONDS = 10  # after which figures are in the file (our choice)


class TensorBoardLogger(Logger):
    """The event file of one process. TensorBoard reads all files of a folder as one run."""

    title = "TensorBoard"
    package = "tensorboard"
    extra = "tensorboard"

    def __init__(self, run: TrackedRun, run_id: str | None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder = run.folder / TENSORBOARD_FOLDER
        self.run_id = TENSORBOARD_FOLDER  # the folder is what a resumed run continues in
        # TensorBoard drops what earlier files hold of the steps that a resumed run makes again.
        purge = None if run_id is None else run.first_step
        self.writer = SummaryWriter(self.folder, purge_step=purge, flush_secs=FLUSH_SECONDS)
        self.writer.add_text("parameters", params_table(run).markdown(), run.first_step)
        self.add_hyperparameters(run)
        self.writer.flush()

    def add_hyperparameters(self, run: TrackedRun) -> None:
        """Write the parameters for the page HPARAMS, which compares the runs of several folders by val/miou."""
        from torch.utils.tensorboard.summary import hparams

        values = {
            key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in run.params.items()
        }
        files: Any = self.writer._get_file_writer()  # `add_hparams` would make a second run of them
        for summary in hparams(values, {"val/miou": 0.0}):
            files.add_summary(summary)

    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def log_summary(self, figures: Mapping[str, float]) -> None:
        self.log_metrics(figures, 0)

    def log_picture(self, name: str, file: Path, step: int) -> None:
        self.writer.add_image(name, read_picture(file), step, dataformats="HWC")

    def log_table(self, name: str, table: TrackedTable, step: int) -> None:
        self.writer.add_text(name, table.markdown(), step)

    def log_file(self, name: str, text: str) -> None:
        """TensorBoard keeps no files; those of a run lie in the folder above its own."""

    def view(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self.folder))}"

    def finish(self, status: str) -> None:
        self.writer.add_text("status", status)
        self.writer.close()


def params_table(run: TrackedRun) -> TrackedTable:
    """The parameters of a run as a table."""
    return TrackedTable(("parameter", "value"), tuple((key, str(value)) for key, value in run.params.items()))


def read_picture(file: Path) -> Any:
    """(H, W, 3) uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
