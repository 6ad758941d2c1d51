"""Pseudo-labels of whole images: predicted at several scales and mirrored, written once, found again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.testing import assert_close

from ssss_zoo.toolkit import cached_json, relabel
from ssss_zoo.train.setup import make_info


@pytest.fixture
def made(tiny_run):
    return tiny_run("method=stpp")


def resized(maps, size):
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def test_a_prediction_is_the_mean_over_scales_and_mirrors_at_the_images_size(made):
    info, network, sample = made.run.info, made.student, made.run.info.unlabelled[0]
    image = torch.from_numpy(info.read(sample)).permute(2, 0, 1)[None].float() / 255
    size, still = image.shape[-2:], copy.deepcopy(network).eval()
    probs = []
    for scale in (0.5, 1):
        small = resized(image, [int(side * scale) for side in size])
        for turn in (lambda maps: maps, lambda maps: maps.flip(-1)):
            with torch.no_grad():
                probs.append(resized(turn(still(turn(small)).logits.softmax(dim=1)), size))
    mean = torch.stack(probs).mean(dim=0)
    label = info.predict(sample, network, scales=[0.5, 1], flip=True)
    assert torch.equal(label.target, mean.argmax(dim=1))
    assert_close(label.confidence, mean.amax(dim=1))
    assert label.valid.all()
    assert network.training
    assert not torch.equal(label.confidence, info.predict(sample, network, scales=[0.5, 1]).confidence)


def test_a_side_is_never_scaled_to_nothing(made):
    info = made.run.info
    label = info.predict(info.unlabelled[0], made.student, scales=[1e-6])
    assert label.target.shape == (1, *info.read(info.unlabelled[0]).shape[:2])


def test_several_networks_predict_an_image_that_is_read_once(made, monkeypatch):
    reads = []
    read = made.run.dataset.read_image
    monkeypatch.setattr(made.run.dataset, "read_image", lambda sample: reads.append(sample) or read(sample))
    parts = made.run
    info = make_info(parts.config, parts.dataset, parts.students, parts.needs, parts.folder, parts.device)
    for sample in info.unlabelled[:2]:
        for _ in range(3):
            info.predict(sample, made.student)
    assert reads == [*info.unlabelled[:2]]


def test_masks_are_the_predicted_ids_as_8_bit_images(made, tmp_path):
    info, samples = made.run.info, made.run.info.unlabelled[:2]
    labelled = relabel(info, made.student, samples, tmp_path / "made", scales=[0.5, 1], flip=True)
    for before, after in zip(samples, labelled, strict=True):
        wanted = info.predict(before, made.student, scales=[0.5, 1], flip=True)
        mask = np.asarray(Image.open(after.pseudo))
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, wanted.ids[0].numpy())
        assert (after.name, after.image) == (before.name, before.image)


def test_a_folder_of_masks_is_written_once_and_whole_or_not_at_all(made, tmp_path):
    info, folder = made.run.info, tmp_path / "made"

    class Stopped(made.student.__class__):
        def __call__(self, image):
            raise KeyboardInterrupt

    network = copy.deepcopy(made.student)
    network.__class__ = Stopped
    with pytest.raises(KeyboardInterrupt):
        relabel(info, network, info.unlabelled[:1], folder)
    assert not folder.exists()
    first = relabel(info, made.student, info.unlabelled[:1], folder)
    again = relabel(info, network, info.unlabelled[:1], folder)  # asks no network
    assert [sample.pseudo for sample in first] == [sample.pseudo for sample in again] == [folder / "0.png"]


def test_a_json_file_is_made_once(tmp_path):
    file = tmp_path / "new" / "order.json"
    assert cached_json(file, lambda: [2, 0, 1]) == [2, 0, 1]
    assert cached_json(file, lambda: [0]) == [2, 0, 1]
