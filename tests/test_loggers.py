"""One run in every logger: figures, parameters, pictures and tables, before and after it was stopped and resumed."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.runs import signal_after_step
from helpers.wandb_files import config_of, history_of, read_records
from ssss_zoo.config.resolve import resolve
from ssss_zoo.deploy.trained import load_model
from ssss_zoo.engine import plugin_source
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.tiny import tiny_entry_points, tiny_overrides
from ssss_zoo.train.checkpointing import TrainerState
from ssss_zoo.train.logger import Logger, TrackedRun, TrackedTable
from ssss_zoo.train.mlflow_logger import open_store
from ssss_zoo.train.run import run_training
from ssss_zoo.train.tracking import check_loggers, start_tracker

STEPS = [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def logged(fresh_store, tmp_path_factory) -> SimpleNamespace:
    """A run that was stopped in its fifth step and resumed, in three loggers. folder: of the run; store: of MLflow;
    metrics: as in metrics.json."""
    place = tmp_path_factory.mktemp("logged")
    folder = place / "run"
    shutil.copy(fresh_store, place / "mlflow.db")
    store = f"sqlite:///{place / 'mlflow.db'}"
    given = [f"output={folder}", f"tracking.uri={store}", "tracking.to=[mlflow,tensorboard,wandb]", "tracking.group=g",
             "train.on_nan=stop", "evaluate.predictions=1", "tracking.model=true"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin_source, "entry_points", tiny_entry_points().entry_points)
        with pytest.MonkeyPatch.context() as armed:
            signal_after_step(armed, 4)
            with pytest.raises(Interrupted):
                run_training(resolve(tiny_overrides(*given)))
        metrics = run_training(resolve(tiny_overrides(*given, "resume=true"))).metrics
    return SimpleNamespace(folder=folder, store=store, metrics=metrics)


@pytest.mark.long
def test_mlflow_has_the_whole_run(logged):
    client = open_store(logged.store)
    (run,) = client.search_runs([client.get_experiment_by_name("ssss-zoo").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "fixmatch all seed 0"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss/total")] == STEPS
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/miou")] == [3, 6]
    assert run.data.metrics["val/miou"] == pytest.approx(logged.metrics["val"]["miou"])
    assert run.data.params["optim.lr"] == "0.05"
    assert not {key for key in run.data.params if key.startswith("tracking.")}  # an address may hold a password
    time = logged.metrics["time"]
    assert run.data.metrics["val/best_miou"] == pytest.approx(logged.metrics["best"]["miou"])
    assert run.data.metrics["train_seconds"] == pytest.approx(time["train_seconds"])
    assert run.data.metrics["peak_memory_gib"] == pytest.approx(time["peak_memory_bytes"] / 2**30, abs=1e-3)
    assert "train.steps=6 " in f"{run.data.tags['overrides']} "
    note = run.data.tags["mlflow.note.content"]
    assert "ssss run method=fixmatch dataset=tiny " in note
    assert "Differs from the defaults: " in note
    assert "`train.steps=6`" in note
    assert note.startswith(f"**mIoU {100 * logged.metrics['val']['miou']:.2f} %** of the student at step 6, best ")
    paths = [file.path for folder in (None, "pictures", "tables", "pictures/pseudo_labels")
             for file in client.list_artifacts(run.info.run_id, folder)]  # fmt: skip
    assert {"config.yaml", "metrics.json", "card.md", "run.log", "pictures/predictions.png", "tables/per_class_iou.csv",
            "pictures/pseudo_labels/3.png", "pictures/pseudo_labels/6.png"} <= set(paths)  # fmt: skip


def test_mlflow_lists_the_data_sets_that_the_run_read(logged):
    import mlflow.data

    client = open_store(logged.store)
    (run,) = client.search_runs([client.get_experiment_by_name("ssss-zoo").experiment_id])
    found = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert set(found) == {"tiny all labelled", "tiny all unlabelled", "tiny all val"}
    validation = found["tiny all val"]
    assert json.loads(validation.dataset.profile) == {"images": 2}
    assert validation.dataset.digest == logged.metrics["data"]["fingerprint"][:36]
    assert [(tag.key, tag.value) for tag in validation.tags] == [("mlflow.data.context", "validation")]
    assert mlflow.data.get_source(validation).to_dict() == {"uri": "tiny"}


def test_mlflow_loads_the_network_anywhere_and_predicts_as_the_run(logged, tiny_plugins, tmp_path, monkeypatch):
    import mlflow.pyfunc

    client = open_store(logged.store)
    (run,) = client.search_runs([client.get_experiment_by_name("ssss-zoo").experiment_id])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.store)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    Image.fromarray(images[0]).save("photo.png")
    expected = [load_model(logged.folder).predict(image).classes for image in images]
    for given in (images, list(images), ["photo.png", images[1]], pd.DataFrame({"image": list(images)})):
        np.testing.assert_array_equal(np.stack(model.predict(given)), np.stack(expected))
    assert not list(Path(model.unwrap_python_model().model.source.split()[3]).parent.rglob("*.pkl"))


def test_tensorboard_shows_both_processes_as_one_run(logged):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted((logged.folder / "tensorboard").iterdir())
    assert len(files) == 2
    read = EventAccumulator(str(logged.folder / "tensorboard"), size_guidance={"images": 0, "tensors": 0})
    read.Reload()
    assert [event.step for event in read.Scalars("loss/total")] == STEPS
    assert [event.step for event in read.Scalars("val/miou")] == [3, 6]
    assert read.Scalars("val/miou")[-1].value == pytest.approx(logged.metrics["val"]["miou"], rel=1e-6)
    assert [event.step for event in read.Images("pseudo_labels")] == [3, 6]
    assert [event.step for event in read.Images("predictions")] == [6]
    (table,) = read.Tensors("per_class_iou/text_summary")
    assert (
        table.tensor_proto.string_val[0].decode().startswith("| class | last | best |\n| --- | --- | --- |\n| class0 |")
    )
    assert "| optim.lr | 0.05 |" in read.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "_hparams_/experiment" in read.PluginTagToContent("hparams")


def test_wandb_keeps_both_processes_offline_under_one_run(logged):
    folders = sorted((logged.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1  # the run's id
    first, second = ([record for file in folder.glob("*.wandb") for record in read_records(file)] for folder in folders)
    assert config_of(first)["optim.lr"] == 0.05
    assert any("Differs from the defaults: " in record.run.notes for record in first if record.HasField("run"))
    (run,) = {
        (record.run.display_name, record.run.run_group, record.run.project)
        for record in first
        if record.HasField("run")
    }
    assert run == ("fixmatch all seed 0", "g", "ssss-zoo")
    steps = {row["_step"] for row in history_of(first) + history_of(second) if "loss/total" in row}
    assert sorted(steps) == STEPS
    (last,) = [row for row in history_of(second) if row["_step"] == 6]
    assert last["val/miou"] == pytest.approx(logged.metrics["val"]["miou"])
    assert {last[name]["_type"] for name in ("predictions", "pseudo_labels")} == {"image-file"}
    media = folders[1] / "files"
    assert all((media / last[name]["path"]).is_file() for name in ("predictions", "pseudo_labels", "per_class_iou"))
    table = json.loads((media / last["per_class_iou"]["path"]).read_text())
    assert table["columns"] == ["class", "last", "best"]
    assert json.loads((media / "metrics.json").read_text())["status"] == "finished"
    assert not (media / "requirements.txt").exists()
    assert not any(record.HasField("environment") for record in first + second)  # nothing of the machine


# --- choosing loggers -----------------------------------------------------------------------------------------------


def test_a_wrong_logger_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(
        UserError, match=r"^unknown logger 'tensorbord' in tracking.to=tensorbord; did you mean 'tensorboard'"
    ):
        run_training(resolve(["tracking.to=[tensorbord]", f"output={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "module", "extra"),
    [
        ("tracking.to=[tensorboard]", "tensorboard", "tensorboard"),
        ("tracking.to=[mlflow,wandb]", "wandb", "wandb"),
        ("tracking.model=true", "pandas", "tracking"),
        ("tracking.system=true", "psutil", "tracking"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(given, module, extra, monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()  # as W&B leaves in a working directory: it is no package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("ssss_zoo.train.tracking.find_spec", lambda name: None if name == module else logging.__spec__)
    with pytest.raises(UserError, match=rf"needs another package: pip install 'ssss-zoo\[{extra}\]'$"):
        check_loggers(resolve([given]))
    check_loggers(resolve([given, "tracking.uri=off"]))  # nothing is tracked: nothing is needed


def test_a_package_adds_a_logger_by_an_entry_point(tiny_plugins, warnings, tmp_path):
    calls = []

    class Notes(Logger):
        title = "Notes"

        def __init__(self, run: TrackedRun, run_id: str | None) -> None:
            self.run_id = "7"
            calls.append((run.name, run_id))

        def log_metrics(self, figures, step):
            calls.append((dict(figures), step))

        def log_summary(self, figures): ...

        def log_picture(self, name, file, step): ...

        def log_table(self, name, table, step):
            raise OSError("No space left on device")

        def log_file(self, name, text): ...

        def finish(self, status):
            calls.append(status)

    tiny_plugins.add("loggers", "notes", Notes)
    settings = resolve(["tracking.to=[notes]"]).tracking
    tracker = start_tracker(TrackedRun("a run", tmp_path, settings), {"notes": "6"})
    tracker.log({"loss": 1.0, "broken": float("nan")}, 1)
    assert calls == [("a run", "6"), ({"loss": 1.0}, 1)]
    assert tracker.run_ids == {"notes": "7"}
    tracker.log_table("scores", TrackedTable(("a",), ()), 1)
    tracker.log({"loss": 1.0}, 2)
    tracker.finish("FINISHED", [])
    assert len(calls) == 2
    assert warnings() == [
        "Notes lost (OSError: No space left on device); the run continues, its figures are in history.jsonl"
    ]


def test_what_is_no_logger_is_refused(tiny_plugins):
    tiny_plugins.add("loggers", "notes", dict)
    with pytest.raises(UserError, match=r"expected a subclass of ssss_zoo\.train\.logger\.Logger"):
        check_loggers(resolve(["tracking.to=[notes]"]))


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "title"), [("tensorboard", "TensorBoard"), ("wandb", "Weights & Biases")])
def test_a_logger_without_a_folder_is_one_warning(name, title, tmp_path, warnings):
    (tmp_path / name).write_text("no folder")
    tracker = start_tracker(TrackedRun("a run", tmp_path, resolve([f"tracking.to=[{name}]"]).tracking), {})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish("FINISHED", [])
    (warning,) = warnings()
    assert warning.startswith(f"{title} cannot start (FileExistsError: ")
    assert warning.endswith("; the run continues, its figures are in history.jsonl")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writing thread
def test_a_full_disk_ends_tensorboard_and_not_the_run(tmp_path, warnings, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    settings = resolve(["tracking.to=[tensorboard]"]).tracking
    tracker = start_tracker(TrackedRun("a run", tmp_path, settings), {})

    def refuse(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", refuse)
    for step in range(200):
        tracker.log({"loss": 1.0}, step)
    tracker.finish("FINISHED", [])
    (warning,) = warnings()
    assert warning.startswith("TensorBoard lost")
    assert "No space left on device" in warning


def test_wandb_online_without_a_key_asks_for_none(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(api_key=None))
    settings = resolve(["tracking.to=[wandb]", "tracking.online=true"]).tracking
    start_tracker(TrackedRun("a run", tmp_path, settings), {})
    (warning,) = warnings()
    assert "run `wandb login` once" in warning


def test_loggers_of_an_earlier_version_are_read():
    record = {"step": 1, "val": {}, "best": {}, "seen": {}, "window": [], "spent": {}, "mlflow_run": "abc"}
    assert TrainerState.from_record(record).tracked_runs == {"mlflow": "abc"}
    assert TrainerState.from_record({**record, "mlflow_run": None}).tracked_runs == {}
    assert TrainerState.from_record({**record, "tracked_runs": {"wandb": "x"}}).tracked_runs == {"wandb": "x"}
