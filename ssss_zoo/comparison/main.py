"""`ssss compare`: read the study, look at every cell, run those that are missing, write what is known after each."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssss_zoo import checkpoint
from ssss_zoo.comparison.budget import equal_time
from ssss_zoo.comparison.cell import DONE, STATE, is_done
from ssss_zoo.comparison.check import check_study, diagnosed
from ssss_zoo.comparison.launch import launcher
from ssss_zoo.comparison.pictures import write_pictures
from ssss_zoo.comparison.report import write_report
from ssss_zoo.comparison.results import finished_runs, gather
from ssss_zoo.comparison.study import Cell, Study, read_study
from ssss_zoo.comparison.tables import write_tables
from ssss_zoo.config import Config, resolve
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.place import flat_config
from ssss_zoo.tracking import Tracker

STUDY = "study.json"
ARTEFACTS = ("report.html", "compare.md", "compare.json")
log = logging.getLogger("ssss_zoo")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class CompareResult:
    """What a comparison gives back: its folder, and its figures as in compare.json."""

    folder: Path
    figures: dict[str, Any]


def compare(words: Iterable[str], tell: Tell = lambda line: None) -> CompareResult:
    """Run every cell that the words describe and that is not finished, and put the figures side by side.

    tell: gets a line on each cell as it begins and ends. Raises UserError before anything starts where a row cannot
    run; Interrupted after Ctrl-C, when all that ran has been saved.
    """
    study = diagnosed(read_study(words))
    check_study(study)
    known = remember(study)
    parent = Parent(study.cells()[0].config(), study, known.get("mlflow_run"))
    if parent.run_id:
        study = replace(study, parent=parent.run_id)
        checkpoint.write_json(study.folder / STUDY, known | {"mlflow_run": parent.run_id})
    if study.budget == "time":
        study = equal_time(study, study.folder / STUDY, tell)
    try:
        run_missing(study, tell)
    except KeyboardInterrupt:
        parent.finish("KILLED", [])
        raise Interrupted(f"stopped; {study.folder} holds what is done, and the same command goes on") from None
    figures = write(study)
    write_pictures(study, finished_runs(study))
    write_report(study.folder)
    parent.log(means(figures), 0)
    parent.finish("FAILED" if figures["failed"] else "FINISHED", [study.folder / name for name in ARTEFACTS])
    return CompareResult(study.folder, figures)


def run_missing(study: Study, tell: Tell) -> None:
    """Run every cell that is not finished; the tables are written after each. Raises KeyboardInterrupt."""
    cells = [cell for cell in study.cells() if not is_done(cell.folder)]
    told = len(study.cells()) - len(cells)
    rows, seeds, to_do = counted(study.rows, "row"), counted(study.seeds, "seed"), counted(cells, "run")
    tell(f"{rows}, {seeds}, {to_do} to do{f', {told} done' if told else ''}")
    began, ended = time.perf_counter(), list[Cell]()

    def on_end(cell: Cell, state: dict[str, Any]) -> None:
        if state["status"] != DONE and not (cell.folder / STATE).is_file():
            checkpoint.write_json(cell.folder / STATE, state)
        write(study)
        spent = time.perf_counter() - began
        ended.append(cell)
        place = f"{len(ended)} of {len(cells)}, {spent:.0f} s since the start"
        tell(f"{cell.row.name}, seed {cell.seed}: {outcome(cell, state)} ({place})")

    for cell in cells:
        with suppress(FileNotFoundError):
            (cell.folder / STATE).unlink()  # what an earlier try said
    launcher(study.launcher)(cells, study.jobs, on_end)


def counted(things: Sequence[Any], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def write(study: Study) -> dict[str, Any]:
    """Write every table from the cells that are finished."""
    figures = gather(study)
    write_tables(figures, study.folder)
    return figures


def outcome(cell: Cell, state: dict[str, Any]) -> str:
    if state["status"] != DONE:
        return str(state.get("reason", state["status"]))
    val = json.loads((cell.folder / "metrics.json").read_text())["val"]
    return f"mIoU {100 * val['miou']:.2f}"


def remember(study: Study) -> dict[str, Any]:
    """Write down what is compared in the folder, and return that. Raises UserError where another comparison
    lies there: rows and seeds may be added, what is common to all may not change.
    """
    file = study.folder / STUDY
    if study.folder.exists() and not file.is_file() and any(study.folder.iterdir()):
        raise UserError(f"output={study.folder} holds something else than a comparison; choose another")
    now = common(study)
    known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"common": now, "rows": {}}
    different = [key for key in now.keys() | known["common"].keys() if now.get(key) != known["common"].get(key)]
    if different:
        key = sorted(different)[0]
        raise UserError(
            f"output={study.folder} holds another comparison, with {key}={known['common'].get(key, 'nothing')}, now "
            f"{key}={now.get(key, 'nothing')}; choose another output="
        )
    for row in study.rows:
        if known["rows"].get(row.slug, list(row.words)) != list(row.words):
            raise UserError(f"output={study.folder} holds a row '{row.name}' of other words; choose another output=")
    known["rows"] |= {row.slug: list(row.words) for row in study.rows}
    study.folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(file, known)
    return known


class Parent(Tracker):
    """The MLflow run that those of the cells are shown under."""

    def __init__(self, config: Config, study: Study, run_id: str | None) -> None:
        self.study = study
        super().__init__(config, {"comparison": str(study.folder), "dataset": config.dataset}, run_id)

    def start(self, config: Config, tags: Mapping[str, str]) -> str:
        name = f"compare {config.dataset} {config.data.split}: {', '.join(row.name for row in self.study.rows)}"
        run = self.client.create_run(self.experiment(config), run_name=name[:250], tags=dict(tags))
        return str(run.info.run_id)


def means(figures: Mapping[str, Any]) -> dict[str, float]:
    """Each row's mIoU, as MLflow wants it."""
    return {f"miou/{row['name']}": row["last"]["mean"] for row in figures["rows"] if row["seeds"]}


def common(study: Study) -> dict[str, str]:
    """What the words that all rows share make of the data set's recipe."""
    words = [word for word in study.words if not word.startswith(("options.", "hooks."))]
    config = flat_config(resolve([*words, "method=supervised"]))
    return config | {"given": " ".join(sorted(word for word in study.words if word.startswith(("options.", "hooks."))))}
