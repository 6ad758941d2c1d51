"""The real CamVid, where it is there: counts, pixels, the check, and crops."""

import os
from pathlib import Path

import pytest
import torch

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.camvid import CamVid
from ssss_zoo.data.loading.crops import CropDataset

ROOT = Path(os.environ.get("SSSS_TEST_CAMVID") or Path(__file__).parents[2] / "../shared/data/camvid").resolve()
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no CamVid at {ROOT}; set SSSS_TEST_CAMVID to its folder")


@pytest.fixture(scope="module")
def camvid():
    return CamVid(DataConfig(root=str(ROOT), split="1/8"))


def test_counts_and_classes(camvid):
    assert [len(part) for part in (camvid.labelled, camvid.unlabelled, camvid.val)] == [46, 321, 101]
    assert len(camvid.class_names) == len(camvid.colours) == 11
    assert (camvid.class_names[0], camvid.colours[0]) == ("Sky", (128, 128, 128))
    assert (camvid.class_names[10], camvid.colours[10]) == ("Bicyclist", (0, 128, 192))


@pytest.mark.parametrize(("split", "labelled"), [("1/30", 12), ("1/16", 23), ("1/4", 92)])
def test_labelled_and_unlabelled_are_the_training_images(split, labelled):
    dataset = CamVid(DataConfig(root=str(ROOT), split=split))
    names = {sample.name for sample in (*dataset.labelled, *dataset.unlabelled)}
    assert (len(dataset.labelled), len(dataset.unlabelled), len(names)) == (labelled, 367 - labelled, 367)


def test_all(camvid):
    dataset = CamVid(DataConfig(root=str(ROOT), split="all"))
    assert len(dataset.labelled) == len(dataset.unlabelled) == 367
    assert dataset.fingerprint != camvid.fingerprint


def test_pixels_and_check(camvid):
    assert camvid.read_image(camvid.val[0]).shape == (360, 480, 3)
    assert camvid.read_mask(camvid.val[0]).shape == (360, 480)
    camvid.check()


def test_crop_shows_the_mask_that_goes_with_the_image(camvid):
    """Sky is brighter than the road, under one and the same crop."""
    crops = CropDataset(camvid, camvid.labelled, (160, 208), (0.5, 1.0), seed=0, tag="labelled", masks=True)
    items = [crops[position] for position in range(12)]
    images, masks = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
    brightness = images.float().mean(dim=1)
    assert brightness[masks == 0].mean() > brightness[masks == 3].mean() + 30
