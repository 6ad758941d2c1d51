"""One run of a comparison, in a process of its own: `python -m ssss_zoo.comparison.cell FILE`."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from ssss_zoo import checkpoint
from ssss_zoo.errors import MEMORY, Interrupted, UserError, out_of_memory

STATE, SCORES = "cell.json", "scores.npz"
DONE, FAILED, STOPPED = "done", "failed", "stopped"


def run_cell(words: list[str], folder: Path) -> dict[str, Any]:
    """Train and score, or go on with it; what is finished is not done again. Returns and writes how it ended: `status`
    (done, failed, stopped) and, of a failure, its `reason`."""
    from ssss_zoo.comparison.scores import score
    from ssss_zoo.config import resolve
    from ssss_zoo.runs import run

    state: dict[str, Any] = {"status": DONE, "words": words}
    try:
        config = resolve([*words, "resume=true"])
        if not is_finished(folder):
            run(config)
        if not (folder / SCORES).is_file():
            score(resolve(words, folder / "config.yaml"), folder, folder / SCORES)
    except (Interrupted, KeyboardInterrupt):
        state["status"] = STOPPED
    except UserError as error:
        state |= {"status": FAILED, "reason": str(error)}
    except Exception as error:  # a bug of ours or of a plugin must not end the other cells
        traceback.print_exc()
        why = MEMORY if out_of_memory(error) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        state |= {"status": FAILED, "reason": why}
    if folder.is_dir() or state["status"] == FAILED:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(folder / STATE, state)
    return state


def is_done(folder: Path) -> bool:
    """Whether a cell is trained and scored."""
    return is_finished(folder) and (folder / SCORES).is_file()


def is_finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "metrics.json").read_text())["status"] == "finished")
    except (OSError, ValueError, KeyError):
        return False


def read_state(folder: Path) -> dict[str, Any] | None:
    """How a cell ended last, None where it never did."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text())
    except (OSError, ValueError):
        return None
    return state


def main(file: str) -> int:
    job = json.loads(Path(file).read_text())
    state = run_cell(job["words"], Path(job["folder"]))
    return {DONE: 0, FAILED: 2, STOPPED: 130}[state["status"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
