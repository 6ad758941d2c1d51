"""The seed of a step's draws."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch


def seed_draws(seed: int, step: int, pass_index: int) -> None:
    """Make every draw of a step (augmentation, boxes, dropout) a function of seed and step alone: a run that resumes
    draws what it would have drawn, and no random state needs saving."""
    mixed_seed = int(np.random.SeedSequence([seed, step, pass_index]).generate_state(1, np.uint64)[0]) >> 1
    if has_accelerator():
        torch.manual_seed(mixed_seed)
    else:  # torch.manual_seed would note the call stack for each kind of GPU that is not there, which takes 1 ms
        torch.default_generator.manual_seed(mixed_seed)
    random.seed(mixed_seed)
    np.random.seed(mixed_seed & 0xFFFFFFFF)


@cache
def has_accelerator() -> bool:
    """Whether torch can use a GPU or the like; asked once, not in each step."""
    return torch.accelerator.is_available()
