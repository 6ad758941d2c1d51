"""MLflow as the logger of a run: what it keeps, how it fails without harm, a store for runs that start at once."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssss_zoo.config.parse import flatten_keys
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config, as_tree
from ssss_zoo.train.logger import TrackedRun, TrackedTable
from ssss_zoo.train.mlflow_logger import NOTE_END, open_store, store_name
from ssss_zoo.train.tracking import Tracker, start_tracker

TAGS = {"method": "fixmatch", "seed": "0"}


# --- MLflow ---------------------------------------------------------------------------------------------------------


def config(uri: str | None, *words: str) -> Config:
    return resolve(["method=fixmatch", *([f"tracking.uri={uri}"] if uri else []), *words])


def track(settings: Config, run_id: str | None = None, tags: Mapping[str, str] = TAGS, note: str = "") -> Tracker:
    """The tracker of a run with these settings; run_id: that MLflow gave it before."""
    run = TrackedRun("a run", Path(), settings.tracking, flatten_keys(as_tree(settings)), tags, note=note)
    return start_tracker(run, {"mlflow": run_id} if run_id else {})


def run_id_of(tracker: Tracker) -> str:
    return tracker.run_ids["mlflow"]


def test_a_run_leaves_parameters_figures_tags_and_its_end(store, tmp_path, warnings):
    words = ["tracking.experiment=mine", "data.split=1/8", "train.batch=3"]
    tracker = track(config(store, *words))
    tracker.log({"loss/total": 0.5, "lr": 0.1, "broken": float("nan")}, 3)
    tracker.log({"loss/total": 0.25}, 4)
    (tmp_path / "note.txt").write_text("hello")
    client = open_store(store)
    assert client.get_run(run_id_of(tracker)).info.status == "RUNNING"
    tracker.finish("FINISHED", [])
    run = client.get_run(run_id_of(tracker))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.params["train.batch"] == "3"
    assert run.data.params["options.fixmatch.threshold"] == "0.95"
    assert run.data.metrics == {"loss/total": 0.25, "lr": 0.1}
    assert [(m.step, m.value) for m in client.get_metric_history(run_id_of(tracker), "loss/total")] == [
        (3, 0.5),
        (4, 0.25),
    ]
    assert run.data.tags["method"] == "fixmatch"
    assert warnings() == []


def test_artifacts_are_kept_with_the_run(store, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = track(config(store))
    (tmp_path / "note.txt").write_text("hello")
    tracker.finish("KILLED", [tmp_path / "note.txt"])
    client = open_store(store)
    assert [file.path for file in client.list_artifacts(run_id_of(tracker))] == ["note.txt"]
    assert client.get_run(run_id_of(tracker)).info.status == "KILLED"
    assert warnings() == []


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store, warnings):
    first = track(config(store))
    first.log({"loss": 1.0}, 1)
    first.finish("KILLED", [])
    second = track(config(store), run_id_of(first))
    second.log({"loss": 0.5}, 2)
    second.finish("FINISHED", [])
    assert run_id_of(second) == run_id_of(first)
    client = open_store(store)
    assert [m.step for m in client.get_metric_history(run_id_of(first), "loss")] == [1, 2]
    assert client.get_run(run_id_of(first)).info.status == "FINISHED"
    number = client.get_run(run_id_of(first)).info.experiment_id
    assert len(client.search_runs([number])) == 1
    assert warnings() == []


def test_a_run_resumed_against_another_store_begins_a_run_there(store, warnings):
    tracker = track(config(store), "0123456789abcdef0123456789abcdef")
    assert run_id_of(tracker) != "0123456789abcdef0123456789abcdef"
    tracker.log({"loss": 1.0}, 1)
    assert open_store(store).get_run(run_id_of(tracker)).data.metrics == {"loss": 1.0}
    assert warnings() == []


def test_a_configuration_of_more_than_a_hundred_keys_is_tracked(store, warnings):
    from ssss_zoo.engine.registry import build_methods, with_options

    large = resolve(["method=farcluss+unimatch+fixmatch+supervised", f"tracking.uri={store}"])
    large = with_options(large, build_methods(large))
    large.options["more"] = {f"key{number}": number for number in range(120)}
    tracker = track(large)
    assert warnings() == []
    params = open_store(store).get_run(run_id_of(tracker)).data.params
    assert params["options.more.key119"] == "119"
    assert params["options.farcluss.top_k"] == "3"


def test_steps_that_the_store_has_already_are_not_stored_twice(store, warnings):
    """A killed run is resumed at its checkpoint, and makes the steps since again."""
    first = track(config(store))
    for step in (1, 2, 3):
        first.log({"loss": 1.0 / step, "val/iou/a&b": 0.5}, step)
    second = track(config(store), run_id_of(first))
    for step in (2, 3, 4):
        second.log({"loss": 1.0 / step, "val/iou/a&b": 0.5, "new": 2.0}, step)
    client = open_store(store)
    rows = {name: [m.step for m in client.get_metric_history(run_id_of(first), name)]
            for name in ("loss", store_name("val/iou/a&b"), "new")}  # fmt: skip
    assert rows == {"loss": [1, 2, 3, 4], store_name("val/iou/a&b"): [1, 2, 3, 4], "new": [2, 3, 4]}
    assert warnings() == []


PLAIN = ["lr", "loss/total", "val/iou/person", "val/iou/traffic light", "val/iou/été", "a:b", ".x", "a/b/c", "_", "-"]
ODD = ["val/iou/person (adult)", "val/iou/wall & roof", "val/iou/a,b", "val/iou/a;b", "val/iou/a//b", "val/iou/../x",
       "val/iou/..", "val/iou/.", "val/iou/c/", "/", "", "..", "/etc", "...x", "val/iou/[/b]", "val/iou/\n",
       "val/iou/\ud800", "val/iou/e\u0301", "val/iou/" + "x" * 300, "val/iou/" + "x" * 299 + "y"]  # fmt: skip


def test_a_name_that_mlflow_takes_stays_and_others_keep_apart():
    assert [store_name(name) for name in PLAIN] == PLAIN
    assert store_name("val/iou/a//b").startswith("val/iou/a/_/b_")
    names = [store_name(name) for name in PLAIN + ODD]
    assert len({*names}) == len(names)


@settings(deadline=None)  # the first one imports MLflow
@given(st.lists(st.text(alphabet="ab./_:- &é\n"), unique=True, max_size=6))
def test_any_names_are_taken_and_stay_apart(names):
    from mlflow.utils.validation import _validate_metric_name

    kept = [store_name(name) for name in names]
    for name in kept:
        _validate_metric_name(name)
        assert len(name) <= 250
    assert len({*kept}) == len(names)


@pytest.mark.parametrize(
    "name", [*ODD[::4], *(pytest.param(name, marks=pytest.mark.long) for name in ODD if name not in ODD[::4])]
)
def test_a_class_may_be_called_anything(name, store, warnings):
    tracker = track(config(store))
    tracker.log({name: 0.5, "lr": 0.1}, 1)
    tracker.log({"lr": 0.2}, 2)
    assert warnings() == []
    metrics = open_store(store).get_run(run_id_of(tracker)).data.metrics
    assert metrics["lr"] == 0.2
    assert len(metrics) == 2


def test_long_values_and_odd_tags_are_taken(store, warnings):
    tags = {"folder": "y" * 9000, "data": ""}
    tracker = track(config(store, f"data.root={'x' * 7000}"), tags=tags)
    track(config(store), run_id_of(tracker), tags)
    assert warnings() == []
    assert len(open_store(store).get_run(run_id_of(tracker)).data.tags["folder"]) == 5000


def test_off_tracks_nothing_and_makes_no_file(tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = track(config("off"))
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("FINISHED", [])
    assert tracker.run_ids == {}
    assert list(tmp_path.iterdir()) == []
    assert warnings() == []


def test_without_a_word_the_store_is_a_file_under_runs(fresh_store, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(fresh_store, tmp_path / "runs" / "mlflow.db")
    tracker = track(config(None))
    assert open_store(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}").get_run(run_id_of(tracker))
    assert warnings() == []


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://there", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_cannot_be_had_is_one_warning_and_the_run_goes_on(uri, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    tracker = track(config(uri))
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("FINISHED", [])
    (warning,) = warnings()
    assert warning.startswith("MLflow cannot start (")
    assert warning.endswith("; the run continues, its figures are in history.jsonl")
    assert "\n" not in warning


def test_a_store_that_is_lost_on_the_way_is_one_warning(store, tmp_path, warnings):
    tracker = track(config(store))
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


@pytest.mark.long
def test_a_fresh_store_is_made_once_by_runs_that_start_at_once(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ssss_zoo.config.resolve import resolve\n"
        "from ssss_zoo.train.logger import TrackedRun\n"
        "from ssss_zoo.train.tracking import start_tracker\n"
        "settings = resolve([f'tracking.uri={sys.argv[1]}']).tracking\n"
        "tracker = start_tracker(TrackedRun('run', Path(), settings, tags={'process': sys.argv[2]}), {})\n"
        "tracker.log({'loss': 1.0}, 1)\n"
        "tracker.finish('FINISHED', [])\n"
        "print(tracker.run_ids['mlflow'] if tracker.loggers else 'lost')\n"
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


def test_the_load_of_the_machine_is_logged_where_asked_for(store, warnings, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    tracker = track(config(store, "tracking.system=true"))
    client, end = open_store(store), time.monotonic() + 20
    while not (names := set(client.get_run(run_id_of(tracker)).data.metrics)) and time.monotonic() < end:
        time.sleep(0.02)
    tracker.finish("FINISHED", [])
    assert "system/cpu_utilization_percentage" in names
    assert warnings() == []


def test_later_means_of_a_comparison_replace_earlier_ones(store, warnings):
    """A comparison that is continued with more seeds logs its means again, at no step."""
    first = track(config(store))
    first.log_summary({"miou/fixmatch": 0.5})
    first.log_table("comparison", TrackedTable(("method", "seeds"), (("fixmatch", 1),)), 0)
    first.finish("FINISHED", [])
    second = track(config(store), run_id_of(first))
    second.log_summary({"miou/fixmatch": 0.25})
    second.log_table("comparison", TrackedTable(("method", "seeds"), (("fixmatch", 2),)), 0)
    client = open_store(store)
    run = client.get_run(run_id_of(first))
    assert run.data.metrics == {"miou/fixmatch": 0.25}
    assert run.info.status == "RUNNING"
    (table,) = client.list_artifacts(run.info.run_id, "tables")
    assert Path(client.download_artifacts(run.info.run_id, table.path)).read_text() == "method,seeds\nfixmatch,2\n"
    assert warnings() == []


# --- who ran what ---------------------------------------------------------------------------------------------------


def test_a_run_says_who_ran_what_from_which_commit(store, monkeypatch, warnings):
    monkeypatch.setattr("ssss_zoo.train.mlflow_logger.git_commit", lambda: "a" * 40 + "-dirty")
    monkeypatch.setattr("sys.argv", ["/home/me/train.py", "x"])
    monkeypatch.setenv("LOGNAME", "ada")
    tags = open_store(store).get_run(run_id_of(track(config(store)))).data.tags
    own = {key: text for key, text in tags.items() if key.startswith("mlflow.") and key != "mlflow.runName"}
    assert own == {
        "mlflow.user": "ada",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "train.py",
        "mlflow.source.git.commit": "a" * 40,
    }
    assert warnings() == []


def test_a_machine_without_user_or_repository_is_logged_all_the_same(store, monkeypatch, warnings):
    def no_user():
        raise OSError("No username set in the environment")

    monkeypatch.setattr("ssss_zoo.train.mlflow_logger.git_commit", lambda: None)
    monkeypatch.setattr("ssss_zoo.train.mlflow_logger.getuser", no_user)
    monkeypatch.setattr("sys.argv", [str(Path(sys.modules["ssss_zoo"].__file__).parent / "__main__.py")])
    tags = open_store(store).get_run(run_id_of(track(config(store)))).data.tags
    assert tags["mlflow.source.name"] == "ssss"
    assert not {"mlflow.user", "mlflow.source.git.commit"} & tags.keys()
    assert warnings() == []


def test_a_note_of_a_person_stays_and_ours_above_it_is_replaced(store, warnings):
    tracker = track(config(store), note="ours")
    client, run_id = open_store(store), run_id_of(tracker)
    note = lambda: client.get_run(run_id).data.tags["mlflow.note.content"]  # noqa: E731
    assert note() == f"ours\n{NOTE_END}"
    client.set_tag(run_id, "mlflow.note.content", f"{note()}\nlook at this again")
    tracker.log_note("the result")
    assert note() == f"the result\n{NOTE_END}\nlook at this again"
    track(config(store), run_id, note="x" * 9000)
    assert note().endswith(f"x\n{NOTE_END}\nlook at this again")
    client.set_tag(run_id, "mlflow.note.content", f"a\n{NOTE_END}{'b' * 6000}")
    tracker.log_note("the result")
    assert note().startswith("a\n")  # there is no room for both
    client.set_tag(run_id, "mlflow.note.content", "all mine")
    tracker.log_note("the result")
    assert note() == "all mine"
    assert warnings() == []


def test_a_run_that_goes_on_gets_the_name_and_the_tags_of_the_later_command(store, warnings):
    first = track(config(store), tags={"seeds": "0", "methods": "a"})
    run = TrackedRun("with more seeds", Path(), config(store).tracking, tags={"seeds": "0, 1"})
    start_tracker(run, first.run_ids)
    stored = open_store(store).get_run(run_id_of(first))
    assert stored.info.run_name == "with more seeds"
    assert (stored.data.tags["seeds"], stored.data.tags["methods"]) == ("0, 1", "a")
    assert warnings() == []


def test_the_command_or_the_address_shows_the_run(store, fresh_store, tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copy(fresh_store, tmp_path / "runs" / "mlflow.db")
    assert track(config(None)).views() == ("MLflow: ssss ui",)
    assert track(config(store, "tracking.experiment=my runs")).views() == (
        f"MLflow: ssss ui uri={store} 'experiment=my runs'",
    )
    tracker = track(config(store))
    tracker.loggers["mlflow"].uri = "https://ada:secret@mlflow.example.org:5000/"
    (view,) = tracker.views()
    experiment = open_store(store).get_run(run_id_of(tracker)).info.experiment_id
    page = f"https://mlflow.example.org:5000/#/experiments/{experiment}/runs/{run_id_of(tracker)}"
    assert view == f"MLflow: {page}?workflowType=machine_learning"
    tracker.loggers["mlflow"].uri = "postgresql://ada:secret@db/mlflow"
    assert tracker.views() == ()
    assert track(config("off")).views() == ()
    assert warnings() == []
