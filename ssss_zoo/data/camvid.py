"""CamVid: street scenes from three drives through Cambridge, 480x360, 11 classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ssss_zoo.data.classes import read_classes
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.lists import find_root, read_split

if TYPE_CHECKING:
    from ssss_zoo.config import DataConfig


class CamVid(FileDataset):
    """Root: `classes.txt` (name R G B a line), `images/`, `masks/` (ids, 255 void) and `splits/`, whose lists name
    the pairs. The val part is one short clip, seconds away from training frames: fine for development, flattering as
    evidence."""

    source: ClassVar[str] = "CamVid, 11 classes (Brostow et al., PRL 2009; SegNet's reduction, PAMI 2017)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "camvid", "classes.txt, images/, masks/ and splits/")
        self.class_names, self.colours = read_classes(root / "classes.txt")
        lists = read_split(root, root / "splits", data.split)
        self.labelled, self.unlabelled, self.val = lists.labelled, lists.unlabelled, lists.val
        self.notes = ["val is one clip of 7 seconds, close to training frames: small differences on it mean little"]
