"""Files from the network: several mirrors, resumed after a break, believed only when their digest is right."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssss_zoo.errors import UserError

DOWNLOAD_CHUNK = 1 << 16  # bytes; what of one has come is lost when a connection breaks
TRIES_PER_MIRROR = 5  # at one mirror, as long as each brings something (our choice)
TIMEOUTS = (15, 60)  # seconds to wait for a connection, and for the next bytes (our choice)
OnBytes = Callable[[int, int], None]  # bytes here, bytes in all (0 where the server does not say)


def fetch(file: Path, urls: Sequence[str], sha256: str | None, on_bytes: OnBytes = lambda here, whole: None) -> None:
    """Bring one of `urls`, in their order, to `file`, unless it lies there with the right digest already.

    What has come is kept beside it as `<name>.part` and gone on with. Without a digest any content is believed. Raises
    UserError, saying what each mirror did and how to go on by hand, and for a full disk.
    """
    pooch = import_pooch()
    if file.is_file() and sha256 is None:
        return
    said = []
    for url in urls:
        for _ in range(TRIES_PER_MIRROR):
            getter = ResumingDownloader(file.with_name(f"{file.name}.part"), on_bytes)
            try:
                pooch.retrieve(url, sha256 and f"sha256:{sha256}", file.name, file.parent, downloader=getter)
                return
            except OSError as error:  # requests' errors are such, too
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise full_disk_error(file) from None
                said.append(f"{url}: {network_error_text(error)}")
                again = getter.grew
            except ValueError:  # pooch's word for a wrong digest; it has thrown the file away
                said.append(f"{url}: another file than expected (its SHA-256 is not {sha256})")
                again = getter.went_on  # with bytes of an earlier try, which may have been wrong
            if not again:
                break
    raise UserError(
        f"cannot fetch {file.name}: {'; '.join(dict.fromkeys(said))}. The same command goes on where it stopped; or "
        f"bring the file by hand to {file}"
    )


def import_pooch() -> Any:
    """pooch, silenced. Raises UserError where it is not installed."""
    try:
        import pooch
    except ImportError:
        raise UserError("to fetch benchmarks, pip install 'ssss-zoo[benchmarks]'") from None
    pooch.get_logger().setLevel(logging.WARNING)
    return pooch


class ResumingDownloader:
    """A downloader as pooch wants it, which goes on with the bytes in `part`. went_on: whether it did; grew: whether
    any came."""

    def __init__(self, part: Path, on_bytes: OnBytes) -> None:
        self.part, self.on_bytes, self.went_on, self.grew = part, on_bytes, False, False

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Fetch all of `url` into `output_file`. Raises requests' errors, OSError for a full disk."""
        import requests

        here = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={here}-"} if here else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUTS) as answer:
            if here and answer.status_code == requests.codes.requested_range_not_satisfiable:
                self.went_on = True  # the file is whole already, or longer than it should be: the digest will tell
            else:
                answer.raise_for_status()
                starts = answer.headers.get("Content-Range", "").startswith(f"bytes {here}-")
                self.went_on = bool(here) and answer.status_code == requests.codes.partial_content and starts
                self.write(answer, here if self.went_on else 0)
        self.part.replace(output_file)

    def write(self, answer: Any, here: int) -> None:
        """Append what comes. Raises ConnectionError when less comes than was announced."""
        import requests

        whole, cut = here + int(answer.headers.get("Content-Length", 0)), False
        with self.part.open("ab" if here else "wb") as sink:
            try:
                for chunk in answer.iter_content(DOWNLOAD_CHUNK):
                    sink.write(chunk)
                    here += len(chunk)
                    self.grew = True
                    self.on_bytes(here, whole)
            except requests.RequestException:
                cut = True
        if cut or here < whole:
            raise ConnectionError(f"the connection broke off after {here:,} of {whole:,} bytes")


def network_error_text(error: Exception) -> str:
    """What went wrong, without the chain of objects that requests tells."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    inner = error.args[0] if error.args else error
    text = " ".join(str(getattr(inner, "reason", inner)).split()) or type(error).__name__
    return text.rpartition(">: ")[2][:160]


def check_disk_space(folder: Path, needed: int) -> None:
    """Raise UserError where the disk that `folder` lies on has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {format_bytes(free)} left on its disk, and {format_bytes(needed)} are needed: free "
            "some, or give another data.root"
        )


def full_disk_error(file: Path) -> UserError:
    return UserError(f"the disk of {file.parent} is full; what has come is kept, the same command goes on with it")


def format_bytes(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
