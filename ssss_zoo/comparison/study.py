"""`ssss compare`, from its arguments to its tables and its report."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ssss_zoo.comparison.equal_time import plan_equal_time
from ssss_zoo.comparison.launch import EndedRun, find_launcher
from ssss_zoo.comparison.parent_run import comparison_summary, finish_parent_run, parent_run
from ssss_zoo.comparison.plan import Notify, PlannedRun, StudyPlan, common_settings, plan_study
from ssss_zoo.comparison.preflight import check_rows_can_run, with_diagnosis
from ssss_zoo.comparison.records import (
    StudyRecord,
    read_study_record,
    write_study_record,
)
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.report.pictures import write_pictures
from ssss_zoo.comparison.report.statistics import compute_figures, read_finished_runs
from ssss_zoo.comparison.report.tables import write_tables
from ssss_zoo.comparison.result import CompareResult
from ssss_zoo.comparison.run_files import damaged_files, finished_figures, is_done, write_state
from ssss_zoo.comparison.run_state import BUSY, DONE, FAILED, RunState
from ssss_zoo.comparison.study_display import StudyDisplay
from ssss_zoo.config.schema import Config
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.lock import LOCK, Busy, owned, owner_words
from ssss_zoo.stopping import Stop
from ssss_zoo.text import count
from ssss_zoo.train.device import check_one_process
from ssss_zoo.train.resume import flat_config

BUSY_POLL = 1.0  # seconds between looks at a folder that another process works in (our choice)


def run_study(overrides: Iterable[str], notify: Notify = lambda line: None) -> CompareResult:
    """Run everything that the arguments describe and that is not finished, and put the figures side by side.

    The progress is shown on the screen. notify: also gets its lines, one as each run ends. Raises UserError before
    anything starts where a row cannot run; Interrupted after Ctrl-C and other signals that ask to stop, when every run
    has saved its state.
    """
    # Plan: a row is a method with overrides of its own, and every row runs with every seed. Rows share data, network,
    # initial weights and budget, so that a difference between two rows is a difference between their methods.
    check_one_process()
    plan = with_diagnosis(plan_study(overrides))
    with StudyDisplay(notify) as display, stoppable(plan.folder.path):
        # Check: whatever can be refused is refused here, because a row that cannot run would fail after hours.
        display.print_line(f"checking that {count(len(plan.rows), 'row')} can run")
        check_rows_can_run(plan)
        known_record(plan)

        # A second comparison in the folder would train the same runs: it waits until the first has ended.
        with only_comparison_in(plan.folder.path, display.print_line):
            record = known_record(plan)  # again: the other comparison may have changed it
            same_jobs = record.jobs == plan.jobs  # only then does an earlier run tell how long another one takes
            rows = record.rows | {row.folder_name: row.overrides for row in plan.rows}
            record = replace(record, rows=rows, jobs=plan.jobs)
            write_study_record(plan.folder, record)

            # Loggers show the runs below one parent, so each run must know it before it starts. A comparison that
            # continues keeps its parent.
            with parent_run(plan, record.logger_run_ids()) as parent:
                if parent.run_ids:
                    group = plan.folder.path.name if "wandb" in parent.run_ids else None
                    plan = replace(plan, parent=parent.run_ids.get("mlflow"), group=group)
                    record = replace(record, tracked_runs=parent.run_ids, mlflow_run=None)
                    write_study_record(plan.folder, record)

                # An equal budget of time needs the speed of each row before its steps are known.
                if plan.budget == "time":
                    plan = plan_equal_time(plan, record, display.print_line)

                # Run what is missing. What a failed attempt left must go first: it would pass for a result.
                runs = plan.runs()
                missing = [run for run in runs if not is_done(run.folder)]
                display.print_line(summary_line(plan, missing, done=len(runs) - len(missing)))
                for run in missing:
                    forget_failed_attempt(run, display.print_line)

                # The tables are written after each run, so that they are right whenever the comparison is stopped.
                display.begin_study(runs, missing, plan.jobs, earlier_tell=same_jobs)
                with closing(ended_runs(missing, plan, display)) as results:
                    for run, state in results:
                        keep_failure(run, state)
                        figures = compute_figures(plan, read_finished_runs(plan))
                        write_tables(figures, plan.folder)
                        parent.log_summary(comparison_summary(figures))
                        display.end(run, state, outcome(run, state))

                # Read all results, those of earlier commands as well, and write everything that is made of them.
                display.note("writing the report")
                finished = read_finished_runs(plan)
                figures = compute_figures(plan, finished)
                write_tables(figures, plan.folder)
                write_pictures(plan, finished)
                write_report(plan.folder)

                # The parent gets the figures, the table, and the files that a person opens first.
                finish_parent_run(parent, plan, figures)
    return CompareResult(plan.folder.path, figures, parent.views())


# --- the folder -----------------------------------------------------------------------------------------------------


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Within, signals that ask to stop end the comparison. Raises Interrupted after one."""
    try:
        with Stop().handlers_installed():
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {folder} holds the finished runs, and the same command continues") from None


@contextmanager
def only_comparison_in(folder: Path, notify: Notify) -> Iterator[None]:
    """Own the folder of a comparison; wait for another process that works in it to end, and name that process."""
    with ExitStack() as stack:
        waits = False
        while True:
            try:
                stack.enter_context(owned(folder))
                break
            except Busy as busy:
                if not waits:
                    notify(f"waiting for {owner_words(busy.host, busy.pid)}, which runs a comparison in {folder}")
                waits = True
                time.sleep(BUSY_POLL)
        yield


def known_record(plan: StudyPlan) -> StudyRecord:
    """The record of what the folder compares, or a new one. Raises UserError where the folder holds something else, or
    another comparison: rows and seeds may be added, but what all rows share may not change."""
    folder, common = plan.folder.path, common_settings(plan)
    record = read_study_record(plan.folder)
    if record is None:
        if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise UserError(f"output={folder} holds files that are not of a comparison; choose another")
        return StudyRecord(common=common, rows={})
    defaults = flat_config(Config())  # for keys that another version added or removed
    value_in = lambda settings, key: settings.get(key, defaults.get(key, "nothing"))  # noqa: E731
    keys = sorted(common.keys() | (record.common.keys() & (defaults.keys() | {"given"})))
    different = [key for key in keys if value_in(common, key) != value_in(record.common, key)]
    if different:
        key = different[0]
        raise UserError(
            f"output={folder} holds another comparison, with {key}={value_in(record.common, key)}, now "
            f"{key}={value_in(common, key)}; choose another output="
        )
    for row in plan.rows:
        if record.rows.get(row.folder_name, row.overrides) != row.overrides:
            raise UserError(f"output={folder} holds a row '{row.name}' with other overrides; choose another output=")
    return record


# --- the runs -------------------------------------------------------------------------------------------------------


def summary_line(plan: StudyPlan, missing: Sequence[PlannedRun], done: int) -> str:
    left = f"{count(len(plan.rows), 'row')}, {count(len(plan.seeds), 'seed')}, {count(len(missing), 'run')} to do"
    return f"{left}, {done} done" if done else left


def ended_runs(runs: Sequence[PlannedRun], plan: StudyPlan, display: StudyDisplay) -> Generator[EndedRun, None, None]:
    """Execute the runs; yields each as it ends. A run that another process works on comes when that has ended."""
    while runs:
        busy = []
        with closing(find_launcher(plan.launcher)(runs, plan.jobs, display)) as results:
            for run, state in results:
                if state.status == BUSY:
                    other = owner_words(state.host, state.pid)
                    display.print_line(f"{run.label}: {other} trains it; waiting")
                    busy.append(run)
                else:
                    yield run, state
        while any(is_busy(run.folder.path) for run in busy):
            display.refresh()
            time.sleep(BUSY_POLL)
        runs = [run for run in busy if not is_done(run.folder)]
        yield from ((run, RunState(DONE)) for run in busy if run not in runs)


def is_busy(folder: Path) -> bool:
    try:
        with owned(folder):
            return False
    except Busy:
        return True


def forget_failed_attempt(run: PlannedRun, notify: Notify) -> None:
    """Remove how an earlier attempt ended. Where the run's records are damaged, remove its metrics too, so that the
    run continues and writes them again."""
    damaged = damaged_files(run.folder)
    for file in damaged:
        notify(f"{run.label}: {file.name} is damaged and will be made again")
    run.folder.state.unlink(missing_ok=True)
    if set(damaged) - {run.folder.counts, run.folder.cost}:
        with suppress(Busy), owned(run.folder.path):
            run.folder.metrics.unlink(missing_ok=True)


def keep_failure(run: PlannedRun, state: RunState) -> None:
    """Write down a failure that the run itself could not write: its process was killed."""
    if state.status == FAILED and not run.folder.state.is_file():
        write_state(run.folder, state)


def outcome(run: PlannedRun, state: RunState) -> str:
    """How a run ended, for a line on the screen."""
    if state.status != DONE:
        return state.reason or state.status
    figures = finished_figures(run.folder)
    return f"mIoU {100 * figures.miou:.2f}" if figures else "its records are damaged"
