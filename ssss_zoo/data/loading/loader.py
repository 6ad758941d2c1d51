"""The loader of a run: endless raw batches for the engine."""

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
    """The streams that a run reads; a supervised run reads no unlabelled image.

    unlabelled: whether unlabelled images are read. partner: the second unlabelled batch, `stream` or `twin` (see
    `CutMix`), None for none. hidden: whether the hidden labels of unlabelled images are read.
    """

    unlabelled: bool
    partner: str | None
    hidden: bool


class BatchLoader(Iterator[RawBatch]):
    """Raw batches from up to three independent seeded streams. Batch `k` depends on the seed and `k` alone.

    next_index: of the next batch. waited: the seconds that the caller has waited for data.
    """

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
        """start: the index of the first batch. colour: the network's mean in [0, 1], for `augment.pad_fill=mean`."""
        self.batch = config.train.batch
        self.next_index = start
        self.waited = 0.0
        self.ahead: list[RawBatch] = []  # batches that `upcoming` has loaded
        self.crops = crop_datasets(dataset, labelled, unlabelled, config, needs, seed, colour)
        workers = config.train.workers or 0
        self.streams = {
            name: make_stream(crops, self.batch, start * self.batch, workers, pin=pin)
            for name, crops in self.crops.items()
        }

    def __next__(self) -> RawBatch:
        self.next_index += 1
        return self.ahead.pop(0) if self.ahead else self.load()

    def upcoming(self, count: int) -> list[RawBatch]:
        """The next `count` batches, without moving on: `next` returns them again."""
        self.ahead += [self.load() for _ in range(count - len(self.ahead))]
        return self.ahead[:count]

    def load(self) -> RawBatch:
        """Take a batch from each stream."""
        begin = time.perf_counter()
        raw = {name: next(stream) for name, stream in self.streams.items()}
        self.waited += time.perf_counter() - begin
        unlabelled = raw.get("unlabelled")
        return RawBatch(
            RawLabelled(raw["labelled"]["image"], raw["labelled"]["mask"], raw["labelled"]["pseudo"]),
            raw_unlabelled(unlabelled),
            raw_unlabelled(raw.get("partner")),
            unlabelled.get("mask") if unlabelled else None,
        )

    def names(self, index: int) -> dict[str, list[str]]:
        """The names of the images in batch `index`, by stream."""
        positions = range(index * self.batch, (index + 1) * self.batch)
        return {name: [crops.samples[crops.index(p)].name for p in positions] for name, crops in self.crops.items()}


def crop_datasets(
    dataset: Dataset,
    labelled: Sequence[Sample],
    unlabelled: Sequence[Sample],
    config: Config,
    needs: StreamNeeds,
    seed: int,
    colour: Sequence[float],
) -> dict[str, CropDataset]:
    """The crops of each stream that is needed, by its name. Arguments as of `BatchLoader`."""
    crop, scale = square(config.train.crop), (config.augment.scale[0], config.augment.scale[1])
    rules = crop_rules(config.augment, colour)
    labelled_rules = crop_rules(config.augment, colour, config.augment.pad_label)
    crops = {
        "labelled": CropDataset(dataset, labelled, crop, scale, seed, "labelled", masks=True, rules=labelled_rules)
    }
    if needs.unlabelled:
        crops["unlabelled"] = CropDataset(
            dataset, unlabelled, crop, scale, seed, "unlabelled", masks=needs.hidden, rules=rules
        )
    if needs.partner:
        order = "unlabelled" if needs.partner == "twin" else "partner"
        crops["partner"] = CropDataset(
            dataset, unlabelled, crop, scale, seed, "partner", masks=False, order=order, rules=rules
        )
    return crops


def raw_unlabelled(raw: Mapping[str, Tensor] | None) -> RawUnlabelled | None:
    return RawUnlabelled(raw["image"], raw["valid"]) if raw else None
