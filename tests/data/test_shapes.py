"""The embedded data set: the same scenes everywhere, honest lists, a long tail, objects behind one another."""

import hashlib
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from ssss_zoo.data.benchmarks.shapes import FEWEST_LABELLED, SHAPES_SPLITS, Shapes
from ssss_zoo.data.benchmarks.shapes_scene import HEIGHT, SCENES_PER_PART, SHAPES_CLASSES, WIDTH, draw_scene
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

DIGEST = "99dd8a240a8bd527"  # of PINNED; when it changes on purpose, raise SHAPES_VERSION
PINNED = (("train", 0), ("train", 123), ("val", 0), ("val", 63))
HEAD, RARE = ("ground", "wall", "sky"), ("lamp", "sign", "ball")


def shapes(split: str = "1/16") -> Shapes:
    return Shapes(SimpleNamespace(split=split, root=None))  # type: ignore[arg-type]


def names(samples: Iterable[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def present(dataset: Shapes, samples: Iterable[Sample]) -> set[int]:
    return {int(number) for sample in samples for number in np.unique(dataset.read_mask(sample))}


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    """All training masks, (N, H, W)."""
    dataset = shapes("all")
    return np.stack([dataset.read_mask(sample) for sample in dataset.labelled])


def test_images_are_rgb_bytes_and_masks_hold_declared_ids(masks):
    dataset = shapes()
    for sample in (dataset.labelled[0], dataset.unlabelled[0], dataset.val[0]):
        image, mask = dataset.read_image(sample), dataset.read_mask(sample)
        assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert image.std() > 10  # something to see
    assert set(np.unique(masks)) == set(range(len(SHAPES_CLASSES)))
    assert len(dataset.class_names) == len(dataset.colours) == len(set(dataset.colours)) == len(SHAPES_CLASSES)


def test_pinned_scenes_have_not_changed():
    digest = hashlib.sha256()
    for part, number in PINNED:
        scene = draw_scene(part, number)
        digest.update(scene.image.tobytes() + scene.mask.tobytes())
    assert digest.hexdigest()[:16] == DIGEST


def test_a_scene_is_drawn_alike_twice_and_may_be_scribbled_on():
    sample = shapes().val[0]
    first = shapes().read_image(sample)
    kept = first.copy()
    first[:] = 0
    assert (shapes().read_image(sample) == kept).all()
    assert (draw_scene.__wrapped__(*sample.image).image == kept).all()


def test_two_instances_hold_the_same_lists():
    assert shapes().fingerprint == shapes().fingerprint != shapes("1/8").fingerprint


def test_splits_are_nested_and_leave_the_rest_unlabelled():
    smaller: list[str] = []
    for split, count in sorted(SHAPES_SPLITS.items(), key=lambda item: item[1]):
        dataset = shapes(split)
        labelled, unlabelled = names(dataset.labelled), names(dataset.unlabelled)
        assert len(labelled) == count
        assert labelled[: len(smaller)] == smaller
        assert not set(labelled) & set(unlabelled)
        assert len(set(labelled + unlabelled)) == SCENES_PER_PART["train"]
        smaller = labelled


def test_every_labelled_list_and_the_validation_show_every_class():
    dataset = shapes(str(FEWEST_LABELLED))
    assert present(dataset, dataset.labelled) == present(dataset, dataset.val) == set(range(len(SHAPES_CLASSES)))


def test_validation_scenes_are_not_training_scenes():
    dataset = shapes("all")
    train = {dataset.read_image(sample).tobytes() for sample in dataset.labelled}
    assert len(train) == SCENES_PER_PART["train"]
    assert not train & {dataset.read_image(sample).tobytes() for sample in dataset.val}
    assert not set(names(dataset.labelled)) & set(names(dataset.val))


def test_a_few_classes_fill_the_scenes_and_a_few_are_rare(masks):
    pixels = {name: float((masks == number).mean()) for number, name in enumerate(SHAPES_CLASSES)}
    images = {name: float((masks == number).any(axis=(1, 2)).mean()) for number, name in enumerate(SHAPES_CLASSES)}
    assert sum(pixels[name] for name in HEAD) > 0.6
    assert all(0.002 < pixels[name] < 0.015 for name in RARE)
    assert all(0.2 < images[name] < 0.7 for name in RARE)


def test_objects_hide_parts_of_one_another():
    hidden = [draw_scene("train", number).hidden for number in range(40)]
    assert np.mean(np.array(hidden) > 0) > 0.5


def test_a_number_counts_labelled_scenes():
    dataset = shapes("25")
    assert len(dataset.labelled) == 25
    assert names(dataset.labelled)[:20] == names(shapes("1/16").labelled)


def test_an_unknown_split_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown split '1/61' in data.split=1/61; did you mean '1/16'\?  known: 1/16"):
        shapes("1/61")


@pytest.mark.parametrize("count", ["3", "321"])
def test_too_few_or_too_many_labelled_scenes_are_refused(count):
    with pytest.raises(UserError, match=f"data.split must be between 10 and 320; got {count}"):
        shapes(count)
