"""ADE20K's scene parsing benchmark: 20210 training and 2000 validation images, 150 classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ssss_zoo.data.benchmarks.prepare import (
    WORK,
    Archive,
    Benchmark,
    ConvertAll,
    ListSource,
    on_github,
    save_ids,
    without_target,
)
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.classes import read_classes
from ssss_zoo.data.files import FileDataset, read_mask
from ssss_zoo.data.split_lists import find_root, find_split_folder, read_split, require_folders
from ssss_zoo.errors import UserError

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

ADE20K_LISTS = "https://github.com/LiheYoung/UniMatch-V2 (splits/ade20k)"
ADE20K_NAMES_FILE = "objectInfo150.txt"  # of the archive: a table whose last column is the class's names


def convert_ade20k(root: Path, convert_all: ConvertAll) -> None:
    """Write masks of 0 to 149 with 255 for pixels without a class (0 in the archive), as in UniMatch V2; and the class
    list."""
    packed = root / WORK / "annotations"
    pairs = [(path, root / path.relative_to(root / WORK)) for path in sorted(packed.glob("*/*.png"))]
    convert_all("masks", subtract_one, without_target(pairs))
    rows = [
        line.split("\t")
        for line in (root / WORK / ADE20K_NAMES_FILE).read_text("utf-8").splitlines()[1:]
        if line.strip()
    ]
    names = [row[-1].split(",")[0].strip() for row in rows]
    unique = [name if names.count(name) == 1 else f"{name} {index + 1}" for index, name in enumerate(names)]
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in unique), "utf-8")


def subtract_one(pair: tuple[Path, Path]) -> None:
    save_ids(read_mask(pair[0]) - np.uint8(1), pair[1])  # in 8 bits: 0 becomes 255


ADE20K_BENCHMARK = Benchmark(
    name="ade20k",
    licence="images for non-commercial research, masks BSD-3 (groups.csail.mit.edu/vision/datasets/ADE20K/terms)",
    archives=(
        Archive(
            name="ADEChallengeData2016.zip",
            bytes=967_382_037,
            unpacked=1_100_000_000,
            keep={
                "ADEChallengeData2016/images/": "images/",
                "ADEChallengeData2016/annotations/": f"{WORK}/annotations/",
                f"ADEChallengeData2016/{ADE20K_NAMES_FILE}": f"{WORK}/{ADE20K_NAMES_FILE}",
            },
            urls=(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            ),
            sha256="7ff1be44964418441f542a7cc1e1a650e7dc0fc275f5d23252bc9bbdbc977b29",
        ),
    ),
    convert=convert_ade20k,
    lists=(ListSource(on_github("LiheYoung/UniMatch-V2", "splits/ade20k")),),
    converted=120_000_000,
)


class ADE20K(FileDataset):
    """Root: `images/{training,validation}/`, `annotations/{training,validation}/` with ids from 0 and 255 for pixels
    without a class (the archive's masks count from 1), `classes.txt`, and UniMatch V2's lists in `splits/` or
    `splits/ade20k/`."""

    benchmark: ClassVar[Benchmark | None] = ADE20K_BENCHMARK
    source: ClassVar[str] = "ADE20K, 150 classes (Zhou et al., CVPR 2017)"

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "ade20k", "images/, annotations/, classes.txt and splits/")
        require_folders(root, ("images", "annotations"), "what `ssss data prepare dataset=ade20k` makes")
        names = read_classes(root / "classes.txt")[0]
        if len(names) != 150:
            raise UserError(
                f"{root / 'classes.txt'} names {len(names)} classes; ADE20K has 150, without one for the rest"
            )
        self.use_lists(read_split(root, find_split_folder(root, "ade20k", ADE20K_LISTS), data.split))
        self.class_names, self.colours = names, class_colours(len(names))
