"""The folder of a comparison and those of its runs: the path of each file in them."""

from __future__ import annotations

from pathlib import Path

from ssss_zoo.train.run_folder import RunFolder


class ComparedRunFolder(RunFolder):
    """The folder of one run of a comparison, with the files that the comparison adds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.state = path / "cell.json"  # how the run ended
        self.console = path / "console.log"  # what its process printed
        self.counts = path / "scores.npz"  # pixel counts of each validation image
        self.cost = path / "network_cost.json"  # size and speed of the network

    def predicted_ids(self, index: int) -> Path:
        """The prediction on a validation image, as grey values that are class ids."""
        return self.path / "shown" / f"{index}.png"


class ComparisonFolder:
    """The paths of everything that a comparison writes into its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path / "study.json"  # what is compared
        self.figures = path / "compare.json"
        self.markdown = path / "compare.md"
        self.csv = path / "compare.csv"
        self.latex = path / "compare.tex"
        self.report = path / "report.html"
        self.pictures = path / "pictures"
        self.picture_index = self.pictures / "pictures.json"
        self.runs = path / "runs"
        self.slurm = path / "slurm"  # what SLURM's jobs printed

    def run(self, row: str, seed: int) -> ComparedRunFolder:
        """The folder of a run; row: the folder's name of its row."""
        return ComparedRunFolder(self.runs / row / f"seed{seed}")
