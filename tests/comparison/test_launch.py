"""Where runs are executed: processes, GPUs, clusters; one process in a folder at a time; signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace

import pytest

from helpers.comparisons import SMALL
from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison import launch
from ssss_zoo.comparison.run_one import request_stop
from ssss_zoo.comparison.study import run_study
from ssss_zoo.errors import Interrupted, UserError


def test_runs_share_gpus_and_cores(monkeypatch):
    monkeypatch.setattr(launch, "gpu_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in launch.process_environments(None)] == ["3", "5"]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in launch.process_environments(3)] == ["3", "5", "3"]
    monkeypatch.setattr(launch, "gpu_count", lambda: 0)
    assert list(launch.process_environments(None)) == [{}]
    assert {place["OMP_NUM_THREADS"] for place in launch.process_environments(64)} == {"1"}


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
    monkeypatch.setattr(launch, "SUBMITIT_CLUSTER", "local")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = ["methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}", "slurm.timeout_min=5"]
    result = run_study([*overrides, "launcher=slurm"])
    assert [row["seeds"] for row in result.figures["rows"]] == [[0], [0]]
    assert list((tmp_path / "cmp/slurm").glob("*.out"))


@pytest.mark.parametrize(("prints", "code", "there"), [("7", 0, True), ("", 0, False), ("", 1, False)])
def test_slurms_own_queue_is_asked(tmp_path, monkeypatch, prints, code, there):
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\n[ "$*" = "-h -j 7" ] || exit 9\nprintf "{prints}"\nexit {code}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert launch.in_queue(SimpleNamespace(job_id="7")) == there


def test_launchers_that_are_not_there(tiny_compare):
    with pytest.raises(UserError, match="unknown launcher=lokal; known: local, slurm, ray"):
        tiny_compare("methods=fixmatch", "seeds=0", "launcher=lokal")
    with pytest.raises(UserError, match="jobs takes a number"):
        tiny_compare("methods=fixmatch", "jobs=many")
    with pytest.raises(UserError, match=r"pip install 'ssss-zoo\[ray\]'"):
        launch.import_extra("no_such_package", "ray")


@pytest.mark.long
def test_runs_are_processes_of_their_own(no_charts, request, tmp_path, capfd, monkeypatch):
    """The command line as a person has it; the same command runs again what was killed."""
    shadows(tmp_path / "here", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["compare", "methods=fixmatch", "seeds=0", *SMALL, f"output={tmp_path / 'cmp'}"]
    real = launch.start_run
    monkeypatch.setattr(launch, "start_run", lambda run, environment: kill_fixmatch(real(run, environment), run))
    assert command_line([*command, "jobs=2"]) == 2
    out = capfd.readouterr()
    assert "killed by signal 9" in out.out
    monkeypatch.setattr(launch, "start_run", real)
    request.getfixturevalue("forked_runs")  # the first command showed that fresh processes work
    assert command_line(command) == 0
    out = capfd.readouterr()
    assert "1 run to do, 1 done" in out.err
    assert "over supervised" in out.out
    figures = json.loads((tmp_path / "cmp/compare.json").read_text())
    assert [row["seeds"] for row in figures["rows"]] == [[0], [0]]


def kill_fixmatch(process, run):
    if run.row.name == "fixmatch":
        process.kill()
    return process


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
        time.sleep(0.01)
    process.stdin.close()


def test_a_run_that_is_running_already_is_waited_for(tiny_compare):
    tiny_compare("methods=fixmatch", "seeds=1")
    tiny_compare.ran.clear()
    with held_elsewhere(tiny_compare.folder / "runs/fixmatch/seed0", tiny_compare.lines) as pid:
        figures = tiny_compare("methods=fixmatch", "seeds=0").figures
    assert [row["seeds"] for row in figures["rows"]] == [[0], [0]]
    assert figures["failed"] == []
    assert f"fixmatch, seed 0: process {pid} on {socket.gethostname()} trains it; waiting" in tiny_compare.lines
    assert tiny_compare.ran == [("supervised", 0), ("fixmatch", 0), ("fixmatch", 0)]


def test_a_comparison_waits_for_another_one_in_its_folder(tiny_compare):
    with held_elsewhere(tiny_compare.folder, tiny_compare.lines) as pid:
        assert tiny_compare("methods=fixmatch", "seeds=0").figures["missing"] == []
    waits = f"waiting for process {pid} on {socket.gethostname()}, which runs a comparison in {tiny_compare.folder}"
    assert tiny_compare.lines[1] == waits
    assert tiny_compare.lines.count(waits) == 1


def long_run(tmp_path):
    """A run that would train for ever, once it has made its first steps."""
    overrides = [*SMALL, "train.steps=100000", "train.log_every=1", "method=fixmatch", f"output={tmp_path / 'cell'}"]
    with (tmp_path / "console.log").open("wb") as console:
        process = launch.start_process(overrides, tmp_path / "cell", {"OMP_NUM_THREADS": "1"}, console)
    history = tmp_path / "cell" / "history.jsonl"
    while process.poll() is None and not (history.is_file() and history.read_text()):
        time.sleep(0.01)
    return process


def test_a_run_whose_input_ends_saves_and_stops(forked_runs, tmp_path):
    """Which is what happens when the comparison is told to stop, and when it is killed."""
    process = long_run(tmp_path)
    request_stop(process)
    assert process.wait(60) == 130, (tmp_path / "console.log").read_text()
    metrics = json.loads((tmp_path / "cell/metrics.json").read_text())
    assert metrics["status"] == "stopped"
    assert (tmp_path / "cell/last/state.pt").is_file()
    assert json.loads((tmp_path / "cell/cell.json").read_text())["status"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_comparison_and_its_cells(tiny_compare, store, monkeypatch, number):
    """In this process; MLflow's run of the comparison ends as killed."""
    from mlflow.tracking import MlflowClient

    ended = []

    def stop(runs, jobs, watch):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)  # whoever signals a group does it twice: nothing is cut short
            time.sleep(0.1)
            ended.append(True)
        yield

    monkeypatch.setitem(launch.LAUNCHERS, "local", stop)
    with pytest.raises(Interrupted, match="holds the finished runs, and the same command continues"):
        tiny_compare("methods=fixmatch", "seeds=0", f"tracking.uri={store}")
    assert ended == [True]
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("ssss-zoo").experiment_id])
    assert run.info.status == "KILLED"
