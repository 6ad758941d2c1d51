"""Draws on the CPU that come after the device work of a step has begun, found on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

from ssss_zoo.engine.step import Engine
from ssss_zoo.testing.gpu_sync import calling_line

DRAWS = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.bernoulli, torch.multinomial, torch.normal}


class LateDraws(TorchFunctionMode):
    """While it is on, each draw that names neither a device nor a generator is noted once the engine has drawn what
    chance decides about a batch: it would follow the CPU's random state in the middle of the device work.

    found: one line for each such draw: where, and what.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.found: list[str] = []
        self.begun = False
        to_device = engine.to_device

        def begin(*given: Any) -> Any:
            self.begun = True
            return to_device(*given)

        self.patch = patch.object(engine, "to_device", begin)

    def __enter__(self) -> LateDraws:
        self.patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.patch.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if self.begun and func in DRAWS and given.get("device") is None and given.get("generator") is None:
            self.found.append(f"{calling_line(Path(__file__))} draws by {func.__name__}")
        return func(*args, **given)
