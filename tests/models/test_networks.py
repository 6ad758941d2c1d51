"""What every installed network must do, one of a plugin too: a new one needs no line here."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config import ModelConfig
from ssss_zoo.errors import UserError
from ssss_zoo.losses import cross_entropy
from ssss_zoo.models.contract import Network, check_crop
from ssss_zoo.models.dpt import DPT
from ssss_zoo.plugins import installed, load

# Small and random; a network that is not in here is tested with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {"weights": "none", "channels": 16, "low_level_channels": 8},
    "dpt": {"weights": "none", "encoder": "test_vit"},
    "smp": {"weights": "none", "encoder": "mit_b0"},
}
NEEDS = {"smp": "segmentation_models_pytorch"}  # packages that are optional
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name in NEEDS and not find_spec(NEEDS[name]), reason="not installed"))
    for name in sorted(installed("models"))
]
every_network = pytest.mark.parametrize("name", NAMES)


def build(name: str, num_classes: int = 4, **settings: Any) -> Network:
    torch.manual_seed(0)
    config = ModelConfig(name=name, **{**SMALL.get(name, {}), **settings})
    network: Network = load("models", name)(config, num_classes)
    return network


def image(network: Network, batch: int = 1, cells: tuple[int, int] | None = None) -> Tensor:
    """Random images of at least 33 x 47 pixels, or of so many `multiple`s."""
    height, width = cells or (-(-33 // network.multiple), -(-47 // network.multiple))
    size = (height * network.multiple, width * network.multiple)
    return torch.rand(batch, network.mean.shape[1], *size, generator=torch.Generator().manual_seed(1))


@every_network
def test_it_is_a_network_and_names_its_source(name: str) -> None:
    network = build(name)
    assert isinstance(network, Network)
    assert len(network.source) > 10
    assert "\n" not in network.source
    assert network.training
    assert network.multiple >= 1


@every_network
@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 4), None])
def test_logits_come_at_image_size_and_features_at_the_width_that_is_told(name: str, cells: Any) -> None:
    network = build(name).eval()
    picture = image(network, 2, cells)
    with torch.no_grad():
        output = network(picture)
    assert output.logits.shape == (2, 4, *picture.shape[-2:])
    assert output.features.shape[:2] == (2, network.feature_dim)
    assert output.logits.isfinite().all()


@every_network
def test_the_two_halves_are_the_whole(name: str) -> None:
    network = build(name).eval()
    picture = image(network)
    with torch.no_grad():
        whole, halves = network(picture), network.decode(network.encode(picture), tuple(picture.shape[-2:]))
    assert_close(halves.logits, whole.logits, rtol=0, atol=0)
    assert_close(halves.features, whole.features, rtol=0, atol=0)


@every_network
def test_decode_takes_changed_maps_and_does_not_change_them(name: str) -> None:
    network = build(name).eval()
    picture = image(network)
    size = (picture.shape[-2], picture.shape[-1])
    with torch.no_grad():
        maps = network.encode(picture)
        kept = [level.clone() for level in maps]
        logits = network.decode(maps, size).logits
        silent = network.decode([torch.zeros_like(level) for level in maps], size).logits
    for level, before in zip(maps, kept, strict=True):
        assert level.shape[0] == 1
        assert level.dim() == 4
        assert_close(level, before, rtol=0, atol=0)
    assert not torch.allclose(silent, logits)


@every_network
def test_gradients_reach_every_parameter_that_is_trained(name: str) -> None:
    network = build(name)
    picture = image(network, 2)
    maps = network.encode(picture)
    output = network.decode(maps, (picture.shape[-2], picture.shape[-1]))
    cross_entropy(output.logits, torch.randint(0, 4, (2, *picture.shape[-2:]))).backward()
    groups = network.parameter_groups()
    for parameters in groups.values():
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        assert trained
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
        assert any(p.grad.count_nonzero() for p in trained if p.grad is not None)


@every_network
def test_parameter_groups_are_disjoint_and_complete(name: str) -> None:
    network = build(name)
    groups = network.parameter_groups()
    assert groups.keys() == {"encoder", "head"}
    both = [id(parameter) for parameters in groups.values() for parameter in parameters]
    assert len(both) == len(set(both))
    assert set(both) == {id(parameter) for parameter in network.parameters()}
    assert {id(p) for p in groups["encoder"]} == {id(p) for p in network.encoder.parameters()}


@every_network
@pytest.mark.parametrize("channels", [1, 5])
def test_other_images_than_rgb_and_two_classes(name: str, channels: int) -> None:
    network = build(name, 2, in_channels=channels).eval()
    picture = image(network)
    assert picture.shape[1] == channels
    with torch.no_grad():
        output = network(picture)
        brighter = network(torch.cat([picture[:, :-1], 1 - picture[:, -1:]], dim=1))
    assert output.logits.shape == (1, 2, *picture.shape[-2:])
    assert not torch.allclose(output.logits, brighter.logits)  # the last channel is read


@every_network
def test_a_wrong_number_of_channels_is_one_line(name: str) -> None:
    network = build(name, in_channels=5)
    with pytest.raises(UserError, match=r"the images have 1 channels, the network 5: set model\.in_channels"):
        network(image(network)[:, :1])


@every_network
def test_it_trains_on_two_and_evaluates_one_at_a_time(name: str) -> None:
    network = build(name)
    pair = image(network, 2)
    with torch.no_grad():
        assert network(pair).logits.isfinite().all()
        network.eval()
        together = network(pair).logits
        alone = torch.cat([network(pair[:1]).logits, network(pair[1:]).logits])
    assert_close(alone, together, rtol=1e-3, atol=1e-4)


@every_network
def test_a_state_dict_carries_all_of_it(name: str) -> None:
    first, second = build(name).eval(), build(name)
    for parameter in second.parameters():
        parameter.data.add_(0.1)
    second.mean.add_(0.1)
    picture = image(first)
    with torch.no_grad():
        assert not torch.allclose(second.eval()(picture).logits, first(picture).logits)
        second.load_state_dict(first.state_dict(), strict=True)
        assert_close(second(picture).logits, first(picture).logits, rtol=0, atol=0)


@every_network
def test_a_copy_is_the_same_and_another(name: str) -> None:
    network = build(name).eval()
    twin = copy.deepcopy(network)
    picture = image(network)
    with torch.no_grad():
        before = network(picture).logits
        assert_close(twin(picture).logits, before, rtol=0, atol=0)
        for parameter in twin.parameters():
            parameter.add_(0.1)
        assert_close(network(picture).logits, before, rtol=0, atol=0)
        assert not torch.allclose(twin(picture).logits, before)


@every_network
def test_double_precision_all_the_way(name: str) -> None:
    network = build(name).eval()
    picture = image(network)
    with torch.no_grad():
        single = network(picture).logits
        output = network.double()(picture.double())
    assert output.logits.dtype == output.features.dtype == torch.float64
    assert_close(output.logits.float(), single, rtol=1e-3, atol=1e-3)


@every_network
def test_a_training_crop_of_right_sides_passes(name: str) -> None:
    network = build(name)
    check_crop(network, (3 * network.multiple, 4 * network.multiple), name)


def test_a_training_crop_that_does_not_fit_names_the_nearest() -> None:
    with torch.device("meta"):
        network = DPT(ModelConfig(name="dpt", encoder="vit_small_patch14_dinov2", weights="none"), 2)
    with pytest.raises(UserError) as caught:
        check_crop(network, (321, 321), "dpt")
    expected = "train.crop=321x321 does not fit model=dpt: both sides must be multiples of 14; nearest: 322x322"
    assert str(caught.value) == expected
    with pytest.raises(UserError, match="nearest: 14x28"):
        check_crop(network, (3, 28), "dpt")
