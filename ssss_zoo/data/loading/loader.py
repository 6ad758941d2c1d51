"""Endless batches for the engine, and the names of what is in them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ssss_zoo.config.schema import Config, square
from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.crops import CropDataset, crop_rules, make_stream
from ssss_zoo.toolkit.types import RawBatch, RawLabelled, RawUnlabelled, Sample


@dataclass(frozen=True)
class StreamNeeds:
    """Which streams the run's methods read: a supervised run opens no unlabelled image."""

    unlabelled: bool
    partner: str | None  # of a second unlabelled batch: `stream` or `twin`, see `CutMix`
    hidden: bool


class BatchLoader(Iterator[RawBatch]):
    """Raw batches (uint8, on the CPU) from two or three independent seeded streams; batch `k` is a function of the seed
    and `k` alone. `waited` is how many seconds the loop stood still for data."""

    def __init__(
        self,
        dataset: Dataset,
        labelled: Sequence[Sample],
        unlabelled: Sequence[Sample],
        config: Config,
        needs: StreamNeeds,
        seed: int,
        start: int,
        pin: bool = False,
        colour: Sequence[float] = (),
    ) -> None:
        """colour: the network's mean in [0, 1], for `augment.pad_fill=mean`; nothing else reads it."""
        crop, scale = square(config.train.crop), (config.augment.scale[0], config.augment.scale[1])
        usual = crop_rules(config.augment, colour)
        known = crop_rules(config.augment, colour, config.augment.pad_label)
        self.batch, self.next_index, self.waited = config.train.batch, start, 0.0
        self.crops = {"labelled": CropDataset(dataset, labelled, crop, scale, seed, "labelled", masks=True, **known)}
        if needs.unlabelled:
            self.crops["unlabelled"] = CropDataset(
                dataset, unlabelled, crop, scale, seed, "unlabelled", masks=needs.hidden, **usual
            )
        if needs.partner:
            order = "unlabelled" if needs.partner == "twin" else "partner"
            self.crops["partner"] = CropDataset(
                dataset, unlabelled, crop, scale, seed, "partner", masks=False, order=order, **usual
            )
        workers = config.train.workers or 0
        self.streams = {
            name: make_stream(crops, self.batch, start * self.batch, workers, pin) for name, crops in self.crops.items()
        }
        self.ahead: list[RawBatch] = []

    def __next__(self) -> RawBatch:
        self.next_index += 1
        return self.ahead.pop(0) if self.ahead else self.draw()

    def peek(self, count: int) -> list[RawBatch]:
        """The next `count` batches, which will come again."""
        self.ahead += [self.draw() for _ in range(count - len(self.ahead))]
        return self.ahead[:count]

    def draw(self) -> RawBatch:
        begin = time.perf_counter()
        raw = {name: next(stream) for name, stream in self.streams.items()}
        self.waited += time.perf_counter() - begin
        unlabelled = raw.get("unlabelled")
        return RawBatch(
            RawLabelled(raw["labelled"]["image"], raw["labelled"]["mask"], raw["labelled"]["pseudo"]),
            weak_view(unlabelled),
            weak_view(raw.get("partner")),
            unlabelled.get("mask") if unlabelled else None,
        )

    def names(self, index: int) -> dict[str, list[str]]:
        """The names of the images in batch `index`, by stream."""
        positions = range(index * self.batch, (index + 1) * self.batch)
        return {name: [crops.samples[crops.index(p)].name for p in positions] for name, crops in self.crops.items()}


def weak_view(raw: Mapping[str, Tensor] | None) -> RawUnlabelled | None:
    return RawUnlabelled(raw["image"], raw["valid"]) if raw else None
