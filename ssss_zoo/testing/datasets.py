"""The tests that every data set must pass. Inherit `DatasetContract` and name the data set; pytest runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.base import Dataset
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import IGNORE, Sample

OpenDataset = Callable[..., Dataset]
SAMPLES_READ = 4  # of each list


class DatasetContract:
    """Tests of one data set, which has labelled, unlabelled and validation images.

    dataset: the name of an installed data set. settings: keys of `data`, such as `root` and `split`, that open a small
    version of it.
    """

    dataset: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def opened(self) -> OpenDataset:
        """(further settings) -> the data set."""
        return lambda **more: load("datasets", self.dataset)(DataConfig(**{**self.settings, **more}))

    def test_it_is_a_data_set_and_names_its_source(self, opened: OpenDataset) -> None:
        data = opened()
        assert isinstance(data, Dataset), "inherit from ssss_zoo.data.base.Dataset"
        assert data.source.strip() and "\n" not in data.source, "say where it comes from in `source`, one line"  # noqa: PT018
        assert set(data.config_keys) <= set(vars(DataConfig())), "`config_keys` names keys of `data`"

    def test_classes_have_names_and_colours(self, opened: OpenDataset) -> None:
        data = opened()
        assert 2 <= len(data.class_names) < IGNORE, "two classes to 254; 255 is void"
        assert len(set(data.class_names)) == len(data.class_names), "two classes share a name"
        assert len(data.colours) == len(data.class_names), "a colour a class"
        assert all(len(colour) == 3 and all(0 <= part <= 255 for part in colour) for colour in data.colours)

    def test_lists_are_there_and_share_nothing(self, opened: OpenDataset) -> None:
        data = opened()
        names = {part: [sample.name for sample in getattr(data, part)] for part in ("labelled", "unlabelled", "val")}
        assert all(names.values()), f"empty: {[part for part, found in names.items() if not found]}"
        for part, found in names.items():
            assert len(set(found)) == len(found), f"{part} names an image twice"
        shared = set(names["val"]) & {*names["labelled"], *names["unlabelled"]}
        assert not shared, f"validation images are trained on: {sorted(shared)[:3]}"
        assert not set(names["labelled"]) & set(names["unlabelled"]), "an image is labelled and unlabelled at once"
        assert all(sample.mask is not None for part in ("labelled", "val") for sample in getattr(data, part))

    def test_images_and_masks_are_what_the_loader_expects(self, opened: OpenDataset) -> None:
        """A few images and masks of each list have the right shapes, types and ranges of values."""
        data = opened()
        kinds = set()
        for sample in [*a_few(data.labelled), *a_few(data.unlabelled), *a_few(data.val)]:
            image = data.read_image(sample)
            assert image.ndim == 3 and image.shape[2] == data.channels, (  # noqa: PT018
                f"{sample.name}: (H, W, {data.channels}) expected, got {image.shape}"
            )
            assert image.dtype in (np.uint8, np.float32), f"{sample.name}: uint8, or float32 in [0, 255]"
            assert 0 <= image.min() <= image.max() <= 255
            assert data.image_size(sample) == image.shape[:2], f"{sample.name}: `image_size` is that of `read_image`"
            kinds.add(image.dtype)
        assert len(kinds) == 1, f"images of one type throughout, got {kinds}"
        for sample in [*a_few(data.labelled), *a_few(data.val)]:
            mask = data.read_mask(sample)
            assert mask.dtype == np.uint8, f"{sample.name}: masks are uint8"
            assert mask.shape == data.read_image(sample).shape[:2], f"{sample.name}: mask and image differ in size"
            wrong = sorted(set(np.unique(mask)) - {*range(len(data.class_names)), IGNORE})
            assert not wrong, f"{sample.name}: {wrong[:5]} are no classes (void is 255)"

    def test_reading_twice_gives_the_same_and_hands_out_no_memory(self, opened: OpenDataset) -> None:
        data = opened()
        sample = data.labelled[0]
        first, mask = data.read_image(sample).copy(), data.read_mask(sample).copy()
        data.read_image(sample)[:] = 0  # the loader may write into what it gets
        data.read_mask(sample)[:] = 0
        assert np.array_equal(data.read_image(sample), first), "read_image hands out an array that it keeps"
        assert np.array_equal(data.read_mask(sample), mask), "read_mask hands out an array that it keeps"

    def test_two_openings_give_the_same_lists(self, opened: OpenDataset) -> None:
        assert opened().fingerprint == opened().fingerprint, "lists depend on chance or on the order of a folder"

    def test_it_passes_its_own_check(self, opened: OpenDataset) -> None:
        opened().check()

    def test_an_unknown_split_is_one_line(self, opened: OpenDataset) -> None:
        with pytest.raises(UserError) as caught:
            opened(split="no/such/split").check()
        assert "\n" not in str(caught.value)


def a_few(samples: Sequence[Sample]) -> list[Sample]:
    picks = np.linspace(0, len(samples) - 1, min(SAMPLES_READ, len(samples))).round().astype(int)
    return [samples[index] for index in picks]
