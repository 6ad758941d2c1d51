"""The dry run tells before the first step what would fail later, and changes nothing."""

from __future__ import annotations

import copy

import pytest

from helpers.runs import differences
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.evaluator import Evaluator
from ssss_zoo.testing.tiny import TinyData, make_method
from ssss_zoo.train.checkpointing import TrainerState
from ssss_zoo.train.dry_run import dry_run, try_evaluation
from ssss_zoo.train.run import run_training


def test_the_dry_run_leaves_no_trace(tiny_run, tmp_path):
    """The first step starts from what was made, though a step was tried before."""
    rig = tiny_run("method=farcluss")
    networks = [*rig.stage.networks().values(), *rig.run.modules.values()]
    optimizer, state = rig.engine.optimizer, TrainerState()

    def everything():
        return copy.deepcopy([*(network.state_dict() for network in networks), optimizer.state_dict()["state"], state])

    before = everything()
    dry_run(rig.run, rig.stage, rig.feed, state)
    after = everything()
    assert differences(before[:-1], after[:-1]) == []
    assert before[-1] == after[-1]
    assert all(parameter.grad is None for network in networks for parameter in network.parameters())
    assert not (tmp_path / "run" / "dry_run").exists()


def test_the_dry_run_tells_before_the_first_step_what_would_fail_in_the_last(tiny_plugins, tiny_config, tmp_path):
    late = make_method(
        regularize=lambda self, labelled_output, progress: (
            {"late": labelled_output.logits} if progress.done > 0.8 else None
        )
    )
    tiny_plugins.add("methods", "late", late)
    with pytest.raises(UserError, match="'late'"):
        run_training(tiny_config("method=late"))
    assert not (tmp_path / "run" / "last").exists()
    assert not (tmp_path / "run" / "dry_run").exists()


def test_the_dry_run_tells_of_terms_that_this_run_is_too_short_for(tiny_plugins, tiny_config, tmp_path):
    words = ("method=farcluss", "train.steps=4")
    run_training(tiny_config(*words, f"output={tmp_path / 'short'}"))
    log = (tmp_path / "short/run.log").read_text()
    assert "in 4 steps of 3 an epoch farcluss_contrast never begins" in log
    run_training(tiny_config(*words, "options.farcluss.ramp_epochs=0.5", f"output={tmp_path / 'long'}"))
    assert "never begins" not in (tmp_path / "long/run.log").read_text()


def test_the_largest_validation_image_is_tried(tiny_run, monkeypatch):
    rig = tiny_run("data.split=val=5")
    areas, tried = [3, 1, 9, 2, 9], []
    monkeypatch.setattr(TinyData, "areas", lambda self, samples: areas)
    monkeypatch.setattr(Evaluator, "__call__", lambda self, networks, samples, tick=None: tried.extend(samples))
    try_evaluation(rig.run, rig.stage)
    assert tried == [rig.run.dataset.val[2]]
