"""What the files of a data set hold, file by file: by it two machines know the same data, and a run data that changed.

A digest is of a file's size and bytes, so neither its time nor its folder counts. Of an image of more than WHOLE bytes
only BLOCKS pieces are read, from its first byte to its last: 10,000 files take about a second. What that misses is an
edit of a large image that is not compressed, such as a BMP, between the pieces: a compressed one becomes another in
size, or in its last bytes (a PNG's check sum).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

from ssss_zoo.text import brief
from ssss_zoo.toolkit.types import Sample

if TYPE_CHECKING:
    from ssss_zoo.data.base import Dataset

WHOLE = 1 << 18  # bytes: an image up to this size is read whole, as every mask is (our choice)
BLOCKS, BLOCK = 4, 1 << 16  # pieces of a larger one, and bytes of each (our choice)
READERS, TOGETHER = 4, 64  # that read, and files that each takes at a time
NAMED = 3  # files of each kind that a message names
GONE = "no file"  # in place of the digest

Contents = dict[str, dict[str, str]]  # digest by name, for `classes`, `labelled images`, `labelled masks`, ...


def contents(dataset: Dataset) -> Contents:
    """What a data set is made of: the number of each class, the digest of the class list where a file holds it, and for
    every image, and every mask of the labelled and of the validation images, that of its files; lists in their order. A
    sample made in memory has its name alone. Masks of unlabelled images are hidden and left out."""
    parts = {"labelled": dataset.labelled, "unlabelled": dataset.unlabelled, "val": dataset.val}
    files: dict[str, dict[str, list[Any]]] = {
        f"{part} images": {sample.name: [sample.image] for sample in samples} for part, samples in parts.items()
    }
    for part in ("labelled", "val"):
        files[f"{part} masks"] = {sample.name: dataset.mask_files(sample) for sample in parts[part]}
    if dataset.class_file:
        files["class lists"] = {dataset.class_file.name: [dataset.class_file]}
    found = {"classes": {name: str(number) for number, name in enumerate(dataset.class_names)}}
    return found | {kind: digests(named, whole=not kind.endswith("images")) for kind, named in files.items()}


def digests(named: Mapping[str, Sequence[Any]], whole: bool) -> dict[str, str]:
    """The digest of each name's files, joined by `+`; empty for what is no file. A file of several names is read
    once."""
    paths = {str(file) for files in named.values() for file in files if is_path(file)}
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda some: [digest(path, whole) for path in some], batched(sorted(paths)))
        known = dict(zip(sorted(paths), chain.from_iterable(found), strict=True))
    return {name: "+".join(known[str(file)] for file in files if is_path(file)) for name, files in named.items()}


def twins(samples: Iterable[Sample]) -> dict[str, str]:
    """By name, the digest of every sample whose image file has the bytes of another's. Files are read where sizes are
    equal, whole."""
    files = {sample.name: sample.image for sample in samples if is_path(sample.image)}
    sizes = {name: os.path.getsize(file) for name, file in files.items() if os.path.isfile(file)}
    often = Counter(sizes.values())
    found = digests({name: [files[name]] for name, size in sizes.items() if often[size] > 1}, whole=True)
    alike = Counter(found.values())
    return {name: digest for name, digest in found.items() if alike[digest] > 1}


def apart(order: Sequence[Sample], number: int, least: int) -> list[Sample]:
    """The first `number` samples of an order, such that copies of an image stay on one side: those that would not fit
    are passed over for later ones. Where all have copies it is up to twice as many (our choice), or copies are parted.
    least: how many must be left."""
    alike = twins(order)
    groups: dict[str, list[Sample]] = {}
    for sample in order:
        groups.setdefault(alike.get(sample.name, sample.name), []).append(sample)
    chosen: list[Sample] = []
    for group in groups.values():
        if len(chosen) + len(group) <= number:
            chosen += group
    smallest = min(groups.values(), key=len)
    if not chosen and len(smallest) <= min(2 * number, len(order) - least):
        return smallest
    return chosen or list(order[:number])


def without_copies(samples: Sequence[Sample], of: Sequence[Sample], but: Sequence[Sample] = ()) -> list[Sample]:
    """The samples that are no copies of others, file for file; all where `but` has such copies: they cannot be kept
    apart."""
    alike = twins({sample.name: sample for sample in (*samples, *of, *but)}.values())
    known = {alike[sample.name] for sample in of if sample.name in alike}
    if any(alike.get(sample.name) in known for sample in but):
        return list(samples)
    return [sample for sample in samples if alike.get(sample.name) not in known]


def said_of_copies(count: int) -> list[str]:
    """A note on unlabelled images that are left out since they are copies of what validates; none where there are
    none."""
    if not count:
        return []
    what = (
        "unlabelled image is a copy of one that is" if count == 1 else "unlabelled images are copies of some that are"
    )
    return [f"{count} {what} held out for validation, and left out"]


def is_path(file: Any) -> bool:
    return isinstance(file, (str, os.PathLike))


def batched(paths: list[str]) -> list[list[str]]:
    """TOGETHER at a time: a thread's turn costs about what a small file does."""
    return [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]


def digest(path: str, whole: bool) -> str:
    """16 hexadecimal digits of a file's size and bytes, of all of them where `whole`."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return GONE
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.blake2b(size.to_bytes(8, "big"), digest_size=8)
            for start, length in pieces(size, whole):
                file.seek(start)
                found.update(file.read(length))
    except OSError:
        return GONE
    return found.hexdigest()


def pieces(size: int, whole: bool) -> list[tuple[int, int]]:
    """Where the pieces that are read start, and how long they are, in bytes."""
    if not whole and size > WHOLE:
        return [((size - BLOCK) * number // (BLOCKS - 1), BLOCK) for number in range(BLOCKS)]
    return [(start, min(WHOLE, size - start)) for start in range(0, size, WHOLE)]


def fingerprint_of(found: Contents) -> str:
    """16 hexadecimal digits of contents, their order included."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> str:
    """What differs between two contents, in one line, such as `2 labelled masks changed (a00.jpg, a01.jpg); 1 val image
    removed (b.jpg)`; empty where nothing does."""
    told: list[str] = []
    for kind in {**old, **new}:
        told += of_kind(kind, old.get(kind, {}), new.get(kind, {}))
    return "; ".join(told)


def of_kind(kind: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    changes = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and old[name] != new[name]],
    }
    for change, names in changes.items():
        if names:
            yield counted_names(kind, change, names)
    if not any(changes.values()) and list(old) != list(new):
        yield f"the {kind} are in another order"


def counted_names(kind: str, change: str, names: Sequence[str]) -> str:
    """`2 labelled masks changed (a00.jpg, a01.jpg)`."""
    what = kind if len(names) > 1 else kind.removesuffix("es" if kind == "classes" else "s")
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {what} {change} ({', '.join(brief(name) for name in names[:NAMED])}{more})"
