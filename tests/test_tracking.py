"""The run's log: lines that survive a kill, MLflow that may fail without harm, a store for runs that start at once."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ssss_zoo.config import Config, resolve
from ssss_zoo.errors import UserError
from ssss_zoo.tracking import History, Tracker, flat, open_store, read_lines

TAGS = {"method": "fixmatch", "seed": "0"}


def fails(error: Exception):
    def function(*_: object, **__: object) -> None:
        raise error

    return function


# --- history.jsonl --------------------------------------------------------------------------------------------------


def steps(file: Path) -> list[int]:
    return [line["step"] for line in read_lines(file)]


def test_a_history_is_a_line_of_json_a_call(tmp_path):
    history = History(tmp_path / "history.jsonl", 0)
    history.write({"step": 1, "losses": {"total": 0.5}})
    history.write({"step": 2, "val": {"miou": None}})
    texts = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in texts] == [
        {"step": 1, "losses": {"total": 0.5}},
        {"step": 2, "val": {"miou": None}},
    ]


@pytest.mark.parametrize(("at", "kept"), [(0, []), (2, [1, 2, 2]), (3, [1, 2, 2, 3]), (9, [1, 2, 2, 3, 4])])
def test_opened_at_a_step_it_forgets_what_came_after(at, kept, tmp_path):
    file = tmp_path / "history.jsonl"
    history = History(file, 0)
    for step in (1, 2, 2, 3, 4):
        history.write({"step": step})
    History(file, at)
    assert steps(file) == kept


def test_a_last_line_that_a_kill_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path):
    file = tmp_path / "history.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "los')
    assert steps(file) == [1, 2]
    history = History(file, 9)
    history.write({"step": 3})
    assert steps(file) == [1, 2, 3]
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_a_history_that_was_never_written_is_empty(tmp_path):
    assert read_lines(tmp_path / "history.jsonl") == []
    History(tmp_path / "history.jsonl", 5)
    assert steps(tmp_path / "history.jsonl") == []


def test_a_number_that_is_none_is_refused_and_nothing_is_written(tmp_path):
    history = History(tmp_path / "history.jsonl", 0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        history.write({"step": 1, "loss": float("nan")})
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    history = History(tmp_path / "history.jsonl", 0)
    monkeypatch.setattr(Path, "open", fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError, match=r"cannot write .*history.jsonl: No space left on device; make room"):
        history.write({"step": 1})


def test_a_full_disk_on_resuming_is_one_line_and_loses_no_line(tmp_path):
    """In a process of its own, whose files may not grow."""
    file = tmp_path / "history.jsonl"
    file.write_text("".join(json.dumps({"step": step, "filler": "x" * 100}) + "\n" for step in range(100)))
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ssss_zoo.errors import UserError\n"
        "from ssss_zoo.tracking import History\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    History(Path(sys.argv[1]), 90)\n"
        "except UserError as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
    assert len(steps(file)) >= 91
    assert done.stdout.startswith("refused: cannot write"), done.stderr[-300:]


# --- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory) -> Path:
    """A store initialised once (it takes seconds) and copied by each test."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{file}")
    return file


@pytest.fixture
def store(fresh_store, tmp_path) -> str:
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def warnings(caplog):
    """The warnings of the program so far."""
    caplog.set_level(logging.WARNING, "ssss_zoo")
    logging.getLogger("ssss_zoo").propagate = True
    return lambda: [record.getMessage() for record in caplog.records if record.name == "ssss_zoo"]


def config(uri: str | None, *words: str) -> Config:
    return resolve(["method=fixmatch", *([f"tracking.uri={uri}"] if uri else []), *words])


def test_a_run_leaves_parameters_figures_tags_and_its_end(store, tmp_path, warnings):
    words = ["tracking.experiment=mine", "data.split=1/8", "train.batch=3"]
    tracker = Tracker(config(store, *words), TAGS, None)
    tracker.log({"loss/total": 0.5, "lr": 0.1, "broken": float("nan")}, 3)
    tracker.log({"loss/total": 0.25}, 4)
    (tmp_path / "note.txt").write_text("hello")
    client = open_store(store)
    assert client.get_run(tracker.run_id).info.status == "RUNNING"
    tracker.finish("FINISHED", [])
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "fixmatch shapes 1/8 seed0"
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.params["train.batch"] == "3"
    assert run.data.params["options.fixmatch.threshold"] == "0.95"
    assert run.data.metrics == {"loss/total": 0.25, "lr": 0.1}
    assert [(m.step, m.value) for m in client.get_metric_history(tracker.run_id, "loss/total")] == [(3, 0.5), (4, 0.25)]
    assert run.data.tags["method"] == "fixmatch"
    assert warnings() == []


def test_artifacts_are_kept_with_the_run(store, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(config(store), TAGS, None)
    (tmp_path / "note.txt").write_text("hello")
    tracker.finish("KILLED", [tmp_path / "note.txt"])
    client = open_store(store)
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["note.txt"]
    assert client.get_run(tracker.run_id).info.status == "KILLED"
    assert warnings() == []


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store, warnings):
    first = Tracker(config(store), TAGS, None)
    first.log({"loss": 1.0}, 1)
    first.finish("KILLED", [])
    second = Tracker(config(store), TAGS, first.run_id)
    second.log({"loss": 0.5}, 2)
    second.finish("FINISHED", [])
    assert second.run_id == first.run_id
    client = open_store(store)
    assert [m.step for m in client.get_metric_history(first.run_id, "loss")] == [1, 2]
    assert client.get_run(first.run_id).info.status == "FINISHED"
    number = client.get_run(first.run_id).info.experiment_id
    assert len(client.search_runs([number])) == 1
    assert warnings() == []


def test_a_run_resumed_against_another_store_begins_a_run_there(store, warnings):
    tracker = Tracker(config(store), TAGS, "0123456789abcdef0123456789abcdef")
    assert tracker.run_id != "0123456789abcdef0123456789abcdef"
    tracker.log({"loss": 1.0}, 1)
    assert open_store(store).get_run(tracker.run_id).data.metrics == {"loss": 1.0}
    assert warnings() == []


def test_a_configuration_of_more_than_a_hundred_keys_is_tracked(store, warnings):
    from ssss_zoo.plugins import build_methods

    large = resolve(["method=farcluss+unimatch+fixmatch+supervised", f"tracking.uri={store}"])
    build_methods(large)
    large.options["more"] = {f"key{number}": number for number in range(120)}
    tracker = Tracker(large, TAGS, None)
    assert warnings() == []
    params = open_store(store).get_run(tracker.run_id).data.params
    assert params["options.more.key119"] == "119"
    assert params["options.farcluss.top_k"] == "3"


@pytest.mark.parametrize("name", ["val/iou/person (adult)", "val/iou/wall & roof", "val/iou/été", "val/iou/a,b"])
def test_a_class_may_be_called_anything(name, store, warnings):
    tracker = Tracker(config(store), TAGS, None)
    tracker.log({name: 0.5, "lr": 0.1}, 1)
    tracker.log({"lr": 0.2}, 2)
    assert warnings() == []
    metrics = open_store(store).get_run(tracker.run_id).data.metrics
    assert metrics["lr"] == 0.2
    assert len(metrics) == 2


def test_long_values_and_odd_tags_are_taken(store, warnings):
    Tracker(config(store, f"data.root={'x' * 2000}"), {"folder": "y" * 3000, "data": ""}, None)
    assert warnings() == []


def test_off_tracks_nothing_and_makes_no_file(tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(config("off"), TAGS, None)
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("FINISHED", [])
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []
    assert warnings() == []


def test_without_a_word_the_store_is_a_file_under_runs(fresh_store, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(fresh_store, tmp_path / "runs" / "mlflow.db")
    tracker = Tracker(config(None), TAGS, None)
    assert open_store(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}").get_run(tracker.run_id)
    assert warnings() == []


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://there", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_cannot_be_had_is_one_warning_and_the_run_goes_on(uri, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = Tracker(config(uri), TAGS, None)
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("FINISHED", [])
    (warning,) = warnings()
    assert warning.startswith("MLflow cannot start (")
    assert warning.endswith("; the run goes on, its figures are in history.jsonl")
    assert "\n" not in warning


def test_a_store_that_is_lost_on_the_way_is_one_warning(store, tmp_path, warnings):
    tracker = Tracker(config(store), TAGS, None)
    tracker.log({"loss": 1.0}, 1)
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        base.execute("drop table metrics")
        base.execute("drop table latest_metrics")
    tracker.log({"loss": 1.0}, 2)
    tracker.log({"loss": 1.0}, 3)
    tracker.finish("FINISHED", [])
    (warning,) = warnings()
    assert warning.startswith("MLflow lost (")
    assert "\n" not in warning


def test_a_fresh_store_is_made_once_by_runs_that_start_at_once(tmp_path):
    code = (
        "import sys\n"
        "from ssss_zoo.config import resolve\n"
        "from ssss_zoo.tracking import Tracker\n"
        "tracker = Tracker(resolve([f'tracking.uri={sys.argv[1]}']), {'process': sys.argv[2]}, None)\n"
        "tracker.log({'loss': 1.0}, 1)\n"
        "tracker.finish('FINISHED', [])\n"
        "print(tracker.run_id if tracker.client else 'lost')\n"
    )
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, uri, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, cwd=tmp_path)
        for i in range(2)
    ]  # fmt: skip
    ends = [process.communicate() for process in processes]
    assert [error for _, error in ends] == ["", ""]  # no warning, and no chatter of migrations
    client = open_store(uri)
    for out, _ in ends:
        assert client.get_run(out.strip()).info.status == "FINISHED"


# --- small parts ----------------------------------------------------------------------------------------------------


def test_a_tree_is_flattened_to_dotted_keys():
    assert flat({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": {}}) == {"a.b.c": 1, "a.d": [1, 2], "e": None}
