"""DPT: UniMatch V2's figures, the position embedding by hand, and encoders that do not go with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ssss_zoo.config.schema import ModelConfig
from ssss_zoo.errors import UserError
from ssss_zoo.models.deeplabv3plus import DeepLabV3Plus
from ssss_zoo.models.dpt import DPT, head_widths, positions, taps
from ssss_zoo.models.encoders import from_dinov2, make_transformer

TINY = "test_vit"  # timm's own test model: width 64, depth 6, patch 16, grid 10


def small(encoder: str = TINY, **settings: Any) -> DPT:
    torch.manual_seed(0)
    return DPT(ModelConfig(name="dpt", encoder=encoder, weights="none", **settings), 5)


def on_meta(size: str, num_classes: int = 21) -> DPT:
    """Shapes only, nothing is computed."""
    encoder = f"vit_{size}_patch14_dinov2"
    with torch.device("meta"):
        return DPT(ModelConfig(name="dpt", encoder=encoder, weights="none"), num_classes)


def count(parameters: Any) -> float:
    """In millions, to three places."""
    return round(sum(parameter.numel() for parameter in parameters) / 1e6, 3)


# ---- UniMatch V2's network, in figures


@pytest.mark.parametrize(
    ("size", "classes", "encoder", "head"),
    [
        ("small", 21, 22.057, 2.739),
        ("base", 21, 86.580, 10.948),
        ("base", 150, 86.580, 10.965),
        ("large", 21, 304.369, 31.211),
    ],
)
def test_parameters_are_those_that_unimatch_v2_logs(size: str, classes: int, encoder: float, head: float) -> None:
    """Theirs count DINOv2's mask token, one embedding that segmentation never reads; timm leaves it out."""
    network = on_meta(size, classes)
    groups = network.parameter_groups()
    mask_token = torch.empty(network.encoder.embed_dim, device="meta")  # type: ignore[arg-type]
    assert count([*groups["encoder"], mask_token]) == encoder
    assert count(groups["head"]) == head
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    assert all(module.p == 0 for module in network.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("size", "width", "fusion"),
    [("small", 384, 64), ("base", 768, 128), pytest.param("large", 1024, 256, marks=pytest.mark.long)],
)
def test_maps_at_the_patch_grid_and_features_at_eight_times_it(size: str, width: int, fusion: int) -> None:
    network = on_meta(size)
    maps = network.encode(torch.zeros(1, 3, 518, 518, device="meta"))
    assert [tuple(level.shape) for level in maps] == [(1, width, 37, 37)] * 4
    output = network.decode(maps, (518, 518))
    assert output.features.shape == (1, fusion, 296, 296)
    assert output.logits.shape == (1, 21, 518, 518)
    assert network.multiple == 14
    assert network.feature_dim == fusion


def test_images_are_normalised_with_imagenets_numbers() -> None:
    network = small("vit_small_patch14_dinov2")
    assert_close(network.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert_close(network.std.flatten(), torch.tensor([0.229, 0.224, 0.225]))


def test_widths_of_the_three_published_heads() -> None:
    assert head_widths(384) == ((48, 96, 192, 384), 64)
    assert head_widths(768) == ((96, 192, 384, 768), 128)
    assert head_widths(1024) == ((256, 512, 1024, 1024), 256)


def test_blocks_that_are_read() -> None:
    assert taps(12) == (3, 6, 9, 12)
    assert taps(24) == (5, 12, 18, 24)
    assert taps(40) == (10, 20, 30, 40)


# ---- the encoder


@pytest.mark.parametrize("encoder", [TINY, "vit_small_patch14_reg4_dinov2"])
def test_the_deepest_map_is_what_timm_gives_at_the_native_grid(encoder: str) -> None:
    network = small(encoder).eval()
    vit: Any = network.encoder
    for token in (vit.cls_token, vit.reg_token, vit.pos_embed):
        if token is not None:
            nn.init.normal_(token)
    side = vit.patch_embed.img_size[0]
    if side > 300:  # quicker: as if it had been trained on a smaller grid
        vit.patch_embed.grid_size, side = (5, 5), 70
        vit.pos_embed = nn.Parameter(torch.randn(1, 25, vit.embed_dim))
        vit.patch_embed.img_size = (70, 70)
    picture = torch.rand(1, 3, side, side)
    with torch.no_grad():
        tokens = vit.forward_features(network.normalise(picture))[:, vit.num_prefix_tokens :]
        deepest = network.encode(picture)[-1]
    assert_close(deepest.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-4)


def test_each_map_is_the_normalised_output_of_its_block() -> None:
    network = small().eval()
    vit: Any = network.encoder
    nn.init.normal_(vit.norm.weight)
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(vit.blocks, start=1):
        block.register_forward_hook(lambda module, inputs, tokens, number=number: seen.update({number: tokens}))
    maps = network.encode(torch.rand(2, 3, 32, 48))
    assert network.taps == (1, 3, 4, 6)
    for number, level in zip(network.taps, maps, strict=True):
        assert level.shape == (2, 64, 2, 3)
        assert_close(level[:, :, 1, 2], vit.norm(seen[number])[:, -1])
        assert_close(level[:, :, 0, 0], vit.norm(seen[number])[:, vit.num_prefix_tokens])


def test_position_embedding_is_kept_at_its_grid_and_sampled_with_the_offset_elsewhere() -> None:
    vit: Any = small().encoder
    nn.init.normal_(vit.pos_embed)
    assert positions(vit, (10, 10)) is vit.pos_embed
    found = positions(vit, (5, 7))
    prefix = vit.pos_embed.shape[1] - 100
    assert found.shape == (1, prefix + 35, 64)
    assert_close(found[:, :prefix], vit.pos_embed[:, :prefix], rtol=0, atol=0)
    table = vit.pos_embed[0, prefix:].view(10, 10, 64)
    # by hand: cell i samples at (i + 1/2) / scale - 1/2, weights of the cubic with A = -0.75
    rows, columns = weights(5, 10, 5.1 / 10), weights(7, 10, 7.1 / 10)
    by_hand = torch.einsum("ip,jq,pqd->ijd", rows, columns, table)
    assert_close(found[0, prefix:].view(5, 7, 64), by_hand, rtol=1e-4, atol=1e-5)
    plain = torch.einsum("ip,jq,pqd->ijd", weights(5, 10, 0.5), weights(7, 10, 0.7), table)
    assert not torch.allclose(found[0, prefix:].view(5, 7, 64), plain, atol=1e-2)


def weights(cells: int, own: int, scale: float) -> torch.Tensor:
    """The matrix (cells, own) of a bicubic resizing along one axis, edges repeated."""
    matrix = torch.zeros(cells, own)
    for cell in range(cells):
        spot = (cell + 0.5) / scale - 0.5
        first = int(spot // 1)
        for tap in range(first - 1, first + 3):
            matrix[cell, min(max(tap, 0), own - 1)] += cubic(abs(spot - tap))
    return matrix


def cubic(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a if distance < 2 else 0.0


def test_sides_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(UserError, match=r"the images are 32x47: both sides must be multiples of 16"):
        small()(torch.rand(1, 3, 32, 47))


# ---- the head


def test_the_coarsest_fusion_joins_nothing_and_its_unit_is_frozen() -> None:
    network = small()
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith("fusions.3.skip.")}
    assert len(frozen) == 4
    picture = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        before = network(picture).logits
        for name, parameter in network.named_parameters():
            if name in frozen:
                parameter.add_(1.0)
        assert_close(network(picture).logits, before, rtol=0, atol=0)
        next(network.fusions[2].skip.parameters()).add_(1.0)
        assert not torch.allclose(network(picture).logits, before)


def test_levels_come_at_four_two_one_and_half_the_grid() -> None:
    network = small()
    tokens = torch.rand(1, 64, 5, 7)
    assert [tuple(level(tokens).shape[-2:]) for level in network.levels] == [(20, 28), (10, 14), (5, 7), (3, 4)]


def test_train_and_evaluation_mode_are_the_same() -> None:
    network, picture = small(), torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        assert_close(network(picture).logits, network.eval()(picture).logits, rtol=0, atol=0)


# ---- weights


def test_a_file_of_dinov2s_own_fits(tmp_path: Path) -> None:
    vit: Any = small("vit_tiny_patch16_224").encoder
    state = {**vit.state_dict(), "mask_token": torch.zeros(1, 192)}
    torch.save(state, tmp_path / "dinov2.pth")
    settings = ModelConfig(name="dpt", encoder="vit_tiny_patch16_224", weights=str(tmp_path / "dinov2.pth"))
    other: Any = DPT(settings, 5).encoder
    for key, value in other.state_dict().items():
        assert_close(value, vit.state_dict()[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"register_tokens": torch.zeros(1, 4, 192)},
            r"a DINOv2 with registers: choose an encoder of its size such as \S+_reg4_dinov2",
        ),
        ({"pos_embed": torch.zeros(1, 38, 192)}, "holds a DINOv2 of another size or patch"),
        ({"pos_embed": torch.zeros(1, 197, 384)}, "1 with another shape"),
    ],
)
def test_a_file_of_another_dinov2_does_not_fit_and_no_hook_is_blamed(
    tiny_run: Any, tmp_path: Path, extra: dict[str, torch.Tensor], said: str
) -> None:
    vit: Any = small("vit_tiny_patch16_224").encoder
    torch.save({**vit.state_dict(), "mask_token": torch.zeros(1, 192), **extra}, tmp_path / "dinov2.pth")
    words = ["model=dpt", "model.encoder=vit_tiny_patch16_224", f"model.weights={tmp_path / 'dinov2.pth'}"]
    with pytest.raises(
        UserError, match=f"dinov2.pth does not fit model.encoder=vit_tiny_patch16_224.*{said}"
    ) as caught:
        tiny_run(*words, "train.crop=32")
    assert "hook" not in str(caught.value)


def test_a_file_without_registers_does_not_fit_an_encoder_with_them() -> None:
    settings = ModelConfig(name="dpt", encoder="vit_small_patch14_reg4_dinov2", weights="none")
    with pytest.raises(
        UserError, match="a DINOv2 without registers: choose an encoder of its size such as vit_small_patch14_dinov2"
    ):
        from_dinov2({"mask_token": torch.zeros(1, 384)}, make_transformer(settings)[0], "it does not fit")


def test_a_file_for_rgb_starts_a_network_of_five_channels(tmp_path: Path) -> None:
    vit: Any = small().encoder
    torch.save(vit.state_dict(), tmp_path / "rgb.pth")
    settings = ModelConfig(name="dpt", encoder=TINY, weights=str(tmp_path / "rgb.pth"), in_channels=5)
    other: Any = DPT(settings, 5).encoder
    rgb = vit.patch_embed.proj.weight.detach()
    assert_close(other.patch_embed.proj.weight.detach(), rgb[:, [0, 1, 2, 0, 1]] * 3 / 5)


def test_offline_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args, **kwargs: None)
    with pytest.raises(UserError) as caught:
        DPT(ModelConfig(name="dpt", encoder="vit_small_patch14_dinov2"), 5)
    assert "model.weights=PATH (a file) or model.weights=none (random)" in str(caught.value)
    assert "lite0" not in str(caught.value)  # no transformer


# ---- encoders that go with another network


@pytest.mark.parametrize(
    "encoder", ["resnet50", "tf_efficientnet_lite0", "resnet50_deep_stem", "swin_tiny_patch4_window7_224"]
)
def test_an_encoder_that_is_no_transformer_names_the_network_that_takes_it(encoder: str) -> None:
    with pytest.raises(UserError, match=rf"model\.encoder={encoder} is not a plain vision .* or model=deeplabv3plus"):
        small(encoder)


@pytest.mark.parametrize("encoder", ["test_vit2", "vit_small_r26_s32_224", "deit_tiny_distilled_patch16_224"])
def test_a_transformer_that_is_not_plain_is_refused(encoder: str) -> None:
    with pytest.raises(UserError, match=r"is not a plain vision transformer"):
        small(encoder)


def test_a_transformer_for_deeplab_names_dpt() -> None:
    settings = ModelConfig(encoder="vit_small_patch14_dinov2", weights="none")
    with pytest.raises(UserError, match=r"model\.encoder=vit_small_patch14_dinov2 is a vision .* set model=dpt$"):
        DeepLabV3Plus(settings, 5)


@pytest.mark.parametrize("size", [(10, 10), (3, 9), (10, 7), (40, 11)])
def test_positions_while_exporting_are_those_of_the_network(size: Any, monkeypatch: Any) -> None:
    vit: Any = small().encoder
    nn.init.normal_(vit.pos_embed)
    expected = positions(vit, size)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert_close(positions(vit, size), expected, atol=1e-5, rtol=1e-5)
