"""Every file below a folder, found in one walk, and what each of them is used for."""

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

UNREAD_SUFFIXES = (  # of pictures and arrays that are not read
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".psd", ".exr", ".hdr", ".svg", ".eps", ".ico", ".pcx", ".npy", ".npz"),
    *(".mat", ".dcm", ".nii", ".nrrd", ".h5", ".hdf5", ".img", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
    *(".raf", ".mp4", ".avi", ".mov", ".mkv", ".mpg", ".mpeg", ".webm"),
)
CONVERT_REMEDY = "convert them to PNG, JPEG or TIFF"
SPECIAL_FILE_REMEDY = "a pipe, socket or device: only regular files are read"
BROKEN_LINK_REMEDY = "nothing is where it leads"
WARNED_REMEDIES = (
    CONVERT_REMEDY,
    SPECIAL_FILE_REMEDY,
    BROKEN_LINK_REMEDY,
)  # of files that were perhaps meant to be read
SYSTEM_FOLDERS = ("__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information")
RESULT_FILES = (("config.yaml", "history.jsonl"), ("compare.json",))  # files that a run, or a comparison, leaves
HIDDEN_FILE = "hidden"
READ_AS_ORDER = (
    *("labelled image", "validation image", "unlabelled image", "mask", "file of annotations", "list", "class list"),
)


@dataclass(frozen=True)
class FileStatus:
    """The use of a file. read_as: its use; reason: why it is left out, where it has no use; remedy: what the user can
    do about it."""

    read_as: str = ""
    reason: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        return self.read_as or f"left out: {self.reason}{f' ({self.remedy})' if self.remedy else ''}"


@dataclass(frozen=True, eq=False)
class FileTree:
    """All files below `root`; links are followed. files: regular files, sorted; excluded: everything else (hidden
    files, pipes, broken links, folders that are empty or not entered), and why."""

    root: Path
    files: tuple[Path, ...]
    excluded: Mapping[Path, FileStatus]

    @cached_property
    def image_files(self) -> list[Path]:
        return [path for path in self.files if has_image_suffix(path)]

    @cached_property
    def other_files(self) -> list[Path]:
        return [path for path in self.files if not has_image_suffix(path)]

    def inside(self, folder: Path, files: Sequence[Path]) -> list[Path]:
        """Those of `files` that are in `folder`, at any depth."""
        start = f"{folder}{os.sep}"
        return [path for path in files if str(path).startswith(start)] if folder != self.root else list(files)

    def files_in(self, folder: Path) -> list[Path]:
        return self.inside(folder, self.files)

    def images_in(self, folder: Path) -> list[Path]:
        """Files with the suffix of an image format that can be read."""
        return self.inside(folder, self.image_files)

    def annotations_in(self, folder: Path) -> list[Path]:
        """JSON files."""
        return self.inside(folder, [path for path in self.other_files if path.suffix.lower() == ".json"])

    def unreadable_in(self, folder: Path) -> list[Path]:
        """Everything that is no readable image: other suffixes, pipes, broken links; hidden files are not counted."""
        start = f"{folder}{os.sep}"
        excluded = [path for path, status in self.excluded.items() if status.reason != HIDDEN_FILE]
        return [
            *self.inside(folder, self.other_files),
            *(path for path in excluded if str(path).startswith(start)),
        ]


def has_image_suffix(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def normalize_name(text: str) -> str:
    """A name in Unicode's NFC form, for comparison: an é has two encodings (NFC, NFD) that look the same."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def relative_name(path: Path, root: Path) -> str:
    """A file's path from `root` as text, with `/` on every system; the whole path where it is not below `root`."""
    text, start = str(path), f"{root}{os.sep}"
    return (text[len(start) :] if text.startswith(start) else text).replace(os.sep, "/")


# --- the walk -------------------------------------------------------------------------------------------------------


def walk_tree(root: Path) -> FileTree:
    """Find everything below `root`, each folder once. Raises UserError where `root` cannot be read."""
    try:
        found = dict(walk_folder(str(root), (device_and_inode(os.stat(root)),)))
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {error.strerror}") from None
    files = sorted(Path(path) for path, status in found.items() if status is None)
    return FileTree(root, tuple(files), {Path(path): status for path, status in found.items() if status})


def device_and_inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def walk_folder(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, FileStatus | None]]:
    """Every file below a folder, and every folder that is not entered, each with the reason why it is not read; None
    for the regular files.

    above: device and inode of the folder and of those around it; a link back to one of them is not followed.
    """
    with os.scandir(folder) as listing:
        inside = list(listing)
    if not inside:
        yield folder, FileStatus(reason="empty folder")
    for entry in inside:
        status = why_excluded(entry)
        if status or not entry.is_dir():
            yield entry.path, status
            continue
        try:
            here = device_and_inode(os.stat(entry.path))
            if here in above:
                yield entry.path, FileStatus(reason="link to a folder that it lies in")
            elif is_result_folder(entry.path):
                yield entry.path, FileStatus(reason="folder of a run")
            else:
                yield from walk_folder(entry.path, (*above, here))
        except OSError as error:
            yield entry.path, FileStatus(reason=f"folder that cannot be read ({error.strerror})")


def is_result_folder(folder: str) -> bool:
    """Whether `ssss run` or `ssss compare` wrote into a folder: its pictures are no data."""
    return any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in RESULT_FILES)


def why_excluded(entry: os.DirEntry[str]) -> FileStatus | None:
    """Why a file or folder is left out before it is opened; None where it is not."""
    if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
        return FileStatus(reason=HIDDEN_FILE)
    try:
        entry.name.encode()
        if entry.is_file() or entry.is_dir():
            return None
    except UnicodeEncodeError:
        return FileStatus(reason="name that is not in UTF-8", remedy="rename the file")
    except OSError as error:
        return FileStatus(reason=f"file that cannot be read ({error.strerror})")
    if entry.is_symlink():
        return FileStatus(reason="broken link", remedy=BROKEN_LINK_REMEDY)
    return FileStatus(reason="special file", remedy=SPECIAL_FILE_REMEDY)


# --- the use of each file -------------------------------------------------------------------------------------------


def status_of_files(trees: Sequence[FileTree], used: Mapping[Path, FileStatus]) -> dict[Path, FileStatus]:
    """The use of every file of the trees: as in `used`, else why it is left out."""
    excluded = {path: status for tree in trees for path, status in tree.excluded.items()}
    every = [*(path for tree in trees for path in tree.files), *excluded]
    return {path: used.get(path) or excluded.get(path) or status_of_unused(path) for path in every}


def status_of_unused(path: Path) -> FileStatus:
    """Why a regular file without a use is left out."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return FileStatus(
            reason="image outside the folders that are read", remedy="data.unlabelled names further folders"
        )
    if suffix in UNREAD_SUFFIXES:
        return FileStatus(reason=f"{suffix} file", remedy=CONVERT_REMEDY)
    return FileStatus(reason=f"{suffix} file" if 1 < len(suffix) <= 12 else "other file")


def summarize_files(statuses: Mapping[Path, FileStatus], root: Path) -> str:
    """One line on all files: how many are read as what; how many are left out, why, and one example of each kind."""
    kinds: dict[FileStatus, list[Path]] = {}
    for path, status in statuses.items():
        kinds.setdefault(status, []).append(path)
    read = [pluralize(len(kinds[FileStatus(use)]), use) for use in READ_AS_ORDER if FileStatus(use) in kinds]
    left_out = [
        f"{pluralize(len(paths), status.reason)}{':' if len(paths) == 1 else ', such as'} "
        f"{brief(relative_name(paths[0], root))}{f' ({status.remedy})' if status.remedy else ''}"
        for status, paths in kinds.items()
        if status.reason
    ]
    return f"files read: {', '.join(read) or 'none'}; left out: {'; '.join(left_out) or 'none'}"


def pluralize(count: int, noun: str) -> str:
    """`1 mask`, `2 masks`, `2 images of the test part`, `2 hidden`."""
    head, *rest = re.split(r"(?= of | in | that | outside | without | among | to |, )", noun, maxsplit=1)
    plural = head if count == 1 or head == HIDDEN_FILE else f"{head[:-1]}ies" if head.endswith("y") else f"{head}s"
    return f"{count} {plural}{''.join(rest)}"
