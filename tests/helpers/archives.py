"""Archives for tests, and their digests."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def sha(content: bytes) -> str:
    """The SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def zipped(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """A ZIP of `files`, content by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(
    path: Path, files: Mapping[str, bytes], kind: str = "w:gz", links: Iterable[tuple[str, str, bytes]] = ()
) -> Path:
    """A TAR of `files`, content by name, and of `links`: name, target and type of each."""
    with tarfile.open(path, kind) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target, what in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = what, target
            archive.addfile(member)
    return path
