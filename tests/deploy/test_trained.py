"""A trained model that is loaded from a run's folder, and what it predicts."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from helpers.images import save_image
from ssss_zoo import load
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.class_colours import class_colours
from ssss_zoo.data.images import Reading
from ssss_zoo.deploy.trained import reading_of
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.testing.tiny import TinyData
from ssss_zoo.train import checkpoint
from ssss_zoo.train.checkpoint import save_folder
from ssss_zoo.train.reevaluate import load_network, run_config


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_a_model_predicts_what_the_evaluator_scores(trained, mode):
    folder = trained("run", f"evaluate.mode={mode}")
    config = run_config(folder, [])
    dataset = TinyData(config.data)
    image = dataset.read_image(dataset.val[0])
    network = load_network(config, len(dataset.class_names), folder / "best", "student")
    evaluator = Evaluator(dataset, config.evaluate, tuple(config.train.crop[:1] * 2), torch.device("cpu"))
    pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
    expected = evaluator.probabilities(network, pixels)[0]

    model = load(folder, network="student")
    prediction = model.predict(image)
    np.testing.assert_array_equal(prediction.probabilities, expected.numpy())
    np.testing.assert_array_equal(prediction.classes, expected.argmax(dim=0).numpy())
    np.testing.assert_array_equal(prediction.confidence, expected.max(dim=0).values.numpy())
    assert model.class_names == dataset.class_names
    assert model.source.startswith(f"best student of {folder}, step ")


def test_a_file_a_pillow_image_and_an_array_are_one_image(trained, tmp_path):
    model = load(trained("run"))
    pixels = TinyData(DataConfig()).read_image(TinyData(DataConfig()).val[0])
    expected = model.predict(pixels).probabilities
    path = save_image(tmp_path / "image.png", pixels)
    for image in (path, str(path), Image.open(path), Image.open(path).convert("RGBA")):
        np.testing.assert_array_equal(model.predict(image).probabilities, expected)
    grey = Image.open(path).convert("L")
    np.testing.assert_array_equal(model.predict(grey).classes, model.predict(np.asarray(grey)).classes)


def test_the_image_of_a_prediction_has_the_colours_of_the_data_set(trained):
    model = load(trained("run"))
    prediction = model.predict(np.zeros((8, 12, 3), np.uint8))
    shown = prediction.to_image()
    assert model.colours == TinyData(DataConfig()).colours
    assert shown.mode == "P"
    np.testing.assert_array_equal(np.asarray(shown), prediction.classes)
    np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.array(model.colours)[prediction.classes])


def test_a_checkpoint_of_an_earlier_version_gets_generated_colours(trained):
    folder = trained("run")
    weights = {"student": load(folder, "last", "student").network.state_dict()}
    state = checkpoint.load_state(folder / "last")
    save_folder(folder / "last", weights, {key: value for key, value in state.items() if key != "colours"})
    assert load(folder, "last", "student").colours == class_colours(5)


def test_a_run_that_has_not_finished_predicts_and_says_so(trained, monkeypatch):
    folder = trained("run", "method=supervised")
    lines: list[str] = []
    monkeypatch.setattr(logging.getLogger("ssss_zoo"), "warning", lines.append)
    load(folder)
    assert lines == []
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"status": "running"}))
    step = load(folder).source.rpartition(" ")[2]
    assert lines == [f"the run in {folder} has not finished; its best checkpoint so far is of step {step}"]


def test_what_a_checkpoint_says_of_reading_comes_before_the_settings(tiny_config):
    config = tiny_config("data.max_pixels=7")
    stored = {"channels": 2, "low": [0.0], "high": [9.0], "mixed": False, "gaps": True, "added_later": 1}
    assert reading_of({"reading": stored}, config) == Reading(channels=2, low=(0.0,), high=(9.0,), gaps=True)
    assert reading_of({}, config) == Reading(max_pixels=7)


def test_an_image_that_does_not_fit_the_run_is_refused(trained):
    model = load(trained("run"))
    cases = {
        "the image has the shape (4, 4, 4); expected (height, width, 3)": np.zeros((4, 4, 4), np.uint8),
        "the image has the shape (4,); expected (height, width, 3)": np.zeros(4, np.uint8),
        "the image is of type uint16; expected uint8, 0 to 255, as in the run": np.zeros((4, 4, 3), np.uint16),
    }
    for message, image in cases.items():
        with pytest.raises(UserError) as caught:
            model.predict(image)
        assert str(caught.value) == message


def test_a_checkpoint_or_network_that_a_run_lacks_is_named(trained, tmp_path):
    folder = trained("run", "method=supervised")
    cases = {
        "weights must be one of last, best; got 'bets'; did you mean 'best'?": (folder, "bets", None),
        "network must be one of student; got 'teacher'": (folder, None, "teacher"),
        f"run={tmp_path} holds no run (no config.yaml); give the folder that `ssss run` wrote": (tmp_path, None, None),
    }
    for message, arguments in cases.items():
        with pytest.raises(UserError) as caught:
            load(*arguments)
        assert str(caught.value) == message


def test_an_image_of_another_depth_than_the_training_images_is_refused(trained, tmp_path):
    model = load(trained("run"))
    deep = np.full((20, 24, 3), 40_000, np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", deep)
    grey = Image.fromarray(deep[..., 0])
    grey.save(tmp_path / "deep.png")
    for file in ("deep.tif", "deep.png"):
        with pytest.raises(UserError, match=f"{file} is a 16-bit image; the run was trained on .* 8 bits"):
            model.predict(tmp_path / file)
    with pytest.raises(UserError, match="is of type uint16; expected uint8"):
        model.predict(grey)
    on_deep_images = replace(model, reading=Reading(low=(0.0,), high=(65535.0,)))
    assert on_deep_images.predict(deep).classes.shape == (20, 24)
    save_image(tmp_path / "eight.png", (deep >> 8).astype(np.uint8))
    with pytest.raises(UserError, match=r"eight\.png has 8 bits a channel; .* deeper images, with values to 65535"):
        on_deep_images.predict(tmp_path / "eight.png")
