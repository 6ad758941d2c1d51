"""`ssss search`: the mix of known parts that is best on a data set for a budget, found by Optuna. Trials are judged on
held-out labelled images only."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from ssss_zoo.atomic_write import write_text
from ssss_zoo.comparison.own_options import with_own_options
from ssss_zoo.comparison.plan import Notify
from ssss_zoo.comparison.search_display import BestTrial, SearchDisplay, TrialScreen
from ssss_zoo.comparison.search_space import (
    METHOD_ITSELF,
    SearchSpace,
    check_tried_options,
    choose_settings,
    search_space,
    space_methods,
)
from ssss_zoo.config.parse import split_overrides
from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.name_checks import check_names
from ssss_zoo.errors import Interrupted, UserError, expanded, failure_reason, out_of_memory
from ssss_zoo.lock import owned
from ssss_zoo.notebook import data_frame
from ssss_zoo.record_files import read_metrics
from ssss_zoo.stopping import Stop
from ssss_zoo.text import brief, count
from ssss_zoo.train.console import table_text
from ssss_zoo.train.run_folder import RunFolder, split_folder_name

DEFAULT_TRIALS = 20  # our choice
HOLD_OUT_SHARE = 0.25  # of the labelled images (our choice)
UNPRUNED_TRIALS = 5  # trials that all run to their end, before any is stopped halfway (our choice)
TABLE_ROWS = 5
FIRST_ATTEMPT = "first_attempt"  # the number of the trial that this one makes again


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
        """The best trials and, where the best is a mix, the best one without."""
        title = f"the best of {count(len(self.trials), 'trial')}, on held-out labelled images"
        table = Table(title=title, title_justify="left")
        table.add_column("mIoU, %", justify="right")
        table.add_column("settings", overflow="fold")
        for trial in self.trials[:TABLE_ROWS]:
            table.add_row(f"{100 * trial.miou:.2f}", table_text(settings_text(trial.overrides)))
        if self.single and self.single != self.trials[0]:
            table.add_section()
            single = f"{settings_text(self.single.overrides)}  (best without a mix)"
            table.add_row(f"{100 * self.single.miou:.2f}", table_text(single))
        return table


def settings_text(overrides: Sequence[str]) -> str:
    """What distinguishes a trial, in a line for people."""
    return " ".join(overrides) or "nothing changed"


def run_search(overrides: Iterable[str], notify: Notify = lambda line: None) -> SearchResult:
    """Try `trials` configurations, or as many as are left of them, and find the best. The study lies in `output`, and
    the same arguments continue it.

    The progress is shown on the screen. notify: also gets its lines, one as each trial ends. Raises UserError for
    arguments that make no search; Busy where another process searches in the folder; Interrupted after Ctrl-C.
    """
    own, rest = split_overrides(overrides, "trials", "output")
    trials = parse_trials(own.get("trials", str(DEFAULT_TRIALS)))
    space = search_space(rest)
    _, common = split_overrides(rest, "try.")
    if not any(argument.startswith("data.hold_out=") for argument in common):
        common.append(f"data.hold_out={HOLD_OUT_SHARE}")
    for method in space_methods(space) or [""]:
        check_names(resolve([*common, *([f"method={method}"] if method else [])]))
    check_tried_options(space, common)
    folder = expanded(own.get("output") or default_search_folder(common))
    import_optuna()
    with SearchDisplay(notify) as display, owned(folder):
        study = open_study(folder)
        check_same_search(study, common, space, folder)
        enqueue_trials(study, space, folder)
        done = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
        left = max(trials - len(done), 0)
        display.print_line(f"{left} of {trials} trials to do, in {folder}")
        seconds = [trial.duration.total_seconds() for trial in done if FIRST_ATTEMPT not in trial.user_attrs]
        display.begin_search(len(done) + left, len(done), best_trial(done), seconds)
        try:
            with Stop().handlers_installed():
                study.optimize(Objective(space, common, folder, display), n_trials=left, catch=(Exception,))
        except KeyboardInterrupt:
            best = f", the best mIoU {display.best}" if display.best else ""
            reached = f"{display.done} of {display.trials} trials done{best}"
            raise Interrupted(f"stopped; {reached}; the same command continues the search in {folder}") from None
        return search_result(study, common)


class GivenUp(Interrupted):
    """Ends a run that Optuna gives up: it counts as stopped, not as failed."""


class Objective:
    """A trial of Optuna: one run, scored by its mIoU on the held-out images."""

    def __init__(self, space: SearchSpace, common: Sequence[str], folder: Path, display: SearchDisplay) -> None:
        self.space = space
        self.common = common
        self.folder = folder
        self.display = display

    def __call__(self, trial: Any) -> float:
        """Raises KeyboardInterrupt where the search was stopped; every other error is of this trial alone."""
        import optuna

        folder = trial_folder(self.folder, trial)
        whole = not holds_checkpoint(folder)
        label = f"trial {first_number(trial)}"
        self.display.begin(label)
        try:
            overrides = choose_settings(trial, self.space, self.common)
            self.display.begin(label, settings_text(overrides))
            trial.set_user_attr("overrides", overrides)
            equal = [one for one in completed(trial.study.trials) if one.user_attrs["overrides"] == overrides]
            if equal:  # the same overrides make the same run
                self.display.end(f"as trial {first_number(equal[0])}")
                return float(equal[0].value)
            miou = self.train(trial, overrides, folder)
            self.display.end(f"mIoU {100 * miou:.2f}", scored=BestTrial(miou, settings_text(overrides)), whole=whole)
        except optuna.TrialPruned:
            self.display.end("stopped halfway", whole=whole)
            remove_checkpoints(folder)
            raise
        except Interrupted as error:  # its checkpoint stays: the next command goes on from it
            raise KeyboardInterrupt from error
        except Exception as error:  # a bug in a method must not end the other trials
            self.display.end(failure_reason(error) + keep_traceback(error, folder), failed=True)
            remove_checkpoints(folder)
            raise
        remove_checkpoints(folder)
        return miou

    def train(self, trial: Any, overrides: Sequence[str], folder: RunFolder) -> float:
        """The mIoU of a run. It goes on where an earlier command was stopped. Raises TrialPruned where Optuna gives the
        trial up."""
        import optuna

        from ssss_zoo.train.run import run_training  # imports torch, which a misspelt argument does without

        resume = ["resume=true"] if holds_checkpoint(folder) else []
        if not resume:
            shutil.rmtree(folder.path, ignore_errors=True)

        def on_eval(step: int, miou: float) -> None:
            trial.report(miou, step)
            if trial.should_prune():
                raise GivenUp

        settings = with_own_options(self.common, overrides)
        config = resolve([*settings, f"output={folder.path}", "evaluate.predictions=0", *resume])
        try:
            result = run_training(config, on_eval, TrialScreen(self.display))
        except GivenUp as error:
            raise optuna.TrialPruned from error
        return float(result.metrics["val"]["miou"])


def holds_checkpoint(folder: RunFolder) -> bool:
    """Whether the folder of a trial holds a run that can go on."""
    from ssss_zoo.train.checkpoint import find_folder

    if find_folder(folder.last) is None:
        return False
    return not folder.metrics.exists() or read_metrics(folder.metrics, "remove it")["status"] != "finished"


def remove_checkpoints(folder: RunFolder) -> None:
    shutil.rmtree(folder.best, ignore_errors=True)
    shutil.rmtree(folder.last, ignore_errors=True)


def keep_traceback(error: Exception, folder: RunFolder) -> str:
    """Write the traceback of a bug into the folder of its trial; returns where, for a line. A mistake that a person can
    mend has none."""
    if isinstance(error, UserError) or out_of_memory(error):
        return ""
    file = folder.path / "traceback.txt"
    folder.path.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(traceback.format_exception(error)))
    return f" (see {file})"


# --- the study ------------------------------------------------------------------------------------------------------


def open_study(folder: Path) -> Any:
    """The study of Optuna in the folder, made where there is none."""
    optuna = import_optuna()
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{folder.resolve() / 'optuna.db'}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
    )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # a search that goes on repeats no draws
    return study


def first_number(trial: Any) -> int:
    """The number of a trial or, of one that is made again, of its first attempt: people and folders know it by this."""
    return int(trial.user_attrs.get(FIRST_ATTEMPT, trial.number))


def trial_folder(folder: Path, trial: Any) -> RunFolder:
    return RunFolder(folder / "trials" / str(first_number(trial)))


def enqueue_trials(study: Any, space: SearchSpace, folder: Path) -> None:
    """Decide on the first trials. A new search begins with each method by itself, which a mix must beat. One that goes
    on makes the trials again that failed or were stopped."""
    from optuna.trial import TrialState, create_trial

    if not study.trials:
        own = {key: METHOD_ITSELF for key, values in space.items()
               if key.startswith("hooks.") and METHOD_ITSELF in values}  # fmt: skip
        for method in space_methods(space):
            study.enqueue_trial({"method": method, **own})
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:  # its process was killed
            study.tell(trial.number, state=TrialState.FAIL)
    latest = {first_number(trial): trial for trial in study.trials}
    for number, trial in latest.items():
        if trial.state == TrialState.FAIL:
            goes_on = holds_checkpoint(trial_folder(folder, trial))
            again = create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={FIRST_ATTEMPT: number},
                system_attrs=trial.system_attrs,
                intermediate_values=trial.intermediate_values if goes_on else None,
            )
            study.add_trial(again)


def best_trial(trials: Iterable[Any]) -> BestTrial | None:
    """The best of the trials that came to their end, None where none has."""
    scored = [BestTrial(trial.value, settings_text(trial.user_attrs["overrides"])) for trial in completed(trials)]
    return max(scored, default=None)


def completed(trials: Iterable[Any]) -> list[Any]:
    """The trials that came to their end. One that Optuna gave up has a value, too: that of its last evaluation."""
    return [trial for trial in trials if trial.state.name == "COMPLETE"]


def search_result(study: Any, common: Sequence[str]) -> SearchResult:
    """Raises UserError where no trial came to its end."""
    done = sorted(completed(study.trials), key=lambda trial: -trial.value)
    if not done:
        raise UserError("no trial finished; the lines above give the reasons")
    distinct = {
        tuple(t.user_attrs["overrides"]): SearchTrial(list(t.user_attrs["overrides"]), float(t.value)) for t in done
    }
    ranked = list(distinct.values())
    is_mix = lambda trial: any(argument.startswith("hooks.") for argument in trial.overrides)  # noqa: E731
    single = next((trial for trial in ranked if not is_mix(trial)), None)
    kept = [argument for argument in common if not argument.startswith("data.hold_out=")]
    best = ranked[0].overrides
    settings = [argument for argument in with_own_options(kept, best) if argument not in best]
    return SearchResult(ranked, single, shlex.join(["ssss", "run", *best, *settings]))


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
