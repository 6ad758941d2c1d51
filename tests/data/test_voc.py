"""VOC's layouts: UniMatch's, U2PL's folder name, and what is said when something is missing."""

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.voc import VOC
from ssss_zoo.errors import UserError


def make(root, masks="SegmentationClass", splits="splits/pascal"):
    """Four training images and one of val, with UniMatch's lists; masks have a palette, as the development kit's."""
    for folder in ("JPEGImages", masks, f"{splits}/92", f"{splits}/1_8"):
        (root / folder).mkdir(parents=True)
    for name in ("t0", "t1", "t2", "t3", "v0"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        mask = Image.fromarray(np.array([[0, 15, 20, 255, 1, 2]] * 4, np.uint8), "P")
        mask.putpalette(list(range(256)) * 3)
        mask.save(root / masks / f"{name}.png")
    line = "JPEGImages/{0}.jpg SegmentationClass/{0}.png".format
    for path, names in (
        ("val", ["v0"]),
        ("92/labeled", ["t0"]),
        ("92/unlabeled", ["t1", "t2", "t3"]),
        ("1_8/labeled", ["t2", "t3"]),
        ("1_8/unlabeled", ["t0", "t1"]),
    ):
        (root / splits / f"{path}.txt").write_text("\n".join(map(line, names)))
    return DataConfig(root=str(root), split="92")


@pytest.mark.parametrize("masks", ["SegmentationClass", "SegmentationClassAug"])
@pytest.mark.parametrize("splits", ["splits", "splits/pascal"])
def test_layouts(tmp_path, masks, splits):
    data = make(tmp_path, masks, splits)
    dataset = VOC(data)
    assert [len(part) for part in (dataset.labelled, dataset.unlabelled, dataset.val)] == [1, 3, 1]
    assert dataset.labelled[0].mask == tmp_path / masks / "t0.png"
    assert dataset.read_mask(dataset.labelled[0])[0].tolist() == [0, 15, 20, 255, 1, 2]
    dataset.check()
    assert [sample.name for sample in VOC(DataConfig(data.root, "1/8")).labelled] == [
        "JPEGImages/t2.jpg",
        "JPEGImages/t3.jpg",
    ]


def test_colour_map_is_the_development_kits(tmp_path):
    dataset = VOC(make(tmp_path))
    colours = dict(zip(dataset.class_names, dataset.colours, strict=True))
    assert len(colours) == 21
    assert colours["background"] == (0, 0, 0)
    assert colours["aeroplane"] == (128, 0, 0)
    assert colours["bottle"] == (128, 0, 128)
    assert colours["cat"] == (64, 0, 0)
    assert colours["person"] == (192, 128, 128)
    assert colours["pottedplant"] == (0, 64, 0)
    assert colours["tvmonitor"] == (0, 64, 128)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^no JPEGImages/ and no SegmentationClass/ in .*VOC2012[^\n]*$"):
        VOC(DataConfig(root=str(tmp_path)))
    data = make(tmp_path)
    (tmp_path / "splits/pascal/val.txt").unlink()
    with pytest.raises(UserError, match=r"^no .*splits/val\.txt: put there [^\n]*UniMatch[^\n]*$"):
        VOC(data)
