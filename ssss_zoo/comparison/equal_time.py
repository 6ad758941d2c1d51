"""Equal time instead of equal steps: how many steps each row of a study may train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ssss_zoo.comparison.folders import ComparedRunFolder
from ssss_zoo.comparison.plan import Notify, PlannedRun, StudyPlan, StudyRow
from ssss_zoo.comparison.records import StudyRecord, write_study_record
from ssss_zoo.comparison.run_files import finished_figures, read_state
from ssss_zoo.comparison.run_one import request_stop, start_process
from ssss_zoo.comparison.run_state import EXIT_CODES, STOPPED
from ssss_zoo.errors import UserError

TIMED_STEPS = 20  # of the run that measures a row (our choice)


def plan_equal_time(plan: StudyPlan, record: StudyRecord, notify: Notify) -> StudyPlan:
    """The plan with so many steps for each row that all train as long as the first row does for the steps of the plan.

    The rate of a row is measured once and kept in the study's record: the same study always has the same steps. Raises
    UserError where a row cannot be measured.
    """
    rates = dict(record.steps_per_second or {})
    for row in plan.rows:
        if rates.get(row.folder_name, 0) <= 0:
            notify(f"{row.name}: its speed is measured in {TIMED_STEPS} steps")
            rates[row.folder_name] = measure_rate(row, plan)
            notify(f"{row.name}: {rates[row.folder_name]:.2f} steps/s")
            write_study_record(plan.folder, replace(record, steps_per_second=rates))
    steps, first_rate = planned_steps(plan.runs()[0]), rates[plan.rows[0].folder_name]
    rows = []
    for row in plan.rows:
        row_steps = max(1, round(steps * rates[row.folder_name] / first_rate))
        rows.append(replace(row, overrides=(*row.overrides, f"train.steps={row_steps}")))
    return replace(plan, rows=tuple(rows))


def measure_rate(row: StudyRow, plan: StudyPlan) -> float:
    """Steps per second of a row, its evaluations not counted, in a run of TIMED_STEPS. Raises UserError where the run
    fails."""
    with TemporaryDirectory() as temporary:
        folder = ComparedRunFolder(Path(temporary, "run"))
        log = ComparedRunFolder(Path(temporary)).console  # beside the run's folder, which must be empty
        budget = [f"train.{key}={TIMED_STEPS}" for key in ("steps", "eval_every", "checkpoint_every")]
        run = plan.runs_of(row)[0]
        with log.open("wb") as console:
            overrides = [*run.overrides, *budget, f"output={folder.path}", "tracking.uri=off"]
            process = start_process(overrides, folder.path, {}, console)
        try:
            process.wait()
        finally:
            request_stop(process)
            process.wait()
        if process.returncode == EXIT_CODES[STOPPED]:
            raise KeyboardInterrupt
        figures = finished_figures(folder)
        if process.returncode != 0 or figures is None or not figures.steps_per_second:
            state = read_state(folder)
            reason = state.reason if state else log.read_text("utf-8", errors="replace")[-300:]
            raise UserError(f"{row.name} cannot be timed: {reason}")
        return figures.steps_per_second


def planned_steps(run: PlannedRun) -> int:
    """The steps that a run's overrides ask for. Raises UserError where they ask for epochs."""
    steps = run.config().train.steps
    if steps is None:
        raise UserError("budget=time needs train.steps, the steps of the first row, instead of train.epochs")
    return steps
