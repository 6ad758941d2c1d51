"""What the finished runs of each row confuse with what, and how far their confidence can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import REMAKE, RowStatistics
from ssss_zoo.comparison.report.per_image_counts import read_per_image_counts
from ssss_zoo.comparison.report.run_facts import run_folder
from ssss_zoo.errors import UserError

CONFUSIONS_SHOWN = 3  # of each row in the table of the most frequent ones (our choice)
CONFUSION_MIN = 0.005  # share of a class's pixels from which on a confusion is worth a line (our choice)


@dataclass(frozen=True, eq=False)
class RowErrors:
    """The validation pixels of a row, summed over its seeds. bins: (CONFIDENCE_BINS, 3), as in `PerImageCounts`;
    confusion: (C, C) with the true classes in rows, None where an earlier version scored a run."""

    bins: np.ndarray
    confusion: np.ndarray | None

    def confusion_shares(self) -> np.ndarray:
        """(C, C) in [0, 1]: of the pixels of each true class those predicted as each class; NaN for a class that no
        validation image shows."""
        assert self.confusion is not None
        true = self.confusion.sum(axis=1, keepdims=True).astype(float)
        return np.divide(self.confusion, true, out=np.full(self.confusion.shape, np.nan), where=true > 0)


def read_row_errors(rows: Mapping[str, RowStatistics], folder: ComparisonFolder) -> dict[str, RowErrors]:
    """The errors of each row, by its name; a row whose runs are no longer there is left out. Raises UserError where
    counts are damaged."""
    found = {name: errors_of_row(row, folder) for name, row in rows.items()}
    return {name: errors for name, errors in found.items() if errors}


def errors_of_row(row: RowStatistics, folder: ComparisonFolder) -> RowErrors | None:
    runs = [run_folder(folder, place) for place in row.folders.values()]
    try:
        counts = [read_per_image_counts(run, classes=len(row.iou)) for run in runs if run.counts.exists()]
    except UserError as error:
        raise UserError(f"{error}; {REMAKE}") from None
    if not counts:
        return None
    matrices = [of_run.confusion for of_run in counts if of_run.confusion is not None]
    confusion = np.sum(matrices, axis=0) if len(matrices) == len(counts) else None
    return RowErrors(np.sum([of_run.bins for of_run in counts], axis=0), confusion)


def frequent_confusions(errors: RowErrors, classes: Sequence[str]) -> list[tuple[str, str, float]]:
    """The most frequent confusions of a row: true class, predicted class, and the share of the true class's pixels in
    [0, 1]."""
    shares = np.nan_to_num(errors.confusion_shares())
    np.fill_diagonal(shares, 0.0)
    order = np.argsort(-shares, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    places = [divmod(int(place), len(classes)) for place in order]
    return [
        (classes[true], classes[predicted], float(shares[true, predicted]))
        for true, predicted in places
        if shares[true, predicted] >= CONFUSION_MIN
    ]
