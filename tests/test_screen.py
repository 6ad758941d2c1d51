"""What a person sees of a run."""

from __future__ import annotations

import logging

import pytest

from ssss_zoo.screen import Screen, duration


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (None, "step 5/10  consistency 0.2500  2.00 steps/s  3 s left"),
        ({"used": 0.25, "weight": 0.25}, "step 5/10  consistency 0.2500  pixels used 25%  2.00 steps/s  3 s left"),
        ({"used": 1.0, "weight": 0.0015}, "pixels used 100%, weight 0.0015  2.00 steps/s"),
        ({"used": 0.5, "weight": 0.2}, "pixels used 50%, weight 0.4  2.00 steps/s"),
        ({"used": 0.0, "weight": 0.0}, "pixels used 0%, weight 0  2.00 steps/s"),
    ],
)
def test_a_log_step_names_losses_pixels_and_their_mean_weight(health, told, caplog):
    caplog.set_level(logging.INFO, logger="ssss_zoo")
    Screen().report(5, 10, {"consistency": 0.25}, health, 2.0, 2.5)
    assert told in caplog.text


@pytest.mark.parametrize(("seconds", "told"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3661, "1 h 01 min")])
def test_durations(seconds, told):
    assert duration(seconds) == told
