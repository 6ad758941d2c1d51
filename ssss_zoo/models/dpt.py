"""DPT (Ranftl et al., 2021, arXiv 2103.13413) on a plain vision transformer, as UniMatch V2 trains it on DINOv2.

With `vit_small_patch14_dinov2`, `vit_base_patch14_dinov2` and `vit_large_patch14_dinov2` it is UniMatch V2's network:
22.057, 86.580 and 304.369 M parameters in the encoder (DINOv2's mask token counted, which timm leaves out), 2.739,
10.948 and 31.211 M in the head at 21 classes. The network has no BatchNorm and no dropout, and ignores the settings of
DeepLabV3+'s head, such as `model.channels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssss_zoo.errors import UserError
from ssss_zoo.models.contract import Network
from ssss_zoo.models.encoders import make_transformer
from ssss_zoo.toolkit.tensors import resize
from ssss_zoo.toolkit.types import Output

if TYPE_CHECKING:
    from ssss_zoo.config.schema import ModelConfig

OFFSET = 0.1  # added to the grid's sides when the position embedding is resized; DINOv2's `interpolate_offset`
LARGE = (256, 512, 1024, 1024), 256  # ViT-L's level widths and fusion width; UniMatch V2's configuration


class DPT(Network):
    """Resizes four token maps of a transformer to four sizes and fuses them from the coarsest to the finest.

    `encode` gives four maps (B, embedding width, H/p, W/p), p the patch, from shallow to deep; both sides of an image
    must be multiples of p. `Output.features` (B, feature_dim, 8H/p, 8W/p) is the last fusion's map, which the two
    output convolutions read.
    """

    source: ClassVar[str] = "DPT (Ranftl et al., 2021, arXiv 2103.13413), as in UniMatch V2 (arXiv 2410.10777)"

    def __init__(self, settings: ModelConfig, num_classes: int) -> None:
        """Raises UserError for an encoder that is not a plain vision transformer, and for missing weights."""
        encoder, mean, std = make_transformer(settings)
        super().__init__(mean, std)
        self.encoder = encoder
        self.multiple = int(encoder.patch_embed.patch_size[0])
        self.taps = taps(len(encoder.blocks))
        widths, self.feature_dim = head_widths(encoder.embed_dim)
        self.levels = nn.ModuleList(levels(encoder.embed_dim, widths, self.feature_dim))
        self.fusions = nn.ModuleList(Fusion(self.feature_dim) for _ in widths)
        # The coarsest fusion has no coarser map to add. Its unused unit is kept for the published parameter counts, and
        # frozen because training in several processes waits for the gradient of every trainable parameter.
        self.fusions[-1].skip.requires_grad_(False)
        self.classify = nn.Sequential(
            nn.Conv2d(self.feature_dim, self.feature_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.feature_dim, num_classes, 1),
        )

    def encode(self, image: Tensor) -> list[Tensor]:
        image = self.normalise(image)
        height, width = image.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise UserError(f"the images are {height}x{width}: both sides must be multiples of {self.multiple}")
        return token_maps(self.encoder, image, self.taps)

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Output:
        maps = [level(tokens) for level, tokens in zip(self.levels, features, strict=True)]
        sizes = [(2 * maps[0].shape[-2], 2 * maps[0].shape[-1]), *(level.shape[-2:] for level in maps)]
        last = None
        for index in reversed(range(len(maps))):
            last = self.fusions[index](maps[index], last, sizes[index])
        assert last is not None
        return Output(resize(self.classify(last), size), last)


class Residual(nn.Module):
    """x plus two convolutions of x, with a ReLU before each; the shape (B, width, h, w) stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        self.body = nn.Sequential(nn.ReLU(), convolutions[0], nn.ReLU(), convolutions[1])

    def forward(self, maps: Tensor) -> Tensor:
        refined: Tensor = maps + self.body(maps)
        return refined


class Fusion(nn.Module):
    """Adds a level to the fused map of the coarser ones (None at the coarsest), refines, resizes and projects it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skip, self.refine = Residual(width), Residual(width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        joined = level if coarser is None else self.skip(level) + coarser
        fused: Tensor = self.project(resize(self.refine(joined), size))
        return fused


def levels(inputs: int, widths: tuple[int, ...], fusion: int) -> list[nn.Sequential]:
    """One head per token map: project, resize to 4, 2, 1 or 1/2 times the size, project to `fusion` channels."""
    first, second, _, fourth = widths
    resizers = (
        nn.ConvTranspose2d(first, first, 4, stride=4),
        nn.ConvTranspose2d(second, second, 2, stride=2),
        nn.Identity(),
        nn.Conv2d(fourth, fourth, 3, stride=2, padding=1),
    )
    return [
        nn.Sequential(nn.Conv2d(inputs, width, 1), resizer, nn.Conv2d(width, fusion, 3, padding=1, bias=False))
        for width, resizer in zip(widths, resizers, strict=True)
    ]


def head_widths(embedding: int) -> tuple[tuple[int, ...], int]:
    """Widths of the four levels and of the fusion. ViT-L's numbers are UniMatch V2's, and so is the rule for ViT-S and
    ViT-B (an eighth, a quarter, half and all of the embedding; a sixth). Its use for other widths is our choice."""
    if embedding == 1024:
        return LARGE
    return (embedding // 8, embedding // 4, embedding // 2, embedding), embedding // 6


def taps(depth: int) -> tuple[int, ...]:
    """The four blocks, counted from 1, whose tokens are read: 5, 12, 18, 24 in ViT-L (UniMatch V2), else the last block
    of each quarter (3, 6, 9, 12 in ViT-S and ViT-B)."""
    return (5, 12, 18, 24) if depth == 24 else tuple(depth * quarter // 4 for quarter in (1, 2, 3, 4))


def token_maps(encoder: Any, image: Tensor, after: tuple[int, ...]) -> list[Tensor]:
    """The patch tokens after each block in `after`, through the final LayerNorm, as maps (B, D, H/p, W/p)."""
    patches = encoder.patch_embed(image)  # (B, h, w, D)
    size = patches.shape[1:3]
    tokens = encoder.norm_pre(with_prefix(encoder, patches.flatten(1, 2), positions(encoder, size)))
    prefix, maps = encoder.num_prefix_tokens, []
    for number, block in enumerate(encoder.blocks, start=1):
        tokens = block(tokens)
        if number in after:
            maps.append(encoder.norm(tokens)[:, prefix:].unflatten(1, size).permute(0, 3, 1, 2))
    return maps


def with_prefix(encoder: Any, patches: Tensor, place: Tensor) -> Tensor:
    """Put class and register tokens before the patches (B, h*w, D), and add the positions `place` (1, n, D)."""
    prefix = [
        token.expand(patches.shape[0], -1, -1) for token in (encoder.cls_token, encoder.reg_token) if token is not None
    ]
    if (
        place.shape[1] == patches.shape[1]
    ):  # timm's `no_embed_class`, as in DINOv2 with registers: only patches have positions
        return torch.cat([*prefix, patches + place], dim=1)
    return torch.cat([*prefix, patches], dim=1) + place


def positions(encoder: Any, size: tuple[int, int]) -> Tensor:
    """The position embedding (1, prefix + h*w, D) for a grid of `size`: as trained for its own grid, else resized as in
    DINOv2. The offset is not only a guard against rounding: it shifts the sampling too."""
    table, grid = encoder.pos_embed, tuple(encoder.patch_embed.grid_size)
    prefix = table.shape[1] - grid[0] * grid[1]
    trained = table[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2)
    if torch.compiler.is_exporting():
        resized = resize_while_exporting(trained, size)
    elif tuple(size) == grid:
        return table
    else:
        scales = [(side + OFFSET) / own for side, own in zip(size, grid, strict=True)]
        resized = F.interpolate(trained, scale_factor=scales, mode="bicubic")
    return torch.cat([table[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)


def resize_while_exporting(trained: Tensor, size: tuple[int, int]) -> Tensor:
    """The position embedding (1, D, *grid) as `positions` resizes it to (1, D, *size), by two matrix products.
    torch.export would fix the scale of `F.interpolate` to that of the image that it traces."""
    grid = trained.shape[-2:]
    height, width = (torch.scalar_tensor(side, dtype=torch.float32) for side in size)
    own = (height == grid[0]) & (width == grid[1])
    rows = bicubic_weights(size[0], grid[0], torch.where(own, 1.0, (height + OFFSET) / grid[0]))
    columns = bicubic_weights(size[1], grid[1], torch.where(own, 1.0, (width + OFFSET) / grid[1]))
    return rows.to(trained.dtype) @ trained @ columns.to(trained.dtype).T


def bicubic_weights(side: int, own: int, scale: Tensor) -> Tensor:
    """The share (side, own) of each of `own` samples in each of `side` new ones, as in torch's bicubic interpolation
    (Keys, 1981, with a = -0.75 and repeated borders). scale: new samples per old one."""
    a = -0.75
    source = (torch.arange(side) + 0.5) / scale - 0.5
    first = source.floor()[:, None] + torch.arange(-1, 3)  # the four neighbours (side, 4)
    distance = (source[:, None] - first).abs()
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weights = torch.where(distance <= 1, near, far)
    taken = first.clamp(0, own - 1)[..., None] == torch.arange(own)
    return (weights[..., None] * taken).sum(dim=1)
