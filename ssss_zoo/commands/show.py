"""How commands print their results: tables, last lines, next steps. rich and torch load only when they are needed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssss_zoo.commands.command_group import terminal_width
from ssss_zoo.errors import UserError
from ssss_zoo.text import count, visible, wrap_command, wrap_words

if TYPE_CHECKING:
    from ssss_zoo.comparison.result import CompareResult
    from ssss_zoo.comparison.search import SearchResult
    from ssss_zoo.deploy.label import LabelResult
    from ssss_zoo.deploy.predict import PredictResult
    from ssss_zoo.deploy.take_labels import TakeResult
    from ssss_zoo.planning.timed_training import TimedResult

PIPE_WIDTH = 200  # columns of a table that goes to a file (our choice)
STUDENT_LEAD = 0.1  # mIoU of the student above that of its teacher, from which a hint is printed (our choice)
LOW_USED_SHARE = 0.005  # share of pixels used at the end of a run, below which a hint is printed (our choice)


def print_line(line: object, *, err: bool = False) -> None:
    """Print a line, to stderr with `err`. Control characters are made visible: the line may hold names of other
    people's files and classes. On a terminal the line is wrapped by words; elsewhere it stays one."""
    text = visible(str(line))
    is_terminal = (sys.stderr if err else sys.stdout).isatty()
    click.echo(wrap_words(text, terminal_width()) if is_terminal else text, err=err)


def print_command(line: str) -> None:
    """Print a line that ends with a command, so that a person can copy it: on a terminal its lines end with a
    backslash."""
    text = visible(line)
    click.echo(wrap_command(text, terminal_width()) if sys.stdout.isatty() else text)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def show_listing(items_by_kind: Mapping[str, Sequence[Mapping[str, Any]]], *, long: bool) -> None:
    """Print what is installed: a heading for each kind, then a table of name, description and needs. long: also the
    hooks of each method and the methods of each hook."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    for kind, items in items_by_kind.items():
        console.print(f"{kind}:", style="bold")
        table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        for item in items:
            linked = item.get("hooks") or item.get("answered_by") or []
            more = f"\n[{' '.join(linked)}]" if long and linked else ""
            texts = (f"  {item['name']}", item["about"] + more, item.get("needs", ""))
            table.add_row(*(Text("\n".join(map(visible, text.split("\n")))) for text in texts))
        console.print(table)


def show_card(markdown: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    lines = markdown.expandtabs().splitlines()
    Console().print(Markdown("\n".join(map(visible, lines))))


# --- comparison and search ------------------------------------------------------------------------------------------


def show_comparison(result: CompareResult) -> None:
    """Print the table of a comparison, its notes, and where its files are."""
    from rich.console import Console

    from ssss_zoo.comparison.report.tables import screen_cost_table, screen_table, table_notes

    console = Console()
    console.print(screen_table(result.record))
    costs = screen_cost_table(result.record)
    if costs:
        console.print(costs)
    for note in table_notes(result.record):
        print_line(note)
    print_line(f"in {result.folder}: report.html, compare.md, compare.csv, compare.tex, compare.json, runs")
    for view in result.views:
        print_line(f"figures in {view}")


def show_search(result: SearchResult) -> None:
    from rich.console import Console

    Console().print(result.table())
    print_command(f"the winner, to train on all labelled images: {result.command}")


# --- one run --------------------------------------------------------------------------------------------------------


def show_evaluation(figures: Mapping[str, Any]) -> None:
    """Print what `ssss evaluate` found: mIoU and the IoU of each class, a column for each network."""
    images = count(figures["images"], "image")
    show_ious(f"{figures['run']}, {figures['weights']} weights, on {figures['on']} ({images})", figures)


def show_predictions(result: PredictResult) -> None:
    """Print what `ssss predict` did."""
    skipped = f", {count(result.skipped, 'image')} predicted before" if result.skipped else ""
    unread = f", {count(len(result.unreadable), 'file')} not readable" if result.unreadable else ""
    print_line(f"{count(result.predicted, 'image')} predicted by {result.source}{skipped}{unread}")
    print_line(f"in {result.output}: {', '.join(('masks', *result.saved))}, predictions.csv")


def show_labels(result: LabelResult) -> None:
    """Print the images that `ssss label` chose, with their scores, and what to do next."""
    from ssss_zoo.deploy.polygon_files import COCO_FILE

    settings = result.settings
    print_line(f"{count(len(result.rows), 'image')} of {result.pool:,} unlabelled ones, by {result.source}:")
    for row in result.rows:
        distance = "" if row.distance is None else f"  distance {row.distance:.3f}"
        print_line(f"{row.rank:>4}  {settings.uncertainty} {row.uncertainty:.3f}{distance}  {row.image}")
    if result.unreadable:
        print_line(f"{count(result.unreadable, 'file')} not readable")
    print_line(f"in {result.output}: copies of the images with masks to correct, contact_sheet.png, label.csv")
    images = shlex.quote(f"{result.output}/images")
    tool = {
        "labelme": f"labelme {images} --labels {shlex.quote(f'{result.output}/classes.txt')}",
        "coco": f"import {result.output}/{COCO_FILE} into CVAT or Label Studio, correct it, and export COCO",
        "masks": f"correct {result.output}/masks, for example in napari",
    }[settings.format]
    print_command(f"next: {tool}")
    print_command(f"then: ssss label run={shlex.quote(settings.run)} take={shlex.quote(str(result.output))}")


def show_taken_labels(result: TakeResult) -> None:
    """Print the split that `ssss label take=` wrote, and the command that trains with it."""
    masks = "masks of the data set" if result.hidden else "corrected masks"
    print_line(f"took {result.taken} {masks}: {result.labelled} labelled, {result.unlabelled} unlabelled images")
    print_line(f"in {result.output}: {', '.join(result.files)}")
    print_command(f"next: {result.command}")


def show_ious(title: str, figures: Mapping[str, Any]) -> None:
    """Print the table of those figures that belong to a network; the others describe the evaluation."""
    from rich.console import Console

    from ssss_zoo.train.console import iou_table

    networks = {name: part for name, part in figures.items() if isinstance(part, dict) and "miou" in part}
    Console().print(iou_table(title, networks))


def show_result(folder: Path, metrics: Mapping[str, Any], views: Sequence[str] = ()) -> None:
    """Print the end of a run: its figures, where its files are, and what to type next. views: see `RunResult`."""
    from ssss_zoo.train.run_folder import RunFolder

    if metrics["val"]:
        show_ious(f"{metrics['method']} on {metrics['dataset']}, step {metrics['step']}", metrics["val"])
        best = metrics["best"]
        print_line(f"best {best['network']} mIoU {100 * best['miou']:.2f} at step {best['step']}")
        for line in compare_with_earlier_runs(folder, metrics):
            print_line(line)
    for line in [*hint_on_used_share(metrics), *hint_on_slow_teacher(metrics), time_line(metrics["time"])]:
        print_line(line)
    print_line(f"in {folder}: {', '.join(path.name for path in RunFolder(folder).written() if path.exists())}")
    for view in views:
        print_line(f"figures in {view}")
    named = shlex.quote(str(folder))
    print_command(f"next: ssss evaluate run={named} on=labelled")
    print_command(f"or: ssss predict run={named} input=IMAGES output=MASKS")


def show_timed(result: TimedResult) -> None:
    """Print the end of `ssss run ... time=`: the better run's figures, and which run won."""
    show_result(result.best.folder, result.best.metrics, result.best.views)
    for line in result.lines:
        print_line(line)


def hint_on_used_share(metrics: Mapping[str, Any]) -> list[str]:
    """A line where hardly any pixel of the unlabelled images counted at the last log step."""
    from ssss_zoo.train.console import share

    used = (metrics["pseudo_labels"] or {}).get("used")
    if used is None or used >= LOW_USED_SHARE:
        return []
    return [
        f"pixels used {share(used)} at the last log step: the run learned next to nothing from the unlabelled images; "
        "train longer, or lower the method's threshold if it has one (`ssss card METHOD` lists its options)"
    ]


def hint_on_slow_teacher(metrics: Mapping[str, Any]) -> list[str]:
    """A line where the student is far better than its teacher, the average of its earlier weights."""
    student, teacher = (metrics["val"].get(name, {}).get("miou") for name in ("student", "teacher"))
    if student is None or teacher is None or student - teacher < STUDENT_LEAD:
        return []
    return [
        f"the student leads its teacher by {100 * (student - teacher):.1f} points of mIoU: the teacher averages "
        "over more steps than this run has; train longer, or lower options.METHOD.ema_decay (see `ssss card METHOD`)"
    ]


def time_line(time: Mapping[str, float]) -> str:
    return (
        f"trained {time['train_seconds']:.0f} s ({time['steps_per_second']:.2f} steps/s, waited "
        f"{time['data_wait_seconds']:.1f} s for data), evaluated {time['evaluate_seconds']:.0f} s, peak memory "
        f"{time['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def compare_with_earlier_runs(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """A line for each finished run of another method on the same data, steps and seed in the default folders, and for
    each run whose metrics cannot be read."""
    from ssss_zoo.record_files import read_metrics
    from ssss_zoo.train.run_folder import RunFolder

    lines: list[str] = []
    above = folder.resolve().parents
    if len(above) < 3:  # too near the root of the disk for a default folder
        return lines
    methods = above[2]
    for neighbour in sorted(methods.glob(f"*/{folder.parent.name}/{folder.name}")):
        file = RunFolder(neighbour).metrics
        if not file.exists():
            continue
        try:
            other: Mapping[str, Any] = read_metrics(file, "run it again to compare with it")
        except UserError as error:
            lines.append(f"not compared: {error}")
            continue
        same = all(other[key] == metrics[key] for key in ("dataset", "split", "seed", "step", "status"))
        same = same and other["data"]["fingerprint"] == metrics["data"]["fingerprint"]
        if same and other["method"] != metrics["method"] and other["val"]:
            gain = 100 * (metrics["val"]["miou"] - other["val"]["miou"])
            lines.append(
                f"earlier run with the same data, steps and seed: {other['method']} {100 * other['val']['miou']:.2f} "
                f"mIoU; {metrics['method']} is {abs(gain):.2f} {'higher' if gain >= 0 else 'lower'}"
            )
    return lines
