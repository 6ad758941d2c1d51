"""The commands as functions. Each takes `key=value` overrides as its command does, or keywords, or both:
`run("train.steps=60", method="fixmatch")` and `run(method="fixmatch", train={"steps": 60})` are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import flat_overrides
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.result import CompareResult
from ssss_zoo.comparison.search import SearchResult, run_search
from ssss_zoo.comparison.study import run_study
from ssss_zoo.config.parse import located_by_key, split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.deploy.exported_models import open_model as load
from ssss_zoo.engine.registry import build_methods, make_manager, with_options
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.planning.make_plan import plan_training
from ssss_zoo.planning.plan_task import check_dataset_given
from ssss_zoo.planning.records import TrainingPlan
from ssss_zoo.planning.timed_training import run_within_time
from ssss_zoo.train.inspect_step import draw_inspection
from ssss_zoo.train.reevaluate import evaluate_run
from ssss_zoo.train.result import RunResult
from ssss_zoo.train.run import run_training

__all__ = [
    "CompareResult",
    "Config",
    "Interrupted",
    "RunResult",
    "SearchResult",
    "TrainingPlan",
    "UserError",
    "compare",
    "configure",
    "evaluate",
    "inspect",
    "load",
    "plan",
    "report",
    "run",
    "search",
]  # fmt: skip
COMMA_KEYS = ("methods", "seeds", "vary", "try")  # a list of these keys is several values, not one list


def run(
    *overrides: str,
    config_file: str | Path | None = None,
    on_eval: Callable[[int, float], None] | None = None,
    **keys: Any,
) -> RunResult:
    """`ssss run`: train, evaluate, log and save; returns a RunResult with `miou`, `iou`,
    `history`, `to_dataframe()`, the folder and the content of metrics.json. on_eval: called
    with step and mIoU in [0, 1] after each evaluation. With `time`, as in `run(dataset="shapes", time="5m")`, it plans
    first, and returns the better of two runs. Raises UserError for what a person can fix, Interrupted after Ctrl-C."""
    began = time.perf_counter()
    arguments = all_overrides(overrides, keys)
    if "time" in split_overrides(arguments, "time")[0]:
        if config_file or on_eval:
            raise UserError("time= plans runs of its own: leave config_file and on_eval out")
        return run_within_time(arguments, began).best
    config = resolve(arguments, Path(config_file) if config_file else None)
    with located_by_key(config.locations):
        return run_training(config, on_eval)


def plan(*overrides: str, **keys: Any) -> TrainingPlan:
    """`ssss plan`: settings for a `dataset` and a `time`, each with a reason; nothing is trained. Raises UserError."""
    began = time.perf_counter()
    arguments = all_overrides(overrides, keys)
    check_dataset_given(arguments)
    return plan_training(arguments, began)


def compare(*overrides: str, notify: Callable[[str], None] = lambda line: None, **keys: Any) -> CompareResult:
    """`ssss compare`: returns the folder and the content of compare.json. notify: also gets each line of the
    progress. Raises as `run` does; a run that fails is in `figures["failed"]`."""
    return run_study(all_overrides(overrides, keys), notify)


def search(*overrides: str, notify: Callable[[str], None] = lambda line: None, **keys: Any) -> SearchResult:
    """`ssss search`: returns the trials, best first, and the command of the winner. Raises as `run` does."""
    return run_search(all_overrides(overrides, keys), notify)


def evaluate(*overrides: str, **keys: Any) -> dict[str, Any]:
    """`ssss evaluate`: the figures of a finished run's networks. Raises UserError."""
    return evaluate_run(all_overrides(overrides, keys))


def inspect(*overrides: str, **keys: Any) -> Image:
    """`ssss inspect`: one step as a picture, which a notebook shows; nothing is written. Raises UserError."""
    return draw_inspection(all_overrides(overrides, keys))[0]


def report(folder: str | Path) -> Path:
    """`ssss report`: make report.html of a comparison again; returns it. Raises UserError."""
    return write_report(ComparisonFolder(Path(folder)))


def configure(*overrides: str, config_file: str | Path | None = None, **keys: Any) -> Config:
    """`ssss config`: the whole configuration of a run, methods' options included. Raises UserError."""
    config = resolve(all_overrides(overrides, keys), Path(config_file) if config_file else None)
    methods = build_methods(config)
    make_manager(config, methods)
    return with_options(config, methods)


def all_overrides(overrides: tuple[str, ...], keys: Mapping[str, Any]) -> list[str]:
    """The overrides, then the keywords as overrides. Raises UserError for an override that is no text."""
    wrong = next((override for override in overrides if not isinstance(override, str)), None)
    if wrong is not None:
        raise UserError(f"expected overrides such as 'train.steps=60', got {wrong!r}")
    texts = {key: override_text(value, commas=key in COMMA_KEYS) for key, value in keys.items()}
    return [*overrides, *flat_overrides(texts)]


def override_text(value: Any, *, commas: bool) -> Any:
    """A value as the command line takes it; a mapping keeps its keys. commas: a list is several values, joined by
    commas."""
    if isinstance(value, Mapping):
        return {key: override_text(item, commas=commas) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) if commas else [override_text(item, commas=False) for item in value]
    return "null" if value is None else str(value)
