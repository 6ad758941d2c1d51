"""Finds, on any machine, where a step would make a GPU and the host wait for each other.

That is where the host reads values that come from the batch or from weights.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE_MARK = "comes_of_the_device"
READING_FUNCTIONS = {
    "item", "tolist", "numpy", "__array__", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__",
    "is_nonzero", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "equal",
    "allclose", "repeat_interleave",
}  # fmt: skip


class HostReads(TorchFunctionMode):
    """A context that notes each read of a value that comes from the given tensors.

    The given tensors and every result computed from them are marked. A read takes a value to the host, or makes a shape
    depend on values: `.item()`, `if tensor:`, indexing by a bool tensor. Tensors drawn on the CPU are not marked, and
    may be read. A copy from the host to the device may wait, too; this is not found. found: a line for each read, which
    says where it is and what it reads.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        mark_tensors(tensors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        marked = any(hasattr(one, DEVICE_MARK) for one in tensors_of((args, given)))
        name = getattr(func, "__name__", "")
        if marked and (name in READING_FUNCTIONS or shape_depends(name, args)):
            self.found.append(f"{calling_line(Path(__file__))} reads values ({name.strip('_')})")
        result = func(*args, **given)
        if marked:
            mark_tensors(tensors_of(result))
        return result


def mark_tensors(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        setattr(tensor, DEVICE_MARK, True)


def tensors_of(thing: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for one in thing:
            yield from tensors_of(one)
    elif isinstance(thing, dict):
        yield from tensors_of(list(thing.values()))


def shape_depends(name: str, args: Any) -> bool:
    """Whether a call reads values although its name does not say so: indexing by a bool tensor, `where` with one
    argument, `.to("cpu")`. Writing a number by a bool tensor is a masked fill, which reads nothing."""
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
        writes_number = name == "__setitem__" and not isinstance(args[2], Tensor)
        return not writes_number and any(one.dtype in (torch.bool, torch.uint8) for one in tensors_of(args[1]))
    return (name == "where" and len(args) == 1) or (name == "to" and "cpu" in args[1:])


def calling_line(mode_file: Path) -> str:
    """The innermost line of code outside torch, this file and the file that watches: file, line, text."""
    own_files, torchs = {Path(__file__), mode_file}, Path(torch.__file__).parent
    frames = [(Path(frame.filename), frame) for frame in traceback.extract_stack()]
    frame = next(f for path, f in reversed(frames) if path not in own_files and torchs not in path.parents)
    return f"{Path(frame.filename).name}, line {frame.lineno}: `{frame.line}`"
