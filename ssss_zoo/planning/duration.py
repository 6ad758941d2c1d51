"""The time that a person allows: `90s`, `30m`, `1h30m`."""

from __future__ import annotations

import re

from ssss_zoo.errors import UserError
from ssss_zoo.text import brief

UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")
SHORTEST_PLAN = 30  # seconds: start-up, probe and two evaluations of few images take about as long (our choice)
LONGEST_PLAN = 30 * UNIT_SECONDS["d"]  # our choice


def parse_duration(text: str) -> float:
    """The seconds of `time=text`. Raises UserError for text without a unit, and for times that no plan is made for."""
    found = DURATION.fullmatch(text.strip().lower().replace(" ", ""))
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()) and float(text) > 0:
        raise UserError(
            f"time={brief(text)} has no unit: give time={text.strip()}m for minutes, s for seconds, h for hours"
        )
    if not found or not any(found.groups()):
        raise UserError(f"time={brief(text)} is no duration: expected minutes, hours or seconds, as 30m, 1h30m or 90s")
    seconds = sum(float(part) * size for part, size in zip(found.groups(), UNIT_SECONDS.values(), strict=True) if part)
    if seconds < SHORTEST_PLAN:
        raise UserError(
            f"time={brief(text)} is too short: start-up and evaluation take about {SHORTEST_PLAN} s alone; give time=2m"
        )
    if seconds > LONGEST_PLAN:
        raise UserError(f"time={brief(text)} is too long: a plan is made for 30 days at most")
    return seconds
