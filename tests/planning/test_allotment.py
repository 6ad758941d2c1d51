"""How the time is shared out between the labels alone and a method."""

from __future__ import annotations

from helpers.errors import refusal
from ssss_zoo.planning.allotment import STEPS_TO_GAIN, Budget, allot_time, fixed_seconds
from ssss_zoo.planning.probe import RunCost

LABELS = RunCost(step=0.1, evaluation=5.0, memory=0, epoch_steps=5)
METHOD = RunCost(step=0.3, evaluation=10.0, memory=0, epoch_steps=86)


def budget(seconds, steps=None, *, insists=False):
    return Budget(left=seconds, allowed=seconds, steps=steps, tracking=False, insists=insists)


def test_equal_steps_where_a_thousand_fit():
    found = allot_time(budget(1000), LABELS, METHOD)
    assert min(found.baseline.steps, found.method.steps) >= STEPS_TO_GAIN
    assert abs(found.baseline.steps / found.method.steps - 1) < 0.1
    assert 0.9 * 1000 < found.baseline.seconds + found.method.seconds <= 0.97 * 1000 + 1
    assert found.method.evaluations > 1


def test_the_labels_get_two_thirds_where_fewer_fit():
    found = allot_time(budget(240), LABELS, METHOD)
    share = found.method.steps * METHOD.step / (found.method.steps * METHOD.step + found.baseline.steps * LABELS.step)
    assert 0.3 < share < 0.37
    assert found.method.evaluations == 1


def test_the_labels_get_everything_where_the_method_had_a_few_steps():
    found = allot_time(budget(100), LABELS, METHOD)
    assert found.method is None
    assert "give time=3m" in found.reason
    assert found.baseline.steps == int((97 - fixed_seconds(LABELS)) / LABELS.step)
    assert allot_time(budget(100, insists=True), LABELS, METHOD).method.steps > 20  # it was named


def test_given_steps_are_kept():
    found = allot_time(budget(100, steps=7), LABELS, METHOD)
    assert (found.baseline.steps, found.method.steps) == (7, 7)


def test_too_short_a_time_names_the_least():
    refusal(lambda: allot_time(budget(10), LABELS, None), "too short", "time=1m is the least here")
    refusal(lambda: allot_time(budget(30, insists=True), LABELS, METHOD), "too short", "is the least here")
