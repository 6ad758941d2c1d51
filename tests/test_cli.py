"""The command line end to end: one small run in a process of its own, and what can be done with what it leaves."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file

from ssss_zoo.commands.cli import LISTED_KINDS, command_line
from ssss_zoo.commands.show import compare_with_earlier_runs
from ssss_zoo.data.benchmarks.shapes_scene import SHAPES_CLASSES

WORDS = [
    "method=farcluss", "dataset=shapes", "train.steps=4", "train.batch=2", "train.crop=[32,32]", "train.threads=1",
    "train.workers=0", "train.device=cpu", "train.log_every=1", "train.eval_every=2", "train.checkpoint_every=2",
    "model.weights=none", "model.channels=16", "model.encoder=test_resnet", "evaluate.predictions=1",
    "options.farcluss.ramp_epochs=0", "data.split=1/16", "optim.lr=0.01", "optim.head_multiplier=1", "optim.power=0.9",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, fresh_store):
    """The run that the tests below look at: `ssss run --trace ...` as a person starts it, on a store without runs."""
    place = tmp_path_factory.mktemp("place")
    (place / "runs").mkdir()
    shutil.copy(fresh_store, place / "runs" / "mlflow.db")
    given = ["output=out", "tracking.uri=sqlite:///runs/mlflow.db", *WORDS]
    done = subprocess.run(
        [sys.executable, "-m", "ssss_zoo", "run", "--trace", *given], cwd=place, capture_output=True, text=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    folder = place / "out"
    return SimpleNamespace(
        place=place,
        folder=folder,
        out=done.stdout,
        err=done.stderr,
        metrics=json.loads((folder / "metrics.json").read_text()),
        history=[json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()],
    )


# --- what a run leaves ----------------------------------------------------------------------------------------------


def test_a_run_leaves_the_files_of_the_contract_and_nothing_else(made):
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "best", "card.md", "config.yaml", "history.jsonl", "last", "metrics.json", "predictions.png",
        "pseudo_labels", "run.log",
    ]  # fmt: skip
    assert sorted(path.name for path in (made.folder / "last").iterdir()) == [
        "digests.json", "methods.safetensors", "state.pt", "student.safetensors", "teacher.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in made.place.iterdir()) == ["out", "runs"]


def test_metrics_say_what_was_trained_and_that_it_is_finished(made):
    metrics = made.metrics
    assert metrics["status"] == "finished"
    assert metrics["step"] == 4
    assert [metrics[key] for key in ("method", "dataset", "split", "seed")] == ["farcluss", "shapes", "1/16", 0]
    counts = {"labelled": 20, "unlabelled": 300, "val": 64}
    statistics = {"low": [], "high": [], "mean": [0.5] * 3, "std": [0.5] * 3}  # the encoder's own
    assert metrics["data"] | {"fingerprint": ""} == {**counts, "fingerprint": "", **statistics}
    assert len(metrics["data"]["fingerprint"]) == 16


def test_finished_runs_of_other_methods_on_the_same_data_are_told_of(made, tmp_path):
    """And one whose metrics are damaged is named, not taken for none."""
    better = made.metrics | {
        "method": "other",
        "val": made.metrics["val"] | {"miou": made.metrics["val"]["miou"] + 0.1},
    }
    folders = {name: tmp_path / "shapes" / name / "1_16" / "seed0" for name in ("mine", "other", "broken", "shorter")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["other"] / "metrics.json").write_text(json.dumps(better))
    (folders["shorter"] / "metrics.json").write_text(json.dumps(better | {"step": 3}))
    (folders["broken"] / "metrics.json").write_text('{"method": ')
    broken, other = compare_with_earlier_runs(folders["mine"], made.metrics)
    assert broken.startswith("not compared: ")
    assert "broken/1_16/seed0/metrics.json is damaged" in broken
    assert other.endswith("; farcluss is 10.00 lower")


def test_figures_lie_in_their_ranges(made):
    val = made.metrics["val"]
    assert val["step"] == 4
    assert val["miou"] == val["teacher"]["miou"]  # the teacher stands for the run
    for part in (val, val["student"], val["teacher"], made.metrics["best"]):
        assert list(part["iou"]) == list(SHAPES_CLASSES)
        known = [iou for iou in part["iou"].values() if iou is not None]
        assert all(0 <= value <= 1 for value in [part["miou"], part["pixel_accuracy"], *known])
        assert part["miou"] == pytest.approx(math.fsum(known) / len(known))
    assert made.metrics["best"]["miou"] >= val["miou"]
    assert made.metrics["best"]["step"] in (2, 4)
    assert made.metrics["best"]["network"] == val["network"] == "teacher"


def test_time_and_environment_are_recorded(made):
    time, environment = made.metrics["time"], made.metrics["environment"]
    for name in ("train_seconds", "evaluate_seconds", "steps_per_second", "peak_memory_bytes"):
        assert time[name] > 0
    assert time["data_wait_seconds"] >= 0
    assert environment["threads"] == 1
    assert environment["device"].startswith("cpu")
    assert {"ssss-zoo", "torch", "timm", "kornia"} <= set(environment["packages"])


def test_history_has_a_line_a_logged_step_and_one_an_evaluation(made):
    logged = [line for line in made.history if "losses" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    assert [line["step"] for line in made.history if "val" in line] == [2, 4]
    for line in logged:
        losses = line["losses"]
        assert set(losses) == {"supervised", "consistency", "farcluss_contrast", "total"}
        parts = [value for name, value in losses.items() if name != "total"]
        assert losses["total"] == pytest.approx(math.fsum(parts), rel=1e-4)
        labels = line["pseudo_labels"]
        assert 0 <= labels["used"] <= 1
        assert 0 < labels["confidence"] <= 1
        assert math.fsum(labels["classes"]) == pytest.approx(1 if labels["used"] else 0, abs=1e-4)
        assert "accuracy" not in labels  # hidden labels were not asked for
    assert [line["lr"] for line in logged] == pytest.approx([0.01 * (1 - t / 4) ** 0.9 for t in range(4)])


def test_the_screen_shows_progress_figures_and_what_to_type_next(made):
    assert "farcluss on shapes, split 1/16: 20 labelled, 300 unlabelled, 64 validation images, 9 classes" in made.err
    assert "FARCLUSS (Tarubinga et al., 2026, arXiv 2506.11142)" in made.err
    assert "step 4/4  supervised " in made.err
    assert f"best teacher mIoU {100 * made.metrics['best']['miou']:.2f}" in made.out
    assert "next: ssss evaluate run=out" in made.out
    assert "Traceback" not in made.err
    log = (made.folder / "run.log").read_text()
    assert "step 4/4" in log
    assert "FARCLUSS" in log


def test_the_trace_shows_each_hook_of_the_first_steps_with_who_answered(made):
    log = (made.folder / "run.log").read_text()
    for hook, plugin in (
        ("setup", "farcluss"), ("make_students", "default"), ("make_teacher", "farcluss"), ("make_views", "farcluss"),
        ("pseudo_label", "farcluss"), ("pixel_weight", "farcluss"), ("class_weight", "farcluss"),
        ("regularize", "farcluss"), ("after_step", "farcluss"),
    ):  # fmt: skip
        assert f"{hook:<13} {plugin:<12} " in log
        assert f"{hook:<13} {plugin:<12} " in made.err
    assert log.count("pixel_weight  farcluss") == 3  # the dry run and two steps


def test_mlflow_has_the_runs_last_figures(made):
    from ssss_zoo.train.mlflow_logger import open_store

    client = open_store(f"sqlite:///{made.place / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/teacher/miou"] == pytest.approx(made.metrics["val"]["teacher"]["miou"])
    assert run.data.metrics["val/miou"] == pytest.approx(made.metrics["val"]["miou"])
    assert run.data.params["options.farcluss.top_k"] == "3"
    assert run.data.tags["data"] == made.metrics["data"]["fingerprint"]


# --- what can be done with it ---------------------------------------------------------------------------------------


def test_evaluate_gives_the_figures_of_the_run_again(made, ssss):
    done = ssss("evaluate", f"run={made.folder}", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.out)
    for network in ("student", "teacher"):
        found, expected = dict(figures[network]), dict(made.metrics["val"][network])
        assert found.pop("calibration_error") == pytest.approx(expected.pop("calibration_error"), abs=2e-6)
        assert found == expected
    assert (figures["on"], figures["weights"], figures["images"], figures["step"]) == ("val", "last", 64, 4)


def test_evaluate_on_another_list_prints_a_table(made, ssss):
    done = ssss("evaluate", f"run={made.folder}", "on=labelled", "weights=best", "evaluate.mode=centre")
    assert done.code == 0, done.err
    assert "weights, on labelled (20 images)" in " ".join(done.out.split())
    for name in (*SHAPES_CLASSES, "mIoU", "student", "teacher"):
        assert name in done.out


def test_evaluate_changes_nothing_in_the_run(made, ssss):
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    ssss("evaluate", f"run={made.folder}", "on=labelled")
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_the_written_configuration_repeats_the_run_bit_for_bit(made, ssss, tmp_path):
    again = tmp_path / "again"
    words = [f"output={again}", "tracking.uri=off"]
    done = ssss("run", "--config", str(made.folder / "config.yaml"), *words)
    assert done.code == 0, done.err
    metrics = json.loads((again / "metrics.json").read_text())
    assert metrics["val"] == made.metrics["val"]
    assert metrics["best"] == made.metrics["best"]
    lines = [json.loads(line) for line in (again / "history.jsonl").read_text().splitlines()]
    assert lines == made.history
    for name in ("student", "teacher", "methods"):
        first, second = (load_file(f / "last" / f"{name}.safetensors") for f in (made.folder, again))
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first), name


def test_the_written_configuration_repeats_a_run_and_not_how_it_was_started(made):
    written = yaml.safe_load((made.folder / "config.yaml").read_text())
    assert (written["resume"], written["overwrite"]) == (False, False)


def test_the_same_command_again_does_not_touch_a_finished_run(made, ssss, monkeypatch):
    monkeypatch.chdir(made.place)
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    done = ssss("run", "output=out", *WORDS)
    assert done.code == 2
    assert done.err.startswith("ssss: out holds a finished run; look at it with `ssss evaluate run=out`. To train on ")
    assert done.err.endswith("overwrite=true starts it again\n")
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


# --- list, config, mistakes -----------------------------------------------------------------------------------------


def test_list_json_is_a_list_of_objects_with_a_name(ssss):
    done = ssss("list", "--json")
    assert done.code == 0
    items = json.loads(done.out)
    assert {item["kind"] for item in items} == set(LISTED_KINDS)
    assert all(item["name"] and item["about"] for item in items)
    names = {item["name"] for item in items}
    assert {"farcluss", "fixmatch", "supervised", "unimatch", "voc", "shapes", "deeplabv3plus", "pixel_weight"} <= names
    methods = json.loads(ssss("list", "methods", "--json").out)
    assert {item["name"] for item in methods} < names
    assert all(item["kind"] == "methods" for item in methods)


def test_list_has_a_line_a_thing(ssss):
    done = ssss("list", "methods")
    lines = done.out.splitlines()
    assert lines[0] == "methods:"
    assert any(line.startswith("  farcluss ") and "arXiv 2506.11142" in line for line in lines)
    everything = ssss("list").out
    assert all(f"{kind}:\n" in everything for kind in LISTED_KINDS)


def test_config_prints_what_reads_back_to_itself(ssss, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["method=unimatch+farcluss", "dataset=cityscapes", "hooks.pixel_weight=none", "data.split=1_8"]
    first = ssss("config", *words)
    assert first.code == 0
    tree = yaml.safe_load(first.out)
    assert tree["options"]["unimatch"]["dropout"] == 0.5
    assert tree["options"]["farcluss"]["ema_decay"] == 0.996
    assert tree["data"]["split"] == "1_8"
    (tmp_path / "own.yaml").write_text(first.out)
    assert ssss("config", "--config", "own.yaml").out == first.out
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]  # nothing was trained or made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "method=fixmach"], "unknown method 'fixmach' in method=fixmach; did you mean 'fixmatch'?"),
        (["config", "train.stpes=1"], "unknown key 'train.stpes'; did you mean 'train.steps'?"),
        (["config", "hooks.pixel_wieght=none"], "unknown hook 'pixel_wieght'"),
        (["run", "dataset=shaps", "train.steps=1"], "unknown data set 'shaps' in dataset=shaps; did you mean 'shapes'"),
        (["run", "model=deeplab"], "unknown model 'deeplab' in model=deeplab"),
        (["evaluate"], "give the run's folder: ssss evaluate run=DIR"),
        (["evaluate", "run=nowhere"], "run=nowhere holds no run"),
        (["run", "--config", "nowhere.yaml"], "cannot read the configuration nowhere.yaml: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(words, expected, ssss, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ssss(*words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(f"ssss: {expected}")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_line_in_a_process_of_its_own_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ssss_zoo", "run", "method=fixmach"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ssss: unknown method 'fixmach'")
    assert done.stderr.count("\n") == 1


def test_a_command_or_flag_that_is_not_there_is_exit_code_2(ssss):
    assert ssss("rnu").code == 2
    assert ssss("run", "--trcae").code == 2
    assert ssss("list", "method").code == 2


def test_our_own_faults_are_not_dressed_up_as_the_users(monkeypatch):
    monkeypatch.setattr("ssss_zoo.engine.catalog.listing", lambda kind: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command_line(["list"])


def test_the_version_is_the_packages(ssss):
    from importlib.metadata import version

    assert ssss("--version").out.strip().endswith(version("ssss-zoo"))


def test_the_console_script_is_the_command_line():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="ssss")
    assert script.value == "ssss_zoo.commands.cli:main"
    assert Path(sys.executable).with_name("ssss").exists()


# --- interrupted ----------------------------------------------------------------------------------------------------


def test_ctrl_c_is_one_line_and_exit_code_130(ssss, monkeypatch):
    from ssss_zoo.errors import Interrupted

    def stop(config):
        raise Interrupted("stopped at step 3 of 9; the same command with resume=true goes on")

    monkeypatch.setattr("ssss_zoo.train.run.run_training", stop)
    done = ssss("run", "method=supervised")
    assert done.code == 130
    assert done.err == "ssss: stopped at step 3 of 9; the same command with resume=true goes on\n"


def test_a_run_near_the_root_of_the_disk_has_no_earlier_runs_beside_it():
    assert compare_with_earlier_runs(Path("/run"), {}) == []
