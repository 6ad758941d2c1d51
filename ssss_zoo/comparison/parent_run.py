"""The run of each logger that stands for a comparison; the loggers show the runs of the comparison below it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ssss_zoo.comparison.plan import BASELINE, StudyPlan, common_settings
from ssss_zoo.comparison.records import ComparisonFigures
from ssss_zoo.comparison.report.run_facts import commands
from ssss_zoo.comparison.report.tables import format_difference, format_percent
from ssss_zoo.text import brief
from ssss_zoo.train.logger import TrackedRun, TrackedTable
from ssss_zoo.train.tracked_run import SPLIT_NAME_LENGTH_MAX, folder_tag
from ssss_zoo.train.tracking import Tracker, start_tracker


@contextmanager
def parent_run(plan: StudyPlan, run_ids: Mapping[str, str]) -> Iterator[Tracker]:
    """The parent run. run_ids: by logger, of an earlier command. It ends as killed or failed where the comparison does;
    a comparison that comes to its end finishes it by `finish_parent_run`."""
    parent = start_tracker(tracked_comparison(plan), run_ids)
    try:
        yield parent
    except KeyboardInterrupt:
        parent.finish("KILLED", [])
        raise
    except BaseException:
        parent.finish("FAILED", [])
        raise


def tracked_comparison(plan: StudyPlan) -> TrackedRun:
    """The comparison as its loggers show it. Rows and seeds are tags, because MLflow keeps a parameter as it was first
    given, and a comparison may get more of both."""
    config = plan.first_config()
    names = [row.name for row in plan.rows]
    others = [name for name in names if name != BASELINE] or names
    split = brief(config.data.split, SPLIT_NAME_LENGTH_MAX)
    return TrackedRun(
        name=f"compare {', '.join(others)} {split}",
        folder=plan.folder.path,
        settings=replace(config.tracking, group=plan.folder.path.name),
        params={"budget": plan.budget, **common_settings(plan)},
        tags={
            "comparison": folder_tag(plan.folder.path),
            "dataset": config.dataset,
            "split": config.data.split,
            "methods": ", ".join(names),
            "seeds": ", ".join(map(str, plan.seeds)),
        },
    )


def finish_parent_run(parent: Tracker, plan: StudyPlan, figures: ComparisonFigures) -> None:
    """Log the figures of the comparison with its table and report, and end the run."""
    folder = plan.folder
    parent.log_summary(comparison_summary(figures))
    parent.log_note(comparison_note(plan, figures))
    parent.log_table("comparison", read_csv_table(folder.csv), 0)
    status = "FAILED" if figures.failed else "FINISHED"
    parent.finish(status, [folder.report, folder.markdown, folder.figures])


def comparison_summary(figures: ComparisonFigures) -> dict[str, float]:
    """For each row with finished runs the mean mIoU in [0, 1] and its standard deviation over seeds, and the difference
    to the baseline with its interval; each only where it could be computed."""
    found: dict[str, float | None] = {}
    for name, row in figures.finished().items():
        found |= {f"miou/{name}": row.last.mean, f"miou_sd/{name}": row.last.std}
        gain = row.over_supervised
        if gain:
            over = f"over_{BASELINE}"
            found |= {f"{over}/{name}": gain.mean, f"{over}_low/{name}": gain.low, f"{over}_high/{name}": gain.high}
    return {name: value for name, value in found.items() if value is not None}


def comparison_note(plan: StudyPlan, figures: ComparisonFigures) -> str:
    """The result of a comparison and the command that makes it again, in Markdown."""
    rows = [
        (name, len(row.last.values), format_percent(row.last), format_difference(row.over_supervised))
        for name, row in figures.finished().items()
    ]
    table = TrackedTable(("method", "seeds", "mIoU, %", f"over {BASELINE}, points"), tuple(rows))
    command = commands(figures, plan.folder)[0].text
    lines = [table.markdown(), "", f"{figures.headline}.", "", "```", command, "```", ""]
    return "\n".join(lines)


def read_csv_table(file: Path) -> TrackedTable:
    """A file of comma-separated values, with a line of names first, as a table for the loggers."""
    with file.open(encoding="utf-8", newline="") as lines:
        columns, *rows = csv.reader(lines)
    return TrackedTable(tuple(columns), tuple(map(tuple, rows)))
