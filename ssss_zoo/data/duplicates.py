"""Samples whose image files hold the same bytes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from ssss_zoo.data.fingerprint import digest_files, is_path
from ssss_zoo.toolkit.types import Sample


def identical_images(samples: Iterable[Sample]) -> dict[str, str]:
    """The digest, by name, of every sample whose image file holds the same bytes as another's. Only files of equal size
    are read."""
    files = {sample.name: sample.image for sample in samples if is_path(sample.image)}
    sizes = {name: os.path.getsize(file) for name, file in files.items() if os.path.isfile(file)}
    often = Counter(sizes.values())
    found = digest_files({name: [files[name]] for name, size in sizes.items() if often[size] > 1}, whole=True)
    alike = Counter(found.values())
    return {name: digest for name, digest in found.items() if alike[digest] > 1}


def split_off(order: Sequence[Sample], number: int, least: int) -> list[Sample]:
    """About the first `number` samples of `order`, chosen so that all copies of an image are among them, or none.

    A group of copies that would be too many is left out, and later samples take its place. Where every image has
    copies, up to twice as many samples are returned (our choice), or copies are separated. least: how many samples must
    be left.
    """
    alike = identical_images(order)
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


def drop_copies(samples: Sequence[Sample], of: Sequence[Sample], but: Sequence[Sample] = ()) -> list[Sample]:
    """The samples whose files are no copies of those of `of`. All of them where `but` holds such copies, too: then
    they cannot be kept apart."""
    alike = identical_images({sample.name: sample for sample in (*samples, *of, *but)}.values())
    known = {alike[sample.name] for sample in of if sample.name in alike}
    if any(alike.get(sample.name) in known for sample in but):
        return list(samples)
    return [sample for sample in samples if alike.get(sample.name) not in known]


def describe_dropped_copies(count: int) -> list[str]:
    """A note on unlabelled images that are left out because they are copies of validation images."""
    if not count:
        return []
    what = (
        "unlabelled image is a copy of one that is" if count == 1 else "unlabelled images are copies of some that are"
    )
    return [f"{count} {what} held out for validation, and left out"]
