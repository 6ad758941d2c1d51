"""Supervised baseline: trains on the labelled images only, for the same number of steps as any other method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ssss_zoo.toolkit import Views, hookimpl


@dataclass(eq=False)
class Supervised:
    paper: ClassVar[str] = "the baseline of every paper: labelled images only"

    @hookimpl
    def make_views(self) -> Views:
        return Views()
