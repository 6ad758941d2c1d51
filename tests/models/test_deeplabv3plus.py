"""DeepLabV3+: the literature's figures, any image size, and the two halves that methods rely on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.errors import UserError
from ssss_zoo.models.deeplabv3plus import DeepLabV3Plus, resize
from ssss_zoo.toolkit.losses import cross_entropy

SMALL: dict[str, Any] = {"weights": "none", "channels": 16, "low_level_channels": 8}


def small(num_classes: int = 5, **settings: Any) -> DeepLabV3Plus:
    torch.manual_seed(0)
    return DeepLabV3Plus(ModelConfig(**{**SMALL, **settings}), num_classes)


def on_meta(encoder: str, output_stride: int = 16, **settings: Any) -> DeepLabV3Plus:
    """Shapes only, nothing is computed."""
    with torch.device("meta"):
        return DeepLabV3Plus(ModelConfig(encoder=encoder, weights="none", output_stride=output_stride, **settings), 21)


# ---- UniMatch's network, in figures


@pytest.mark.parametrize(
    ("encoder", "parameters"), [("resnet50_deep_stem", 40_475_957), ("resnet101_deep_stem", 59_468_085)]
)
def test_parameters_are_the_40_476_and_59_468_million_of_unimatch(encoder: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(encoder).parameters()) == parameters


def test_the_deep_stem_is_64_64_128_and_only_the_last_stage_is_dilated() -> None:
    encoder: Any = on_meta("resnet50_deep_stem").encoder
    stem = [layer for layer in encoder.conv1 if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride[0]) for c in stem] == [
        (3, 64, (3, 3), 2),
        (64, 64, (3, 3), 1),
        (64, 128, (3, 3), 1),
    ]
    assert (encoder.maxpool.kernel_size, encoder.maxpool.stride, encoder.maxpool.ceil_mode) == (3, 2, False)
    assert [[block.conv2.dilation[0] for block in encoder[f"layer{stage}"]] for stage in (3, 4)] == [[1] * 6, [1, 2, 2]]
    assert encoder.layer3[0].conv1.stride == (1, 1)
    assert encoder.layer3[0].conv2.stride == (2, 2)
    assert isinstance(encoder.layer4[0].downsample[0], nn.Conv2d)  # no average pooling in the shortcut


def test_output_stride_8_dilates_two_stages_as_st_plus_plus_does() -> None:
    net = on_meta("resnet50", output_stride=8)
    encoder: Any = net.encoder
    stages = [[block.conv2.dilation[0] for block in encoder[f"layer{stage}"]] for stage in (3, 4)]
    assert stages == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]
    assert dilations(net) == [1, 12, 24, 36]


@pytest.mark.parametrize(("stride", "expected"), [(16, [[1] * 6, [2, 4, 8]]), (8, [[1, 2, 2, 2, 2, 2], [4, 8, 16]])])
def test_a_multi_grid_has_the_dilations_of_torchsemiseg_and_u2pl(stride: int, expected: list[list[int]]) -> None:
    net = on_meta("resnet101_deep_stem" if stride == 16 else "resnet50_deep_stem", stride, multi_grid=[2, 2, 4])
    encoder: Any = net.encoder
    last = [block.conv2 for block in encoder.layer4]
    assert [conv.dilation[0] for conv in last] == expected[1]
    assert all(conv.dilation == conv.padding for conv in last)
    if stride == 8:
        assert [block.conv2.dilation[0] for block in encoder.layer3] == expected[0]
    assert net.encode(torch.zeros(1, 3, 65, 65, device="meta"))[-1].shape[-1] == -(-65 // stride)


@pytest.mark.parametrize(
    ("encoder", "factors", "words"),
    [
        ("resnet50", [2, 4], "its last stage has 3 blocks; give 3 whole numbers of at least 1"),
        ("resnet50", [2, 0, 4], "its last stage has 3 blocks; give 3 whole numbers of at least 1"),
        ("tf_efficientnet_lite0", [2, 2, 4], "it is not a ResNet; set model.multi_grid=[]"),
    ],
)
def test_a_multi_grid_that_does_not_fit_is_one_line(encoder: str, factors: list[int], words: str) -> None:
    with pytest.raises(UserError, match="does not fit") as caught:
        on_meta(encoder, multi_grid=factors)
    assert str(caught.value) == f"model.multi_grid={factors} does not fit model.encoder={encoder}: {words}"


def test_frozen_norm_is_neither_trained_nor_estimated_and_changes_nothing_else() -> None:
    net, frozen = small(), small(freeze_norm=True)
    image = torch.rand(2, 3, 40, 40)
    before = {name: value.clone() for name, value in frozen.encoder.state_dict().items()}
    assert_close(frozen.train().encode(image), net.eval().encode(image), atol=1e-6, rtol=1e-5)
    assert all(parameter.dim() > 1 for parameter in frozen.parameter_groups()["encoder"])
    torch.stack([level.sum() for level in frozen.encode(image)]).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in frozen.encoder.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in frozen.pyramid.modules())  # the new head's is trained


def test_an_encoder_without_batchnorm_has_none_to_freeze() -> None:
    with pytest.raises(
        UserError, match=r"model.freeze_norm=true: model.encoder=convnext_atto has no BatchNorm; remove"
    ):
        small(encoder="convnext_atto", output_stride=32, freeze_norm=True)


def dilations(net: DeepLabV3Plus) -> list[int]:
    return [branch[0].dilation[0] for branch in net.pyramid.branches]  # type: ignore[index]


@pytest.mark.parametrize(("encoder", "channels"), [("resnet50_deep_stem", (256, 2048)), ("resnet101", (256, 2048))])
@pytest.mark.parametrize("crop", [321, *(pytest.param(crop, marks=pytest.mark.long) for crop in (513, 769, 801))])
def test_the_fields_crops_and_maps_at_stride_4_and_16(encoder: str, channels: tuple[int, int], crop: int) -> None:
    net = on_meta(encoder)
    low, deep = net.encode(torch.zeros(2, 3, crop, crop, device="meta"))
    quarter, sixteenth = -(-crop // 4), -(-crop // 16)
    assert low.shape == (2, channels[0], quarter, quarter)
    assert deep.shape == (2, channels[1], sixteenth, sixteenth)
    output = net.decode([low, deep], (crop, crop))
    assert output.logits.shape == (2, 21, crop, crop)
    assert output.features.shape == (2, 256, quarter, quarter)
    assert dilations(net) == [1, 6, 12, 18]


# ---- sizes, channels, options


@pytest.mark.parametrize("size", [(321, 321), (33, 47), (5, 7), (1, 1)])
def test_any_size_gives_logits_of_that_size(size: tuple[int, int]) -> None:
    net = small().eval()
    with torch.no_grad():
        output = net(torch.rand(1, 3, *size))
    assert output.logits.shape == (1, 5, *size)
    assert output.features.shape == (1, net.feature_dim, -(-size[0] // 4), -(-size[1] // 4))
    assert output.logits.isfinite().all()


def test_resizing_keeps_the_corners() -> None:
    larger = resize(torch.tensor([[0.0, 2.0], [4.0, 6.0]]).view(1, 1, 2, 2), (3, 3))
    assert_close(larger[0, 0], torch.tensor([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]))


def test_images_are_normalised_inside_with_the_encoders_own_numbers() -> None:
    net = small()
    assert net.mean.flatten().tolist() == net.std.flatten().tolist() == [0.5, 0.5, 0.5]
    assert_close(
        net.normalise(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)).flatten(), torch.tensor([-1.0, 0.0, 1.0])
    )
    assert {"mean", "std"} <= net.state_dict().keys()


def test_five_channels_work_and_one_channel_does_not_broadcast() -> None:
    net = small(in_channels=5).eval()
    assert net(torch.rand(1, 5, 32, 32)).logits.shape == (1, 5, 32, 32)
    with pytest.raises(UserError, match=r"the images have 1 channels, the network 5: set model.in_channels"):
        net(torch.rand(1, 1, 32, 32))


def test_separable_and_own_rates_and_dropout() -> None:
    net = small(separable=True, rates=[2, 3], dropout=0.5)
    assert len(net.pyramid.branches) == 3
    assert net.pyramid.branches[1][0].groups == 320  # type: ignore[index]
    assert net.pyramid.dropout.p == 0.5
    assert net.eval()(torch.rand(1, 3, 32, 32)).logits.shape == (1, 5, 32, 32)


def test_settings_that_cannot_be_built_are_named() -> None:
    for word in ("rates=[0]", "channels=0", "low_level_channels=0", "dropout=1.5", "in_channels=0"):
        with pytest.raises(UserError, match=rf"model\.{word.partition('=')[0]} must be"):
            resolve([f"model.{word}"])


# ---- training


def test_a_lone_image_trains_and_leaves_the_pooled_statistics() -> None:
    net = small()
    norm: Any = net.pyramid.pooled[1]
    output = net(torch.rand(1, 3, 32, 32))
    cross_entropy(output.logits, torch.ones(1, 32, 32, dtype=torch.int64)).backward()
    assert norm.num_batches_tracked == 0
    assert norm.weight.grad.isfinite().all()
    net(torch.rand(2, 3, 32, 32))
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.abs().sum() > 0


def test_gradients_reach_every_parameter_of_encoder_and_head() -> None:
    net = small()
    groups = net.parameter_groups()
    assert groups.keys() == {"encoder", "head"}
    both = [id(parameter) for group in groups.values() for parameter in group]
    assert len(both) == len(set(both))
    assert set(both) == {id(parameter) for parameter in net.parameters()}
    output = net(torch.rand(2, 3, 48, 48))
    cross_entropy(output.logits, torch.randint(0, 5, (2, 48, 48))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for group in groups.values() for p in group)
    assert all(any(p.grad.count_nonzero() for p in group if p.grad is not None) for group in groups.values())


def test_channels_last_gives_the_same() -> None:
    net = small().eval()
    image = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        plain = net(image)
        turned = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    assert turned.features.is_contiguous(memory_format=torch.channels_last)
    assert_close(turned.logits, plain.logits, rtol=1e-4, atol=1e-5)


def test_decode_takes_changed_features_as_channel_dropout_needs() -> None:
    net = small().eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        features = net.encode(image)
        assert_close(net.decode(features, (32, 32)).logits, net(image).logits, rtol=0, atol=0)
        silent = net.decode([torch.zeros_like(one) for one in features], (32, 32))
    assert len(features) == 2
    assert not torch.allclose(silent.logits, net(image).logits)


@pytest.mark.slow
def test_the_network_is_one_graph_for_the_compiler() -> None:
    net = small().eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert_close(compiled(image).logits, net(image).logits)
