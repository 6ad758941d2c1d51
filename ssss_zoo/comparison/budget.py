"""Equal time instead of equal steps: how many steps each row of a study may train."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ssss_zoo import checkpoint
from ssss_zoo.comparison.cell import read_state
from ssss_zoo.comparison.study import Cell, Row, Study
from ssss_zoo.errors import UserError

PROBE = 20  # steps that a row is timed by (our choice)


def equal_time(study: Study, file: Path, tell: Callable[[str], None]) -> Study:
    """The study with steps for each row such that all train as long as the first row does with the study's
    own steps. How long a step takes is measured once, in a run of PROBE steps, and kept in `file`: the same
    study has the same steps ever after. Raises UserError where a probe fails."""
    known = json.loads(file.read_text())
    rates: dict[str, float] = known.setdefault("steps_per_second", {})
    for row in study.rows:
        if row.slug not in rates:
            rates[row.slug] = probe(row, study)
            tell(f"{row.name}: {rates[row.slug]:.2f} steps/s")
            checkpoint.write_json(file, known)
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
        job = Path(place, "job.json")
        job.write_text(json.dumps({"words": words, "folder": f"{place}/run"}))
        done = subprocess.run(
            [sys.executable, "-m", "ssss_zoo.comparison.cell", str(job)], capture_output=True, text=True
        )
        metrics = Path(place, "run", "metrics.json")
        if done.returncode != 0 or not metrics.is_file():
            state = read_state(Path(place, "run")) or {}
            raise UserError(f"{row.name} cannot be timed: {state.get('reason', done.stderr[-300:])}")
        return float(json.loads(metrics.read_text())["time"]["steps_per_second"])


def steps_of(cell: Cell) -> int:
    """The steps that a cell's words ask for. Raises UserError where they ask for epochs."""
    steps = cell.config().train.steps
    if steps is None:
        raise UserError("budget=time takes train.steps, those of the first row; train.epochs says no number")
    return steps
