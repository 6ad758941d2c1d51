"""The hard label that a network predicts for a whole image of a data set, at several scales and mirrored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssss_zoo.evaluation.evaluator import predict_image
from ssss_zoo.toolkit.tensors import resize
from ssss_zoo.toolkit.types import PseudoLabel, Sample


@torch.no_grad()
def predict_sample(
    read_image: Callable[[Sample], Any],
    sample: Sample,
    network: nn.Module,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> PseudoLabel:
    """See `SamplePredictor`. read_image: a sample's image (H, W, channels) in [0, 255]."""
    pixels = torch.from_numpy(read_image(sample).copy()).movedim(-1, 0).unsqueeze(0)
    image = pixels.to(next(network.parameters()).device).float() / 255
    mirrorings = (False, True) if flip else (False,)
    was_training = network.training
    network.eval()
    try:
        probs = [predict_at(network, image, scale, mirrored=mirrored) for scale in scales for mirrored in mirrorings]
    finally:
        network.train(was_training)
    confidence, ids = torch.stack(probs).sum(dim=0).max(dim=1)
    return PseudoLabel(ids, confidence / len(probs), torch.ones_like(ids, dtype=torch.bool))


def predict_at(network: nn.Module, image: Tensor, scale: float, *, mirrored: bool) -> Tensor:
    """Probabilities (1, C, H, W) at the image's own size, predicted at `scale` times that size."""
    height, width = image.shape[-2:]
    scaled = resize(image, (max(int(height * scale), 1), max(int(width * scale), 1)))
    probs = predict_image(network, scaled.flip(-1) if mirrored else scaled).softmax(dim=1)
    return resize(probs.flip(-1) if mirrored else probs, (height, width))
