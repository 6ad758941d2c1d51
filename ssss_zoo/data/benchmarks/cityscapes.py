"""Cityscapes: street scenes of 50 cities, 2048x1024, 2975 training and 500 validation images, 19 classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.benchmarks.prepare import (
    Archive,
    Benchmark,
    ConvertAll,
    ListSource,
    on_github,
    save_ids,
    without_target,
)
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.files import FileDataset, read_mask
from ssss_zoo.data.split_lists import find_root, find_split_folder, read_split, require_folders
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

CITYSCAPES_CLASSES: dict[str, Colour] = {  # cityscapesScripts, helpers/labels.py, in the order of train ids
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
LIST_NAMES = ("labeled.txt", "unlabeled.txt")
CITYSCAPES_LISTS = "https://github.com/LiheYoung/UniMatch (splits/cityscapes)"
TRAIN_IDS, LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"
EVALUATED_LABEL_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)  # label ids of the 19 classes, in their order
IMAGE, CITY = "leftImg8bit", "gtFine"


def add_train_ids(root: Path, convert_all: ConvertAll) -> None:
    """Write a mask of train ids beside every mask of label ids (cityscapesScripts, helpers/labels.py)."""
    label_ids = sorted(root.glob(f"{CITY}/*/*/*{LABEL_IDS}"))
    convert_all(
        "train ids", convert_ids, without_target((path, path.with_name(train_ids_of(path.name))) for path in label_ids)
    )


def train_ids_of(name: str) -> str:
    return name.replace(LABEL_IDS, TRAIN_IDS)


def convert_ids(pair: tuple[Path, Path]) -> None:
    table = np.full(256, IGNORE, np.uint8)
    table[list(EVALUATED_LABEL_IDS)] = range(len(EVALUATED_LABEL_IDS))
    save_ids(table[read_mask(pair[0])], pair[1])


def add_mask_path(line: str) -> str:
    """A line of U2PL's lists, which name the image alone, in the common format."""
    return f"{line} {line.replace(IMAGE, CITY, 1).replace(f'_{IMAGE}.png', TRAIN_IDS)}"


CITYSCAPES_BY_HAND = (
    "register at https://www.cityscapes-dataset.com, accept its terms and download gtFine_trainvaltest.zip (241 MB) "
    "and leftImg8bit_trainvaltest.zip (11 GB), in the browser or with csDownload of the package cityscapesscripts"
)
U2PL_FOLDERS = {"u2pl_1_16": "186", "u2pl_1_8": "372", "u2pl_1_4": "744", "u2pl_1_2": "1488"}
CITYSCAPES_BENCHMARK = Benchmark(
    name="cityscapes",
    licence="for non-commercial research, after registration (www.cityscapes-dataset.com/license)",
    archives=(
        Archive(
            "gtFine_trainvaltest.zip", 252_567_705, 2_000_000_000, {f"{CITY}/": f"{CITY}/"}, how=CITYSCAPES_BY_HAND
        ),
        Archive(
            "leftImg8bit_trainvaltest.zip",
            11_592_327_197,
            12_000_000_000,
            {f"{IMAGE}/": f"{IMAGE}/"},
            how=CITYSCAPES_BY_HAND,
        ),
    ),
    convert=add_train_ids,
    lists=(
        ListSource(urls=on_github("LiheYoung/UniMatch", "splits/cityscapes")),
        ListSource(
            urls=on_github("Haochen-Wang409/U2PL", "data/splits/cityscapes"),
            only=("u2pl",),
            renamed={f"{ours}/{name}": f"{home}/{name}" for ours, home in U2PL_FOLDERS.items() for name in LIST_NAMES},
            line=add_mask_path,
        ),
    ),
    converted=60_000_000,
)


class Cityscapes(FileDataset):
    """Root: `leftImg8bit/{train,val}/<city>/`, `gtFine/{train,val}/<city>/` with the train id masks, and UniMatch's
    lists in `splits/` or `splits/cityscapes/`."""

    benchmark: ClassVar[Benchmark | None] = CITYSCAPES_BENCHMARK
    source: ClassVar[str] = "Cityscapes, 19 classes (Cordts et al., CVPR 2016)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "cityscapes", "leftImg8bit/, gtFine/ and splits/")
        require_folders(root, ("leftImg8bit", "gtFine"), "the unpacked archives leftImg8bit_trainvaltest and gtFine")
        need_train_ids(root)
        self.use_lists(read_split(root, find_split_folder(root, "cityscapes", CITYSCAPES_LISTS), data.split))
        self.class_names, self.colours = tuple(CITYSCAPES_CLASSES), tuple(CITYSCAPES_CLASSES.values())


def need_train_ids(root: Path) -> None:
    """Raise UserError where only label ids are there: the archive comes without train ids."""
    if next(root.glob(f"gtFine/*/*/*{TRAIN_IDS}"), None) is None:
        raise UserError(
            f"no *{TRAIN_IDS} under {root / 'gtFine'}: `ssss data prepare dataset=cityscapes data.root={root}` makes "
            "them, as does csCreateTrainIdLabelImgs of cityscapesScripts"
        )
