"""What a person asks a plan for: the arguments, the settings given among them, and the time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ssss_zoo.comparison.plan import BASELINE
from ssss_zoo.config.parse import flatten_keys, override_value, parse_overrides, split_overrides
from ssss_zoo.errors import UserError
from ssss_zoo.planning.duration import parse_duration
from ssss_zoo.planning.records import GIVEN, PlannedSetting

RUN_KEYS = ("method", "train.steps", "train.epochs", "output", "resume", "overwrite")  # each run of a plan has its own
METHOD_PREFIXES = ("options.", "hooks.")  # keys that the labels alone do without


@dataclass(frozen=True)
class PlanTask:
    """What is to be planned. arguments: without `time`. given: the keys among them, with their values as text. seconds:
    that are allowed from `began` on, a reading of `time.perf_counter`."""

    arguments: tuple[str, ...]
    given: Mapping[str, str]
    seconds: float
    began: float

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.seconds - (time.perf_counter() - self.began)

    def with_given(self, settings: Iterable[PlannedSetting]) -> list[PlannedSetting]:
        """The settings, with the person's own value wherever there is one."""
        return [
            replace(one, value=self.given[one.key], reason="kept", source=GIVEN) if one.key in self.given else one
            for one in settings
        ]

    def run_arguments(self, method: str, settings: Sequence[PlannedSetting]) -> list[str]:
        """The arguments of a run of this method: the given ones, then the settings that are not given."""
        chosen = [f"{one.key}={one.value}" for one in settings if one.source != GIVEN]
        kept = [word for word in (*self.arguments, *chosen) if word.partition("=")[0] not in RUN_KEYS]
        if method == BASELINE:
            kept = [word for word in kept if not word.startswith(METHOD_PREFIXES)]
        return [f"method={method}", *kept]


def read_task(overrides: Iterable[str], began: float) -> PlanTask:
    """The task that the arguments describe. Raises UserError without a `time`, and for one that cannot be planned."""
    own, rest = split_overrides(overrides, "time")
    if "time" not in own:
        raise UserError("a plan needs the time that may be spent: give time=30m")
    seconds = parse_duration(own["time"])
    texts = {key: override_value(value) for key, value in flatten_keys(parse_overrides(rest)).items()}
    return PlanTask(tuple(rest), texts, seconds, began)


def check_dataset_given(overrides: Iterable[str]) -> None:
    """Raise UserError without a data set: `ssss run` takes the embedded one then, which nobody plans for."""
    if not {"dataset", "protocol"} & split_overrides(overrides, "dataset", "protocol")[0].keys():
        raise UserError("a plan needs a data set: give dataset=folder data.root=DIR, or a name of `ssss list datasets`")
