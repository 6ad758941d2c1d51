"""`data.cache=ram`: the same arrays and the same run, read once, and said in time where they do not fit."""

from collections import Counter

import numpy as np
import pytest

from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.loading import cache as memory
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.data.loading.crops import CropDataset, make_stream
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import TinyData
from ssss_zoo.toolkit.types import Sample


class Counted(TinyData):
    """Notes what is read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = Counter()

    def read_image(self, sample):
        self.read[sample.name, "image"] += 1
        return super().read_image(sample)

    def read_mask(self, sample):
        self.read[sample.name, "mask"] += 1
        return super().read_mask(sample)


@pytest.fixture
def counted():
    return Counted(DataConfig())


def test_everything_is_read_once_and_comes_as_it_was(counted):
    kept = InMemoryDataset(counted, [*counted.labelled, *counted.val], counted.labelled)
    for _ in range(3):
        for sample in counted.labelled:
            np.testing.assert_array_equal(kept.read_image(sample), TinyData.read_image(counted, sample))
            np.testing.assert_array_equal(kept.read_mask(sample), TinyData.read_mask(counted, sample))
    assert set(counted.read.values()) == {1}
    assert len(counted.read) == 2 * len(counted.labelled) + len(counted.val)
    assert (kept.class_names, kept.fingerprint, kept.val) == (counted.class_names, counted.fingerprint, counted.val)
    assert kept.bytes == sum(array.nbytes for array in kept.arrays.values()) > 0


def test_what_is_not_kept_is_read(counted):
    kept = InMemoryDataset(counted, counted.labelled, ())
    kept.read_image(Sample("val2000", 2000))
    assert counted.read["val2000", "image"] == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_from_memory_are_those_from_files(counted, workers):
    kept = InMemoryDataset(counted, counted.labelled, counted.labelled)
    batches = []
    for dataset in (counted, kept):
        crops = CropDataset(dataset, counted.labelled, (8, 8), (0.5, 2.0), 0, "labelled", masks=True)
        stream = make_stream(crops, 2, 0, workers, pin=False)
        batches.append([next(stream) for _ in range(4)])
    for one, other in zip(*batches, strict=True):
        assert all(one[key].equal(other[key]) for key in one)


def test_too_much_is_refused_before_it_is_read(counted, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    monkeypatch.setattr(memory, "SAMPLES_MEASURED", 2)
    with pytest.raises(UserError, match=r"data\.cache=ram would take about .* 1 KB are free"):
        InMemoryDataset(counted, counted.labelled, counted.labelled)
    assert len(counted.read) <= 3


def test_a_run_from_memory_is_the_same_run(tiny_run):
    losses = []
    for word in ("none", "ram"):
        rig = tiny_run("method=unimatch", f"data.cache={word}")
        losses.append(rig.steps(2))
        assert isinstance(rig.run.dataset, InMemoryDataset) == (word == "ram")
    assert losses[0] == losses[1]
