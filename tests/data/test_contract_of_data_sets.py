"""What every data set must do, by the kit that its author has: the embedded one, a folder, CamVid where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.engine.registry import load
from ssss_zoo.testing import DatasetContract

CAMVID = Path(__file__).parents[3] / "shared/data/camvid"


class TestShapes(DatasetContract):
    dataset = "shapes"
    settings = {"split": "1/32"}  # noqa: RUF012


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid is not here")
class TestCamVid(DatasetContract):
    dataset = "camvid"
    settings = {"root": str(CAMVID), "split": "1/16"}  # noqa: RUF012


class TestFolder(DatasetContract):
    @pytest.fixture
    def opened(self, tmp_path):
        rng = np.random.default_rng(0)
        for part, count in (("train", 4), ("val", 2)):
            for kind in ("images", "masks"):
                (tmp_path / part / kind).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(image).save(tmp_path / part / "images" / f"{number}.png")
                mask = rng.integers(0, 3, (9, 12), dtype=np.uint8)
                Image.fromarray(mask).save(tmp_path / part / "masks" / f"{number}.png")
        (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
        return lambda **more: load("datasets", "folder")(DataConfig(**{"root": str(tmp_path), "split": "1/2", **more}))
