"""A benchmark from its publishers' archives to the folder that its data set reads, in one command that may be
interrupted anywhere and given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ssss_zoo.data.benchmarks.archives import unpack
from ssss_zoo.data.benchmarks.download import check_disk_space, fetch, format_bytes
from ssss_zoo.data.benchmarks.published_splits import PublishedList, published_lists
from ssss_zoo.errors import UserError

STATE_FILE = ".prepared.json"  # which archives are unpacked, and whether masks are converted
ARCHIVES, WORK, SPLITS = "archives", ".work", "splits"  # of the root: what was fetched, what converting needs, lists
DISK_MARGIN = 1.05  # of the bytes that are needed, on the disk
FILES_WITHOUT_PROCESSES = (
    200  # files that are converted sooner here than by processes that must start first (our choice)
)

ConvertAll = Callable[[str, Callable[[Any], None], Iterable[Any]], None]  # title, function, items
Tell = Callable[[str, int, int], None]  # what is done, so far, in all (0: unknown)


@dataclass(frozen=True)
class Archive:
    """A file of the publisher. urls: mirrors of it, best first; none where a person must fetch it (`how` says how).
    bytes, unpacked: of the file, and of all that is in it; keep: prefixes of paths that are unpacked, and what replaces
    them below the root."""

    name: str
    bytes: int
    unpacked: int
    keep: Mapping[str, str]
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    how: str = ""


@dataclass(frozen=True)
class ListSource:
    """Where split lists are fetched from. urls: mirrors, `{path}` for the list's path; only: the families that are
    there, empty for all; line: what becomes of each line (None: it stays)."""

    urls: tuple[str, ...]
    only: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)  # paths of ours and what they are called there
    line: Callable[[str], str] | None = None


def on_github(repository: str, folder: str) -> tuple[str, ...]:
    """The mirrors of the lists in a folder of a repository's main branch."""
    raw, mirror = "https://raw.githubusercontent.com", "https://cdn.jsdelivr.net/gh"
    return (f"{raw}/{repository}/main/{folder}/{{path}}", f"{mirror}/{repository}@main/{folder}/{{path}}")


@dataclass(frozen=True)
class Benchmark:
    """How a data set comes to be. licence: in a sentence, with where it stands; convert: makes the masks, may be called
    again and then does what is left."""

    name: str
    licence: str
    archives: tuple[Archive, ...]
    convert: Callable[[Path, ConvertAll], None]
    lists: tuple[ListSource, ...] = ()
    converted: int = 0  # bytes that converting adds


@dataclass(frozen=True)
class PreparationPlan:
    """What is left to do. fetched: archives to fetch; packed: to unpack; lists: to fetch, each with its source."""

    fetched: list[Archive]
    packed: list[Archive]
    lists: list[tuple[PublishedList, ListSource]]
    convert: bool

    @property
    def done(self) -> bool:
        return not (self.fetched or self.packed or self.lists or self.convert)

    @property
    def download(self) -> int:
        return sum(archive.bytes for archive in self.fetched)

    def room(self, converted: int) -> int:
        """Bytes on the disk that it takes in all."""
        return self.download + sum(archive.unpacked for archive in self.packed) + (converted if self.convert else 0)


def plan_preparation(benchmark: Benchmark, root: Path) -> PreparationPlan:
    """What is left to do in `root`. Raises UserError for archives that only a person can fetch."""
    state = read_prepared_state(root)
    packed = [archive for archive in benchmark.archives if archive.name not in state]
    fetched = [archive for archive in packed if not (root / ARCHIVES / archive.name).is_file()]
    by_hand = [archive for archive in fetched if not archive.urls]
    if by_hand:
        names = " and ".join(archive.name for archive in by_hand)
        raise UserError(f"put {names} into {root / ARCHIVES} and give the command again: {by_hand[0].how}")
    lists = [
        (entry, source) for entry, source in find_list_sources(benchmark) if not (root / SPLITS / entry.path).is_file()
    ]
    return PreparationPlan(fetched, packed, lists, "converted" not in state)


def find_list_sources(benchmark: Benchmark) -> list[tuple[PublishedList, ListSource]]:
    """Every list of the benchmark with the place it comes from."""
    found = []
    for entry in published_lists(benchmark.name).values():
        fitting = [source for source in benchmark.lists if not source.only or entry.family in source.only]
        found += [(entry, min(fitting, key=lambda source: not source.only))] if fitting else []
    return found


def prepare_benchmark(benchmark: Benchmark, root: Path, todo: PreparationPlan, tell: Tell) -> None:
    """Fetch, unpack, convert. Raises UserError; what is done by then stays done."""
    check_disk_space(nearest_existing(root), int(todo.room(benchmark.converted) * DISK_MARGIN))
    try:
        (root / ARCHIVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"data.root={root}: no folder can be made there ({error.strerror})") from None
    for archive in benchmark.archives:
        if archive not in todo.packed:
            continue
        file = root / ARCHIVES / archive.name
        fetch(file, archive.urls, archive.sha256, partial(tell, f"fetching {archive.name}"))
        unpack(file, root, archive.keep, archive.unpacked, partial(unpacking, tell, archive))
        write_prepared_state(root, archive.name, archive.sha256 or "unknown")
    for done, (entry, source) in enumerate(todo.lists, start=1):
        fetch_list(benchmark, root, entry, source)
        tell("fetching split lists", done, len(todo.lists))
    if todo.convert:
        convert_masks(benchmark, root, tell)
        write_prepared_state(root, "converted", "done")
        shutil.rmtree(root / WORK, ignore_errors=True)


def unpacking(tell: Tell, archive: Archive, name: str) -> None:
    tell(f"unpacking {archive.name}", 0, 0)


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def fetch_list(benchmark: Benchmark, root: Path, entry: PublishedList, source: ListSource) -> None:
    """Fetch a split list, believed by its digest where that is known, else by the number of its lines."""
    target = root / SPLITS / entry.path
    raw = root / WORK / "lists" / source.renamed.get(entry.path, entry.path)
    raw.parent.mkdir(parents=True, exist_ok=True)
    path = source.renamed.get(entry.path, entry.path)
    fetch(raw, [url.format(path=path) for url in source.urls], entry.sha256)
    lines = raw.read_text("utf-8").splitlines()
    if len(lines) != entry.lines:
        raw.unlink()
        raise UserError(f"the split list {path} from {source.urls[0]} has {len(lines)} lines, expected {entry.lines}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.line:
        new = target.with_name(f".{target.name}.new")
        new.write_text("".join(f"{source.line(line)}\n" for line in lines), "utf-8")
        new.replace(target)
    else:
        shutil.move(raw, target)


def convert_masks(benchmark: Benchmark, root: Path, tell: Tell) -> None:
    """Make the masks, in processes where there are more than FEW. Raises UserError."""
    deaf = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops this process, and it the others
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), signal.signal, deaf) as pool:

        def each(title: str, function: Callable[[Any], None], items: Iterable[Any]) -> None:
            listed = list(items)
            made = (
                pool.map(function, listed, chunksize=16)
                if len(listed) > FILES_WITHOUT_PROCESSES
                else map(function, listed)
            )
            for done, _ in enumerate(made, start=1):
                tell(title, done, len(listed))

        benchmark.convert(root, each)


def describe_plan(benchmark: Benchmark, root: Path, todo: PreparationPlan) -> list[str]:
    """The plan for a person to agree to."""
    lines = [f"{benchmark.name} into {root}", f"licence: {benchmark.licence}"]
    for archive in todo.packed:
        where = f"from {archive.urls[0]}" if archive in todo.fetched else f"from {root / ARCHIVES}"
        digest = f"SHA-256 {archive.sha256}" if archive.sha256 else "no digest known: believed as it comes"
        lines.append(f"{archive.name}, {format_bytes(archive.bytes)}, {where}, {digest}")
    if todo.lists:
        lines.append(f"{len(todo.lists)} split lists, from {todo.lists[0][1].urls[0].partition('{')[0]}")
    lines.append(f"{format_bytes(todo.download)} to fetch, {format_bytes(todo.room(benchmark.converted))} on the disk")
    return lines


def read_prepared_state(root: Path) -> dict[str, str]:
    try:
        state: dict[str, str] = json.loads((root / STATE_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return state


def write_prepared_state(root: Path, key: str, value: str) -> None:
    new = root / f"{STATE_FILE}.new"
    new.write_text(json.dumps(read_prepared_state(root) | {key: value}, indent=1))
    new.replace(root / STATE_FILE)


# --- for converters -------------------------------------------------------------------------------------------------


def without_target(pairs: Iterable[tuple[Path, Path]]) -> Sequence[tuple[Path, Path]]:
    """The (source, target) whose target is not there yet."""
    return [pair for pair in pairs if not pair[1].is_file()]


def save_ids(ids: Any, target: Path) -> None:
    """Write (H, W) uint8 class ids as a PNG that appears whole. Raises UserError for a full disk."""
    from PIL import Image

    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    try:
        Image.fromarray(ids).save(new, "PNG")
        new.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}; the same command goes on") from None
    finally:
        new.unlink(missing_ok=True)
