"""PASCAL VOC 2012, with the extra masks of SBD: 10582 training and 1449 validation images, 21 classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ssss_zoo.data.classes import palette
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.lists import find_root, need_folders, read_split, split_folder

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
MASKS, AUGMENTED = "SegmentationClass", "SegmentationClassAug"  # the devkit's masks; U2PL's folder with those of SBD
LISTS = "https://github.com/LiheYoung/UniMatch (splits/pascal)"


class VOC(FileDataset):
    """Root: `JPEGImages/`, `SegmentationClass/` (all masks, or the devkit's beside `SegmentationClassAug/`, which is
    taken then), and UniMatch's lists in `splits/` or `splits/pascal/`."""

    source: ClassVar[str] = (
        "PASCAL VOC 2012, 21 classes (Everingham et al., IJCV 2010), with SBD (Hariharan, ICCV 2011)"
    )

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "voc", "JPEGImages/, SegmentationClass/ and splits/")
        masks = AUGMENTED if (root / AUGMENTED).is_dir() else MASKS
        need_folders(root, ("JPEGImages", masks), "the folder VOC2012 of the development kit, SBD's masks added")
        lists = read_split(root, split_folder(root, "pascal", LISTS), data.split, {f"{MASKS}/": f"{masks}/"})
        self.labelled, self.unlabelled, self.val = lists.labelled, lists.unlabelled, lists.val
        self.class_names, self.colours = CLASSES, palette(len(CLASSES))
