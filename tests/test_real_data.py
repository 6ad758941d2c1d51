"""Real photographs through the command line; `pytest -m slow` (minutes). Skipped where CamVid is not at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ssss_zoo.commands.cli import command_line
from ssss_zoo.engine.plugin_source import installed

CAMVID = Path(os.environ.get("SSSS_TEST_CAMVID", Path(__file__).parents[2] / "shared" / "data" / "camvid"))


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"no CamVid at {CAMVID} (set SSSS_TEST_CAMVID)")
@pytest.mark.parametrize("method", sorted(installed("methods")))
def test_every_method_learns_from_real_photographs(method, tmp_path):
    """Forty steps: the labelled loss falls by a tenth at least (two networks and soft teachers begin slowly), and the
    result beats one class everywhere."""
    folder = tmp_path / "run"
    words = [f"method={method}", "dataset=camvid", f"data.root={CAMVID}", "data.split=1/8", f"output={folder}"]
    words += ["train.steps=40", "train.crop=[96,128]", "train.log_every=4", "train.eval_every=40", "tracking.uri=off"]
    assert command_line(["run", *words]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    lines = [json.loads(text) for text in (folder / "history.jsonl").read_text().splitlines()]
    losses = [line["losses"]["supervised"] for line in lines if "losses" in line]
    assert metrics["status"] == "finished"
    assert losses[-1] < losses[0] * 0.9
    assert metrics["val"]["student"]["miou"] > 0.027  # the floor of this val part: road everywhere
    assert (folder / "predictions.png").stat().st_size > 10_000
