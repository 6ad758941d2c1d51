"""Cityscapes' layout, its classes, and what is said when something is missing."""

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.cityscapes import Cityscapes
from ssss_zoo.errors import UserError


def make(root, kind="labelTrainIds"):
    """Two training frames and one of val; the unlabelled list ends in a frame of the coarse set, mask `None`."""
    lines = {}
    for part, city, frame in (("train", "ulm", 0), ("train", "ulm", 1), ("val", "bonn", 0)):
        name = f"{part}/{city}/{city}_00000{frame}_000019"
        image, mask = f"leftImg8bit/{name}_leftImg8bit.png", f"gtFine/{name}_gtFine_{kind}.png"
        for path, shape in ((image, (4, 8, 3)), (mask, (4, 8))):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(shape, np.uint8)).save(root / path)
        lines[part, frame] = f"{image} {mask}"
    folder = root / "splits/cityscapes"
    (folder / "1_8").mkdir(parents=True)
    (folder / "val.txt").write_text(lines["val", 0])
    (folder / "1_8/labeled.txt").write_text(lines["train", 0])
    (folder / "1_8/unlabeled.txt").write_text(lines["train", 1].split()[0] + " None")
    return DataConfig(root=str(root), split="1/8")


def test_layout(tmp_path):
    dataset = Cityscapes(make(tmp_path))
    assert [len(part) for part in (dataset.labelled, dataset.unlabelled, dataset.val)] == [1, 1, 1]
    assert dataset.unlabelled[0].mask is None
    assert dataset.read_image(dataset.val[0]).shape == (4, 8, 3)
    dataset.check()


def test_classes(tmp_path):
    dataset = Cityscapes(make(tmp_path))
    colours = dict(zip(dataset.class_names, dataset.colours, strict=True))
    assert len(colours) == len(set(dataset.colours)) == 19
    assert [dataset.class_names[index] for index in (0, 13, 18)] == ["road", "car", "bicycle"]
    assert colours["car"] == (0, 0, 142)


def test_what_is_missing_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^no leftImg8bit/ and no gtFine/ in [^\n]*$"):
        Cityscapes(DataConfig(root=str(tmp_path)))
    data = make(tmp_path, kind="labelIds")
    with pytest.raises(UserError, match=r"^no \*_gtFine_labelTrainIds\.png under .*csCreateTrainIdLabelImgs[^\n]*$"):
        Cityscapes(data)
