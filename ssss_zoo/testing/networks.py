"""The tests that every network must pass. Inherit `NetworkContract` and name the network; pytest runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.engine.registry import load
from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import Network, check_crop
from ssss_zoo.toolkit.losses import cross_entropy

BuildNetwork = Callable[..., Network]


def random_images(network: Network, batch: int = 1, cells: tuple[int, int] | None = None) -> Tensor:
    """(batch, channels, H, W) random numbers in [0, 1), the same each time.

    cells: height and width in units of the network's `multiple`; by default as many as cover 33 x 47 pixels.
    """
    height, width = cells or (-(-33 // network.multiple), -(-47 // network.multiple))
    size = (height * network.multiple, width * network.multiple)
    return torch.rand(batch, network.mean.shape[1], *size, generator=torch.Generator().manual_seed(1))


class NetworkContract:
    """Tests of one network.

    model: the name of an installed network. settings: keys of `model` that make it small and need no download.
    """

    model: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, Any]] = {"weights": "none"}

    @pytest.fixture
    def build(self) -> BuildNetwork:
        """(number of classes, further settings) -> the network, with the same random weights each time."""
        return lambda num_classes=4, **more: build_network(self.model, num_classes, **{**self.settings, **more})

    def test_it_is_a_network_and_names_its_source(self, build: BuildNetwork) -> None:
        network = build()
        assert isinstance(network, Network), "inherit from ssss_zoo.models.contract.Network"
        one_line = len(network.source) > 10 and "\n" not in network.source
        assert one_line, "say where the network comes from in `source`, one line: `ssss list` shows it"
        assert network.training
        assert network.multiple >= 1

    @pytest.mark.parametrize("cells", [(1, 1), (2, 3), (5, 4), None])
    def test_logits_have_the_size_of_the_image_and_features_the_declared_width(
        self, build: BuildNetwork, cells: Any
    ) -> None:
        network = build().eval()
        picture = random_images(network, 2, cells)
        with torch.no_grad():
            output = network(picture)
        assert output.logits.shape == (2, 4, *picture.shape[-2:]), "logits come at the size of the images"
        assert output.features.shape[:2] == (2, network.feature_dim), "features have feature_dim channels"
        assert output.logits.isfinite().all()

    def test_the_two_halves_are_the_whole(self, build: BuildNetwork) -> None:
        network = build().eval()
        picture = random_images(network)
        with torch.no_grad():
            whole, halves = (
                network(picture),
                network.decode(network.encode(picture), (picture.shape[-2], picture.shape[-1])),
            )
        assert_close(halves.logits, whole.logits, rtol=0, atol=0)
        assert_close(halves.features, whole.features, rtol=0, atol=0)

    def test_decode_takes_changed_maps_and_does_not_change_them(self, build: BuildNetwork) -> None:
        """Methods perturb the encoder's maps on their way to the decoder, and decode them more than once."""
        network = build().eval()
        picture = random_images(network)
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
        assert not torch.allclose(silent, logits), "decode reads none of its maps: methods change them on the way"

    def test_gradients_reach_every_parameter_that_is_trained(self, build: BuildNetwork) -> None:
        network = build()
        picture = random_images(network, 2)
        maps = network.encode(picture)
        output = network.decode(maps, (picture.shape[-2], picture.shape[-1]))
        cross_entropy(output.logits, torch.randint(0, 4, (2, *picture.shape[-2:]))).backward()
        groups = network.parameter_groups()
        for parameters in groups.values():
            trained = [parameter for parameter in parameters if parameter.requires_grad]
            assert trained, "a group without a trained parameter"
            assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
            assert any(p.grad.count_nonzero() for p in trained if p.grad is not None)

    def test_parameter_groups_are_disjoint_and_complete(self, build: BuildNetwork) -> None:
        network = build()
        groups = network.parameter_groups()
        assert groups.keys() == {"encoder", "head"}, "parameter_groups has the keys encoder and head"
        both = [id(parameter) for parameters in groups.values() for parameter in parameters]
        assert len(both) == len(set(both))
        assert set(both) == {id(parameter) for parameter in network.parameters()}, "each parameter is in one group"
        assert {id(p) for p in groups["encoder"]} == {id(p) for p in network.encoder.parameters()}

    @pytest.mark.parametrize("channels", [1, 5])
    def test_other_images_than_rgb_and_two_classes(self, build: BuildNetwork, channels: int) -> None:
        network = build(2, in_channels=channels).eval()
        picture = random_images(network)
        assert picture.shape[1] == channels
        with torch.no_grad():
            output = network(picture)
            brighter = network(torch.cat([picture[:, :-1], 1 - picture[:, -1:]], dim=1))
        assert output.logits.shape == (1, 2, *picture.shape[-2:])
        assert not torch.allclose(output.logits, brighter.logits)  # the last channel is read

    def test_a_wrong_number_of_channels_is_one_line(self, build: BuildNetwork) -> None:
        network = build(in_channels=5)
        with pytest.raises(UserError, match=r"the images have 1 channels, the network 5: set model\.in_channels"):
            network(random_images(network)[:, :1])

    def test_it_trains_on_two_and_evaluates_one_at_a_time(self, build: BuildNetwork) -> None:
        network = build()
        pair = random_images(network, 2)
        with torch.no_grad():
            assert network(pair).logits.isfinite().all()
            network.eval()
            together = network(pair).logits
            alone = torch.cat([network(pair[:1]).logits, network(pair[1:]).logits])
        assert_close(alone, together, rtol=1e-3, atol=1e-4)

    def test_a_state_dict_carries_all_of_it(self, build: BuildNetwork) -> None:
        first, second = build().eval(), build()
        for parameter in second.parameters():
            parameter.data.add_(0.1)
        second.mean.add_(0.1)
        picture = random_images(first)
        with torch.no_grad():
            assert not torch.allclose(second.eval()(picture).logits, first(picture).logits)
            second.load_state_dict(first.state_dict(), strict=True)
            assert_close(second(picture).logits, first(picture).logits, rtol=0, atol=0)

    def test_a_copy_is_the_same_and_another(self, build: BuildNetwork) -> None:
        network = build().eval()
        twin = copy.deepcopy(network)
        picture = random_images(network)
        with torch.no_grad():
            before = network(picture).logits
            assert_close(twin(picture).logits, before, rtol=0, atol=0)
            for parameter in twin.parameters():
                parameter.add_(0.1)
            assert_close(network(picture).logits, before, rtol=0, atol=0)
            assert not torch.allclose(twin(picture).logits, before)

    def test_double_precision_all_the_way(self, build: BuildNetwork) -> None:
        network = build().eval()
        picture = random_images(network)
        with torch.no_grad():
            single = network(picture).logits
            output = network.double()(picture.double())
        assert output.logits.dtype == output.features.dtype == torch.float64
        assert_close(output.logits.float(), single, rtol=1e-3, atol=1e-3)

    def test_a_training_crop_of_right_sides_passes(self, build: BuildNetwork) -> None:
        network = build()
        check_crop(network, (3 * network.multiple, 4 * network.multiple), "this one")


def build_network(name: str, num_classes: int, **settings: Any) -> Network:
    torch.manual_seed(0)
    network: Network = load("models", name)(ModelConfig(name=name, **settings), num_classes)
    return network
