"""What every installed method must do, by the kit that its author has, and more mixes than the kit tries; a new one
needs no line in here."""

from __future__ import annotations

import itertools

import pytest

from ssss_zoo.engine.registry import CHOSEN, implements, installed, load
from ssss_zoo.testing import MethodContract
from ssss_zoo.testing.methods import LONG, SITUATIONS, finite, first_and_last

METHODS = sorted(installed("methods"))


class TestEveryMethod(MethodContract):
    @pytest.fixture(params=METHODS)
    def name(self, request):
        return request.param

    test_it_mixes_with_others_or_is_refused_in_one_line = None  # all pairs are tried below
    test_it_takes_what_data_and_settings_bring = None  # and all situations


def a_third(cases):
    """Two of three are tried with the slow tests alone."""
    for number, case in enumerate(cases):
        yield pytest.param(*case, marks=() if number % 3 == 0 else pytest.mark.slow)


@pytest.mark.parametrize(("name", "situation"), a_third(itertools.product(METHODS, SITUATIONS)))
def test_every_method_takes_what_data_and_settings_bring(name, situation, tiny_run):
    made = tiny_run(f"method={name}", LONG, *SITUATIONS[situation])
    assert finite([*made.steps(1), *made.steps(1, first=29)])


@pytest.mark.parametrize(("first", "second"), a_third(itertools.permutations(METHODS, 2)))
def test_every_pair_runs_or_is_refused_in_one_line(first, second, tiny_run):
    losses = first_and_last(tiny_run, f"method={first}+{second}", LONG)
    assert losses is None or finite(losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("hook", CHOSEN)
def test_every_hook_of_every_method_serves_every_other(name, hook, tiny_run):
    for provider in METHODS:
        if hook in implements(load("methods", provider)):
            losses = first_and_last(tiny_run, f"method={name}", f"hooks.{hook}={provider}", LONG)
            assert losses is None or finite(losses), provider
