"""The commands as functions. Each takes the words of its command line, as text, as keywords, or both:
`run("train.steps=60", method="fixmatch")` and `run(method="fixmatch", train={"steps": 60})` are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.plan import flat_overrides
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.search import SearchResult, run_search
from ssss_zoo.comparison.study import CompareResult, run_study
from ssss_zoo.config.parse import located_by_key
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.registry import build_methods, make_manager, with_options
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.train.inspect_step import inspect_words
from ssss_zoo.train.reevaluate import evaluate_run
from ssss_zoo.train.run import RunResult, run_training

__all__ = [
    "CompareResult",
    "Config",
    "Interrupted",
    "RunResult",
    "SearchResult",
    "UserError",
    "compare",
    "configure",
    "evaluate",
    "inspect",
    "report",
    "run",
    "search",
]  # fmt: skip
SEVERAL = ("methods", "seeds", "vary", "try")  # keys whose lists are rows or choices, not one value


def run(
    *words: str, config_file: str | Path | None = None, on_eval: Callable[[int, float], None] | None = None, **keys: Any
) -> RunResult:
    """`ssss run`: train, evaluate, log and save; returns the folder and what metrics.json holds. on_eval: told step and
    mIoU in [0, 1] after each evaluation. Raises UserError for what a person can fix, Interrupted after Ctrl-C."""
    config = resolve(as_words(words, keys), Path(config_file) if config_file else None)
    with located_by_key(config.locations):
        return run_training(config, on_eval)


def compare(*words: str, tell: Callable[[str], None] = lambda line: None, **keys: Any) -> CompareResult:
    """`ssss compare`: returns the folder and what compare.json holds. tell: gets a line as each run ends. Raises as
    `run` does; a run that fails is in `figures["failed"]`."""
    return run_study(as_words(words, keys), tell)


def search(*words: str, tell: Callable[[str], None] = lambda line: None, **keys: Any) -> SearchResult:
    """`ssss search`: returns the trials, best first, and the command of the winner. Raises as `run` does."""
    return run_search(as_words(words, keys), tell)


def evaluate(*words: str, **keys: Any) -> dict[str, Any]:
    """`ssss evaluate`: the figures of a finished run's networks. Raises UserError."""
    return evaluate_run(as_words(words, keys))


def inspect(*words: str, **keys: Any) -> Image:
    """`ssss inspect`: one step as a picture, which a notebook shows; nothing is written. Raises UserError."""
    return inspect_words(as_words(words, keys))[0]


def report(folder: str | Path) -> Path:
    """`ssss report`: make report.html of a comparison again; returns it. Raises UserError."""
    return write_report(ComparisonFolder(Path(folder)))


def configure(*words: str, config_file: str | Path | None = None, **keys: Any) -> Config:
    """`ssss config`: the whole configuration of a run, methods' options included. Raises UserError."""
    config = resolve(as_words(words, keys), Path(config_file) if config_file else None)
    methods = build_methods(config)
    make_manager(config, methods)
    return with_options(config, methods)


def as_words(words: tuple[str, ...], keys: Mapping[str, Any]) -> list[str]:
    """Keywords as words of the command line, after the words that are given as such. Raises UserError for a word that
    is none."""
    wrong = next((word for word in words if not isinstance(word, str)), None)
    if wrong is not None:
        raise UserError(f"expected words such as 'train.steps=60', got {wrong!r}")
    return [*words, *flat_overrides({key: plain(value, key in SEVERAL) for key, value in keys.items()})]


def plain(value: Any, several: bool) -> Any:
    """A value as the command line would have it. several: a list is many values, between commas."""
    if isinstance(value, Mapping):
        return {key: plain(item, several) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) if several else [plain(item, False) for item in value]
    return "null" if value is None else str(value)
