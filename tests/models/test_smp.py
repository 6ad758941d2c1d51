"""The adapter of segmentation_models_pytorch: any size, its maps untouched, and one line for all that can go wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.errors import UserError
from ssss_zoo.models import smp as adapter
from ssss_zoo.models.smp import SMP


@pytest.fixture
def package() -> Any:
    return pytest.importorskip("segmentation_models_pytorch")


def small(architecture: str = "Unet", encoder: str = "resnet18", **settings: Any) -> SMP:
    torch.manual_seed(0)
    words = {"weights": "none", **settings}
    return SMP(ModelConfig(name="smp", architecture=architecture, encoder=encoder, **words), 5)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("architecture", "encoder"), [("Segformer", "mit_b0"), ("Unet", "resnet18"), ("FPN", "tu-test_efficientnet")]
)
@pytest.mark.parametrize("size", [(33, 47), (64, 64), (5, 7)])
def test_any_size_gives_logits_of_that_size(architecture: str, encoder: str, size: tuple[int, int]) -> None:
    network = small(architecture, encoder).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, *size))
    assert output.logits.shape == (2, 5, *size)
    assert output.features.shape[:2] == (2, network.feature_dim)
    assert network.multiple == 1


@pytest.mark.parametrize(("architecture", "encoder"), [("Segformer", "mit_b0"), ("Unet", "resnet18")])
def test_a_size_that_needs_no_padding_is_smps_own_answer(package: Any, architecture: str, encoder: str) -> None:
    network = small(architecture, encoder).eval()
    own = getattr(package, architecture)(encoder, encoder_weights=None, classes=5).eval()
    own.encoder.load_state_dict(network.encoder.state_dict())
    own.decoder.load_state_dict(network.decoder.state_dict())
    own.segmentation_head.load_state_dict(network.head.state_dict())
    picture = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert_close(network(picture).logits, own(network.normalise(picture)))


@pytest.mark.usefixtures("package")
def test_padding_repeats_the_edge_and_is_cut_away() -> None:
    network = small().eval()
    picture = torch.rand(1, 3, 33, 47)
    padded = torch.nn.functional.pad(picture, (0, 17, 0, 31), mode="replicate")
    with torch.no_grad():
        assert_close(network(picture).logits, network(padded).logits[..., :33, :47])


@pytest.mark.usefixtures("package")
def test_an_older_decoder_takes_its_maps_one_by_one() -> None:
    class Older(torch.nn.Module):
        def __init__(self, decoder: Any) -> None:
            super().__init__()
            self.inner = decoder

        def forward(self, *features: Tensor) -> Tensor:
            found: Tensor = self.inner(list(features))
            return found

    network, picture = small().eval(), torch.rand(1, 3, 32, 32)
    before = network(picture).logits
    network.decoder, network.takes_list = Older(network.decoder), False
    assert_close(network(picture).logits, before)


@pytest.mark.usefixtures("package")
def test_a_network_is_built_in_train_mode_and_probing_leaves_no_statistics() -> None:
    network = small()
    assert network.training
    counts = [value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")]
    assert counts
    assert not any(counts)


@pytest.mark.usefixtures("package")
def test_the_output_stride_is_passed_where_the_architecture_has_one() -> None:
    deepest = [small("DeepLabV3Plus", output_stride=stride).eval().encode(torch.rand(1, 3, 64, 64))[-1]
               for stride in (8, 16)]  # fmt: skip
    assert [level.shape[-1] for level in deepest] == [8, 4]


# ---- weights


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
@pytest.mark.parametrize("channels", [pytest.param(3, marks=pytest.mark.long), 5])
def test_weights_come_back_from_a_file(tmp_path: Path, encoder: str, channels: int) -> None:
    state = small(encoder=encoder).encoder.state_dict()
    torch.save(state, tmp_path / "encoder.pth")
    other = small(encoder=encoder, weights=str(tmp_path / "encoder.pth"), in_channels=channels).encoder.state_dict()
    first = {"resnet18": "conv1.weight", "mit_b0": "patch_embed1.proj.weight"}[encoder]
    assert other.keys() == state.keys()
    for key, value in other.items():
        expected = state[key][:, [0, 1, 2, 0, 1]] * 3 / 5 if key == first and channels == 5 else state[key]
        assert_close(value, expected, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("encoder", ["mit_b0", "tu-resnet18"])
def test_no_network_is_one_line_and_never_random(monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    with pytest.raises(UserError) as caught:
        small("Unet", encoder, weights="imagenet")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no pretrained weights for model.encoder={encoder}: HF_HUB_OFFLINE is set")
    assert "lite0" not in message


def test_downloaded_weights_bring_their_mean_and_std(package: Any, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"mean": [51, 102, 153], "std": [255] * 3, "input_range": [0, 255]})
    )
    monkeypatch.setattr(adapter, "in_cache", lambda repository, file, revision: str(tmp_path / file))
    settings = ModelConfig(name="smp", encoder="mit_b0")
    assert adapter.statistics(package, settings) == ([0.2, 0.4, 0.6], [1.0, 1.0, 1.0])
    settings = replace(settings, weights="none")
    assert adapter.statistics(package, settings)[0] == [0.485, 0.456, 0.406]
    settings = replace(settings, encoder="tu-test_resnet")
    assert adapter.statistics(package, settings)[0] == [0.5, 0.5, 0.5]


def test_a_broken_download_is_told(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full\nand more")

    monkeypatch.setattr(adapter, "check_hub", lambda settings: None)
    monkeypatch.setattr(package.encoders, "hf_hub_download", broken)
    with pytest.raises(UserError, match=r"encoder=resnet18: disk full; use"):
        small(weights="imagenet")


# ---- what can go wrong


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'ssss-zoo\[smp\]'$"):
        small()


@pytest.mark.usefixtures("package")
def test_misspelt_names_come_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.architecture must be one of Unet, .*; did you mean 'Segformer'"):
        small("Segfromer")
    with pytest.raises(
        UserError, match=r"unknown encoder 'resnet5O' in model\.encoder=resnet5O; did you mean 'resnet50'"
    ):
        small(encoder="resnet5O")
    with pytest.raises(UserError, match=r"must be one of .*got 'DPT'"):
        small("DPT")


@pytest.mark.usefixtures("package")
def test_parts_that_do_not_go_together_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^model\.architecture=UnetPlusPlus with model\.encoder=mit_b0 cannot be built: "
    ):
        small("UnetPlusPlus", "mit_b0")
