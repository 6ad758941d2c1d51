"""Downloads: from several mirrors, resumed after a break, verified by their SHA-256."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssss_zoo.data.base import ProgressCallback, ignore_progress
from ssss_zoo.errors import UserError
from ssss_zoo.text import format_bytes

DOWNLOAD_CHUNK = 1 << 16  # bytes; the last chunk is lost when a connection breaks
TRIES_PER_MIRROR = 5  # as long as each of them brings some bytes (our choice)
TIMEOUTS = (15, 60)  # seconds to wait for a connection, and for the next bytes (our choice)


def fetch(file: Path, urls: Sequence[str], sha256: str | None, progress: ProgressCallback = ignore_progress) -> None:
    """Download `file` from the first of `urls` that has it, unless it is there with the right digest.

    The bytes of a broken download stay beside it as `<name>.part`, and the next call continues from them. Without a
    digest, any content is accepted. Raises UserError, which says what each mirror did and where to put the file by
    hand, and for a full disk.
    """
    pooch = import_pooch()
    if file.is_file() and sha256 is None:
        return
    failures = []
    for url in urls:
        for _ in range(TRIES_PER_MIRROR):
            downloader = ResumingDownloader(file.with_name(f"{file.name}.part"), f"fetching {file.name}", progress)
            try:
                pooch.retrieve(url, sha256 and f"sha256:{sha256}", file.name, file.parent, downloader=downloader)
                return
            except OSError as error:  # the base of requests' errors
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise full_disk_error(file) from None
                failures.append(f"{url}: {network_error_text(error)}")
                again = downloader.received
            except ValueError:  # pooch raises it for a wrong digest, after it removed the file
                failures.append(f"{url}: another file than expected (its SHA-256 is not {sha256})")
                again = downloader.resumed  # the bytes of an earlier try may have been wrong
            if not again:
                break
    raise UserError(
        f"cannot fetch {file.name}: {'; '.join(dict.fromkeys(failures))}. The same command continues where it stopped; "
        f"or copy the file to {file}"
    )


def import_pooch() -> Any:
    """The package pooch, which logs warnings alone. Raises UserError where it is not installed."""
    try:
        import pooch
    except ImportError:
        raise UserError("to fetch benchmarks, pip install 'ssss-zoo[benchmarks]'") from None
    pooch.get_logger().setLevel(logging.WARNING)
    return pooch


class ResumingDownloader:
    """A downloader for pooch that continues from the bytes in the file `part`.

    title: the task in `progress`. resumed: whether it continued. received: whether any byte arrived.
    """

    def __init__(self, part: Path, title: str, progress: ProgressCallback) -> None:
        self.part = part
        self.title = title
        self.progress = progress
        self.resumed = False
        self.received = False

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download all of `url` into `output_file`. Raises requests' errors, and OSError for a full disk."""
        import requests

        have = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                self.resumed = True  # the file is complete, or longer than it should be: the digest tells which
            else:
                answer.raise_for_status()
                starts = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
                self.resumed = bool(have) and answer.status_code == requests.codes.partial_content and starts
                self.write(answer, have if self.resumed else 0)
        self.part.replace(output_file)

    def write(self, answer: Any, have: int) -> None:
        """Append the bytes of the answer to the `have` ones. Raises ConnectionError when fewer come than announced."""
        import requests

        total = have + int(answer.headers.get("Content-Length", 0))
        broken = False
        with self.part.open("ab" if have else "wb") as sink:
            try:
                for chunk in answer.iter_content(DOWNLOAD_CHUNK):
                    sink.write(chunk)
                    have += len(chunk)
                    self.received = True
                    self.progress(self.title, have, total)
            except requests.RequestException:
                broken = True
        if broken or have < total:
            raise ConnectionError(f"the connection was lost after {have:,} of {total:,} bytes")


def network_error_text(error: Exception) -> str:
    """The reason of an error, without the objects that requests names in its message."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    inner = error.args[0] if error.args else error
    text = " ".join(str(getattr(inner, "reason", inner)).split()) or type(error).__name__
    return text.rpartition(">: ")[2][:160]


def check_disk_space(folder: Path, needed: int) -> None:
    """Raise UserError where the disk of `folder` has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {format_bytes(free)} left on its disk, and {format_bytes(needed)} are needed: free some, or "
            "give another data.root"
        )


def full_disk_error(file: Path) -> UserError:
    return UserError(
        f"the disk of {file.parent} is full; the downloaded part is kept, and the same command continues with it"
    )
