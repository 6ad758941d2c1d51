"""PASCAL VOC 2012, with the extra masks of SBD: 10582 training and 1449 validation images, 21 classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.data.files import FileDataset
from ssss_zoo.data.split_lists import find_root, find_split_folder, read_split, require_folders
from ssss_zoo.errors import UserError

if TYPE_CHECKING:
    from ssss_zoo.config.schema import DataConfig

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
MASKS, AUGMENTED = "SegmentationClass", "SegmentationClassAug"  # the devkit's masks; U2PL's folder with those of SBD
VOC_LISTS = "https://github.com/LiheYoung/UniMatch (splits/pascal)"
SBD_FOLDER = "sbd"  # in the working folder: SBD's MATLAB files


def add_sbd(root: Path, convert_all: ConvertAll) -> None:
    """Add the masks of SBD for training images without a mask in the development kit (UniMatch's and CPS's folder)."""
    wanted = [Path(line.split()[1]) for line in (root / "splits/train_aug.txt").read_text("utf-8").splitlines()]
    pairs = [(root / WORK / SBD_FOLDER / f"{mask.stem}.mat", root / mask) for mask in wanted]
    convert_all("masks of SBD", convert_sbd, without_target(pairs))


def convert_sbd(pair: tuple[Path, Path]) -> None:
    source, target = pair
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise UserError("to read SBD's masks, pip install 'ssss-zoo[benchmarks]'") from None
    try:
        ids = loadmat(source)["GTcls"]["Segmentation"][0, 0]
    except (OSError, ValueError, LookupError, TypeError, MatReadError) as error:
        raise UserError(f"cannot read {source}: {error}") from None
    save_ids(ids.astype("uint8"), target)


VOC_BENCHMARK = Benchmark(
    name="voc",
    licence="VOC2012: for research; images from Flickr under its terms (host.robots.ox.ac.uk/pascal/VOC/voc2012); SBD: "
    "for research, cite Hariharan et al., ICCV 2011",
    archives=(
        Archive(
            name="VOCtrainval_11-May-2012.tar",
            bytes=1_999_639_040,
            unpacked=2_000_000_000,
            keep={
                "VOCdevkit/VOC2012/JPEGImages/": "JPEGImages/",
                "VOCdevkit/VOC2012/SegmentationClass/": f"{MASKS}/",
            },
            urls=(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "http://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
            ),
            sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        ),
        Archive(
            name="benchmark.tgz",
            bytes=1_419_539_633,
            unpacked=1_600_000_000,
            keep={"benchmark_RELEASE/dataset/cls/": f"{WORK}/{SBD_FOLDER}/"},
            urls=(
                "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            ),
            sha256="6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
        ),
    ),
    convert=add_sbd,
    lists=(ListSource(on_github("LiheYoung/UniMatch", "splits/pascal")),),
    converted=100_000_000,
)


def voc_colour(index: int) -> Colour:
    """The colour of a class in the PASCAL VOC development kit: the bits of its id, lowest first, become the high bits
    of red, green and blue in turn."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return (channels[0], channels[1], channels[2])


class VOC(FileDataset):
    """Root: `JPEGImages/`, masks in `SegmentationClassAug/` or, without that folder, in `SegmentationClass/`, and
    UniMatch's lists in `splits/` or `splits/pascal/`."""

    benchmark: ClassVar[Benchmark | None] = VOC_BENCHMARK
    source: ClassVar[str] = (
        "PASCAL VOC 2012, 21 classes (Everingham et al., IJCV 2010), with SBD (Hariharan, ICCV 2011)"
    )

    def __init__(self, data: DataConfig) -> None:
        root = find_root(data, "voc", "JPEGImages/, SegmentationClass/ and splits/")
        masks = AUGMENTED if (root / AUGMENTED).is_dir() else MASKS
        require_folders(root, ("JPEGImages", masks), "the folder VOC2012 of the development kit, SBD's masks added")
        self.use_lists(
            read_split(root, find_split_folder(root, "pascal", VOC_LISTS), data.split, {f"{MASKS}/": f"{masks}/"})
        )
        self.class_names, self.colours = VOC_CLASSES, tuple(map(voc_colour, range(len(VOC_CLASSES))))
