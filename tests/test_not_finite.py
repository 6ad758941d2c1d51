"""Losses that are not finite: the run stops at its last whole step or leaves such steps out; a record repeats them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.runs import assert_same_run, differences, is_training_step, left_by, metrics_of, on_call
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.tiny import make_method
from ssss_zoo.train import checkpoint, checkpointing
from ssss_zoo.train.replay import replay


def bad_at(*steps: int) -> type:
    """A method whose loss is no number in those steps (0-based)."""
    return make_method(
        regularize=lambda self, labelled_output, progress: {
            "extra": labelled_output.logits.mean() * (float("nan") if progress.step in steps else 1.0)
        }
    )


SKIP = ("method=bad", "train.on_nan=skip", "train.log_every=4", "train.steps=12", "train.accumulate=2",
        "train.eval_every=6", "train.checkpoint_every=6")  # fmt: skip


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(tiny_plugins, trained, tmp_path):
    tiny_plugins.add("methods", "bad", bad_at(4))
    with pytest.raises(UserError, match=r"not finite at step 5: .*extra=nan.*images: labelled\d"):
        trained("run", "method=bad")
    state = checkpoint.load_state(tmp_path / "run" / "last")
    assert state["step"] == 4
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / "run/last/student.safetensors").values())


@pytest.mark.parametrize(
    ("steps", "copying"),
    [
        ((5,), float("inf")),
        ((4, 6, 7), 1e-9),
        *(pytest.param(steps, 1e-9, marks=pytest.mark.long) for steps in ((2, 3), (10,))),
    ],
)
def test_a_skipped_step_is_as_if_it_had_never_been(tiny_plugins, trained, tmp_path, monkeypatch, steps, copying):
    """Its images are passed over, and nothing else changes, wherever the last copy in memory was taken."""
    monkeypatch.setattr(checkpointing, "COPY_TIME_SHARE", copying)
    tiny_plugins.add("methods", "bad", bad_at(*steps))
    skipped = trained("skipped", *SKIP)
    original = Engine.step

    def passed_over(self, batches, progress):
        if is_training_step(batches) and progress.step in steps:
            for _ in range(2):
                next(batches)
            return {"supervised": torch.zeros(())}
        return original(self, batches, progress)

    monkeypatch.setattr(Engine, "step", passed_over)
    by_hand = trained("by_hand", *SKIP)
    for part in ("weights", "optimizer"):
        assert differences(left_by(skipped)[part], left_by(by_hand)[part]) == []
    assert metrics_of(skipped)["skipped_steps"] == len(steps)
    told = [json.loads(line) for line in (skipped / "history.jsonl").read_text().splitlines()]
    assert [line["step"] - 1 for line in told if line.get("skipped") == "extra"] == list(steps)


@pytest.mark.long
def test_a_run_that_skips_resumes_to_the_same_numbers(tiny_plugins, trained, monkeypatch):
    tiny_plugins.add("methods", "bad", bad_at(2, 7))
    whole = trained("whole", *SKIP)
    with monkeypatch.context() as patch:
        on_call(patch, Engine, "step", 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            trained("parts", *SKIP)
    assert_same_run(whole, trained("parts", *SKIP, "resume=true"))


def test_steps_in_a_row_that_are_not_finite_stop_a_run_that_skips(tiny_plugins, trained):
    tiny_plugins.add("methods", "bad", bad_at(*range(3, 39)))
    with pytest.raises(UserError, match=r"at step 13: .*extra=nan.*10 steps in a row"):
        trained("run", "method=bad", "train.on_nan=skip", "train.steps=40")


@pytest.mark.parametrize("words", [(), ("train.accumulate=2", "optim.name=adamw")])
def test_the_step_can_be_made_again_to_the_bit(tiny_plugins, tiny_config, trained, tmp_path, words):
    tiny_plugins.add("methods", "bad", bad_at(4))
    with pytest.raises(UserError, match="replay=") as caught:
        trained("run", "method=bad", *words, "train.log_every=6")
    file = Path(str(caught.value).partition("replay=")[2].partition("`")[0])
    assert file == tmp_path / "run/not_finite/step5/record.json"
    record = json.loads(file.read_text())
    assert record["losses"]["extra"] == "nan"
    assert len(record["images"]["labelled"]) == 2 * (2 if words else 1)
    told = replay(file, [])
    assert told[-1] == "the step gives what it gave then, to the bit"
    assert replay(file.parent, ["optim.lr=0.01"])[-1] == told[-1]  # the losses come before the update
    assert replay(file, ["train.precision=bf16"])[-1] == "the step gives other losses than then"
    with pytest.raises(UserError, match="other images"):
        replay(file, ["seed=3"])


def test_a_run_stopped_by_such_a_loss_goes_on_when_told_to_skip(tiny_plugins, trained, tmp_path):
    tiny_plugins.add("methods", "bad", bad_at(4))
    whole = trained("whole", *SKIP)
    words = [word for word in SKIP if "on_nan" not in word]
    with pytest.raises(UserError, match=r"at step 5: .*train.on_nan=skip"):
        trained("parts", *words)
    assert checkpoint.load_state(tmp_path / "parts/last")["step"] == 4
    values = load_file(tmp_path / "parts/last/student.safetensors").values()
    assert all(torch.isfinite(value).all() for value in values)
    resumed = trained("parts", *words, "train.on_nan=skip", "resume=true")
    assert differences(left_by(whole)["weights"], left_by(resumed)["weights"]) == []
