"""Self-training between the stages of a run: pseudo-labels of whole images, kept as files.

A run that is stopped and resumed repeats its `plan_stages`, so each function here first looks for what it has written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ssss_zoo.atomic_write import replacing_folder, write_json
from ssss_zoo.toolkit.types import RunInfo, Sample

log = logging.getLogger("ssss_zoo")


def relabel(
    info: RunInfo,
    network: nn.Module,
    samples: Sequence[Sample],
    folder: Path,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> list[Sample]:
    """The samples with the masks that `network` predicts in place of their own (`Sample.pseudo`).

    The masks are 8-bit images of class ids, 0.png, 1.png, ... in `folder`, which is written whole or not at all; a
    folder that is there already is used as it is. scales, flip: as in `RunInfo.predict`.
    """
    if not folder.exists():
        log.info(f"labelling {len(samples)} unlabelled images")
        with replacing_folder(folder) as new:
            for index, sample in enumerate(samples):
                label = info.predict(sample, network, scales=scales, flip=flip)
                Image.fromarray(label.ids[0].to("cpu", torch.uint8).numpy()).save(new / f"{index}.png")
    return [replace(sample, pseudo=folder / f"{index}.png") for index, sample in enumerate(samples)]


def cached_json(file: Path, make: Callable[[], Any]) -> Any:
    """The value in a JSON file; where there is no such file, what `make` returns is written to it first."""
    if not file.exists():
        value = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, value)
    return json.loads(file.read_text("utf-8"))
