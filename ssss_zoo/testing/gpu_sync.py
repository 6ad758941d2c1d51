"""What would make a GPU wait, found on any machine: reads of values that come of the batch or of weights."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MARK = "comes_of_the_device"
READS = {
    "item", "tolist", "numpy", "__array__", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__",
    "is_nonzero", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "equal",
    "allclose", "repeat_interleave",
}  # fmt: skip


class Waits(TorchFunctionMode):
    """While it is on, every result of a marked tensor is marked, and a read of a marked one's values is noted.

    A read is a value on the host or a shape that depends on values: `.item()`, `if tensor:`, indexing by a bool tensor.
    What is drawn on the CPU is not marked, and may be read. What the mode cannot see: a copy from the host to the
    device that waits. found: a line a read: where, and what.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: list[str] = []
        mark(tensors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        ours = any(hasattr(one, MARK) for one in tensors_of((args, given)))
        name = getattr(func, "__name__", "")
        if ours and (name in READS or shape_depends(name, args)):
            self.found.append(f"{caller()} reads values ({name.strip('_')})")
        result = func(*args, **given)
        if ours:
            mark(tensors_of(result))
        return result


def mark(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        setattr(tensor, MARK, True)


def tensors_of(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for one in thing:
            yield from tensors_of(one)
    elif isinstance(thing, dict):
        yield from tensors_of(list(thing.values()))


def shape_depends(name: str, args: Any) -> bool:
    """Indexing by a bool tensor (a number may be written so: that is a masked fill), `where` with one argument, and
    `.to("cpu")`."""
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
        writes_number = name == "__setitem__" and not isinstance(args[2], Tensor)
        return not writes_number and any(one.dtype in (torch.bool, torch.uint8) for one in tensors_of(args[1]))
    return (name == "where" and len(args) == 1) or (name == "to" and "cpu" in args[1:])


def caller() -> str:
    """The innermost line that is neither torch's nor this file's: file, line, text."""
    here, torchs = Path(__file__), Path(torch.__file__).parent
    frames = traceback.extract_stack()
    frame = next(f for f in reversed(frames) if Path(f.filename) != here and torchs not in Path(f.filename).parents)
    return f"{Path(frame.filename).name}, line {frame.lineno}: `{frame.line}`"
