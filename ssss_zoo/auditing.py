"""`ssss data check` between its words and its answer: opens the data set, shows progress, prints the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ssss_zoo.config import resolve, square
from ssss_zoo.data.audit import UNUSABLE, Fault, Report, audit
from ssss_zoo.job import open_dataset
from ssss_zoo.plugins import load

SHOWN = 8  # findings of one kind on the screen; `--json` has all


def check_words(words: Iterable[str]) -> Report:
    """The report on the data set that the words name; progress goes to stderr. Raises UserError as opening it does."""
    config = resolve(list(words))
    dataset = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    console = Console(stderr=True)
    for note in dataset.notes:
        console.print(escape(note), soft_wrap=True)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return audit(
            dataset,
            square(config.train.crop),
            config.train.batch,
            lambda count: bar.update(task, advance=1, total=count),
        )


def show_report(report: Report) -> None:
    """Findings by kind, shares of the classes, and what sizes allow."""
    console = Console()
    found = report.figures
    console.print(class_table(report))
    crop, batch = found["crop"], found["batch"]
    console.print(
        f"images {found['height'][0]} to {found['height'][2]} high, {found['width'][0]} to {found['width'][2]} wide; "
        f"the largest crop that no image is too small for: {crop['largest_unpadded'][0]}x{crop['largest_unpadded'][1]} "
        f"(planned {crop['planned'][0]}x{crop['planned'][1]}: {crop['padded_images']} images would be padded at full "
        f"scale); a batch of more than {batch['largest_without_repeats']} repeats labelled images (planned "
        f"{batch['planned']})",
        soft_wrap=True,
    )
    for kind, count in Counter((fault.level, fault.kind) for fault in report.faults).items():
        alike = [fault for fault in report.faults if (fault.level, fault.kind) == kind]
        console.print(f"[bold]{kind[0]}[/] {kind[1]} ({count}):", highlight=False)
        for fault in alike[:SHOWN]:
            console.print(f"  {escape(line(fault))}", soft_wrap=True, highlight=False)
        if count > SHOWN:
            console.print(f"  and {count - SHOWN} more (--json has them)")
    worst = "nothing wrong" if not report.faults else "unusable" if report.code == 2 else "usable, with warnings"
    console.print(
        f"{worst}: {len(report.faults)} findings, {sum(f.level == UNUSABLE for f in report.faults)} of them stop a run"
    )


def line(fault: Fault) -> str:
    return fault.message if fault.name in fault.message else f"{fault.name}: {fault.message}"


def class_table(report: Report) -> Table:
    """Share of pixels and number of images by class, labelled and val."""
    table = Table(title=", ".join(f"{count} {part}" for part, count in report.figures["images"].items()))
    for head in ("class", "labelled, %", "images", "val, %", "images"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for name, parts in report.figures["classes"].items():
        cells = [
            word for p in ("labelled", "val") for word in (f"{100 * parts[p]['share']:.2f}", str(parts[p]["images"]))
        ]
        table.add_row(escape(name), *cells)
    return table
