"""A run's network as ONNX, as a program of torch.export and as safetensors: same results, one line where it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.export import Dim

from helpers.images import save_image
from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.schema import DataConfig, ModelConfig
from ssss_zoo.deploy import export
from ssss_zoo.deploy.export import export_run
from ssss_zoo.deploy.exportable import Exportable, SameConvolution
from ssss_zoo.deploy.exported_models import from_pretrained, open_model
from ssss_zoo.deploy.trained import load_model
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import predict_image
from ssss_zoo.testing.tiny import TinyData, TinyNet

ENCODERS = {"dpt": "test_vit", "smp": "resnet18"}


@pytest.mark.long
def test_the_onnx_model_and_its_example_predict_as_the_run(trained, tmp_path, capsys):
    run = trained("run")
    file = tmp_path / "model.onnx"
    assert command_line(["export", f"run={run}", f"output={file}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["max_difference"] < 1e-4
    assert result["class_mismatch"] == 0
    assert len(result["sizes"]) == 3
    assert len(result["batches"]) == 2
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["classes"] == list(TinyData(DataConfig()).class_names)
    assert about["input"]["range"] == [0, 255]

    pixels = TinyData(DataConfig()).read_image(TinyData(DataConfig()).val[0])
    image = save_image(tmp_path / "image.png", pixels)
    command = [sys.executable, "-I", str(tmp_path / "model_example.py"), str(image), str(tmp_path / "mask.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = Image.open(tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(mask), load_model(run).predict(pixels).classes)
    assert mask.getpalette()[:6] == [value for colour in TinyData(DataConfig()).colours[:2] for value in colour]
    assert done.stdout.count("%") == 5

    model = open_model(file)
    probs = load_model(run).predict(pixels).probabilities
    np.testing.assert_allclose(model.predict(pixels).probabilities, probs, atol=1e-5)
    output = tmp_path / "predicted"
    assert command_line(["predict", f"run={file}", f"input={image}", f"output={output}", "save=uncertainty"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(output / "masks/image.png")), np.asarray(mask))
    with pytest.raises(UserError, match="choose within the folder of a run"):
        open_model(file, weights="last")


@pytest.mark.long
def test_the_program_of_torch_gives_class_ids_of_images_in_0_to_1(trained, tmp_path):
    run = trained("run")
    (tmp_path / "model.json").write_text("of model.onnx")  # which may lie there, too
    result = export_run([f"run={run}", f"output={tmp_path / 'model.pt2'}", "argmax=true", "range=1"])
    assert result.files == [tmp_path / "model.pt2", tmp_path / "model.pt2.json"]
    assert (tmp_path / "model.json").read_text() == "of model.onnx"
    assert result.check.max_difference < 1e-4
    assert result.check.class_mismatch == 0
    pixels = TinyData(DataConfig()).read_image(TinyData(DataConfig()).val[1])
    program = torch.export.load(tmp_path / "model.pt2").module()
    classes = program(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] / 255)
    np.testing.assert_array_equal(classes[0].numpy(), load_model(run).predict(pixels).classes)


def test_safetensors_are_read_back_as_the_same_model(trained, tmp_path):
    run = trained("run")
    result = export_run([f"run={run}", f"output={tmp_path / 'model'}", "format=safetensors"])
    assert (result.check.max_difference, result.check.class_mismatch) == (0, 0)
    model, read = load_model(run), from_pretrained(tmp_path / "model")
    pixels = TinyData(DataConfig()).read_image(TinyData(DataConfig()).val[0])
    np.testing.assert_array_equal(read.predict(pixels).probabilities, model.predict(pixels).probabilities)
    assert (read.class_names, read.colours, read.reading) == (model.class_names, model.colours, model.reading)

    half = export_run([f"run={run}", f"output={tmp_path / 'half'}", "format=safetensors", "half=true"])
    assert 0 < half.check.max_difference < 0.1
    (tmp_path / "half" / "config.json").unlink()
    with pytest.raises(UserError, match="holds no whole exported model"):
        from_pretrained(tmp_path / "half")


def test_a_model_that_differs_or_cannot_be_made_leaves_nothing_behind(trained, tmp_path, monkeypatch):
    run = trained("run")
    folder = tmp_path / "models"
    given = [f"run={run}", f"output={folder / 'model'}", "format=safetensors"]
    with pytest.raises(UserError, match=r"differs from the network: logits by up to .* \(bound 0\)"):
        export_run([*given, "half=true", "max_difference=0"])
    assert list(folder.iterdir()) == []

    with monkeypatch.context() as patch:
        patch.setattr(TinyNet, "encode", lambda self, image: [image] if image.mean() > 0 else [])
        with pytest.raises(UserError, match=r"the network TinyNet of .* cannot be exported as torch: "):
            export_run([f"run={run}", f"output={folder / 'model'}", "format=torch"])
    assert list(folder.iterdir()) == []

    def only_small(config, model, file):
        def refuse(images):
            raise ValueError("only 8x8")

        return refuse

    monkeypatch.setitem(export.FORMAT_WRITERS, "safetensors", only_small)
    with pytest.raises(UserError, match=r"model fails on a batch of 1 of \d+x\d+, .* nothing was written: only 8x8"):
        export_run(given)
    assert list(folder.iterdir()) == []


def test_a_signal_leaves_nothing_behind(trained, tmp_path, monkeypatch, capsys):
    """As a scheduler ends a job."""
    run = trained("run")
    monkeypatch.setattr(export, "check_export", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
    given = [f"run={run}", f"output={tmp_path / 'models/model'}", "format=safetensors"]
    assert command_line(["export", *given]) == 130
    assert capsys.readouterr().err.endswith("ssss: stopped by SIGTERM\n")
    assert list((tmp_path / "models").iterdir()) == []


def test_wrong_arguments_are_refused_in_one_line(trained, tmp_path, monkeypatch):
    run = trained("run")
    (tmp_path / "there.onnx").write_text("another's")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("another's")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    wrong = {
        "holds no run": [f"run={tmp_path}", f"output={tmp_path / 'a.pt2'}", "format=torch"],
        "must be one of onnx, torch, safetensors; got 'troch'; did you mean 'torch'": [
            f"run={run}",
            f"output={tmp_path / 'a'}",
            "format=troch",
        ],
        r"ends in \.onnx, which is not the file of format=torch": [
            f"run={run}",
            f"output={tmp_path / 'a.onnx'}",
            "format=torch",
        ],
        r"is a folder; give the file to write, such as output=.*mine.model\.pt2": [
            f"run={run}",
            f"output={tmp_path / 'mine'}",
            "format=torch",
        ],
        "give the run and the file": [f"run={run}"],
        r"pip install 'ssss-zoo\[onnx\]'": [f"run={run}", f"output={tmp_path / 'there.onnx'}"],
        "exists already": [f"run={run}", f"output={tmp_path / 'mine'}", "format=safetensors"],
        "holds no exported model": [
            f"run={run}",
            f"output={tmp_path / 'mine'}",
            "format=safetensors",
            "overwrite=true",
        ],
        "no image is there": [f"run={run}", f"output={tmp_path / 'a'}", "format=torch", f"images={tmp_path / 'none'}"],
        "argmax=true is for": [f"run={run}", f"output={tmp_path / 'a'}", "format=safetensors", "argmax=true"],
    }
    for message, overrides in wrong.items():
        with pytest.raises(UserError, match=message):
            export_run(overrides)
    monkeypatch.undo()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "there.onnx").read_text() == "another's"


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_sides_that_the_network_does_not_take_are_fitted_as_in_evaluation(fit):
    network = TinyNet(ModelConfig(), 5).eval()
    network.multiple = 8
    exportable = Exportable(network, fit=fit)
    for height, width in ((16, 24), (13, 30), (3, 9)):
        image = torch.rand(2, 3, height, width)
        torch.testing.assert_close(exportable(image * 255), predict_image(network, image, fit))


def test_the_default_encoder_has_the_same_results_with_paddings_that_can_be_traced():
    network = load("models", "deeplabv3plus")(ModelConfig(weights="none", channels=8), 4).eval()
    exportable = Exportable(network)
    assert sum(isinstance(module, SameConvolution) for module in exportable.modules()) == 4
    with torch.no_grad():
        for height, width in ((64, 48), (33, 50), (31, 7)):
            image = torch.rand(1, 3, height, width)
            torch.testing.assert_close(exportable(image * 255), network(image).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpt", "smp"])
def test_a_network_that_takes_multiples_is_exported_for_every_size(name):
    network = load("models", name)(ModelConfig(name=name, encoder=ENCODERS[name], weights="none"), 4).eval()
    exportable = Exportable(network).requires_grad_(False)
    dynamic = {"image": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    image = torch.full(export.TRACED_SHAPE, 100.0)[:, None].expand(-1, 3, -1, -1)
    program = torch.export.export(exportable, (image,), dynamic_shapes=dynamic).module()
    for size in ((1, 3, 90, 150), (2, 3, 96, 160), (1, 3, 96, 155), (3, 3, 91, 160), (1, 3, 160, 160)):
        batch = 255 * torch.rand(size)
        torch.testing.assert_close(program(batch), exportable(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_deeplabv3plus_on_the_default_encoder_is_exported(tmp_path):
    words = ["method=supervised", "dataset=shapes", "train.steps=2", "train.crop=64", "train.batch=2",
             "tracking.uri=off", f"output={tmp_path / 'run'}"]  # fmt: skip
    assert command_line(["run", *words]) == 0
    for kind in export.EXPORT_SUFFIXES:
        result = export_run([f"run={tmp_path / 'run'}", f"output={tmp_path / kind}", f"format={kind}"])
        assert result.check.class_mismatch < 1e-4


def test_an_onnx_file_of_another_kind_or_version_is_one_line(tmp_path):
    """Files with the description of another version, of somebody else's model, damaged, and of class ids alone."""
    from onnx import TensorProto, helper, save

    def write(**description: str) -> Path:
        value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
        result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, "height", "width"])
        graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", [value], [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        for key, text in description.items():
            model.metadata_props.add(key=key, value=text)
        save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    good = {"format": "1", "output": "logits", "source": "a run", "classes": '["a", "b", "c"]', "reading": "{}"}
    good |= {"colours": "[[0, 0, 0], [1, 1, 1], [2, 2, 2]]", "input": '{"range": [0, 255]}'}
    assert open_model(write(**good)).class_names == ("a", "b", "c")
    for description, reason in (
        ({}, "was not written by `ssss export`"),
        (good | {"format": "99"}, "has format 99; this version reads format 1"),
        (good | {"classes": "[a"}, "description in .* is damaged"),
        (good | {"input": "{}"}, "description in .* is damaged"),
        (good | {"output": "classes"}, "exported with argmax=true"),
    ):
        with pytest.raises(UserError, match=reason):
            open_model(write(**description))
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        open_model(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="there is no such file"):
        open_model(tmp_path / "none.onnx")
