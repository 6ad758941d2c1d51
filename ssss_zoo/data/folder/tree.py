"""Every file below a folder, looked at once, and what became of each of them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ssss_zoo.data.images import IMAGE_SUFFIXES
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

PICTURES = (  # suffixes of pictures and arrays that are not read
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".exr", ".hdr", ".svg", ".eps", ".ico", ".pcx", ".npy", ".npz"),
    *(".mat", ".dcm", ".nii", ".nrrd", ".h5", ".hdf5", ".img", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
    *(".raf", ".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".webm"),
)
CONVERT = "convert them to PNG, JPEG or TIFF"
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information")  # folders of no person's
RUNS = (("config.yaml", "history.jsonl"), ("compare.json",))  # files that a run, or a comparison, leaves
HIDDEN = "hidden"
PIPE = "a pipe, socket or device: only regular files are read"
BROKEN = "nothing is where it leads"
MISSED = (CONVERT, PIPE, BROKEN)  # of files that were perhaps meant to be read
ORDER = ("labelled image", "validation image", "unlabelled image", "mask", "file of annotations", "list", "class list")


@dataclass(frozen=True)
class Fate:
    """What became of a file. what: it was read as; why: it was left out, one of the two; mend: what to do about it."""

    what: str = ""
    why: str = ""
    mend: str = ""

    def __str__(self) -> str:
        return self.what or f"left out: {self.why}{f' ({self.mend})' if self.mend else ''}"


@dataclass(frozen=True, eq=False)
class Tree:
    """What lies below `root`, links followed. files: regular ones that can be named, sorted; apart: all else that
    cannot be read or is not looked into (hidden files, pipes, broken links, empty folders), and why."""

    root: Path
    files: tuple[Path, ...]
    apart: Mapping[Path, Fate]

    def below(self, folder: Path) -> list[Path]:
        """The files at any depth of a folder, sorted."""
        return self.of(folder, self.files)

    def images(self, folder: Path) -> list[Path]:
        """Those whose suffix says that they are images that can be read."""
        return self.of(folder, self.pictures)

    @cached_property
    def pictures(self) -> list[Path]:
        return [path for path in self.files if is_image(path)]

    def of(self, folder: Path, files: Sequence[Path]) -> list[Path]:
        start = f"{folder}{os.sep}"
        return [path for path in files if str(path).startswith(start)] if folder != self.root else list(files)

    def json(self, folder: Path) -> list[Path]:
        """Files of annotations."""
        return self.of(folder, [path for path in self.others if path.suffix.lower() == ".json"])

    def unread(self, folder: Path) -> list[Path]:
        """What lies in a folder and is no image that can be read: other suffixes, pipes, broken links."""
        start = f"{folder}{os.sep}"
        apart = [path for path, fate in self.apart.items() if fate.why != HIDDEN and str(path).startswith(start)]
        return [*self.of(folder, self.others), *apart]

    @cached_property
    def others(self) -> list[Path]:
        return [path for path in self.files if not is_image(path)]


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def composed(text: str) -> str:
    """A name as it is compared: Unicode has two ways to write an é that look the same (NFC, NFD)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


# --- looking --------------------------------------------------------------------------------------------------------


def walk(root: Path) -> Tree:
    """Look at everything below `root`, each folder once. Raises UserError where `root` cannot be read."""
    try:
        found = dict(entries(str(root), (identity(os.stat(root)),)))
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {error.strerror}") from None
    files = sorted(Path(path) for path, fate in found.items() if fate is None)
    return Tree(root, tuple(files), {Path(path): fate for path, fate in found.items() if fate})


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def entries(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Fate | None]]:
    """Every file below a folder, and why it is not read, where it is not; folders that are not looked into as well.

    above: the folder and those it lies in, by device and number: a link back to one of them is not followed.
    """
    with os.scandir(folder) as listing:
        inside = list(listing)
    if not inside:
        yield folder, Fate(why="empty folder")
    for entry in inside:
        reason = why_apart(entry)
        if reason or not entry.is_dir():
            yield entry.path, reason
            continue
        try:
            here = identity(os.stat(entry.path))
            if here in above:
                yield entry.path, Fate(why="link to a folder that it lies in")
            elif is_run(entry.path):
                yield entry.path, Fate(why="folder of a run")
            else:
                yield from entries(entry.path, (*above, here))
        except OSError as error:
            yield entry.path, Fate(why=f"folder that cannot be read ({error.strerror})")


def is_run(folder: str) -> bool:
    """Whether `ssss run` or `ssss compare` wrote into a folder, whose pictures are no data."""
    return any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in RUNS)


def why_apart(entry: os.DirEntry[str]) -> Fate | None:
    """Why a file or folder is left out at first sight; None where it is not."""
    if entry.name.startswith(".") or entry.name.lower() in SYSTEM:
        return Fate(why=HIDDEN)
    try:
        entry.name.encode()
        if entry.is_file() or entry.is_dir():
            return None
    except UnicodeEncodeError:
        return Fate(why="name that is not in UTF-8", mend="rename the file")
    except OSError as error:
        return Fate(why=f"file that cannot be read ({error.strerror})")
    return Fate(why="broken link", mend=BROKEN) if entry.is_symlink() else Fate(why="special file", mend=PIPE)


# --- what became of them --------------------------------------------------------------------------------------------


def fates(trees: list[Tree], claims: Mapping[Path, Fate]) -> dict[Path, Fate]:
    """What became of every file of the trees: as claimed, else why it is left out."""
    apart = {path: fate for tree in trees for path, fate in tree.apart.items()}
    every = [*(path for tree in trees for path in tree.files), *apart]
    return {path: claims.get(path) or apart.get(path) or unclaimed(path) for path in every}


def unclaimed(path: Path) -> Fate:
    """Why a file is left out that nobody has a use for."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return Fate(why="image outside the folders that are read", mend="data.unlabelled names further folders")
    if suffix in PICTURES:
        return Fate(why=f"{suffix} file", mend=CONVERT)
    return Fate(why=f"{suffix} file" if 1 < len(suffix) <= 12 else "other file")


def summary(account: Mapping[Path, Fate], root: Path) -> str:
    """One line on all files: how many were read as what; how many were left out, why, and one of each kind."""
    kinds: dict[Fate, list[Path]] = {}
    for path, fate in account.items():
        kinds.setdefault(fate, []).append(path)
    read = [number_of(len(kinds[Fate(what)]), what) for what in ORDER if Fate(what) in kinds]
    left = [
        f"{number_of(len(paths), fate.why)}{':' if len(paths) == 1 else ', such as'} {brief(label(paths[0], root))}"
        f"{f' ({fate.mend})' if fate.mend else ''}"
        for fate, paths in kinds.items()
        if fate.why
    ]
    return f"files read: {', '.join(read) or 'none'}; left out: {'; '.join(left) or 'none'}"


def number_of(count: int, noun: str) -> str:
    """`1 mask`, `2 masks`, `2 images of the test part`, `2 hidden`."""
    head, *rest = re.split(r"(?= of | in | that | outside | without | among | to |, )", noun, maxsplit=1)
    plural = head if count == 1 or head == HIDDEN else f"{head[:-1]}ies" if head.endswith("y") else f"{head}s"
    return f"{count} {plural}{''.join(rest)}"


def label(path: Path, root: Path) -> str:
    """A file by its path from `root`, where it lies below it."""
    text, start = str(path), f"{root}{os.sep}"
    return text[len(start) :] if text.startswith(start) else text
