"""The arguments of `ssss predict`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from ssss_zoo.config.fields import Range
from ssss_zoo.config.parse import build_typed, parse_overrides
from ssss_zoo.deploy.polygon_files import COCO_FORMAT, PolygonFormat
from ssss_zoo.deploy.prediction_files import POLYGONS
from ssss_zoo.errors import UserError, expanded

REQUIRED_KEYS = ("run", "input", "output")
RESULT_KEYS = ("save", "polygons", "encoding", "tile", "overlap", "flip", "scales")  # they change the files of an image


@dataclass(frozen=True)
class PredictSettings:
    """The arguments of `ssss predict`. polygons: the format of `save=polygons`. tile: its side in pixels; None for the
    default. scales: of test-time augmentation."""

    run: str = ""
    input: str = ""
    output: str = ""
    weights: Literal["", "last", "best"] = ""
    network: str = ""
    device: str = "auto"
    save: list[Literal["overlays", "probabilities", "uncertainty", "polygons"]] = field(default_factory=list)
    polygons: PolygonFormat = "labelme"
    encoding: Literal["ids", "training"] = "ids"
    tile: Annotated[int | None, Range(32)] = None
    overlap: Annotated[float, Range(0, 0.9)] = 0.25
    flip: bool = False
    scales: Annotated[list[float], Range(0.1, 4)] = field(default_factory=lambda: [1.0])
    overwrite: bool = False
    resume: bool = False

    @property
    def folder(self) -> Path:
        """The folder to write into."""
        return expanded(self.output)


def parse_settings(overrides: Iterable[str]) -> PredictSettings:
    """The settings that `key=value` arguments make. Raises UserError for an unknown key or a wrong value."""
    settings: PredictSettings = build_typed(PredictSettings, parse_overrides(overrides))
    for key in REQUIRED_KEYS:
        if not getattr(settings, key):
            raise UserError(f"give {key}=: ssss predict run=DIR input=PATH output=DIR")
    if settings.polygons == COCO_FORMAT and POLYGONS not in settings.save:
        raise UserError("polygons=coco is the format of save=polygons: give both, or neither")
    return replace(settings, scales=settings.scales or [1.0])
