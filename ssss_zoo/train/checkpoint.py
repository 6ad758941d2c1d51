"""Save and restore a run, so that a kill at any instant leaves a whole checkpoint.

A checkpoint is a folder: `student.safetensors`, `teacher.safetensors`, `methods.safetensors` (the methods' modules),
`state.pt` (optimiser, scaler, step, stage, best figures; loads with `weights_only=True`) and `digests.json`, by which
damage to any of them is known. Random numbers and stream positions are functions of seed and step, so the step stands
for both.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssss_zoo.atomic_write import replacing_folder, temporary_paths
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.record_files import FORMAT, Digests, Numbered, check_record, read_record

SchemaT = TypeVar("SchemaT")
STATE, DIGESTS = "state.pt", "digests.json"
METHODS = "methods"  # the weights that belong to no network
CHECKPOINT_REMEDY = "bring a whole copy of it back, or start the run anew with overwrite=true"


def save_folder(folder: Path, weights: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint folder whole or not at all.

    weights: tensors by file and by name. Raises UserError when the disk refuses; the checkpoint that lay in `folder`
    before is still there then.
    """
    try:
        new, _ = temporary_paths(folder)
        if not folder.exists() and find_folder(folder) == new:
            new.rename(folder)  # a kill between the two renames left only this one: it must not be lost now
        with replacing_folder(folder) as new:
            for name, tensors in weights.items():
                save_file(separate(tensors), new / f"{name}.safetensors")
            torch.save({"format": FORMAT, **state}, new / STATE)
            digests = {file.name: sha256(file) for file in sorted(new.iterdir())}
            (new / DIGESTS).write_text(json.dumps({"format": FORMAT, "sha256": digests}, indent=1) + "\n", "utf-8")
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap a full disk, each its way
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


def find_folder(folder: Path) -> Path | None:
    """The whole checkpoint at `folder`: itself, or the one that a kill between two renames left beside it."""
    for candidate in (folder, *temporary_paths(folder)):
        if (candidate / STATE).is_file() and (candidate == folder or is_whole(candidate)):
            return candidate
    return None


def is_whole(folder: Path) -> bool:
    try:
        load_state(folder)
        for name in known_digests(folder) or ():
            check_digest(folder / name)
    except UserError:
        return False
    return True


# --- reading --------------------------------------------------------------------------------------------------------


def load_state(folder: Path) -> dict[str, Any]:
    """The `state.pt` of a checkpoint. Raises UserError when it is not one, or not as it was written."""
    file = folder / STATE
    check_digest(file)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, of pickles that others wrote
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(
            f"{file} is not a checkpoint of ours: it is damaged, or holds more than tensors, numbers and text, which "
            f"alone are loaded, as anything else could run a program; {CHECKPOINT_REMEDY}"
        ) from error
    check_record(state, Numbered, file, CHECKPOINT_REMEDY)
    if state.get("format") and not (folder / DIGESTS).is_file():
        missing = f"{folder / DIGESTS} is not there, so nobody knows whether {folder} is whole"
        raise UserError(f"{missing}; {CHECKPOINT_REMEDY}")
    return state


def load_typed(folder: Path, schema: type[SchemaT]) -> SchemaT:
    """The `state.pt` of a checkpoint as `schema` has it. Raises UserError as `load_state`, and for what it lacks."""
    return check_record(load_state(folder), schema, folder / STATE, CHECKPOINT_REMEDY)


def network_names(folder: Path) -> list[str]:
    """The networks of a checkpoint, `student` and perhaps `teacher`; further pairs are numbered. Raises UserError where
    the student is gone."""
    known = known_digests(folder)
    files = folder.glob("*.safetensors") if known is None else map(Path, known)
    names = sorted(file.stem for file in files if file.stem.startswith(("student", "teacher")))
    if "student" not in names:
        raise UserError(f"{folder / 'student.safetensors'} is not there; {CHECKPOINT_REMEDY}")
    return names


def load_module_weights(folder: Path, name: str, module: nn.Module) -> None:
    """Fill `module` from `<name>.safetensors`. Raises UserError when the file is not as it was written, when the
    tensors do not fit, and for a network that holds numbers which are not finite."""
    file = folder / f"{name}.safetensors"
    check_digest(file)
    try:
        tensors = load_file(file)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the weights {file}: {why}; {CHECKPOINT_REMEDY}") from error
    if name != METHODS:
        check_finite(tensors, file)
    fill_module(module, tensors, str(file))


def check_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raises UserError for weights that blew up: whatever they predict means nothing."""
    broken = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise UserError(
            f"{file} holds numbers that are not finite in {len(broken)} of {len(tensors)} tensors, such as "
            f"'{broken[0]}': the training blew up, or the file is damaged; take an earlier checkpoint (weights=best), "
            "or train again with a lower optim.lr"
        )


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill `module` from tensors of its names, shapes and types. Raises UserError where they are others."""
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    both = [key for key in wanted if key in tensors]
    shapes = [key for key in both if wanted[key].shape != tensors[key].shape]
    types = [key for key in both if wanted[key].dtype != tensors[key].dtype]
    if missing or extra or shapes or types:
        example = (missing + extra + shapes + types)[0]
        raise UserError(
            f"{where} holds another network or method: {len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(shapes)} of another shape, {len(types)} of another type, such as '{example}'; check model.*, method "
            "and options"
        )
    module.load_state_dict(tensors)


# --- digests --------------------------------------------------------------------------------------------------------


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes; 200 MB take some 0.2 s."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def known_digests(folder: Path) -> dict[str, str] | None:
    """The digest of each file of a checkpoint, by name; None for one from before there were any."""
    file = folder / DIGESTS
    return read_record(file, Digests, CHECKPOINT_REMEDY)["sha256"] if file.exists() else None


def check_digest(file: Path) -> None:
    """Raises UserError where a file of a checkpoint is not as it was written; silent where nobody can know."""
    known = known_digests(file.parent)
    if known is None:
        return
    try:
        found = sha256(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; {CHECKPOINT_REMEDY}") from None
    if known.get(file.name) != found:
        raise UserError(f"{file} is not as it was written: it is damaged, or was changed since; {CHECKPOINT_REMEDY}")
