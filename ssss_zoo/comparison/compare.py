"""`ssss compare`: read the study, look at every cell, run those that are missing, write what is known after each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssss_zoo.comparison.equal_time import equal_time
from ssss_zoo.comparison.kept import (
    StudyRecord,
    damaged,
    finished_metrics,
    is_done,
    read_study_record,
    write_state,
    write_study_record,
)
from ssss_zoo.comparison.launch import launcher
from ssss_zoo.comparison.preflight import check_study, diagnosed
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.report.per_image_scores import SCORES
from ssss_zoo.comparison.report.pictures import write_pictures
from ssss_zoo.comparison.report.statistics import finished_runs, gather
from ssss_zoo.comparison.report.tables import write_tables
from ssss_zoo.comparison.run_one import BUSY, DONE, FAILED, STATE
from ssss_zoo.comparison.study import Cell, Study, read_study
from ssss_zoo.config.schema import Config, resolve
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.lock import LOCK, Busy, owned, owner_words
from ssss_zoo.stopping import Stop
from ssss_zoo.train.device import check_one_process
from ssss_zoo.train.resume import flat_config
from ssss_zoo.train.tracking import Tracker

WAIT = 1.0  # seconds between looks at what another process does (our choice)
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
    run; Interrupted after Ctrl-C and other signals that ask to stop, when all that ran has been saved.
    """
    check_one_process()
    study = diagnosed(read_study(words))
    try:
        with Stop().hearing():
            check_study(study)
            known_of(study)  # refuses before it waits
            with alone(study.folder, tell):
                return work_through(study, tell)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {study.folder} holds what is done, and the same command goes on") from None


@contextmanager
def alone(folder: Path, tell: Tell) -> Iterator[None]:
    """Be the only comparison that works in the folder: wait for another one to end, and say for whom."""
    with ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(owned(folder))
                break
            except Busy as busy:
                if not told:
                    tell(f"waiting for {owner_words(busy.host, busy.pid)}, which runs a comparison in {folder}")
                told = True
                time.sleep(WAIT)
        yield


def work_through(study: Study, tell: Tell) -> CompareResult:
    """Run what is missing, and write everything. However it ends, MLflow's run of the comparison ends with it."""
    known = remember(study)
    parent = Parent(study.cells()[0].config(), study, known.get("mlflow_run"))
    status, files = "FAILED", list[Path]()
    try:
        if parent.run_id:
            study = replace(study, parent=parent.run_id)
            known["mlflow_run"] = parent.run_id
            write_study_record(study.folder, known)
        if study.budget == "time":
            study = equal_time(study, known, tell)
        run_missing(study, tell)
        figures = write(study)
        write_pictures(study, finished_runs(study))
        write_report(study.folder)
        parent.log(means(figures), 0)
        status, files = "FAILED" if figures["failed"] else "FINISHED", [study.folder / name for name in ARTEFACTS]
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        parent.finish(status, files)
    return CompareResult(study.folder, figures)


def run_missing(study: Study, tell: Tell) -> None:
    """Run every cell that is not finished; the tables are written after each. A cell that another process works on is
    waited for when the others are done. Raises KeyboardInterrupt."""
    cells = [cell for cell in study.cells() if not is_done(cell.folder)]
    told = len(study.cells()) - len(cells)
    rows, seeds, to_do = counted(study.rows, "row"), counted(study.seeds, "seed"), counted(cells, "run")
    tell(f"{rows}, {seeds}, {to_do} to do{f', {told} done' if told else ''}")
    began, ended, busy = time.perf_counter(), list[Cell](), list[Cell]()

    def on_end(cell: Cell, state: dict[str, Any]) -> None:
        if state["status"] == BUSY:
            busy.append(cell)
            tell(f"{cell.row.name}, seed {cell.seed}: {owner_words(state['host'], state['pid'])} is at it; waiting")
            return
        if state["status"] == FAILED and not (cell.folder / STATE).is_file():
            write_state(cell.folder, state)
        write(study)
        spent = time.perf_counter() - began
        ended.append(cell)
        place = f"{len(ended)} of {len(cells)}, {spent:.0f} s since the start"
        tell(f"{cell.row.name}, seed {cell.seed}: {outcome(cell, state)} ({place})")

    for cell in cells:
        forget(cell, tell)
    waiting = cells
    while waiting:
        launcher(study.launcher)(waiting, study.jobs, on_end)
        waiting = freed(busy)
        busy.clear()
        for cell in [cell for cell in waiting if is_done(cell.folder)]:  # by the other process
            waiting.remove(cell)
            on_end(cell, {"status": DONE})


def forget(cell: Cell, tell: Tell) -> None:
    """Forget what an earlier try said of a cell, and what is damaged of its records: it is made again."""
    found = damaged(cell.folder)
    for name in found:
        tell(f"{cell.row.name}, seed {cell.seed}: {name} is damaged, and made again")
    (cell.folder / STATE).unlink(missing_ok=True)
    if set(found) - {SCORES}:
        with suppress(Busy), owned(cell.folder):
            (cell.folder / "metrics.json").unlink(missing_ok=True)  # so that the run goes on, and ends anew


def freed(cells: Sequence[Cell]) -> list[Cell]:
    """Wait until no other process works on any of the cells; returns them."""
    while any(is_busy(cell.folder) for cell in cells):
        time.sleep(WAIT)
    return list(cells)


def is_busy(folder: Path) -> bool:
    try:
        with owned(folder):
            return False
    except Busy:
        return True


def counted(things: Sequence[Any], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def write(study: Study) -> dict[str, Any]:
    """Write every table from the cells that are finished."""
    figures = gather(study)
    write_tables(figures, study.folder)
    return figures


def outcome(cell: Cell, state: Mapping[str, Any]) -> str:
    if state["status"] != DONE:
        return str(state.get("reason", state["status"]))
    metrics = finished_metrics(cell.folder)
    return f"mIoU {100 * metrics['val']['miou']:.2f}" if metrics else "its records are damaged"


def known_of(study: Study) -> StudyRecord:
    """What is compared in the folder, as it was written down, or as it is to be. Raises UserError where something else
    lies there, or another comparison: rows and seeds may be added, what is common to all may not change."""
    folder, now = study.folder, common(study)
    known = read_study_record(folder)
    if known is None:
        if folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
            raise UserError(f"output={folder} holds something else than a comparison; choose another")
        return {"common": now, "rows": {}}
    usual = flat_config(Config())  # of keys that one version has and the other lacks
    value = lambda of, key: of.get(key, usual.get(key, "nothing"))  # noqa: E731
    keys = sorted(now.keys() | (known["common"].keys() & (usual.keys() | {"given"})))
    different = [key for key in keys if value(now, key) != value(known["common"], key)]
    if different:
        key = different[0]
        raise UserError(
            f"output={folder} holds another comparison, with {key}={value(known['common'], key)}, now "
            f"{key}={value(now, key)}; choose another output="
        )
    for row in study.rows:
        if known["rows"].get(row.slug, list(row.words)) != list(row.words):
            raise UserError(f"output={folder} holds a row '{row.name}' of other words; choose another output=")
    return known


def remember(study: Study) -> StudyRecord:
    """Write down what is compared in the folder, and return that. Raises UserError as `known_of` does."""
    known = known_of(study)
    known["rows"] |= {row.slug: list(row.words) for row in study.rows}
    write_study_record(study.folder, known)
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
