"""Trained models with networks that are simple enough to know their predictions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssss_zoo.config.schema import EvaluateConfig
from ssss_zoo.data.images import Reading
from ssss_zoo.deploy.trained import TrainedModel
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.toolkit.types import Output


class PointwiseNetwork(nn.Module):
    """Logits that depend on the pixel alone: its own channels, times 4."""

    multiple = 4

    def forward(self, image: Tensor) -> Output:
        return Output(logits=4 * image, features=image)


def pointwise_model() -> TrainedModel:
    """A model of three classes, the channels of the image: red, green, blue."""
    return TrainedModel(
        network=PointwiseNetwork(),
        class_names=("red", "green", "blue"),
        colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
        reading=Reading(),
        predictor=Predictor(EvaluateConfig(), (16, 16)),
        device=torch.device("cpu"),
        source="pointwise",
    )
