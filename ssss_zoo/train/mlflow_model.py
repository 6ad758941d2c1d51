"""The code of a trained network as a model of MLflow: `mlflow.pyfunc.load_model` runs the copy of it in the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SegmentationModel(PythonModel):
    """Predicts the class of each pixel. `model` is what `ssss_zoo.load` returns, with the names of the classes."""

    def load_context(self, context: Any) -> None:
        """Load the network from the part of the run's folder that the model holds."""
        import ssss_zoo

        self.model = ssss_zoo.load(context.artifacts["run"])

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> list[Any]:
        """Class ids (H, W) of each image. model_input: an array (images, H, W, channels), a list of paths, Pillow
        images or arrays (H, W, channels), or a data frame whose first column is such a list."""
        # MLflow takes the annotation for a check of the input, and makes none for an array.
        images = model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input
        return [self.model.predict(image).classes for image in images]


set_model(SegmentationModel())
