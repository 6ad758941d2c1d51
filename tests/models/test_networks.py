"""What every installed network must do, by the kit that its author has: a new one needs no line here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import check_crop
from ssss_zoo.models.dpt import DPT
from ssss_zoo.testing import NetworkContract
from ssss_zoo.testing.networks import build_network

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


class TestEveryNetwork(NetworkContract):
    @pytest.fixture(params=NAMES)
    def build(self, request):
        name = request.param
        return lambda num_classes=4, **more: build_network(name, num_classes, **{**SMALL.get(name, {}), **more})


def test_a_training_crop_that_does_not_fit_names_the_nearest() -> None:
    with torch.device("meta"):
        network = DPT(ModelConfig(name="dpt", encoder="vit_small_patch14_dinov2", weights="none"), 2)
    with pytest.raises(UserError) as caught:
        check_crop(network, (321, 321), "dpt")
    expected = "train.crop=321x321 does not fit model=dpt: both sides must be multiples of 14; nearest: 322x322"
    assert str(caught.value) == expected
    with pytest.raises(UserError, match="nearest: 14x28"):
        check_crop(network, (3, 28), "dpt")
