"""`ssss data prepare`: a benchmark from its publishers' archives to the folder that its data set reads. The command may
be interrupted at any time, and continues when it is given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ssss_zoo.atomic_write import replacing_file, write_json, write_text
from ssss_zoo.data.base import ProgressCallback
from ssss_zoo.data.benchmarks.archives import unpack
from ssss_zoo.data.benchmarks.download import check_disk_space, fetch
from ssss_zoo.data.benchmarks.published_splits import PublishedList, published_lists
from ssss_zoo.errors import UserError
from ssss_zoo.text import format_bytes

STATE_FILE = ".prepared.json"  # which archives are unpacked, and whether masks are converted
ARCHIVES = "archives"  # the folder of downloaded archives, below the root
WORK = ".work"  # the folder of files that only the conversion needs
SPLITS = "splits"  # the folder of split lists
DISK_MARGIN = 1.05  # times the bytes that are needed
FILES_WITHOUT_PROCESSES = 200  # fewer files are converted sooner without starting processes (our choice)

ConvertAll = Callable[[str, Callable[[Any], None], Iterable[Any]], None]  # (title, function, the items to call it with)


@dataclass(frozen=True)
class Archive:
    """An archive of the publisher.

    bytes, unpacked: the size of the file, and of its content. keep: prefixes of the paths to unpack, each with its
    replacement below the root. urls: mirrors, the best one first; none where a person must download the archive, as
    `how` explains.
    """

    name: str
    bytes: int
    unpacked: int
    keep: Mapping[str, str]
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    how: str = ""


@dataclass(frozen=True)
class ListSource:
    """A place with split lists.

    urls: mirrors, with `{path}` in place of the list's path. only: the families of lists that are there, empty for all.
    renamed: our path of a list and its path at the source. line: converts a line into our format, None where it stays.
    """

    urls: tuple[str, ...]
    only: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    line: Callable[[str], str] | None = None


def on_github(repository: str, folder: str) -> tuple[str, ...]:
    """The mirrors of the lists in a folder of a repository's main branch."""
    raw, mirror = "https://raw.githubusercontent.com", "https://cdn.jsdelivr.net/gh"
    return (f"{raw}/{repository}/main/{folder}/{{path}}", f"{mirror}/{repository}@main/{folder}/{{path}}")


@dataclass(frozen=True)
class Benchmark:
    """A data set that can be prepared.

    licence: one sentence, with the page that states it. convert: makes the masks; when it is called again, it makes
    those that are missing. converted: the bytes that it adds.
    """

    name: str
    licence: str
    archives: tuple[Archive, ...]
    convert: Callable[[Path, ConvertAll], None]
    lists: tuple[ListSource, ...] = ()
    converted: int = 0


@dataclass(frozen=True)
class PreparationPlan:
    """The work that is left. to_fetch, to_unpack: archives. lists: split lists to fetch, each with its source.
    convert: whether masks are to be made."""

    to_fetch: list[Archive]
    to_unpack: list[Archive]
    lists: list[tuple[PublishedList, ListSource]]
    convert: bool

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not (self.to_fetch or self.to_unpack or self.lists or self.convert)

    @property
    def download(self) -> int:
        """The bytes to download."""
        return sum(archive.bytes for archive in self.to_fetch)

    def disk_space(self, converted: int) -> int:
        """The bytes that all of it takes on the disk. converted: of the masks that are made."""
        return self.download + sum(archive.unpacked for archive in self.to_unpack) + (converted if self.convert else 0)


# --- the plan -------------------------------------------------------------------------------------------------------


def plan_preparation(benchmark: Benchmark, root: Path) -> PreparationPlan:
    """The work that is left in the folder `root`. Raises UserError for archives that only a person can download."""
    state = read_prepared_state(root)
    to_unpack = [archive for archive in benchmark.archives if archive.name not in state]
    to_fetch = [archive for archive in to_unpack if not (root / ARCHIVES / archive.name).is_file()]
    by_hand = [archive for archive in to_fetch if not archive.urls]
    if by_hand:
        names = " and ".join(archive.name for archive in by_hand)
        raise UserError(f"put {names} into {root / ARCHIVES} and give the command again: {by_hand[0].how}")
    sources = find_list_sources(benchmark)
    lists = [(entry, source) for entry, source in sources if not (root / SPLITS / entry.path).is_file()]
    return PreparationPlan(to_fetch, to_unpack, lists, "converted" not in state)


def find_list_sources(benchmark: Benchmark) -> list[tuple[PublishedList, ListSource]]:
    """Every published list of the benchmark, with a source that has it; a source of its family alone is preferred."""
    found = []
    for entry in published_lists(benchmark.name).values():
        fitting = [source for source in benchmark.lists if not source.only or entry.family in source.only]
        found += [(entry, min(fitting, key=lambda source: not source.only))] if fitting else []
    return found


def describe_plan(benchmark: Benchmark, root: Path, plan: PreparationPlan) -> list[str]:
    """Lines that tell a person, who is asked to agree, what will be downloaded and under which licence."""
    lines = [f"{benchmark.name} into {root}", f"licence: {benchmark.licence}"]
    for archive in plan.to_unpack:
        where = f"from {archive.urls[0]}" if archive in plan.to_fetch else f"from {root / ARCHIVES}"
        digest = f"SHA-256 {archive.sha256}" if archive.sha256 else "no digest known: not verified"
        lines.append(f"{archive.name}, {format_bytes(archive.bytes)}, {where}, {digest}")
    if plan.lists:
        lines.append(f"{len(plan.lists)} split lists, from {plan.lists[0][1].urls[0].partition('{')[0]}")
    space = format_bytes(plan.disk_space(benchmark.converted))
    lines.append(f"{format_bytes(plan.download)} to fetch, {space} on the disk")
    return lines


# --- the work -------------------------------------------------------------------------------------------------------


def prepare_benchmark(benchmark: Benchmark, root: Path, plan: PreparationPlan, progress: ProgressCallback) -> None:
    """Download, unpack and convert. Raises UserError; finished steps are not repeated by the next call."""
    check_disk_space(nearest_existing(root), int(plan.disk_space(benchmark.converted) * DISK_MARGIN))
    try:
        (root / ARCHIVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.root={root}: no folder can be made there ({error.strerror})") from None
    for archive in plan.to_unpack:
        file = root / ARCHIVES / archive.name
        fetch(file, archive.urls, archive.sha256, progress)
        unpack(file, root, archive.keep, archive.unpacked, progress)
        write_prepared_state(root, archive.name, archive.sha256 or "unknown")
    for done, (entry, source) in enumerate(plan.lists, start=1):
        fetch_list(root, entry, source)
        progress("fetching split lists", done, len(plan.lists))
    if plan.convert:
        convert_masks(benchmark, root, progress)
        write_prepared_state(root, "converted", "done")
        shutil.rmtree(root / WORK, ignore_errors=True)


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def fetch_list(root: Path, entry: PublishedList, source: ListSource) -> None:
    """Download a split list. Raises UserError where it has another digest than published, or, without a published
    digest, another number of lines."""
    target = root / SPLITS / entry.path
    path = source.renamed.get(entry.path, entry.path)
    raw = root / WORK / "lists" / path
    raw.parent.mkdir(parents=True, exist_ok=True)
    fetch(raw, [url.format(path=path) for url in source.urls], entry.sha256)
    lines = raw.read_text("utf-8").splitlines()
    if len(lines) != entry.lines:
        raw.unlink()
        raise UserError(f"the split list {path} from {source.urls[0]} has {len(lines)} lines, expected {entry.lines}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.line:
        write_text(target, "".join(f"{source.line(line)}\n" for line in lines))
    else:
        shutil.move(raw, target)


def convert_masks(benchmark: Benchmark, root: Path, progress: ProgressCallback) -> None:
    """Make the masks, in processes where there are more than FILES_WITHOUT_PROCESSES. Raises UserError."""
    ignore_interrupt = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops this process, which stops the others
    processes = min(os.cpu_count() or 1, 61)  # Windows allows no more
    with ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, ignore_interrupt) as pool:

        def convert_all(title: str, function: Callable[[Any], None], items: Iterable[Any]) -> None:
            listed = list(items)
            in_processes = len(listed) > FILES_WITHOUT_PROCESSES
            converted = pool.map(function, listed, chunksize=16) if in_processes else map(function, listed)
            for done, _ in enumerate(converted, start=1):
                progress(title, done, len(listed))

        benchmark.convert(root, convert_all)


def read_prepared_state(root: Path) -> dict[str, str]:
    """The finished steps: the digest of each unpacked archive by its name, and `converted`."""
    try:
        state: dict[str, str] = json.loads((root / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return state


def write_prepared_state(root: Path, key: str, value: str) -> None:
    write_json(root / STATE_FILE, read_prepared_state(root) | {key: value})


# --- for converters -------------------------------------------------------------------------------------------------


def without_target(pairs: Iterable[tuple[Path, Path]]) -> Sequence[tuple[Path, Path]]:
    """The pairs of source and target whose target does not exist."""
    return [pair for pair in pairs if not pair[1].is_file()]


def save_ids(ids: Any, target: Path) -> None:
    """Write (H, W) uint8 class ids as a PNG, named when it is complete. Raises UserError for a full disk."""
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing_file(target, flush=False) as new:  # it can be made again, and there are thousands
            Image.fromarray(ids).save(new, "PNG")
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; the same command continues") from None
