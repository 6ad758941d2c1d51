"""`ssss search`: the mix of known parts that is best on a data set for a budget, found by Optuna. Trials are judged on
held-out labelled images only."""

from __future__ import annotations

import logging
import re
import shutil
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from ssss_zoo.comparison.plan import Notify, split_commas
from ssss_zoo.config.fields import FieldType, field_types, read_hint
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import british, full_key, parse_brackets, parse_value, read_file, split_overrides
from ssss_zoo.config.python_files import python_files_in
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.engine.catalog import list_hooks
from ssss_zoo.engine.name_checks import check_names
from ssss_zoo.engine.plugin_source import installed, read_plugin
from ssss_zoo.errors import Interrupted, UserError, expanded, unknown
from ssss_zoo.notebook import data_frame
from ssss_zoo.stopping import Stop
from ssss_zoo.text import brief, count
from ssss_zoo.train.console import table_text
from ssss_zoo.train.run_folder import RunFolder, split_folder_name

DEFAULT_TRIALS = 20  # our choice
HOLD_OUT_SHARE = 0.25  # of the labelled images (our choice)
UNPRUNED_TRIALS = 5  # trials that all run to their end, before any is stopped halfway (our choice)
LOGARITHMIC_SPAN = 10  # a range whose ends differ by more than this factor is searched on a logarithmic scale
MIXED_HOOKS = ("hooks.pixel_weight", "hooks.class_weight")  # searched where the arguments name nothing
LEARNING_HOOKS = (
    "make_students",
    "make_teacher",
    "pseudo_label",
    "pixel_weight",
    "regularize",
)  # use unlabelled images
METHOD_ITSELF = "own"  # the value of a hook that the method itself answers
TABLE_ROWS = 5

Choices = list[str] | tuple[float, float]  # values, or the ends of a range
SearchSpace = dict[str, Choices]  # by key of the configuration
WIDEST_DECLARED_RANGE = 100  # wider declared ranges only keep nonsense out, and are not searched (our choice)


class SearchTrial(NamedTuple):
    """A trial that came to its end. miou: on the held-out images, in [0, 1]."""

    overrides: list[str]
    miou: float


@dataclass(frozen=True, repr=False)
class SearchResult:
    """trials: best first; single: the best one that mixes no methods; command: the command line of the winner."""

    trials: list[SearchTrial]
    single: SearchTrial | None
    command: str

    def to_dataframe(self) -> Any:
        """The trials, best first, as a pandas.DataFrame. Raises UserError where pandas is not installed."""
        return data_frame([{"miou": trial.miou, "overrides": " ".join(trial.overrides)} for trial in self.trials])

    def __repr__(self) -> str:
        best = f"; best {100 * self.trials[0].miou:.2f} mIoU: {self.command}" if self.trials else ""
        return f"<SearchResult {count(len(self.trials), 'trial')}{best}>"

    def table(self) -> Table:
        table = Table(title="on held-out labelled images", title_justify="left")
        table.add_column("mIoU, %", justify="right")
        table.add_column("overrides", overflow="fold")
        for trial in self.trials[:TABLE_ROWS]:
            table.add_row(f"{100 * trial.miou:.2f}", table_text(" ".join(trial.overrides)))
        if self.single:
            table.add_section()
            single = f"{' '.join(self.single.overrides)}  (best without a mix)"
            table.add_row(f"{100 * self.single.miou:.2f}", table_text(single))
        return table


def run_search(overrides: Iterable[str], notify: Notify = lambda line: None) -> SearchResult:
    """Try `trials` configurations, or as many as are left of them, and find the best. The study lies in `output`, and
    the same arguments continue it. Raises UserError for arguments that make no search; Interrupted after Ctrl-C."""
    own, rest = split_overrides(overrides, "trials", "output")
    trials = parse_trials(own.get("trials", str(DEFAULT_TRIALS)))
    space = search_space(rest)
    _, common = split_overrides(rest, "try.")
    if not any(argument.startswith("data.hold_out=") for argument in common):
        common.append(f"data.hold_out={HOLD_OUT_SHARE}")
    for method in space_methods(space) or [""]:
        check_names(resolve([*common, *([f"method={method}"] if method else [])]))
    folder = expanded(own.get("output") or default_search_folder(common))
    study = open_study(folder)
    check_same_search(study, common, space, folder)
    if not study.trials:
        for method in space_methods(space):  # each method by itself first: a mix must beat it
            study.enqueue_trial({"method": method, **{key: METHOD_ITSELF for key in space if key.startswith("hooks.")}})
    left = max(trials - sum(trial.state.is_finished() for trial in study.trials), 0)
    notify(f"{left} of {trials} trials to do, in {folder}")
    objective = Objective(space, common, folder, notify)
    try:
        with Stop().handlers_installed():
            study.optimize(objective, n_trials=left, catch=(UserError,))
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"stopped; the same command continues the search in {folder}") from None
    return search_result(study, common)


class Objective:
    """A trial of Optuna: one run, scored by its mIoU on the held-out images."""

    def __init__(self, space: SearchSpace, common: Sequence[str], folder: Path, notify: Notify) -> None:
        self.space = space
        self.common = common
        self.folder = folder
        self.notify = notify

    def __call__(self, trial: Any) -> float:
        import optuna

        overrides = chosen_overrides({key: suggest(trial, key, choices) for key, choices in self.space.items()})
        trial.set_user_attr("overrides", overrides)
        equal = [other for other in trial.study.trials if other.value is not None
                 and other.user_attrs["overrides"] == overrides]  # fmt: skip
        if equal:  # the same overrides make the same run
            self.notify(f"trial {trial.number}: as trial {equal[0].number}")
            return float(equal[0].value)
        try:
            miou = self.train(trial, overrides)
        except optuna.TrialPruned:
            self.notify(f"trial {trial.number}: stopped halfway, {' '.join(overrides)}")
            raise
        except UserError as error:
            self.notify(f"trial {trial.number}: cannot run, {' '.join(overrides)}: {error}")
            raise
        self.notify(f"trial {trial.number}: mIoU {100 * miou:.2f}, {' '.join(overrides)}")
        return miou

    def train(self, trial: Any, overrides: Sequence[str]) -> float:
        """The mIoU of a run, whose checkpoints are removed. Raises TrialPruned where Optuna gives the trial up."""
        import optuna

        from ssss_zoo.train.run import run_training  # imports torch, which a misspelt argument does without

        folder = RunFolder(self.folder / "trials" / str(trial.number))
        shutil.rmtree(folder.path, ignore_errors=True)

        def on_eval(step: int, miou: float) -> None:
            trial.report(miou, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            config = resolve([*self.common, *overrides, f"output={folder.path}", "evaluate.predictions=0"])
            return float(run_training(config, on_eval).metrics["val"]["miou"])
        finally:
            shutil.rmtree(folder.best, ignore_errors=True)
            shutil.rmtree(folder.last, ignore_errors=True)


# --- the space ------------------------------------------------------------------------------------------------------


def search_space(overrides: Sequence[str]) -> SearchSpace:
    """The choices of the `try.<key>=...` arguments; without any, the methods, and whose weights they take. Raises
    UserError for an argument that leaves no choice, and for a value that its key does not take."""
    given, _ = split_overrides(overrides, "try.")
    space: SearchSpace = {}
    for key, text in given.items():
        name = key.removeprefix("try.")
        space[name] = parse_choices(key, text, declared_hint(name, overrides))
    if not space:
        answered = {hook["name"]: hook["answered_by"] for hook in list_hooks()}
        space = {key: [METHOD_ITSELF, *answered[key.removeprefix("hooks.")]] for key in MIXED_HOOKS}
    if "method" not in space and not any(argument.startswith("method=") for argument in overrides):
        space = {"method": independent_methods(), **space}
    return space


def independent_methods() -> list[str]:
    """The recipes that add to no other method, train in one stage, and learn from unlabelled images."""
    answered = {hook["name"]: set(hook["answered_by"]) for hook in list_hooks()}
    learning = set().union(*(answered[hook] for hook in LEARNING_HOOKS)) - answered["plan_stages"]
    methods = []
    for name, path in recipes("method").items():
        if "base" not in read_file(path) and resolve([f"method={name}", "train.steps=1"]).plugins.names[0] in learning:
            methods.append(name)
    return sorted(methods)


def parse_choices(key: str, text: str, hint: Any = Any) -> Choices:
    """`a,b` as values, `1e-4..1e-2` as a range, and no text as all values that the type annotation `hint` declares.
    Raises UserError where none of them leaves a choice, and for a value that is not of the declared type and range."""
    declared = read_hint(hint)
    if not text:
        return declared_choices(key, declared)
    if ".." in text and declared.kind is not str:
        return parse_range(key, text, hint)
    values = split_commas(text)
    if len(values) < 2:
        raise UserError(f"{key}={text} offers no choice; give two values or more, or a range as 1e-4..1e-2")
    check_values(key, values, hint)
    return values


def parse_range(key: str, text: str, hint: Any) -> tuple[float, float]:
    """The ends of a range as numbers of the declared type. Raises UserError as `parse_choices` does."""
    low, _, high = text.partition("..")
    try:
        bounds = (float(low), float(high))
    except ValueError:
        raise UserError(f"{key}={text} is not a range; expected two numbers, as 1e-4..1e-2") from None
    if not bounds[0] < bounds[1]:
        raise UserError(f"{key}={text}: the first number must be the smaller one")
    check_values(key, [low, high], hint)
    return (int(low), int(high)) if read_hint(hint).kind is int else bounds


def check_values(key: str, values: Sequence[str], hint: Any) -> None:
    """Raise UserError for a value that is not of the declared type, or not within the declared range or choices."""
    if hint is not Any:
        name = key.removeprefix("try.")
        for value in values:
            parse_value(parse_brackets(name, value), hint, name)


def declared_choices(key: str, declared: FieldType) -> Choices:
    """The values or the range that a field declares. Raises UserError where it declares none that can be searched."""
    if declared.choices:
        return list(declared.choices)
    if declared.kind is bool:
        return ["true", "false"]
    bounds = declared.bounds
    if bounds is None or declared.container or bounds.high - bounds.low > WIDEST_DECLARED_RANGE:
        name, takes = key.removeprefix("try."), str(declared)
        raise UserError(f"{key}= leaves no choice; give values, or a range as 1e-4..1e-2 ({name} takes {takes})")
    return (int(bounds.low), int(bounds.high)) if declared.kind is int else (bounds.low, bounds.high)


def declared_hint(key: str, overrides: Sequence[str]) -> Any:
    """The type annotation of a key of the configuration or of a method's option; Any for a key without one, such as
    `hooks.pixel_weight`. Raises UserError for an unknown key."""
    schema: Any = Config
    hint: Any = Any
    parts = full_key(key).split(".")
    if parts[0] == "options" and len(parts) > 2:
        schema = option_schema(parts[1], overrides)
        parts = parts[2:]
    for part in parts:
        if not is_dataclass(schema):
            return Any
        fields = field_types(typing.cast(type, schema))
        name = part if part in fields else british(part)
        if name not in fields:
            prefix = key[: len(key) - len(part)]
            raise unknown("key", f"try.{key}", [f"try.{prefix}{field}" for field in fields])
        hint = typing.get_type_hints(schema, include_extras=True)[name]
        schema = None if fields[name].container else fields[name].kind
    return hint


def option_schema(method: str, overrides: Sequence[str]) -> type | None:
    """The class of an installed method, or of one in a Python file that the arguments name; None for no such method."""
    naming, _ = split_overrides(overrides, "method", "try.method", "plugins.path", "hooks.", "try.hooks.")
    files = python_files_in(list(naming.values()))
    source = None if files or method not in installed("methods") else read_plugin("methods", method)
    if source and source.options:
        return source.options
    from ssss_zoo.engine.registry import load, local_methods  # imports torch

    local = local_methods([str(path) for path in files.values()])
    if method in local or method not in installed("methods"):
        return local.get(method)
    return typing.cast(type, load("methods", method))


def suggest(trial: Any, key: str, choices: Choices) -> str:
    """The value that Optuna chooses for a key, as text."""
    if isinstance(choices, list):
        return str(trial.suggest_categorical(key, choices))
    low, high = choices
    log = low > 0 and high / low > LOGARITHMIC_SPAN
    if isinstance(low, int):
        return str(trial.suggest_int(key, low, high, log=log))
    return f"{trial.suggest_float(key, low, high, log=log):.4g}"


def chosen_overrides(chosen: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in chosen.items() if value != METHOD_ITSELF]


def space_methods(space: SearchSpace) -> list[str]:
    methods = space.get("method", [])
    return methods if isinstance(methods, list) else []


# --- the study ------------------------------------------------------------------------------------------------------


def open_study(folder: Path) -> Any:
    """The study of Optuna in the folder, made where there is none."""
    optuna = import_optuna()
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{folder.resolve() / 'optuna.db'}",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
    )


def search_result(study: Any, common: Sequence[str]) -> SearchResult:
    """Raises UserError where no trial came to its end."""
    done = sorted((trial for trial in study.trials if trial.value is not None), key=lambda trial: -trial.value)
    if not done:
        raise UserError("no trial finished; the lines above give the reasons")
    distinct = {
        tuple(t.user_attrs["overrides"]): SearchTrial(list(t.user_attrs["overrides"]), float(t.value)) for t in done
    }
    ranked = list(distinct.values())
    is_mix = lambda trial: any(argument.startswith("hooks.") for argument in trial.overrides)  # noqa: E731
    single = next((trial for trial in ranked if not is_mix(trial)), None)
    kept = [argument for argument in common if not argument.startswith("data.hold_out=")]
    return SearchResult(ranked, single, " ".join(["ssss run", *ranked[0].overrides, *kept]))


def check_same_search(study: Any, common: Sequence[str], space: SearchSpace, folder: Path) -> None:
    """Raise UserError where the folder holds a search with other arguments."""
    now = {"common": sorted(common), "space": {key: list(choices) for key, choices in space.items()}}
    known = study.user_attrs.get("asked")
    if known is not None and known != now:
        raise UserError(f"output={folder} holds a search with other arguments; choose another output=")
    study.set_user_attr("asked", now)


def default_search_folder(common: Sequence[str]) -> Path:
    """runs/search/<dataset>/<split>."""
    has_budget = any("train." in argument for argument in common)
    config = resolve(common if has_budget else [*common, "train.steps=1"])
    return Path("runs", "search", config.dataset, split_folder_name(config.data.split))


def parse_trials(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise UserError(f"trials takes a number of runs, 1 to 999,999,999; got '{brief(text)}'")
    return int(text)


def import_optuna() -> Any:
    """Raises UserError where the package is not there."""
    try:
        import optuna
    except ImportError:
        raise UserError("ssss search: pip install 'ssss-zoo[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return optuna
