"""A method in a file of its own, and how tests choose methods by the command line's arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.registry import build_methods, make_manager, who_answers
from ssss_zoo.errors import UserError

MINE = '''"""A method of one's own."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import Tensor
from ssss_zoo.toolkit.types import PseudoLabel
from ssss_zoo.toolkit.hookspecs import hookimpl

class Helper:
    pass

@dataclass(eq=False)
class Mine:
    paper: ClassVar[str] = "none yet"
    share: float = 0.5

    @hookimpl
    def pixel_weight(self, label: PseudoLabel) -> Tensor:
        return torch.full_like(label.confidence, self.share)
'''


def configured(*overrides: str) -> Config:
    return resolve([*overrides])


def answers(*overrides: str) -> dict[str, list[str]]:
    config = configured(*overrides)
    return who_answers(make_manager(config, build_methods(config)).hook)


def message(*overrides: str) -> str:
    """The one-line error of a choice of methods that must not come to a run."""
    config = configured(*overrides)
    with pytest.raises(UserError) as caught:
        make_manager(config, build_methods(config))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def file_of(tmp_path: Path, text: str, name: str = "mine.py") -> str:
    path = tmp_path / name
    path.write_text(text)
    return f"plugins.path={path}"
