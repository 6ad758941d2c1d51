"""Cityscapes: street scenes of 50 cities, 2048x1024, 2975 training and 500 validation images, 19 classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ssss_zoo.data.classes import Colour
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.lists import find_root, need_folders, read_split, split_folder
from ssss_zoo.errors import UserError

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

CLASSES: dict[str, Colour] = {  # cityscapesScripts, helpers/labels.py, in the order of train ids
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
LISTS = "https://github.com/LiheYoung/UniMatch (splits/cityscapes)"
TRAIN_IDS = "_gtFine_labelTrainIds.png"


class Cityscapes(FileDataset):
    """Root: `leftImg8bit/{train,val}/<city>/`, `gtFine/{train,val}/<city>/` with the train id masks, and UniMatch's
    lists in `splits/` or `splits/cityscapes/`."""

    source: ClassVar[str] = "Cityscapes, 19 classes (Cordts et al., CVPR 2016)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "cityscapes", "leftImg8bit/, gtFine/ and splits/")
        need_folders(root, ("leftImg8bit", "gtFine"), "the unpacked archives leftImg8bit_trainvaltest and gtFine")
        need_train_ids(root)
        lists = read_split(root, split_folder(root, "cityscapes", LISTS), data.split)
        self.labelled, self.unlabelled, self.val = lists.labelled, lists.unlabelled, lists.val
        self.class_names, self.colours = tuple(CLASSES), tuple(CLASSES.values())


def need_train_ids(root: Path) -> None:
    """Raise UserError when only the raw label ids are there: the archive comes without train ids."""
    if next(root.glob(f"gtFine/*/*/*{TRAIN_IDS}"), None) is None:
        raise UserError(
            f"no *{TRAIN_IDS} under {root / 'gtFine'}: make them with csCreateTrainIdLabelImgs of cityscapesScripts"
        )
