"""`ssss search`: which mix of known parts is best on these data for this budget, by Optuna, on held-out labelled
images alone."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ssss_zoo.comparison.plan import split_commas
from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import read_file
from ssss_zoo.config.schema import resolve
from ssss_zoo.engine.catalog import list_hooks
from ssss_zoo.errors import Interrupted, UserError, expanded
from ssss_zoo.stopping import Stop
from ssss_zoo.text import brief
from ssss_zoo.train.console import plain
from ssss_zoo.train.run import run

TRIALS = 20  # our choice
HOLD_OUT = 0.25  # of the labelled images (our choice)
WARM = 5  # trials before one is given up halfway (our choice)
WIDE = 10  # a range that spans more than so much is searched on a logarithmic scale
MIXED = ("hooks.pixel_weight", "hooks.class_weight")  # tried where nothing is named: whose answer
LEARNS = ("make_students", "make_teacher", "pseudo_label", "pixel_weight", "regularize")  # from unlabelled images
OWN = "own"  # of a hook: the method's own answer
BEST = 5  # rows of the table

Space = dict[str, list[str] | tuple[float, float]]


@dataclass(frozen=True)
class Found:
    """trials: words and mIoU of the best ones, best first; single: of the best method that is mixed with none; command:
    what to type for the winner."""

    trials: list[tuple[list[str], float]]
    single: tuple[list[str], float] | None
    command: str

    def table(self) -> Table:
        table = Table(title="on held-out labelled images", title_justify="left")
        table.add_column("mIoU, %", justify="right")
        table.add_column("words", overflow="fold")
        for words, value in self.trials[:BEST]:
            table.add_row(f"{100 * value:.2f}", plain(" ".join(words)))
        if self.single:
            table.add_section()
            table.add_row(f"{100 * self.single[1]:.2f}", plain(f"{' '.join(self.single[0])}  (best without a mix)"))
        return table


def search(words: Iterable[str], tell: Callable[[str], None] = lambda line: None) -> Found:
    """Try `trials` configurations, or as many as are left of them, and say which is best. The study lies in `output`
    and is gone on with. Raises UserError for words that make no search; Interrupted after Ctrl-C."""
    optuna = package()
    given = list(words)
    own = {key: value for key, _, value in (word.partition("=") for word in given) if key in ("trials", "output")}
    space = space_of(given)
    common = [word for word in given if word.partition("=")[0] not in own and not word.startswith("try.")]
    if not any(word.startswith("data.hold_out=") for word in common):
        common.append(f"data.hold_out={HOLD_OUT}")
    trials = number(own.get("trials", str(TRIALS)))
    folder = expanded(own.get("output") or usual_folder(common))
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{folder.resolve() / 'optuna.db'}",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WARM),
    )
    check_same(study, common, space, folder)
    if not study.trials:
        for method in methods_of(space):  # each method by itself first: what a mix must beat
            study.enqueue_trial({"method": method, **{key: OWN for key in space if key.startswith("hooks.")}})
    left = trials - sum(trial.state.is_finished() for trial in study.trials)
    tell(f"{max(left, 0)} of {trials} trials to do, in {folder}")
    objective = Objective(space, common, folder, tell)
    try:
        with Stop().hearing():
            study.optimize(objective, n_trials=max(left, 0), catch=(UserError,))
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(f"stopped; the same command goes on with the search in {folder}") from None
    return found_in(study, common)


class Objective:
    """A trial: one run, its mIoU on the held-out images."""

    def __init__(self, space: Space, common: Sequence[str], folder: Path, tell: Callable[[str], None]) -> None:
        self.space, self.common, self.folder, self.tell = space, common, folder, tell

    def __call__(self, trial: Any) -> float:
        import optuna

        words = words_of({key: suggest(trial, key, values) for key, values in self.space.items()})
        trial.set_user_attr("words", words)
        same = [other for other in trial.study.trials if other.value is not None and other.user_attrs["words"] == words]
        if same:  # a run is settled by its words
            self.tell(f"trial {trial.number}: as trial {same[0].number}")
            return float(same[0].value)
        place = self.folder / "trials" / str(trial.number)
        shutil.rmtree(place, ignore_errors=True)

        def on_eval(step: int, miou: float) -> None:
            trial.report(miou, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            config = resolve([*self.common, *words, f"output={place}", "evaluate.predictions=0"])
            value = float(run(config, on_eval).metrics["val"]["miou"])
        except optuna.TrialPruned:
            self.tell(f"trial {trial.number}: given up halfway, {' '.join(words)}")
            raise
        except UserError as error:
            self.tell(f"trial {trial.number}: cannot run, {' '.join(words)}: {error}")
            raise
        finally:
            shutil.rmtree(place / "best", ignore_errors=True)
            shutil.rmtree(place / "last", ignore_errors=True)
        self.tell(f"trial {trial.number}: mIoU {100 * value:.2f}, {' '.join(words)}")
        return value


# --- the space ------------------------------------------------------------------------------------------------------


def space_of(words: Sequence[str]) -> Space:
    """What `try.<key>=...` words ask for, or the methods and whose weights. Raises UserError for what is no choice."""
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key.startswith("try.")}
    space: Space = {key.removeprefix("try."): choices(key, value) for key, value in given.items()}
    if not space:
        answered = {item["name"]: item["answered_by"] for item in list_hooks()}
        space = {key: [OWN, *answered[key.removeprefix("hooks.")]] for key in MIXED}
    if "method" not in space and not any(word.startswith("method=") for word in words):
        space = {"method": whole_methods(), **space}
    return space


def whole_methods() -> list[str]:
    """The recipes that are no addition to another, train once, and learn from unlabelled images."""
    answered = {item["name"]: set(item["answered_by"]) for item in list_hooks()}
    learns = set().union(*(answered[hook] for hook in LEARNS)) - answered["plan_stages"]
    found = []
    for name, path in recipes("method").items():
        if "base" not in read_file(path) and resolve([f"method={name}", "train.steps=1"]).plugins.names[0] in learns:
            found.append(name)
    return sorted(found)


def choices(key: str, text: str) -> list[str] | tuple[float, float]:
    """`a,b` as values, `1e-4..1e-2` as a range. Raises UserError where neither leaves a choice."""
    low, dots, high = text.partition("..")
    if dots:
        try:
            bounds = (float(low), float(high))
        except ValueError:
            raise UserError(f"{key}={text} is no range; expected two numbers, as 1e-4..1e-2") from None
        if not bounds[0] < bounds[1]:
            raise UserError(f"{key}={text}: the first number must be the smaller one")
        return bounds
    values = split_commas(text)
    if len(values) < 2:
        raise UserError(f"{key}={text} leaves no choice; give two values or more, or a range as 1e-4..1e-2")
    return values


def suggest(trial: Any, key: str, values: list[str] | tuple[float, float]) -> str:
    if isinstance(values, list):
        return str(trial.suggest_categorical(key, values))
    low, high = values
    return f"{trial.suggest_float(key, low, high, log=low > 0 and high / low > WIDE):.4g}"


def words_of(chosen: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in chosen.items() if value != OWN]


def methods_of(space: Space) -> list[str]:
    methods = space.get("method", [])
    return methods if isinstance(methods, list) else []


# --- the study ------------------------------------------------------------------------------------------------------


def found_in(study: Any, common: Sequence[str]) -> Found:
    """Raises UserError where no trial came to its end."""
    done = sorted((trial for trial in study.trials if trial.value is not None), key=lambda trial: -trial.value)
    if not done:
        raise UserError("no trial came to its end; the lines above say why")
    ranked = list({tuple(t.user_attrs["words"]): (list(t.user_attrs["words"]), float(t.value)) for t in done}.values())
    single = next((entry for entry in ranked if not any(word.startswith("hooks.") for word in entry[0])), None)
    words = [word for word in common if not word.startswith("data.hold_out=")]
    return Found(ranked, single, " ".join(["ssss run", *ranked[0][0], *words]))


def check_same(study: Any, common: Sequence[str], space: Space, folder: Path) -> None:
    """Raise UserError where the folder holds a search of other words."""
    now = {"common": sorted(common), "space": {key: list(values) for key, values in space.items()}}
    known = study.user_attrs.get("asked")
    if known is not None and known != now:
        raise UserError(f"output={folder} holds a search of other words; choose another output=")
    study.set_user_attr("asked", now)


def usual_folder(common: Sequence[str]) -> Path:
    config = resolve([*common, "train.steps=1"] if not any("train." in word for word in common) else common)
    return Path("runs", "search", config.dataset, config.data.split.replace("/", "_"))


def number(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise UserError(f"trials takes a number of runs, 1 to 999,999,999; got '{brief(text)}'")
    return int(text)


def package() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("ssss search: pip install 'ssss-zoo[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return optuna
