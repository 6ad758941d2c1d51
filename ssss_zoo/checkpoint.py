"""Save and restore a run, so that a kill at any instant leaves a whole checkpoint.

A checkpoint is a folder: `student.safetensors`, `teacher.safetensors`, `methods.safetensors` (the methods' modules)
and `state.pt` (optimiser, scaler, step, stage, best figures; loads with `weights_only=True`). Random numbers and stream
positions are functions of seed and step, so the step stands for both.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssss_zoo.errors import UserError, cannot_write

STATE = "state.pt"


def save_folder(folder: Path, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint folder whole or not at all: beside its place first, then into it by renaming.

    Raises UserError when the disk refuses; what lay in `folder` before is still there then.
    """
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    try:
        if not folder.exists() and find_folder(folder) == new:
            new.rename(folder)  # a kill between the two renames left only this one: it must not be lost now
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, tensors in weights.items():
            save_file(separate(tensors), new / f"{name}.safetensors")
        torch.save(dict(state), new / STATE)
        for file in new.iterdir():
            sync(file)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap a full disk, each its way
        shutil.rmtree(new, ignore_errors=True)
        raise cannot_write(folder, error, "the checkpoint before it is still whole") from error


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: safetensors refuses tied weights."""
    seen: set[int] = set()
    own = {}
    for key, tensor in tensors.items():
        own[key] = tensor.detach().cpu().contiguous()
        if own[key].data_ptr() in seen:
            own[key] = own[key].clone()
        seen.add(own[key].data_ptr())
    return own


def sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def find_folder(folder: Path) -> Path | None:
    """The whole checkpoint at `folder`: itself, or what a kill between two renames left beside it."""
    for candidate in (folder, folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")):
        if (candidate / STATE).is_file() and (candidate == folder or is_whole(candidate)):
            return candidate
    return None


def is_whole(folder: Path) -> bool:
    try:
        load_state(folder)
    except UserError:
        return False
    return True


def load_state(folder: Path) -> dict[str, Any]:
    """The `state.pt` of a checkpoint. Raises UserError when it is not one."""
    try:
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(
            f"{folder / STATE} is not a checkpoint of ours: {' '.join(str(error).split())[:200]}"
        ) from error
    return state


def load_weights(folder: Path, name: str, module: nn.Module) -> None:
    """Fill `module` from `<name>.safetensors`. Raises UserError when file or tensors do not fit."""
    file = folder / f"{name}.safetensors"
    try:
        tensors = load_file(file)
    except Exception as error:
        raise UserError(f"cannot read the weights {file}: {' '.join(str(error).split())[:200]}") from error
    fit(module, tensors, str(file))


def fit(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [key for key in wanted.keys() & tensors.keys() if wanted[key].shape != tensors[key].shape]
    if missing or extra or shapes:
        example = (missing + extra + shapes)[0]
        raise UserError(
            f"{where} holds another network or method: {len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(shapes)} of another shape, such as '{example}'; check model.*, method and options"
        )
    module.load_state_dict(tensors)


def write_text(file: Path, text: str) -> None:
    """Replace a small file whole or not at all."""
    new = file.with_name(file.name + ".new")
    try:
        new.write_text(text)
        sync(new)
        os.replace(new, file)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise cannot_write(file, error) from error


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=1, allow_nan=False) + "\n")
