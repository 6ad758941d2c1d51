"""How often a run that says nothing about it is logged and evaluated, and when it warns."""

from __future__ import annotations

import logging

import pytest


@pytest.mark.parametrize(
    ("steps", "log", "evaluate"), [(5, 1, 5), (60, 6, 60), (99, 9, 99), (100, 10, 20), (600, 10, 120), (9000, 90, 1800)]
)
def test_a_short_run_is_evaluated_at_its_end_alone(tiny_run, steps, log, evaluate):
    keys = ("log_every", "eval_every", "checkpoint_every")
    intervals = tiny_run(f"train.steps={steps}", *(f"train.{key}=null" for key in keys)).stage.intervals
    assert (intervals.log, intervals.evaluate, intervals.save) == (log, evaluate, evaluate)


@pytest.mark.parametrize(("epochs", "every"), [(1, 3), (2, 6), (0.5, 2), (0.01, 1)])
def test_an_evaluation_may_be_counted_in_epochs(tiny_run, epochs, every):
    """Seven unlabelled images in batches of two: three steps an epoch."""
    words = ("train.eval_every=null", "train.checkpoint_every=null", f"train.eval_epochs={epochs}")
    intervals = tiny_run("train.steps=60", *words).stage.intervals
    assert (intervals.evaluate, intervals.save) == (every, every)


@pytest.mark.parametrize(
    ("steps", "step", "warns"), [(60, 50, False), (60, 51, True), (900, 90, False), (900, 91, True)]
)
def test_an_untrained_head_is_not_called_collapsed(make_trainer, monkeypatch, caplog, steps, step, warns):
    trainer = make_trainer(f"train.steps={steps}")
    monkeypatch.setattr(trainer.stage.stats, "warning", lambda figures, names: "the labels have collapsed")
    trainer.state.step = step
    with caplog.at_level(logging.WARNING, logger="ssss_zoo"):
        trainer.warn_of_collapse({})
    assert ("collapsed" in caplog.text) == warns
