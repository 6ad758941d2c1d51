"""How fast images come: decoders against each other, and the loader against Pillow's bare decoding, in one process.

    python benchmarks/loader.py dataset=camvid data.root=DIR [--images N] [--batches N] [key=value ...]

Words are those of `ssss run`. Measured, each as the median of five rounds that take turns:

decoders: images a second, on one thread, of the first N labelled images: Pillow (`Image.open` and all pixels), what a
    data set reads them with (header, EXIF, channels, then the quick decoder), and imagecodecs alone.
loader: images a second of the labelled stream (decode image and mask, rescale, crop) by number of processes, from files
    and from memory; and each as a share of Pillow's bare decoding of the same images, per process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from PIL import Image

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.crops import CropDataset, make_stream
from ssss_zoo.engine.registry import load
from ssss_zoo.train.setup import open_dataset

ROUNDS = 5


def rates(contenders: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Images a second of each; a contender does its work and says how many images it was."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, work in contenders.items():
            begin = time.perf_counter()
            count = work()
            found[name].append(count / (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in found.items()}


def decoders(dataset: Dataset, count: int) -> dict[str, Callable[[], int]]:
    samples = list(dataset.labelled)[:count]

    def bare(path: Path) -> None:
        content = path.read_bytes()
        (imagecodecs.jpeg8_decode if path.suffix == ".jpg" else imagecodecs.png_decode)(content)

    def each(read: Callable[[object], object]) -> Callable[[], int]:
        return lambda: sum(1 for sample in samples if read(sample) is not Ellipsis)

    return {
        "Pillow": each(lambda sample: np.asarray(Image.open(sample.image))),
        "read_image": each(dataset.read_image),
        "imagecodecs": each(lambda sample: bare(sample.image)),
        "Pillow, image and mask": each(
            lambda sample: (np.asarray(Image.open(sample.image)), np.asarray(Image.open(sample.mask)))
        ),
    }


def streams(dataset: Dataset, batches: int, words: list[str]) -> dict[str, Callable[[], int]]:
    config = resolve(words)
    kept = InMemoryDataset(dataset, dataset.labelled, dataset.labelled)
    scale = (config.augment.scale[0], config.augment.scale[1])
    contenders = {}
    for place, source in (("files", dataset), ("memory", kept)):
        for workers in (0, 1, 2):
            crops = CropDataset(source, dataset.labelled, square(config.train.crop), scale, 0, "labelled", masks=True)
            stream = make_stream(crops, config.train.batch, 0, workers, pin=False)
            next(stream)  # processes have started

            def draw(stream: Iterator[object] = stream) -> int:
                for _ in range(batches):
                    next(stream)
                return batches * config.train.batch

            contenders[f"{place}, {workers} processes"] = draw
    return contenders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--batches", type=int, default=40)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    config = resolve(asked.words)
    dataset, config = open_dataset(load("datasets", config.dataset), config)
    found = rates(decoders(dataset, asked.images))
    print(f"{len(dataset.labelled)} labelled images, batches of {config.train.batch}, crop {config.train.crop}")
    for name, rate in found.items():
        print(f"{name:28} {rate:8.0f} images/s  {rate / found['Pillow']:5.2f} of Pillow")
    whole = found["Pillow, image and mask"]
    for name, rate in rates(streams(dataset, asked.batches, asked.words)).items():
        per = max(1, int(name.split(", ")[1].split()[0]))
        print(f"{name:28} {rate:8.0f} images/s  {rate / per / whole:5.2f} of Pillow's image and mask, per process")


if __name__ == "__main__":
    main()
