"""Folders of images in plain colours, and runs on them that never trained: what `ssss label` needs of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.images import save_image
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.testing.tiny import tiny_overrides

RED_GREEN_BLUE = ("red", "green", "blue")
SIZE = (20, 28)  # height, width


def coloured(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8: one colour above another."""
    pixels = np.empty((*SIZE, 3), np.uint8)
    pixels[:10], pixels[10:] = top, bottom
    return pixels


def labelled_folder(root: Path) -> Path:
    """A folder with eight labelled images, of red and green, and six unlabelled ones: u0 is red, u1 green, u2 blue; u3
    to u5 are greys, of which a pointwise network knows nothing."""
    for number in range(8):
        save_image(root / f"images/{number}.png", coloured((250 - number, 0, 0), (0, 250 - number, number)))
        save_image(root / f"masks/{number}.png", np.repeat([0, 1], 10)[:, None].repeat(SIZE[1], 1).astype(np.uint8))
    unlabelled = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90), (120, 120, 120), (150, 150, 150)]
    for number, colour in enumerate(unlabelled):
        save_image(root / f"unlabelled/u{number}.png", coloured(colour, colour))
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in RED_GREEN_BLUE))
    return root


def untrained_run(folder: Path, root: Path, *overrides: str) -> Path:
    """The folder of a run of the tiny network on a folder of images; there is no checkpoint in it."""
    config = resolve(tiny_overrides("dataset=folder", f"data.root={root}", "method=supervised", *overrides))
    folder.mkdir()
    (folder / "config.yaml").write_text(f"format: 1\n{as_yaml(config)}")
    return folder


def write_index_masks(folder: Path, ids: Mapping[str, int]) -> Path:
    """Masks of one class each, by the names of their images without suffix."""
    for name, class_id in ids.items():
        save_image(folder / f"{name}.png", np.full(SIZE, class_id, np.uint8))
    return folder


def files_below(root: Path) -> dict[str, bytes]:
    """The content of every file, by its path from `root`."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_ids(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))
