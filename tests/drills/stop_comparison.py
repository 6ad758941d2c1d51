"""Stop `ssss compare` by each signal, or kill it, and give the same command again.

It works in a folder full of modules that must not be imported, and takes some minutes. A line a drill: how the stopped
comparison ended and after how long, where its runs stood, how the second one ended, what it said; then whether the
figures are those of a comparison that nobody stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SHADOWS = ("queue", "numpy", "yaml", "random", "token", "statistics", "torch", "ssss_zoo")
SMALL = [
    "model.encoder=test_resnet", "model.weights=none", "model.channels=16", "model.low_level_channels=8",
    "dataset=shapes", "data.split=1/32", "train.crop=64", "train.batch=2", "train.threads=1", "train.workers=0",
    "train.steps=120", "train.log_every=1", "evaluate.predictions=0", "methods=fixmatch", "seeds=0",
]  # fmt: skip
DRILLS = [
    *(
        (name, jobs, group)
        for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL")
        for jobs in (1, 2)
        for group in (0, 1)
    ),
    ("twice", 1, 0),
]


def start(folder: Path, output: Path, jobs: int) -> subprocess.Popen[str]:
    ssss = Path(sys.executable).with_name("ssss")
    words = [*SMALL, f"output={output}", f"jobs={jobs}", f"tracking.uri=sqlite:///{folder / 'mlflow.db'}"]
    return subprocess.Popen(
        [ssss, "compare", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_steps(process: subprocess.Popen[str], output: Path, jobs: int) -> None:
    """Until so many cells have made a step."""
    while process.poll() is None:
        if sum(file.stat().st_size > 0 for file in output.glob("runs/*/*/history.jsonl")) >= jobs:
            return
        time.sleep(0.1)


def states(output: Path) -> dict[str, str]:
    """Where each run stands."""
    metrics = {file.parent.parent.name: json.loads(file.read_text()) for file in output.glob("runs/*/*/metrics.json")}
    return {name: f"{found['status']} at {found['step']}" for name, found in metrics.items()}


def figures(output: Path) -> dict[str, Any]:
    return {row["name"]: row["last"]["mean"] for row in json.loads((output / "compare.json").read_text())["rows"]}


def doubled(output: Path) -> int:
    """Steps that a history holds twice."""
    histories = [file.read_text().splitlines() for file in output.glob("runs/*/*/history.jsonl")]
    steps = [[json.loads(line)["step"] for line in lines if "losses" in line] for lines in histories]
    return sum(len(of_run) - len(set(of_run)) for of_run in steps)


def drill(folder: Path, name: str, jobs: int, group: int, expected: dict[str, Any]) -> str:
    output = folder / f"{name}-{jobs}-{group}"
    first = start(folder, output, jobs)
    wait_for_steps(first, output, jobs)
    told = f"{name}, {jobs} at a time, to the {'group' if group else 'process'}: "
    if name != "twice":
        began = time.perf_counter()
        (os.killpg if group else os.kill)(first.pid, getattr(signal, name))
        told += f"code {first.wait()} after {time.perf_counter() - began:.1f} s, {states(output)}; "
    second = start(folder, output, jobs)
    said = second.communicate()[1].strip().splitlines()
    told += f"again: code {second.returncode}, {doubled(output)} steps twice, said {said}"
    if name == "twice":
        told += f", the first: code {first.wait()}"
    return f"{told}; figures {'right' if figures(output) == expected else 'WRONG'}"


def main() -> None:
    with TemporaryDirectory() as place:
        folder = Path(place)
        for name in SHADOWS:
            (folder / f"{name}.py").write_text("raise ImportError('of the working folder')")
        whole = start(folder, folder / "whole", 1)
        said = whole.communicate()[1]
        assert whole.returncode == 0, said
        for name, jobs, group in DRILLS:
            if not sys.argv[1:] or f"{name}-{jobs}-{group}" in sys.argv[1:]:
                print(drill(folder, name, jobs, group, figures(folder / "whole")), flush=True)


if __name__ == "__main__":
    main()
