"""What every installed method must do, by the kit that its author has, and more mixes than the kit tries; a new one
needs no line in here."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.engine.registry import CHOOSABLE_HOOKS, implemented_hooks, load
from ssss_zoo.testing import MethodContract
from ssss_zoo.testing.methods import LONG_RUN, SITUATIONS, all_finite, first_and_last

METHODS = sorted(installed("methods"))
SEED = int(os.environ.get("SSSS_TEST_SEED", "0"))  # of what is tried each time; another seed tries others


class TestEveryMethod(MethodContract):
    @pytest.fixture(params=METHODS)
    def name(self, request):
        return request.param

    test_it_mixes_with_others_or_is_refused_in_one_line = None  # all pairs are tried below
    test_it_takes_what_data_and_settings_bring = None  # and all situations


def a_sixth(rows: Sequence[str], columns: Sequence[str]) -> list[Any]:
    """Every (row, column) as parameters, but none of a row with itself; a sixth of them is tried each time, another
    sixth with the long tests, the others with the slow ones alone.

    SEED decides which ones: whole diagonals of the table, so that each row and each column is tried equally often.
    """
    distances = range(1 if rows == columns else 0, len(columns))
    count = math.ceil(len(distances) / 6)
    drawn = random.Random(SEED).sample(distances, 2 * count)
    marks = {distance: pytest.mark.long for distance in drawn} | {distance: () for distance in drawn[:count]}
    return [
        pytest.param(row, columns[(index + distance) % len(columns)], marks=marks.get(distance, pytest.mark.slow))
        for index, row in enumerate(rows)
        for distance in distances
    ]


def test_the_sixth_that_is_drawn_leaves_no_method_and_no_situation_out():
    for rows, columns in ((METHODS, METHODS), (METHODS, list(SITUATIONS))):
        every = a_sixth(rows, columns)
        drawn = [one.values for one in every if not one.marks]
        assert len({one.values for one in every}) == len(rows) * len(columns) - (len(rows) if rows == columns else 0)
        assert len(every) / 6 <= len(drawn) < len(every) / 4
        assert {row for row, _ in drawn} == set(rows)
        assert {column for _, column in drawn} == set(columns)


@pytest.mark.parametrize(("name", "situation"), a_sixth(METHODS, list(SITUATIONS)))
def test_every_method_takes_what_data_and_settings_bring(name, situation, tiny_run):
    made = tiny_run(f"method={name}", LONG_RUN, *SITUATIONS[situation])
    assert all_finite([*made.steps(1), *made.steps(1, first=29)])


@pytest.mark.parametrize(("first", "second"), a_sixth(METHODS, METHODS))
def test_every_pair_runs_or_is_refused_in_one_line(first, second, tiny_run):
    losses = first_and_last(tiny_run, f"method={first}+{second}", LONG_RUN)
    assert losses is None or all_finite(losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("hook", CHOOSABLE_HOOKS)
def test_every_hook_of_every_method_serves_every_other(name, hook, tiny_run):
    for provider in METHODS:
        if hook in implemented_hooks(load("methods", provider)):
            losses = first_and_last(tiny_run, f"method={name}", f"hooks.{hook}={provider}", LONG_RUN)
            assert losses is None or all_finite(losses), provider
