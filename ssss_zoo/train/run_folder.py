"""A run's folder: where it lies, and what each file and folder in it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

from ssss_zoo.atomic_write import temporary_paths
from ssss_zoo.config.schema import Config
from ssss_zoo.errors import expanded
from ssss_zoo.hub import download_run, is_hub_name


class RunFolder:
    """The paths of everything that a run writes into its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.json"  # the figures of the run and whether it is finished
        self.history = path / "history.jsonl"  # one line for each logged step and each evaluation
        self.damaged_history = path / "history.jsonl.damaged"  # an earlier history with lines that cannot be read
        self.predictions = path / "predictions.png"
        self.card = path / "card.md"  # the model card
        self.last = path / "last"  # the checkpoint to resume from
        self.best = path / "best"  # the checkpoint with the highest validation mIoU
        self.config = path / "config.yaml"
        self.log = path / "run.log"
        self.stages = path / "stages"  # a folder for each finished stage, and files that a method keeps between stages
        self.pseudo_labels = path / "pseudo_labels"  # a picture of one image's pseudo-label for each evaluation
        self.not_finite = path / "not_finite"  # a folder for each step whose loss was not finite
        self.tensorboard = path / "tensorboard"  # event files, where tracking.to names TensorBoard
        self.wandb = path / "wandb"  # a folder for each process of the run, where tracking.to names W&B
        self.dry_run = path / "dry_run"  # a checkpoint that the dry run writes, reads and removes

    def stage(self, index: int) -> Path:
        """The folder of a finished stage, counted from 0."""
        return self.stages / str(index)

    def written(self) -> tuple[Path, ...]:
        """Every path that a run may leave in its folder."""
        files = (self.metrics, self.history, self.predictions, self.card, self.last, self.best, self.config, self.log)
        folders = (self.stages, self.pseudo_labels, self.not_finite, self.tensorboard, self.wandb)
        return (*files, *folders, self.damaged_history)

    def artifacts(self) -> list[Path]:
        """The files that a tracker keeps of a run, as far as they are there."""
        return [file for file in (self.config, self.metrics, self.card, self.log) if file.exists()]

    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return any(path.exists() for path in (self.config, self.metrics, self.history, self.last, self.best))

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        checkpoints = (self.last, self.best, self.dry_run)
        half_written = (place for checkpoint in checkpoints for place in temporary_paths(checkpoint))
        for path in (*self.written(), self.dry_run, *half_written):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def clear_leftovers(self) -> None:
        """Remove what a killed process left half-written beside a whole checkpoint, and what its dry run wrote."""
        from ssss_zoo.train.checkpoint import find_folder  # imports torch, which the paths alone do without

        shutil.rmtree(self.dry_run, ignore_errors=True)
        for checkpoint in (self.last, self.best):
            if find_folder(checkpoint) == checkpoint:
                for place in temporary_paths(checkpoint):
                    shutil.rmtree(place, ignore_errors=True)


def find_run(run: str | Path) -> Path:
    """The folder of the run that `run=` names: one of this machine, or `hf://NAME`, which is downloaded. Raises
    UserError where the hub has no such run."""
    return download_run(str(run)) if is_hub_name(run) else expanded(run)


def output_folder(config: Config) -> Path:
    """The folder that `output` names, else runs/<dataset>/<method>/<split>/seed<seed>."""
    if config.output:
        return expanded(config.output)
    method = config.method.replace(":", "-")  # no method's name holds a colon
    return Path("runs", config.dataset, method, split_folder_name(config.data.split), f"seed{config.seed}")


def split_folder_name(split: str) -> str:
    """`data.split` as the name of a folder: `1/8` becomes `1_8`, a list file `lists/mine.csv` and a folder of lists
    `/home/me/mine` become `mine`."""
    path = Path(split)
    return path.stem if path.suffix or path.is_absolute() else split.replace("/", "_")
