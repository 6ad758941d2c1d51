"""The commands of `ssss data`. Each opens the data set of the overrides, runs a tool on it and prints the result."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table

from ssss_zoo.config.parse import split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import UNUSABLE, Dataset, Fault, ProgressCallback
from ssss_zoo.data.benchmarks.prepare import ARCHIVES, describe_plan, plan_preparation, prepare_benchmark
from ssss_zoo.data.checks import READER_THREADS
from ssss_zoo.data.split_lists import VAL_LIST, find_root
from ssss_zoo.data.tools.audit import AuditReport, DatasetSummary, audit, samples_by_part
from ssss_zoo.data.tools.audit_cache import AuditCache
from ssss_zoo.data.tools.split import labelled_order, list_sizes, write_lists
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError, expanded
from ssss_zoo.evaluation.picture_files import PICTURE_KEYS, check_picture_keys, picture_file
from ssss_zoo.text import format_bytes
from ssss_zoo.train.setup import open_dataset

SHOWN_FINDINGS = 8  # of one kind on the screen; `--json` has all
PREVIEW_KEYS = {"count": "6", **PICTURE_KEYS}  # overrides that are not configuration, with their defaults
PREVIEW_FILE = "preview.png"
PREVIEW_REFUSES = (  # keys of `ssss run` that a preview does not depend on
    *("output", "resume", "trace", "diagnose", "hooks.", "options.", "optim.", "loss.", "evaluate.", "tracking."),
    *("train.steps", "train.epochs", "train.batch", "train.precision", "train.device", "train.devices"),
    *("train.log_every", "train.eval_every", "train.checkpoint_every"),
)


def open_with_notes(overrides: Iterable[str]) -> tuple[Config, Dataset]:
    """The configuration that the overrides make, and its data set. The notes of the data set go to stderr."""
    config = resolve(overrides)
    dataset, config = open_dataset(load("datasets", config.dataset, f"dataset={config.dataset}"), config)
    for note in dataset.notes:
        Console(stderr=True).print(escape(note), soft_wrap=True)
    return config, dataset


def show_progress(bar: Progress, task: TaskID) -> ProgressCallback:
    """A callback that shows on `bar` how much of its task is done."""
    return lambda title, done, total: bar.update(task, description=title, completed=done, total=total or None)


def check_data(overrides: Iterable[str]) -> AuditReport:
    """The report on the data set that the overrides name. Raises UserError as opening it does."""
    config, dataset = open_with_notes(overrides)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        return audit(dataset, square(config.train.crop), config.train.batch, show_progress(bar, task))


def prepare_data(overrides: Iterable[str], *, agreed: bool) -> list[str]:
    """Fetch the benchmark that the overrides name into its folder, once the user has agreed to licence and sizes.

    Returns lines on what the folder holds. Raises UserError for a data set without archives, for a user who does not
    agree, and as `prepare_benchmark` does.
    """
    config = resolve(overrides)
    dataset_class = load("datasets", config.dataset, f"dataset={config.dataset}")
    benchmark = dataset_class.benchmark
    if benchmark is None:
        raise UserError(f"dataset={config.dataset} has nothing to fetch; `ssss list datasets` shows what there is")
    store = os.environ.get("SSSS_DATA")
    if not config.data.root and not store:
        raise UserError(
            f"no folder to fetch into: give data.root=DIR, or set $SSSS_DATA (for $SSSS_DATA/{config.dataset})"
        )
    root = expanded(config.data.root or Path(store or "", config.dataset))
    plan = plan_preparation(benchmark, root)
    if not plan.done:
        console = Console(stderr=True)
        for text in describe_plan(benchmark, root, plan):
            console.print(escape(text), soft_wrap=True, highlight=False)
        if not agreed and not (
            sys.stdin.isatty() and click.confirm("Do you agree, and should the download start?", err=True)
        ):
            raise UserError("nothing was fetched; give --yes to agree to licence, sizes and sources")
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("")
            prepare_benchmark(benchmark, root, plan, show_progress(bar, task))
    config = replace(config, data=replace(config.data, root=str(root)))
    dataset, config = open_dataset(dataset_class, config)
    counts = ", ".join(f"{len(samples)} {part}" for part, samples in samples_by_part(dataset).items())
    kept = sum(file.stat().st_size for file in (root / ARCHIVES).glob("*"))
    return [
        f"{'nothing to do: ' if plan.done else ''}{root} holds {config.dataset}, split {config.data.split}: {counts}",
        f"{root / ARCHIVES} holds {format_bytes(kept)} of archives, no longer needed",
    ]


def split_data(overrides: Iterable[str]) -> list[str]:
    """Draw labelled lists of the sizes in `sizes=` from all images with a mask, and write them. Returns a line each.

    Raises UserError for a data set without a folder, for impossible sizes, and for lists that exist already.
    """
    own, rest = split_overrides(overrides, "sizes")
    config, dataset = open_with_notes(["data.split=all", *rest])
    pool = list(dataset.labelled)
    if not all(isinstance(sample.image, Path) for sample in pool):
        raise UserError(f"dataset={config.dataset} has no folder to write lists into")
    root = find_root(config.data, config.dataset, "its images and masks")
    counts = list_sizes(own.get("sizes", ""), len(pool))
    cache = AuditCache(dataset)
    with ThreadPoolExecutor(READER_THREADS) as threads:
        class_ids = [found.check.ids for found in threads.map(lambda sample: cache.audit(sample, masked=True), pool)]
    cache.save()
    order = labelled_order(class_ids, config.seed)
    unmasked = samples_by_part(dataset)["unlabelled"]
    written = write_lists(
        root, [pool[index] for index in order], unmasked, dataset.val, counts, overwrite=config.overwrite
    )
    lines = []
    for name, count in counts.items():
        seen = set().union(*(class_ids[index] for index in order[:count]))
        lacks = [label for index, label in enumerate(dataset.class_names) if index not in seen]
        classes = f"without {', '.join(lacks)}" if lacks else "every class shown"
        lines.append(f"data.split={name}: {count} labelled, {len(pool) - count + len(unmasked)} unlabelled, {classes}")
    if written[-1].name == VAL_LIST:
        kept = f"{len(dataset.val)} validation images" if len(dataset.val) > 1 else "one validation image"
        lines.append(f"{VAL_LIST} is also new: it keeps the present {kept} for every list of this folder")
    return [*lines, "written: " + ", ".join(str(file) for file in written)]


def preview_data(overrides: Iterable[str]) -> Path:
    """Write the contact sheet of the data set that the overrides name; returns its file. Raises UserError as reading
    does, for a file that cannot be written, and for a `count` below 1 or not a number."""
    from ssss_zoo.commands.preview import draw_preview

    given, rest = split_overrides(overrides, *PREVIEW_KEYS)
    own = PREVIEW_KEYS | given
    if not own["count"].isdigit() or int(own["count"]) < 1:
        raise UserError(f"count must be a number of images, at least 1; got '{own['count']}'")
    file = picture_file(PREVIEW_FILE, own["file"], own["overwrite"])
    check_picture_keys("ssss data preview", rest, PREVIEW_REFUSES)
    config, dataset = open_with_notes(rest)
    draw_preview(dataset, config, int(own["count"]), file)
    return file


def show_audit(report: AuditReport) -> None:
    """Print findings by kind, the share of each class, and advice on crop and batch."""
    console = Console()
    console.print(class_table(report))
    if report.summary.height[2]:
        console.print(describe_sizes(report.summary), soft_wrap=True)
    for kind, count in Counter((fault.level, fault.kind) for fault in report.faults).items():
        alike = [fault for fault in report.faults if (fault.level, fault.kind) == kind]
        console.print(f"[bold]{kind[0]}[/] {kind[1]} ({count}):", highlight=False)
        for fault in alike[:SHOWN_FINDINGS]:
            console.print(f"  {escape(finding_text(fault))}", soft_wrap=True, highlight=False)
        if count > SHOWN_FINDINGS:
            console.print(f"  and {count - SHOWN_FINDINGS} more (--json has them)")
    worst = "nothing wrong" if not report.faults else "unusable" if report.code == 2 else "usable, with warnings"
    stopping = sum(fault.level == UNUSABLE for fault in report.faults)
    stops = f"{stopping} of them {'stops' if stopping == 1 else 'stop'} a run"
    console.print(f"{worst}: {len(report.faults)} {'finding' if len(report.faults) == 1 else 'findings'}, {stops}")


def describe_sizes(found: DatasetSummary) -> str:
    """A line on the sizes of the images, and on the planned crop and batch."""
    crop, batch = found.crop, found.batch
    heights, widths = (" to ".join(map(str, sorted({side[0], side[2]}))) for side in (found.height, found.width))
    large, planned = ("x".join(map(str, size)) for size in (crop.largest_unpadded, crop.planned))
    padded = crop.padded_images
    return (
        f"images {heights} high, {widths} wide; the largest crop that no image is too small for: {large} (planned "
        f"{planned}: {padded} {'image' if padded == 1 else 'images'} would be padded at full scale); a batch of more "
        f"than {batch.largest_without_repeats} repeats labelled images (planned {batch.planned})"
    )


def finding_text(fault: Fault) -> str:
    return fault.message if fault.name in fault.message else f"{fault.name}: {fault.message}"


def class_table(report: AuditReport) -> Table:
    """Share of pixels and number of images by class, labelled and val; a dash where no mask of a part is usable."""
    found = report.summary
    table = Table(title=", ".join(f"{count} {part}" for part, count in found.images.items()), title_justify="left")
    for head in ("class", "labelled, %", "images", "val, %", "images"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for name, parts in found.classes.items():
        cells = []
        for part in ("labelled", "val"):
            known = found.usable_masks[part] > 0
            cells += [f"{100 * parts[part].share:.2f}", str(parts[part].images)] if known else ["-", "-"]
        table.add_row(escape(name), *cells)
    return table
