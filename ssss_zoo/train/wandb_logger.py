"""Logs a run to Weights & Biases: into the folder `wandb` of the run, and to W&B's server only where asked to."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssss_zoo.train.logger import Logger, TrackedRun, TrackedTable

WANDB_FOLDER = "wandb"
WANDB_START_SECONDS = 60.0  # that W&B may take to start (our choice)


class WandbLogger(Logger):
    """One run of W&B. Offline, each process of the run has a folder, and `wandb sync` joins them by the run's id."""

    title = "Weights & Biases"
    package = "wandb"
    extra = "wandb"

    def __init__(self, run: TrackedRun, run_id: str | None) -> None:
        wandb = import_wandb()
        mode = "online" if run.settings.online else "offline"
        if run.settings.online and not wandb.Api().api_key:  # W&B would ask for one, and the run would wait
            raise RuntimeError("no API key is known; run `wandb login` once, or leave out tracking.online")
        folder = run.folder.resolve()  # W&B uses it until the end, and a notebook may change the working directory
        (folder / WANDB_FOLDER).mkdir(
            parents=True, exist_ok=True
        )  # where this fails, W&B would write into another folder
        self.run = wandb.init(
            project=run.settings.experiment,
            name=run.name,
            id=run_id,
            group=run.settings.group,
            notes=run.note or None,
            config=dict(run.params),
            tags=[f"{key}:{value}"[:64] for key, value in run.tags.items() if value],
            dir=str(folder),
            settings=wandb_settings(wandb, mode, system=run.settings.system, resumed=run_id is not None),
        )
        self.run_id = str(self.run.id)

    def log_metrics(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def log_summary(self, figures: Mapping[str, float]) -> None:
        self.run.summary.update(dict(figures))

    def log_picture(self, name: str, file: Path, step: int) -> None:
        wandb = import_wandb()
        self.run.log({name: wandb.Image(str(file))}, step=step)

    def log_table(self, name: str, table: TrackedTable, step: int) -> None:
        wandb = import_wandb()
        rows = [list(row) for row in table.rows]
        self.run.log({name: wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)}, step=step)

    def log_file(self, name: str, text: str) -> None:
        """Copy the file into the folder from which W&B uploads."""
        Path(self.run.dir, name).write_text(text, "utf-8")

    def log_note(self, text: str) -> None:
        self.run.notes = text

    def view(self) -> str:
        """The address of the run, or the command that sends it to W&B."""
        return self.run.url or f"wandb sync {shlex.quote(str(Path(self.run.dir).parent))}"

    def finish(self, status: str) -> None:
        self.run.summary["status"] = status
        self.run.finish(exit_code=0 if status == "FINISHED" else 1)


def import_wandb() -> Any:
    """The package, without its reports of errors and of use."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def wandb_settings(wandb: Any, mode: str, *, system: bool, resumed: bool) -> Any:
    """What W&B may do. It reads neither the code nor the machine, and leaves the screen to the run."""
    return wandb.Settings(
        mode=mode,
        resume="allow" if resumed and mode == "online" else None,
        reinit="create_new",  # a notebook may have a run of its own
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_save_requirements=False,
        x_disable_stats=not system,
        x_disable_machine_info=not system,
        init_timeout=WANDB_START_SECONDS,
    )
