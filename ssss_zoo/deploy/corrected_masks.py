"""Masks that a person drew or corrected for images of a data set: LabelMe or COCO JSON, or index masks."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from ssss_zoo.data.base import UNUSABLE, Dataset, Fault
from ssss_zoo.data.checks import READER_THREADS, total_counts, useless_masks
from ssss_zoo.data.classes import VOID_NAMES
from ssss_zoo.data.files import FileDataset, read_mask
from ssss_zoo.data.folder.polygons import (
    COCO_KEYS,
    CocoEntry,
    CocoRegions,
    LabelMeRegions,
    read_annotation_file,
    read_coco,
)
from ssss_zoo.data.folder.regions import BACKGROUND_NAMES, IGNORED_NAMES, RegionEncoding, RegionSource
from ssss_zoo.data.images import IMAGE_SUFFIXES, Reading
from ssss_zoo.data.tools.audit import find_file_faults, samples_by_part
from ssss_zoo.data.tools.sample_audit import SampleAudit, audit_sample
from ssss_zoo.errors import UserError
from ssss_zoo.text import brief, count
from ssss_zoo.toolkit.types import IGNORE, Sample

LABELME_KEY = "shapes"  # of a LabelMe file: the list of its polygons
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it before the name of an uploaded image
FAULTS_SHOWN = 3  # of a kind, in a message


@dataclass(frozen=True, eq=False)
class CorrectedFile:
    """A file with the mask of an image. image: the path that it gives for the image, without suffix. coco: the entry of
    the image, where the file is COCO's. labelme: whether it is LabelMe's; else it is an index mask."""

    path: Path
    image: str
    coco: CocoEntry | None = None
    labelme: bool = False


# --- files ----------------------------------------------------------------------------------------------------------


def find_corrected_files(folder: Path) -> list[CorrectedFile]:
    """The masks in a folder: those of its JSON files; without any, the index masks in `masks/` or else in the folder
    itself. Raises UserError where there are none."""
    if not folder.is_dir():
        raise UserError(f"take={folder}: no such folder; give the folder of the corrected masks")
    annotations = [path for path in visible_files(folder) if path.suffix.lower() == ".json"]
    if annotations:
        return [corrected for path in annotations for corrected in read_annotations(path, folder)]
    home = folder / "masks" if (folder / "masks").is_dir() else folder
    found = [path for path in visible_files(home) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(
            f"take={folder} holds no masks: expected LabelMe or COCO JSON, or index masks such as {home}/NAME.png"
        )
    return [CorrectedFile(path, name_below(path, home)) for path in found]


def visible_files(folder: Path) -> list[Path]:
    """The files below a folder, without hidden files and those in hidden folders."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def name_below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def read_annotations(path: Path, folder: Path) -> Iterator[CorrectedFile]:
    """The masks in a JSON file. Raises UserError for one that is neither LabelMe's nor COCO's."""
    content = read_annotation_file(path)
    if isinstance(content, dict) and LABELME_KEY in content:
        yield CorrectedFile(path, name_below(path, folder), labelme=True)
    elif isinstance(content, dict) and content.keys() >= set(COCO_KEYS):
        coco = read_coco(path)
        for name, entry in coco.images.items():
            image = os.path.splitext(name.replace("\\", "/"))[0]
            yield CorrectedFile(path, image, CocoEntry(coco, entry))
    else:
        raise UserError(
            f"{path} is neither LabelMe's (no `{LABELME_KEY}`) nor COCO's (no {', '.join(COCO_KEYS)}): remove it"
        )


# --- images ---------------------------------------------------------------------------------------------------------


def match_images(files: Sequence[CorrectedFile], dataset: Dataset) -> list[tuple[CorrectedFile, Sample]]:
    """Each mask with its image, an unlabelled one of the data set. Raises UserError for names that are not in the data
    set, images that are labelled or that validate, and two masks of one image."""
    parts = samples_by_part(dataset)
    part_of_image = {sample.name: part for part, samples in parts.items() for sample in samples}
    by_name = images_by_name([sample for samples in parts.values() for sample in samples])
    found = [(file, nearest_image(file, images_called(file.image, by_name))) for file in files]
    strangers = [str(file.path) if file.coco is None else file.image for file, sample in found if sample is None]
    if strangers:
        refuse(strangers, "no image of the data set is called so, and expected is a mask with the name of its image")
    pairs = [(file, sample) for file, sample in found if sample is not None]
    labelled = [sample.name for _, sample in pairs if part_of_image[sample.name] == "labelled"]
    if labelled:
        refuse(labelled, "labelled already in the split of the run: remove the mask, or train with the split first")
    val = [sample.name for _, sample in pairs if part_of_image[sample.name] == "val"]
    if val:
        refuse(val, "a validation image, which must not be trained on: remove its mask")
    twice = [name for name, number in Counter(sample.name for _, sample in pairs).items() if number > 1]
    if twice:
        refuse(twice, "an image with two masks: remove one")
    return pairs


def images_by_name(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """The images of each name, with and without suffix, whatever folder they lie in."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        name = sample.name.rpartition("/")[2]
        for spelling in {name, os.path.splitext(name)[0]}:
            by_name.setdefault(spelling, []).append(sample)
    return by_name


def images_called(image: str, by_name: Mapping[str, list[Sample]]) -> list[Sample]:
    """The images that are called as a mask says, perhaps with the prefix of an upload."""
    name = image.rpartition("/")[2]
    return by_name.get(name) or by_name.get(UPLOAD_PREFIX.sub("", name), [])


def nearest_image(file: CorrectedFile, candidates: Sequence[Sample]) -> Sample | None:
    """The candidate whose path ends like the one of the file; None without candidates. Raises UserError where two do
    equally."""
    wanted = file.image.split("/")

    def shared_parts(sample: Sample) -> int:
        parts = [*os.path.dirname(sample.name).split("/"), wanted[-1]]
        same = [one == other for one, other in zip(reversed(parts), reversed(wanted), strict=False)]
        return [*same, False].index(False)

    ordered = sorted(candidates, key=shared_parts, reverse=True)
    if len(ordered) > 1 and shared_parts(ordered[0]) == shared_parts(ordered[1]):
        raise UserError(
            f"{file.path}: {ordered[0].name} and {ordered[1].name} are called so; put the mask into a folder that is "
            "called as the image's is"
        )
    return ordered[0] if ordered else None


def refuse(names: Sequence[str], why: str) -> NoReturn:
    """Raise UserError for images or masks that cannot be taken."""
    some = ", ".join(brief(name) for name in names[:FAULTS_SHOWN])
    more = f" and {len(names) - FAULTS_SHOWN} more" if len(names) > FAULTS_SHOWN else ""
    raise UserError(f"nothing was taken: {some}{more}: {why}")


# --- masks ----------------------------------------------------------------------------------------------------------


class CorrectedMasks(FileDataset):
    """The images of a data set with masks that a person corrected, as its labelled part.

    A pixel in no polygon is `background` where the classes have one, else void, as in the folders of users.
    """

    def __init__(self, dataset: Dataset, pairs: Sequence[tuple[CorrectedFile, Sample]]) -> None:
        self.dataset = dataset
        self.class_names = dataset.class_names
        self.colours = dataset.colours
        self.labelled = [Sample(sample.name, sample.image, file.path) for file, sample in pairs]
        self.source_of_image = {sample.name: region_source(file, sample) for file, sample in pairs}
        order = {name: index for index, name in enumerate(self.class_names)}
        background = [order[name] for name in self.class_names if name.lower() in BACKGROUND_NAMES]
        self.rest_id = background[0] if background else IGNORE
        names = dict.fromkeys([*IGNORED_NAMES, *VOID_NAMES], IGNORE) | dict.fromkeys(BACKGROUND_NAMES, self.rest_id)
        self.id_of_name = names | order

    def read_image(self, sample: Sample) -> np.ndarray:
        return self.dataset.read_image(sample)

    def read_mask(self, sample: Sample) -> np.ndarray:
        source = self.source_of_image[sample.name]
        if source is None:
            return read_mask(sample.mask)
        return RegionEncoding(source, self.id_of_name, self.rest_id, Reading()).read(sample)


def region_source(file: CorrectedFile, sample: Sample) -> RegionSource | None:
    """How the polygons of a mask are read; None for an index mask."""
    if file.coco is not None:
        return CocoRegions([file.coco.file], {sample.image: file.coco})
    return LabelMeRegions() if file.labelme else None


def check_corrected(masks: CorrectedMasks) -> list[Fault]:
    """Everything that is wrong with the masks, by the checks of `ssss data check`: unreadable files, sizes, values,
    unknown classes, masks that are void everywhere."""
    with ThreadPoolExecutor(READER_THREADS) as pool:
        audits: list[SampleAudit] = list(
            pool.map(lambda sample: audit_sample(masks, sample, masked=True), masks.labelled)
        )
    audited = {"labelled": list(zip(masks.labelled, audits, strict=True)), "val": []}
    faults = list(find_file_faults(audited, len(masks.class_names)))
    usable = [found.check for found in audits if not found.check.fault]
    useless = (
        useless_masks(masks, total_counts(usable), "take", f"the {count(len(usable), 'mask')}") if usable else None
    )
    return [*faults, useless] if useless and useless.level == UNUSABLE else faults
