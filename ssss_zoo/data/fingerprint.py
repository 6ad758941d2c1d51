"""Digests of the files of a data set, by which two machines know the same data and a run notices data that changed.

A digest depends on a file's size and bytes, not on its time or folder. Of an image with more than WHOLE_FILE_BYTES only
a few pieces are read, from its first byte to its last: 10,000 files take about a second. An edit between the pieces is
missed where the image is not compressed, such as a BMP; an edit of a compressed one changes its size or its last bytes
(a PNG's check sum).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from ssss_zoo.text import brief

WHOLE_FILE_BYTES = 1 << 18  # an image up to this size is read whole, like every mask (our choice)
PIECES, BLOCK = 4, 1 << 16  # pieces of a larger one, and bytes of each (our choice)
READERS, TOGETHER = 4, 64  # that read, and files that each takes at a time
FILES_NAMED = 3  # in a message, of each kind
NO_FILE = "no file"  # the digest of a file that does not exist

ContentFiles = Mapping[str, Mapping[str, Sequence[Any]]]  # by kind and name, as `Dataset.content_files` gives them
ContentDigests = dict[str, dict[str, str]]  # digest by name, for `classes`, `labelled images`, `labelled masks`, ...


def content_digests(class_names: Sequence[str], files: ContentFiles) -> ContentDigests:
    """The digests of a data set, in the order of its lists: of every file, and the id of each class. A sample made in
    memory has an empty digest. Of images, large ones are digested by pieces, see above."""
    found = {"classes": {name: str(number) for number, name in enumerate(class_names)}}
    return found | {kind: digest_files(named, whole=not kind.endswith("images")) for kind, named in files.items()}


def digest_files(named: Mapping[str, Sequence[Any]], whole: bool) -> dict[str, str]:
    """The digests of each name's files, joined by `+`; empty where there is none. Each file is read once."""
    paths = {str(file) for files in named.values() for file in files if is_path(file)}
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda some: [file_digest(path, whole) for path in some], path_chunks(sorted(paths)))
        known = dict(zip(sorted(paths), chain.from_iterable(found), strict=True))
    return {name: "+".join(known[str(file)] for file in files if is_path(file)) for name, files in named.items()}


def is_path(file: Any) -> bool:
    return isinstance(file, (str, os.PathLike))


def path_chunks(paths: list[str]) -> list[list[str]]:
    """TOGETHER at a time: a thread's turn costs about what a small file does."""
    return [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]


def file_digest(path: str, whole: bool) -> str:
    """16 hexadecimal digits for a file's size and bytes; for pieces of a large file unless `whole`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return NO_FILE
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.blake2b(size.to_bytes(8, "big"), digest_size=8)
            for start, length in digest_ranges(size, whole):
                file.seek(start)
                found.update(file.read(length))
    except OSError:
        return NO_FILE
    return found.hexdigest()


def digest_ranges(size: int, whole: bool) -> list[tuple[int, int]]:
    """(start, length) in bytes of the parts of a file that are read."""
    if not whole and size > WHOLE_FILE_BYTES:
        return [((size - BLOCK) * number // (PIECES - 1), BLOCK) for number in range(PIECES)]
    return [(start, min(WHOLE_FILE_BYTES, size - start)) for start in range(0, size, WHOLE_FILE_BYTES)]


def fingerprint(found: ContentDigests) -> str:
    """16 hexadecimal digits for the digests of a data set and their order."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def describe_differences(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> str:
    """The differences between the digests of two data sets in one line, such as `2 labelled masks changed (a00.jpg,
    a01.jpg); 1 val image removed (b.jpg)`; empty where there are none."""
    changes: list[str] = []
    for kind in {**old, **new}:
        changes += describe_changes(kind, old.get(kind, {}), new.get(kind, {}))
    return "; ".join(changes)


def describe_changes(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changes = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and old[name] != new[name]],
    }
    for change, names in changes.items():
        if names:
            yield name_changed(kind, change, names)
    if not any(changes.values()) and list(old) != list(new):
        yield f"the {kind} are in another order"


def name_changed(kind: str, change: str, names: Sequence[str]) -> str:
    """`2 labelled masks changed (a00.jpg, a01.jpg)`."""
    what = kind if len(names) > 1 else kind.removesuffix("es" if kind == "classes" else "s")
    more = f" and {len(names) - FILES_NAMED} more" if len(names) > FILES_NAMED else ""
    return f"{len(names)} {what} {change} ({', '.join(brief(name) for name in names[:FILES_NAMED])}{more})"
