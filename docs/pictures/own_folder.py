"""Writes scenes of `shapes` into a folder as one's own images would lie there; the page on own images shows it.

python docs/pictures/own_folder.py my_data
ssss data preview dataset=folder data.root=my_data train.crop=96 count=2 file=docs/pictures/preview.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.benchmarks.shapes import Shapes


def write_folder(folder: Path, labelled: int = 12, unlabelled: int = 12) -> None:
    """Images and masks of class ids of the first scenes, images alone of the following ones, and the class names."""
    dataset = Shapes(DataConfig())
    for name in ("images", "masks", "unlabelled"):
        (folder / name).mkdir(parents=True)
    for number, sample in enumerate(dataset.val[: labelled + unlabelled]):
        image = Image.fromarray(dataset.read_image(sample))
        if number >= labelled:
            image.save(folder / "unlabelled" / f"{number:03}.png")
            continue
        image.save(folder / "images" / f"{number:03}.png")
        Image.fromarray(dataset.read_mask(sample)).save(folder / "masks" / f"{number:03}.png")
    (folder / "classes.txt").write_text("\n".join(dataset.class_names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]))
