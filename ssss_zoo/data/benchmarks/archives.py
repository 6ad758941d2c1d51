"""Unpacking of archives that are not trusted: nothing outside the folder, no links, no more bytes than announced."""

from __future__ import annotations

import errno
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.data.base import ProgressCallback, ignore_progress
from ssss_zoo.data.benchmarks.download import full_disk_error
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief, format_bytes

SIZE_TOLERANCE = 1 << 24  # bytes beyond the announced ones that are accepted (our choice)
ZIP_LINK = 0o120000  # of the file type in a ZIP's attributes
ZIP_ENCRYPTED = 1  # of a ZIP member's flags
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
)
MALFORMED_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
)  # what readers raise at bytes they trusted

ArchiveMember = tuple[str, int, Callable[[], IO[bytes] | None]]  # path in the archive, bytes, how to open it


def unpack(
    archive: Path, into: Path, keep: Mapping[str, str], limit: int, progress: ProgressCallback = ignore_progress
) -> int:
    """Write the files of a TAR or ZIP whose path begins with a key of `keep` below the folder `into`, with that key
    replaced by its value. A file gets its name when it is complete. Returns the number of files.

    Raises UserError, before the member in question is written, for a path that leads outside, for a link or device
    among the files to keep, for more than `limit` bytes in all (files that are not kept count, too), and for a broken
    archive.
    """
    taken = written = 0
    try:
        for name, count, opened in iterate_members(archive):
            taken += count
            if taken > limit + SIZE_TOLERANCE:
                raise refusal(archive, f"it unpacks to more than the announced {format_bytes(limit)}: an archive bomb?")
            target = member_target(name, keep, archive)
            if target is None:
                continue
            source = opened()
            if source is None:
                raise refusal(archive, f"{brief(name)} is a link or a device")
            write_member(source, into / target, count, archive)
            written += 1
            progress(f"unpacking {archive.name}", 0, 0)
    except (*ARCHIVE_ERRORS, *MALFORMED_ERRORS) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full_disk_error(into / archive.name) from None
        raise UserError(f"{archive} is broken: {' '.join(str(error).split()) or type(error).__name__}") from None
    return written


def iterate_members(archive: Path) -> Iterator[ArchiveMember]:
    """Every member that is not a folder. Raises the errors of `zipfile` and `tarfile`."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for entry in file.infolist():
                if not entry.filename.endswith("/"):  # is_dir fails for an empty name
                    if entry.flag_bits & ZIP_ENCRYPTED:
                        raise refusal(archive, f"{brief(entry.filename)} is encrypted")
                    link = (entry.external_attr >> 16) & 0o170000 == ZIP_LINK
                    yield entry.filename, entry.file_size, partial(file.open, entry) if not link else no_content
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isdir():
                yield member.name, member.size, partial(tar.extractfile, member) if member.isfile() else no_content


def no_content() -> None:
    """Stands in for opening a link or a device."""


def member_target(name: str, keep: Mapping[str, str], archive: Path) -> str | None:
    """The path of a member below the folder; None for a member that is not kept. Raises UserError for a path that leads
    outside, kept or not: nothing of such an archive can be trusted."""
    path = PurePosixPath(name)
    if not path.parts:
        raise refusal(archive, f"a file in it has no name (it is called '{name}')")
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0] or "\0" in name:
        raise refusal(archive, f"{brief(name)} points outside the folder")
    name = name.removeprefix("./")
    prefix = next((prefix for prefix in keep if name.startswith(prefix)), None)
    return None if prefix is None else keep[prefix] + name.removeprefix(prefix)


def write_member(source: IO[bytes], target: Path, count: int, archive: Path) -> None:
    """Write a member of `count` bytes, under another name until it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target, flush=False) as new, source, new.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
        if sink.tell() != count:
            raise refusal(archive, f"{target.name} has {sink.tell():,} bytes instead of the announced {count:,}")


def refusal(archive: Path, why: str) -> UserError:
    return UserError(f"{archive} is not unpacked: {why}; remove it and download it again from its publisher")
