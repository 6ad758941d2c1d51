"""The result of a comparison in a sentence, no stronger than its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.comparison.records import ComparisonFigures, Difference
from ssss_zoo.comparison.report.statistics import SEEDS_FOR_SIGNIFICANCE
from ssss_zoo.text import count

MAX_NAMED_ROWS = 4  # in one list of the sentence (our choice)


def claim(figures: ComparisonFigures) -> str:
    """Which rows differ from `supervised`, by how much, and how sure that is."""
    finished = figures.finished()
    if not finished:
        return "No run is finished yet."
    if BASELINE not in finished:
        best, row = next(iter(finished.items()))
        mean = 100 * (row.last.mean or 0)
        return f"{best} has the highest mIoU, {mean:.2f} %; there is no {BASELINE} row to compare it with."
    changes = {name: row.over_supervised for name, row in finished.items() if name != BASELINE and row.over_supervised}
    if not changes:
        return f"Only {BASELINE} is finished: there is nothing to compare it with yet."
    interval = f"{100 * figures.interval:.0f} % interval "
    if len(figures.seeds) < SEEDS_FOR_SIGNIFICANCE:
        seeds = count(len(figures.seeds), "seed")
        return f"{describe_gains(changes, interval)}; {seeds} cannot show that this is more than chance."
    sure = {name: change for name, change in changes.items() if change.significant}
    unsure = [f"{name} ({format_range(change)})" for name, change in changes.items() if not change.significant]
    parts = [describe_gains(sure, interval)] if sure else []
    if unsure:
        parts.append(f"{join_names(unsure)} cannot be told from {'it' if sure else BASELINE}")
    return f"{'; '.join(parts)}{'' if sure else f' ({interval}of the difference in brackets)'}."


def describe_gains(changes: Mapping[str, Difference], interval: str) -> str:
    """`a is 1.20 points of mIoU above supervised (95 % interval +0.31 to +2.65) and b 0.40 below (-0.90 to -0.10)`."""
    texts: list[str] = []
    for name, change in changes.items():
        size, side = f"{100 * abs(change.mean):.2f}", "above" if change.mean >= 0 else "below"
        if texts:
            texts.append(f"{name} {size} {side} ({format_range(change)})")
        else:
            texts.append(f"{name} is {size} points of mIoU {side} {BASELINE} ({interval}{format_range(change)})")
    return join_names(texts)


def format_range(change: Difference) -> str:
    return f"{100 * change.low:+.2f} to {100 * change.high:+.2f}"


def join_names(names: Sequence[str]) -> str:
    """`a, b and c`, with the number of the others where there are more than MAX_NAMED_ROWS."""
    if len(names) > MAX_NAMED_ROWS:
        shown, others = names[: MAX_NAMED_ROWS - 1], len(names) - MAX_NAMED_ROWS + 1
        return f"{', '.join(shown)} and {others} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
