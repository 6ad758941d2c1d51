"""The files of `ssss label`: copies of the chosen images, masks to correct, a table, and a contact sheet."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ssss_zoo.atomic_write import write_text
from ssss_zoo.data.base import Dataset
from ssss_zoo.deploy.image_sources import SourceImage
from ssss_zoo.deploy.polygon_files import COCO_FILE, COCO_FORMAT, join_coco_files, write_polygons
from ssss_zoo.deploy.prediction_files import MASKS, save_mask, save_picture
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.evaluation.painting import draw_overlay, photo, picture_size, resize_nearest, resize_photo
from ssss_zoo.evaluation.sheets import Panel, PanelRow, class_legend, draw_sheet

LabelFormat = Literal["labelme", "coco", "masks"]

IMAGES = "images"  # the folder of the copies
LABEL_PARTS = "parts"  # the folder of the COCO files of single images, while these are written
LABEL_CSV = "label.csv"
LABEL_CLASSES = "classes.txt"  # a class a line, as LabelMe's --labels takes it
CONTACT_SHEET = "contact_sheet.png"
SHEET_IMAGES_MAX = 60  # images in the contact sheet (our choice)
SHEET_COLUMNS = 4  # of the contact sheet: two images, each with its mask beside it (our choice)


@dataclass(frozen=True, eq=False)
class LabelRow:
    """An image to label, a line of label.csv. image: its name in the data set. file: its copy, below the output.
    uncertainty: the mean over its pixels. distance: see `ChosenImage`."""

    rank: int
    image: str
    file: str
    uncertainty: float
    distance: float | None


# --- folders --------------------------------------------------------------------------------------------------------


def check_new_folder(output: Path, root: Path) -> None:
    """Raise UserError for an output that holds files, since somebody may have corrected them; for one in the data set,
    whose images would be found there the next time; and for one that cannot be made."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output={output} is not an empty folder: give a new one; nothing that lies there is replaced")
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"output={output} lies inside the data set {root}: choose a folder outside of it")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"output={output} cannot be made: {above} is no folder that you may write to")


@contextmanager
def filling_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into. Its files move to `folder` when the block ends without an error. Raises
    UserError where the disk refuses."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            yield Path(temporary)
            folder.mkdir(exist_ok=True)
            for path in sorted(Path(temporary).iterdir()):
                path.rename(folder / path.name)
    except OSError as error:
        raise cannot_write(folder, error) from error


# --- one image ------------------------------------------------------------------------------------------------------


def copy_image(source: SourceImage, output: Path) -> None:
    target = output / IMAGES / source.file
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.path, target)


def write_mask_to_correct(
    output: Path, kind: LabelFormat, source: SourceImage, classes: np.ndarray, dataset: Dataset, tolerance: float
) -> None:
    """Write (H, W) class ids where an annotation tool looks for them: LabelMe beside the image, COCO in a file that
    `join_annotations` joins with the others, an index mask in a folder of its own. tolerance: of polygons, in
    pixels."""
    if kind == "masks":
        save_mask(output / MASKS / f"{source.name}.png", classes, dataset.colours)
    elif kind == COCO_FORMAT:
        file = output / LABEL_PARTS / f"{source.name}.json"
        write_polygons(file, kind, classes, dataset.class_names, source.file, tolerance)
    else:
        file = output / IMAGES / f"{source.name}.json"
        write_polygons(file, kind, classes, dataset.class_names, source.path.name, tolerance)


def join_annotations(output: Path) -> None:
    """Make one COCO file of those that were written for single images, and remove these."""
    join_coco_files(sorted((output / LABEL_PARTS).rglob("*.json")), output / COCO_FILE)
    shutil.rmtree(output / LABEL_PARTS)


# --- all images -----------------------------------------------------------------------------------------------------


def write_label_csv(file: Path, rows: Sequence[LabelRow]) -> None:
    """Write label.csv. Raises UserError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "image", "file", "uncertainty", "distance"])
    for row in rows:
        distance = "" if row.distance is None else f"{row.distance:.6f}"
        writer.writerow([row.rank, row.image, row.file, f"{row.uncertainty:.6f}", distance])
    write_text(file, text.getvalue())


def read_chosen_names(file: Path) -> list[str]:
    """The names in the data set of the images that label.csv lists. Raises UserError."""
    try:
        with file.open(encoding="utf-8", newline="") as handle:
            return [row["image"] for row in csv.DictReader(handle)]
    except OSError as error:
        raise UserError(f"cannot read {file}, which `ssss label` writes: {error.strerror}") from None
    except (UnicodeDecodeError, KeyError, csv.Error):
        raise UserError(f"{file} is not as `ssss label` writes it: it has no column 'image'") from None


def sheet_panels(pixels: np.ndarray, classes: np.ndarray, row: LabelRow, dataset: Dataset) -> list[Panel]:
    """An image (H, W, channels) and its mask over it, with their titles for the contact sheet."""
    size = picture_size(*pixels.shape[:2])
    image, mask = resize_photo(photo(pixels), size), resize_nearest(classes, size)
    return [
        Panel(f"{row.rank}. {row.image}", Image.fromarray(image)),
        Panel(f"uncertainty {row.uncertainty:.3f}", draw_overlay(image, mask, dataset.colours)),
    ]


def write_contact_sheet(file: Path, panels: Sequence[Sequence[Panel]], dataset: Dataset) -> None:
    """Write the panels of each image, as `sheet_panels` makes them, and a legend. Raises UserError."""
    shown = [panel for pair in panels for panel in pair]
    legend = class_legend(dataset, range(len(dataset.class_names)))
    save_picture(file, draw_sheet([PanelRow("", shown)], legend, columns=SHEET_COLUMNS))


def write_class_names(file: Path, dataset: Dataset) -> None:
    write_text(file, "".join(f"{name}\n" for name in dataset.class_names))
