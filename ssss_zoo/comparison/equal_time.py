"""Equal time instead of equal steps: how many steps each row of a study may train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ssss_zoo.comparison.kept import StudyRecord, finished_metrics, read_state, write_study_record
from ssss_zoo.comparison.run_one import CODES, STOPPED, begin, end_input
from ssss_zoo.comparison.study import Cell, Row, Study
from ssss_zoo.errors import UserError

PROBE = 20  # steps that a row is timed by (our choice)


def equal_time(study: Study, known: StudyRecord, tell: Callable[[str], None]) -> Study:
    """The study with steps for each row such that all train as long as the first row does with the study's
    own steps. How long a step takes is measured once, in a run of PROBE steps, and kept in the study's record, `known`:
    the same study has the same steps ever after. Raises UserError where a probe fails."""
    rates = dict(known.get("steps_per_second", {}))
    for row in study.rows:
        if rates.get(row.slug, 0) <= 0:
            rates[row.slug] = probe(row, study)
            tell(f"{row.name}: {rates[row.slug]:.2f} steps/s")
            write_study_record(study.folder, {**known, "steps_per_second": rates})
    first = study.rows[0]
    steps = steps_of(Cell(first, study.seeds[0], study))
    rows = [
        replace(row, words=(*row.words, f"train.steps={max(1, round(steps * rates[row.slug] / rates[first.slug]))}"))
        for row in study.rows
    ]
    return replace(study, rows=tuple(rows))


def probe(row: Row, study: Study) -> float:
    """Steps a second of a row, without its evaluations."""
    with TemporaryDirectory() as place:
        often = [f"train.{key}={PROBE}" for key in ("steps", "eval_every", "checkpoint_every")]
        words = [*Cell(row, study.seeds[0], study).words, *often, f"output={place}/run", "tracking.uri=off"]
        folder, log = Path(place, "run"), Path(place, "console.log")
        with log.open("wb") as console:
            process = begin(words, folder, {}, console)
        try:
            process.wait()
        finally:
            end_input(process)
            process.wait()
        if process.returncode == CODES[STOPPED]:
            raise KeyboardInterrupt
        metrics = finished_metrics(folder)
        if process.returncode != 0 or metrics is None or not metrics["time"]["steps_per_second"]:
            state = read_state(folder)
            reason = state.get("reason") if state else log.read_text(errors="replace")[-300:]
            raise UserError(f"{row.name} cannot be timed: {reason}")
        return metrics["time"]["steps_per_second"]


def steps_of(cell: Cell) -> int:
    """The steps that a cell's words ask for. Raises UserError where they ask for epochs."""
    steps = cell.config().train.steps
    if steps is None:
        raise UserError("budget=time takes train.steps, those of the first row; train.epochs says no number")
    return steps
