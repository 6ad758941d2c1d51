"""`ssss compare` from words to files: goes on, adds, refuses, survives failures, and equals the single runs."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison import equal_time as budget
from ssss_zoo.comparison import launch
from ssss_zoo.comparison import run_one as cell_module
from ssss_zoo.comparison.compare import compare
from ssss_zoo.comparison.preflight import check_study
from ssss_zoo.comparison.report.tables import as_csv, as_latex, as_markdown, gain, notes, percent
from ssss_zoo.comparison.run_one import run_cell
from ssss_zoo.comparison.study import read_study
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.tiny import words as tiny_words
from ssss_zoo.train import run as run_module


@pytest.fixture
def tiny_compare(tiny_shelf, tmp_path, monkeypatch):
    """Words -> the result of a comparison of tiny runs, cells in this process; `ran`: the cells, `said`: the lines."""
    ran, said = [], []

    def inline(cells, jobs, on_end):
        for cell in cells:
            ran.append((cell.row.name, cell.seed))
            on_end(cell, run_cell(cell.words, cell.folder))

    monkeypatch.setitem(launch.LAUNCHERS, "local", inline)
    common = [word for word in tiny_words("train.steps=2") if not word.startswith(("method=", "seed=", "output="))]

    def make(*more):
        return compare([*common, f"output={tmp_path / 'cmp'}", *more], said.append)

    make.ran, make.said, make.folder = ran, said, tmp_path / "cmp"
    return make


def test_every_row_and_seed_has_a_run_and_a_figure(tiny_compare):
    result = tiny_compare("methods=fixmatch,farcluss:top_k=1", "seeds=0,1")
    assert len(tiny_compare.ran) == 6
    rows = {row["name"]: row for row in result.figures["rows"]}
    assert list(rows) == ["supervised", "fixmatch", "farcluss:top_k=1"]
    for row in rows.values():
        assert row["seeds"] == [0, 1]
        metrics = [json.loads((tiny_compare.folder / "runs").joinpath(f).read_text()) for f in files_of(row)]
        assert row["last"]["values"] == [one["val"]["miou"] for one in metrics]
        assert row["last"]["mean"] == pytest.approx(sum(row["last"]["values"]) / 2)
    assert rows["farcluss:top_k=1"]["network"] == "teacher"
    assert rows["supervised"]["over_supervised"] is None
    gap = rows["fixmatch"]["over_supervised"]
    assert gap["mean"] == pytest.approx(rows["fixmatch"]["last"]["mean"] - rows["supervised"]["last"]["mean"], abs=1e-9)
    assert not result.figures["protocols_differ"]
    for name in ("compare.json", "compare.csv", "compare.md", "compare.tex", "study.json"):
        assert (tiny_compare.folder / name).is_file()


def files_of(row):
    slug = row["name"].replace(":", "_").replace("=", "_")
    return [f"{slug}/seed{seed}/metrics.json" for seed in row["seeds"]]


def test_finished_cells_are_not_run_again_and_more_can_be_added(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    before = (tiny_compare.folder / "runs/fixmatch/seed0/metrics.json").stat().st_mtime_ns
    result = tiny_compare("methods=fixmatch,cps", "seeds=0,1")
    assert sorted(tiny_compare.ran[2:]) == [("cps", 0), ("cps", 1), ("fixmatch", 1), ("supervised", 1)]
    assert (tiny_compare.folder / "runs/fixmatch/seed0/metrics.json").stat().st_mtime_ns == before
    assert [row["seeds"] for row in result.figures["rows"]] == [[0, 1]] * 3


def test_runs_that_are_no_longer_named_are_told_of(tiny_compare):
    assert tiny_compare("methods=fixmatch", "seeds=0,1").figures["left_out"] == []
    figures = tiny_compare("methods=cps", "seeds=0").figures
    assert figures["left_out"] == ["fixmatch/seed0", "fixmatch/seed1", "supervised/seed1"]
    assert notes(figures)[-1].endswith("not named by the command: fixmatch/seed0, fixmatch/seed1, supervised/seed1.")
    assert "network" in notes(figures)[0]
    assert notes(figures)[0].endswith("; seed 0.")


def test_a_stopped_cell_goes_on(tiny_compare, monkeypatch):
    from ssss_zoo.train.trainer import Training

    real = Training.one_step

    def stop_after_one(self):
        real(self)
        if self.config.method == "fixmatch" and self.step == 1:
            self.save()
            raise Interrupted("stopped")

    monkeypatch.setattr(Training, "one_step", stop_after_one)
    figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert figures["missing"] == [["fixmatch", 0]]
    monkeypatch.setattr(Training, "one_step", real)
    figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert figures["missing"] == figures["failed"] == []
    assert "resuming at step 1" in (tiny_compare.folder / "runs/fixmatch/seed0/run.log").read_text()


def test_a_failure_is_shown_and_stops_nothing(tiny_compare, monkeypatch):
    from ssss_zoo.train.trainer import Training

    real = Training.one_step

    def fail(self):
        if self.config.method == "fixmatch":
            raise UserError("the disk is on fire")
        real(self)

    monkeypatch.setattr(Training, "one_step", fail)
    result = tiny_compare("methods=fixmatch,cps", "seeds=0")
    assert result.figures["failed"] == [{"row": "fixmatch", "seed": 0, "reason": "the disk is on fire"}]
    assert [row["seeds"] for row in result.figures["rows"]] == [[0], [], [0]]
    text = (tiny_compare.folder / "compare.md").read_text()
    assert "Failed: fixmatch, seed 0: the disk is on fire." in text
    monkeypatch.setattr(Training, "one_step", real)
    assert tiny_compare("methods=fixmatch,cps", "seeds=0").figures["failed"] == []


def test_another_comparison_in_the_folder_is_refused(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    with pytest.raises(UserError, match=r"holds another comparison, with train\.batch=.*, now train\.batch=1"):
        tiny_compare("methods=fixmatch", "seeds=0", "train.batch=1")
    (tiny_compare.folder / "study.json").unlink()
    with pytest.raises(UserError, match="holds something else than a comparison"):
        tiny_compare("methods=fixmatch", "seeds=0")


def test_rows_of_another_protocol_are_named_loudly(tiny_compare):
    result = tiny_compare("methods=fixmatch,cps:evaluate.absent=zero", "seeds=0")
    assert result.figures["protocols_differ"]
    said = (tiny_compare.folder / "compare.md").read_text()
    assert "NOT COMPARABLE" in said
    assert "cps:evaluate.absent=zero is scored otherwise than supervised: evaluate.absent=zero, not exclude" in said


def test_equal_time_gives_slow_rows_fewer_steps(tiny_compare, monkeypatch):
    speeds = {"supervised": 10.0, "fixmatch": 4.0, "cps": 2.5}
    asked = []
    monkeypatch.setattr(budget, "probe", lambda row, study: asked.append(row.name) or speeds[row.name])
    for _ in range(2):  # measured once
        figures = tiny_compare("methods=fixmatch,cps", "seeds=0", "train.steps=8", "budget=time").figures
    assert asked == ["supervised", "fixmatch", "cps"]
    assert [row["steps"] for row in figures["rows"]] == [8, 3, 2]
    assert figures["budget"] == "time"


def test_a_row_is_timed_by_a_short_run(tmp_path):
    study = read_study(["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"])
    assert 0.1 < budget.probe(study.rows[0], study) < 1000


@pytest.mark.slow
def test_a_row_that_cannot_be_timed_is_named(tmp_path):
    study = read_study(["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"])
    bad = replace(study.rows[0], words=("method=supervised", "optim.lr=1000", "train.precision=fp16"))
    with pytest.raises(UserError, match="supervised cannot be timed"):
        budget.probe(replace(bad, words=(*bad.words, "data.root=none")), study)


def test_nothing_starts_where_a_row_cannot_run(tiny_compare):
    with pytest.raises(UserError, match="fixmach: unknown method"):
        tiny_compare("methods=fixmach,cps", "seeds=0")
    assert tiny_compare.ran == []
    assert not tiny_compare.folder.exists()


def test_tables_agree_with_each_other(tiny_compare):
    figures = tiny_compare("methods=fixmatch", "seeds=0,1").figures
    rows = list(csv.DictReader(as_csv(figures).splitlines()))
    best = max(figures["rows"], key=lambda row: row["last"]["mean"])
    assert rows[0]["method"] == best["name"]
    assert float(rows[0]["last_mean"]) == pytest.approx(100 * best["last"]["mean"], abs=1e-3)
    assert percent(best["last"]) in as_markdown(figures)
    assert r"\textbf{" in as_latex(figures)
    assert as_latex(figures).count(r"\\") == 3


def test_numbers_for_people():
    assert percent({"mean": 0.31424, "std": 0.005}) == "31.42 ± 0.50"
    assert percent({"mean": 0.5, "std": None}) == "50.00"
    assert percent(None) == "-"
    change = {"mean": 0.01, "low": -0.002, "high": 0.03, "sure": False}
    assert gain(change) == "+1.00 [-0.20, +3.00]"
    assert gain(change | {"low": 0.001, "sure": True}).endswith("*")


def test_cells_share_gpus_and_cores(monkeypatch):
    monkeypatch.setattr(launch, "gpu_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in launch.devices(None)] == ["3", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in launch.devices(3)] == ["3", "5", "3"]
    monkeypatch.setattr(launch, "gpu_count", lambda: 0)
    assert list(launch.devices(None)) == [{}]
    assert {place["OMP_NUM_THREADS"] for place in launch.devices(64)} == {"1"}


def shadows(folder, monkeypatch):
    """A working folder of modules that nobody must import."""
    folder.mkdir()
    for name in ("queue", "numpy", "yaml", "random", "token", "statistics", "torch", "ssss_zoo"):
        (folder / f"{name}.py").write_text("raise ImportError('of the working folder')")
    monkeypatch.chdir(folder)


@pytest.mark.slow
def test_slurm_jobs_by_submitit(tmp_path, monkeypatch):
    """submitit's own stand-in for SLURM, a process a job; the same code submits to a real one."""
    shadows(tmp_path / "here", monkeypatch)
    monkeypatch.setattr(launch, "CLUSTER", "local")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}", "slurm.timeout_min=5"]
    result = compare([*words, "launcher=slurm"])
    assert [row["seeds"] for row in result.figures["rows"]] == [[0], [0]]
    assert list((tmp_path / "cmp/slurm").glob("*.out"))


def test_launchers_that_are_not_there(tiny_compare):
    with pytest.raises(UserError, match="launcher=lokal is none; known: local, slurm, ray"):
        tiny_compare("methods=fixmatch", "seeds=0", "launcher=lokal")
    with pytest.raises(UserError, match="jobs takes a number"):
        tiny_compare("methods=fixmatch", "jobs=many")
    with pytest.raises(UserError, match=r"pip install 'ssss-zoo\[ray\]'"):
        launch.package("no_such_package", "ray")


SMALL = [
    *("dataset=shapes", "data.split=1/32", "model.encoder=test_resnet", "model.weights=none", "model.channels=16"),
    *(
        "train.steps=1",
        "train.crop=32",
        "train.batch=2",
        "train.threads=1",
        "evaluate.predictions=1",
        "tracking.uri=off",
    ),
]


def test_cells_are_processes_of_their_own(tmp_path, capfd, monkeypatch):
    """The command line as a person has it; a cell that is killed is told of, and run again by the same command."""
    shadows(tmp_path / "here", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["compare", "methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"]
    real = launch.start
    monkeypatch.setattr(launch, "start", lambda cell, environment: kill_fixmatch(real(cell, environment), cell))
    assert command_line([*command, "jobs=2"]) == 2
    out = capfd.readouterr()
    assert "killed by signal 9" in out.out
    monkeypatch.setattr(launch, "start", real)
    assert command_line(command) == 0
    out = capfd.readouterr()
    assert "1 run to do, 1 done" in out.err
    assert "over supervised" in out.out
    figures = json.loads((tmp_path / "cmp/compare.json").read_text())
    assert [row["seeds"] for row in figures["rows"]] == [[0], [0]]


def kill_fixmatch(process, cell):
    if cell.row.name == "fixmatch":
        process.kill()
    return process


def test_mlflow_shows_the_runs_under_the_comparison(tiny_compare, tmp_path):
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for seeds in ("seeds=0", "seeds=0,1"):  # the same parent when it goes on
        tiny_compare("methods=fixmatch", seeds, f"tracking.uri={store}")
    client = MlflowClient(tracking_uri=store)
    number = client.get_experiment_by_name("ssss-zoo").experiment_id
    runs = client.search_runs([number])
    parents = [run for run in runs if "comparison" in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert set(parents[0].data.metrics) == {"miou/supervised", "miou/fixmatch"}
    names = {file.path for file in client.list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "compare.md"} <= names
    cells = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted((run.data.tags["method"], run.data.tags["seed"]) for run in cells) == [
        ("fixmatch", "0"),
        ("fixmatch", "1"),
        ("supervised", "0"),
        ("supervised", "1"),
    ]
    assert all(len(run.data.tags["protocol_digest"]) == 16 for run in cells)


@pytest.mark.parametrize(("prints", "code", "there"), [("7", 0, True), ("", 0, False), ("", 1, False)])
def test_slurms_own_queue_is_asked(tmp_path, monkeypatch, prints, code, there):
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$*" = "-h -j 7" ] || exit 9\nprintf "{prints}"\nexit {code}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert launch.in_queue(SimpleNamespace(job_id="7")) == there


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:13] DefaultCPUAllocator: can't allocate memory: 9")],
)
def test_a_cell_out_of_memory_names_what_helps(tiny_compare, monkeypatch, error):
    real = run_module.run

    def out_of_memory(config, *rest):
        if config.method == "fixmatch":
            raise error
        return real(config, *rest)

    monkeypatch.setattr(run_module, "run", out_of_memory)
    figures = tiny_compare("methods=fixmatch,cps", "seeds=0").figures
    assert [one["row"] for one in figures["failed"]] == ["fixmatch"]
    assert "train.accumulate" in figures["failed"][0]["reason"]
    assert [row["seeds"] for row in figures["rows"]] == [[0], [], [0]]


def test_rows_that_cannot_run_on_the_network_or_data_are_told_of_before_anything_starts(tiny_compare):
    with pytest.raises(UserError) as caught:
        tiny_compare("methods=fixmatch,farcluss:top_k=0,cps:data.hold_out=0.99", "seeds=0")
    said = str(caught.value)
    assert "farcluss:top_k=0: " in said
    assert "cps:data.hold_out=0.99: " in said
    assert "fixmatch: " not in said
    assert tiny_compare.ran == []
    assert not tiny_compare.folder.exists()


def test_hidden_masks_are_compared_with_pseudo_labels_unless_told_otherwise(tiny_compare):
    figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    row = figures["rows"][1]
    assert "diagnose=true" in figures["words"]
    assert [point["step"] for point in row["pseudo_labels_over_time"]] == [1, 2]
    assert set(row["pseudo_label_classes"]) == set(figures["classes"])
    figures = tiny_compare("methods=fixmatch", "seeds=0,1", "diagnose=false").figures
    assert "diagnose=true" not in figures["words"]


def test_half_precision_of_a_gpu_passes_the_look_at_the_rows(tmp_path):
    """The look is on the CPU, where fp16 is refused; the cells' device decides."""
    check_study(
        read_study(["methods=fixmatch", "seeds=0", *SMALL, "train.precision=fp16", f"output={tmp_path / 'cmp'}"])
    )


# --- one at a time --------------------------------------------------------------------------------------------------


@contextmanager
def held_elsewhere(folder, said):
    """Another process that works in the folder until somebody says that it is waited for; gives its number."""
    code = f"""import sys, pathlib; from ssss_zoo.lock import owned
with owned(pathlib.Path({str(folder)!r})):
    print(flush=True); sys.stdin.read()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        Thread(target=close_when_waited_for, args=(process, said), daemon=True).start()
        yield process.pid


def close_when_waited_for(process, said):
    while not any("waiting" in line for line in said):
        time.sleep(0.05)
    process.stdin.close()


def test_a_cell_that_is_running_already_is_waited_for(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=1")
    tiny_compare.ran.clear()
    with held_elsewhere(tiny_compare.folder / "runs/fixmatch/seed0", tiny_compare.said) as pid:
        figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert [row["seeds"] for row in figures["rows"]] == [[0], [0]]
    assert figures["failed"] == []
    assert f"fixmatch, seed 0: process {pid} on {socket.gethostname()} is at it; waiting" in tiny_compare.said
    assert tiny_compare.ran == [("supervised", 0), ("fixmatch", 0), ("fixmatch", 0)]


def test_a_comparison_waits_for_another_one_in_its_folder(tiny_compare):
    with held_elsewhere(tiny_compare.folder, tiny_compare.said) as pid:
        assert tiny_compare("methods=fixmatch", "seeds=0").figures["missing"] == []
    waits = f"waiting for process {pid} on {socket.gethostname()}, which runs a comparison in {tiny_compare.folder}"
    assert tiny_compare.said[0] == waits
    assert tiny_compare.said.count(waits) == 1


def long_cell(tmp_path):
    """A cell that would train for ever, once it has made its first steps."""
    words = [*SMALL, "train.steps=100000", "train.log_every=1", "method=fixmatch", f"output={tmp_path / 'cell'}"]
    with (tmp_path / "console.log").open("wb") as console:
        process = cell_module.begin(words, tmp_path / "cell", {"OMP_NUM_THREADS": "1"}, console)
    history = tmp_path / "cell" / "history.jsonl"
    while process.poll() is None and not (history.is_file() and history.read_text()):
        time.sleep(0.1)
    return process


def test_a_cell_whose_input_ends_saves_and_stops(tmp_path):
    """Which is what happens when the comparison is told to stop, and when it is killed."""
    process = long_cell(tmp_path)
    cell_module.end_input(process)
    assert process.wait(60) == 130, (tmp_path / "console.log").read_text()
    metrics = json.loads((tmp_path / "cell/metrics.json").read_text())
    assert metrics["status"] == "stopped"
    assert (tmp_path / "cell/last/state.pt").is_file()
    assert json.loads((tmp_path / "cell/cell.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_comparison_and_its_cells(tiny_compare, tmp_path, monkeypatch, number):
    """In this process; MLflow's run of the comparison ends as killed."""
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ended = []

    def told(cells, jobs, on_end):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)  # whoever signals a group does it twice: nothing is cut short
            time.sleep(0.1)
            ended.append(True)

    monkeypatch.setitem(launch.LAUNCHERS, "local", told)
    with pytest.raises(Interrupted, match="holds what is done, and the same command goes on"):
        tiny_compare("methods=fixmatch", "seeds=0", f"tracking.uri={store}")
    assert ended == [True]
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("ssss-zoo").experiment_id])
    assert run.info.status == "KILLED"


def test_rows_on_other_images_or_classes_are_refused_before_anything_starts(tiny_compare):
    for word, said in (
        ("val=3", "3 validation images of 5 classes"),
        ("classes=4", "2 validation images of 4 classes"),
    ):
        with pytest.raises(UserError, match=f"cps:data.split={word} on {said}.*do not compare"):
            tiny_compare(f"methods=fixmatch,cps:data.split={word}", "seeds=0")
    with pytest.raises(UserError, match="a comparison needs validation images"):
        tiny_compare("methods=fixmatch", "data.split=val=0")
    assert tiny_compare.ran == []


def test_data_that_changed_under_a_comparison_are_told_of(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=0")
    for file in tiny_compare.folder.glob("runs/*/*/metrics.json"):  # as if there had been three images
        metrics = json.loads(file.read_text())
        metrics["data"]["val"] = 3
        file.write_text(json.dumps(metrics))
    with pytest.raises(
        UserError, match=r"as it was trained is scored on 3 validation images .* put back what the data"
    ):
        tiny_compare("methods=fixmatch", "seeds=0,1")
