"""COCO 2017: 118287 training and 5000 validation images, 80 things and a background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ssss_zoo.data.benchmarks.prepare import (
    WORK,
    Archive,
    Benchmark,
    ConvertAll,
    ListSource,
    on_github,
    save_ids,
)
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.classes import read_classes
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.folder.polygons import draw_segmentation, read_coco
from ssss_zoo.data.split_lists import find_root, find_split_folder, read_split, require_folders
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

COCO_LISTS = "https://github.com/LiheYoung/UniMatch (splits/coco)"
COCO_PARTS = ("train2017", "val2017")


def convert_coco(root: Path, convert_all: ConvertAll) -> None:
    """Write masks of the 80 things, 1 to 80 in the order of their ids, 0 for the rest; crowds are void. Where things
    overlap, the smaller one lies on top: the releases do not say how their masks were made, so this is our choice."""
    for part in COCO_PARTS:
        file = read_coco(root / WORK / "annotations" / f"instances_{part}.json")
        order = {category: place for place, category in enumerate(sorted(file.class_names), start=1)}
        work = []
        for name, image in file.images.items():
            target = root / "masks" / f"{Path(name).stem}.png"
            if not target.is_file():
                shapes = [
                    (IGNORE if region["iscrowd"] else order[region["category_id"]], region["segmentation"])
                    for region in file.annotations[image["id"]]
                ]
                work.append((target, (image["height"], image["width"]), shapes, file.path))
        convert_all(f"masks of {part}", draw_coco_mask, work)
        names = ["background", *(file.class_names[category] for category in sorted(file.class_names))]
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")


def draw_coco_mask(job: tuple[Path, tuple[int, int], list[tuple[int, Any]], Path]) -> None:
    """Write one mask; the largest region was listed first."""
    target, size, shapes, file = job
    mask = np.zeros(size, np.uint8)
    for index, shape in shapes:
        mask[draw_segmentation(shape, size, file)] = index
    save_ids(mask, target)


COCO_URL = "http://images.cocodataset.org"
COCO_S3_URL = "https://s3.amazonaws.com/images.cocodataset.org"
COCO_BENCHMARK = Benchmark(
    name="coco",
    licence="annotations CC BY 4.0; images from Flickr under their own terms (cocodataset.org/#termsofuse)",
    archives=(
        Archive(
            name="annotations_trainval2017.zip",
            bytes=252_907_541,
            unpacked=900_000_000,
            keep={
                f"annotations/instances_{part}.json": f"{WORK}/annotations/instances_{part}.json" for part in COCO_PARTS
            },
            urls=(
                f"{COCO_URL}/annotations/annotations_trainval2017.zip",
                f"{COCO_S3_URL}/annotations/annotations_trainval2017.zip",
            ),
            sha256="113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
        ),
        Archive(
            name="val2017.zip",
            bytes=815_585_330,
            unpacked=830_000_000,
            keep={"val2017/": "val2017/"},
            urls=(f"{COCO_URL}/zips/val2017.zip", f"{COCO_S3_URL}/zips/val2017.zip"),
            sha256="4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        Archive(
            name="train2017.zip",
            bytes=19_336_861_798,
            unpacked=19_500_000_000,
            keep={"train2017/": "train2017/"},
            urls=(f"{COCO_URL}/zips/train2017.zip", f"{COCO_S3_URL}/zips/train2017.zip"),
            sha256="69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
    ),
    convert=convert_coco,
    lists=(ListSource(on_github("LiheYoung/UniMatch", "splits/coco")),),
    converted=700_000_000,
)


class COCO(FileDataset):
    """Root: `train2017/`, `val2017/`, `masks/` (0 for background, 255 void), `classes.txt`, and
    UniMatch's lists in `splits/` or `splits/coco/`."""

    benchmark: ClassVar[Benchmark | None] = COCO_BENCHMARK
    source: ClassVar[str] = "COCO 2017, 81 classes (Lin et al., ECCV 2014; splits of PseudoSeg, ICLR 2021)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "coco", "train2017/, val2017/, masks/, classes.txt and splits/")
        require_folders(root, (*COCO_PARTS, "masks"), "what `ssss data prepare dataset=coco` makes")
        names = read_classes(root / "classes.txt")[0]
        if len(names) != 81:
            raise UserError(f"{root / 'classes.txt'} names {len(names)} classes; COCO has 80 things and a background")
        self.use_lists(read_split(root, find_split_folder(root, "coco", COCO_LISTS), data.split))
        self.class_names, self.colours = names, class_colours(len(names))
