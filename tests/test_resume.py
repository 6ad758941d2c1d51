"""A run that was stopped and resumed equals one that was not, bit for bit; what may not be resumed is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.runs import act_after_step, assert_same_run, differences, is_training_step, left_by
from ssss_zoo.config.resolve import resolve
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import make_method
from ssss_zoo.toolkit.types import Stage
from ssss_zoo.train import checkpoint

LONG = ("train.steps=18", "train.checkpoint_every=9", "train.eval_every=6")  # about 3 steps an epoch: late terms too


def test_a_stopped_and_resumed_run_equals_one_without_a_stop(trained, broken_off, stop):
    """Stopped between two checkpoints, in the middle of the run; each method's: a question of the kit."""
    whole = trained("whole", "method=farcluss", *LONG)
    stop(10)
    broken_off("parts", "method=farcluss", *LONG)
    assert_same_run(whole, trained("parts", "method=farcluss", *LONG, "resume=true"))


@pytest.mark.parametrize(
    "name", ["farcluss", "cps", *(pytest.param(name, marks=pytest.mark.long) for name in ("u2pl", "prevmatch"))]
)  # of all, one stop each: the kit asks that
def test_stopping_again_and_again_changes_nothing(name, trained, broken_off, tmp_path, monkeypatch):
    words = (f"method={name}", "train.accumulate=2", "train.steps=4", "train.checkpoint_every=2", "train.eval_every=2")
    whole = trained("whole", *words)
    act_after_step(monkeypatch, lambda engine, stage, step: os.kill(os.getpid(), signal.SIGTERM))
    broken_off("parts", *words)
    for _ in range(3):  # the last step's evaluation is still to come
        broken_off("parts", *words, "resume=true")
    assert_same_run(whole, trained("parts", *words, "resume=true"))


def test_the_same_seed_gives_the_same_numbers(trained):
    assert_same_run(trained("one", "method=farcluss"), trained("two", "method=farcluss"))


def test_another_seed_gives_other_numbers(trained):
    one, other = trained("one", "method=unimatch"), trained("two", "method=unimatch", "seed=1")
    assert len(differences(left_by(one)["weights"], left_by(other)["weights"])) > 5


@pytest.mark.long
def test_loader_processes_change_no_number_nor_does_resuming_with_them(trained, broken_off, stop):
    words = ("method=fixmatch", "train.workers=2")
    whole = trained("whole", "method=fixmatch")
    assert_same_run(whole, trained("workers", *words))
    stop(3)
    broken_off("parts", *words)
    assert_same_run(whole, trained("parts", *words, "resume=true"))


def test_adamw_resumes_with_its_moments(trained, broken_off, stop):
    words = ("method=fixmatch", "optim.name=adamw", "optim.lr=0.001")
    whole = trained("whole", *words)
    stop(3)
    broken_off("parts", *words)
    assert_same_run(whole, trained("parts", *words, "resume=true"))


def test_the_means_in_the_history_do_not_depend_on_where_a_run_stopped(trained, broken_off, stop):
    """A logged loss is the mean since the last logged step, stop or no stop."""
    words = ("method=supervised", "train.log_every=6", "train.eval_every=6", "train.checkpoint_every=6")
    whole = trained("whole", *words)
    stop(3)
    broken_off("parts", *words)
    assert_same_run(whole, trained("parts", *words, "resume=true"))


def test_saving_changes_no_figure_of_the_history(trained):
    words = ("method=supervised", "train.log_every=6", "train.eval_every=6")
    often, seldom = (
        trained("often", *words, "train.checkpoint_every=4"),
        trained("seldom", *words, "train.checkpoint_every=6"),
    )
    assert differences(left_by(often)["history"], left_by(seldom)["history"]) == []


def test_checking_answers_and_looking_at_labels_change_no_number(trained):
    one, other = trained("one", "method=farcluss", "trace=true", "diagnose=true"), trained("two", "method=farcluss")
    assert differences(left_by(one)["weights"], left_by(other)["weights"]) == []


def test_a_teacher_and_modules_of_a_method_come_back(trained, broken_off, stop):
    """FARCLUSS keeps a teacher, prototypes and a projection head."""
    stop(2)
    folder = broken_off("parts", "method=farcluss")
    files = {file.name for file in (folder / "last").glob("*.safetensors")}
    assert files == {"student.safetensors", "teacher.safetensors", "methods.safetensors"}


def test_two_students_come_back_as_two(tiny_plugins, trained, broken_off, stop):
    from ssss_zoo.toolkit.teachers import PeerTeacher

    peers = make_method(
        make_students=lambda self, make_network: [make_network(), make_network()],
        make_teacher=lambda self, students, index: PeerTeacher(students[1 - index]),
    )
    tiny_plugins.add("methods", "peers", peers)
    whole = trained("whole", "method=peers")
    stop(3)
    broken_off("parts", "method=peers")
    assert_same_run(whole, trained("parts", "method=peers", "resume=true"))
    assert len(left_by(whole)["weights"]) == 3  # two students, and the (empty) state of methods


# --- stages -----------------------------------------------------------------------------------------------------------


class Count(nn.Module):
    """State of a method: how many steps it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))


def two_stages(restart: bool, told: list) -> type:
    """4 steps on all samples, then 5 on the first labelled ones, by a run that counts steps in a module."""

    def plan_stages(self, info):
        first = yield Stage("first", steps=4)
        told.append((first.metrics["miou"], first.students[0].classifier.weight.detach().clone()))
        yield Stage("second", labelled=list(first.labelled)[:3], steps=5, restart=restart)

    def setup(self):
        self.count = Count()
        return {"count": self.count}

    def after_step(self):
        self.count.steps += 1

    return make_method(plan_stages=plan_stages, setup=setup, after_step=after_step)


@pytest.mark.parametrize(
    ("restart", "stage", "step"),
    [
        (True, 1, 0),
        (False, 0, 3),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((True, 0, 1), (True, 0, 3), (True, 1, 2), (False, 1, 1))
        ),
    ],
)
def test_a_run_of_two_stages_resumes_into_the_right_one(tiny_plugins, trained, broken_off, stop, restart, stage, step):
    told: list = []
    tiny_plugins.add("methods", "stages", two_stages(restart, told))
    whole = trained("whole", "method=stages", "train.checkpoint_every=2", "train.eval_every=2")
    stop(step, stage=stage)
    words = ("method=stages", "train.checkpoint_every=2", "train.eval_every=2")
    if (stage, step) == (0, 3):  # the last step of a stage: asked to stop, it must not trained on to the next one
        folder = broken_off("parts", *words)
        assert checkpoint.load_state(folder / "last")["global_step"] == 4
    else:
        broken_off("parts", *words)
    resumed = trained("parts", *words, "resume=true")
    assert_same_run(whole, resumed)
    assert checkpoint.load_state(resumed / "last")["global_step"] == 9
    assert load_file(resumed / "last" / "methods.safetensors")["count.steps"].item() == 9
    miou, weight = told[0]
    for again, weight_again in told[1:]:
        assert again == miou
        assert torch.equal(weight, weight_again)


def test_the_time_is_that_of_all_stages_and_of_what_lies_between(tiny_plugins, trained, broken_off, stop):
    base = two_stages(True, [])

    def plan_stages(self, info):
        plan = base.plan_stages(self, info)
        first = yield next(plan)
        time.sleep(0.4)
        yield plan.send(first)

    hooks = {"plan_stages": plan_stages, "setup": base.setup, "after_step": base.after_step}
    tiny_plugins.add("methods", "stages", make_method(**hooks))
    spent = json.loads((trained("whole", "method=stages") / "metrics.json").read_text())["time"]
    assert spent["train_seconds"] > 0.4
    assert spent["train_seconds"] * spent["steps_per_second"] == pytest.approx(9, rel=0.01)
    stop(1, stage=1)
    parts = broken_off("parts", "method=stages")
    before = checkpoint.load_state(parts / "last")["spent"]["train"]
    assert before > 0.4
    trained("parts", "method=stages", "resume=true")
    assert json.loads((parts / "metrics.json").read_text())["time"]["train_seconds"] > before


def test_a_restarted_stage_tells_a_method_of_the_networks_it_trains(tiny_plugins, trained):
    """`RunInfo.students`, once given, names the networks that are trained."""
    told = []
    base = two_stages(True, [])

    def setup(self, info):
        self.info = info

    def after_step(self, students):
        told.append(all(any(student is known for known in self.info.students) for student in students))

    tiny_plugins.add("methods", "stages", make_method(plan_stages=base.plan_stages, setup=setup, after_step=after_step))
    trained("run", "method=stages")
    assert told
    assert all(told)


def test_a_restarted_stage_begins_with_the_first_weights(tiny_plugins, trained, monkeypatch):
    begun = []
    original = Engine.step

    def note_weights(self, batches, progress):
        if is_training_step(batches) and progress.step == 0:
            begun.append(self.students[0].classifier.weight.detach().clone())
        return original(self, batches, progress)

    monkeypatch.setattr(Engine, "step", note_weights)
    tiny_plugins.add("methods", "again", two_stages(True, []))
    tiny_plugins.add("methods", "on", two_stages(False, []))
    trained("again", "method=again")
    trained("on", "method=on")
    first, restarted, first_too, went_on = begun
    assert torch.equal(first, restarted)
    assert torch.equal(first, first_too)
    assert not torch.equal(first_too, went_on)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_touched(trained):
    folder = trained("run", "method=fixmatch")
    before = left_by(folder)
    for more in ([], ["resume=true"]):
        with pytest.raises(UserError, match="finished run"):
            trained("run", "method=fixmatch", *more)
    assert differences(before, left_by(folder)) == []


def test_an_unfinished_run_is_not_touched_without_a_word(trained, broken_off, stop):
    stop(3)
    broken_off("run", "method=fixmatch")
    with pytest.raises(UserError, match=r"resume=true.*overwrite=true"):
        trained("run", "method=fixmatch")


def test_overwrite_starts_anew_and_leaves_other_files_alone(trained, broken_off, stop):
    whole = trained("whole", "method=fixmatch")
    stop(3)
    folder = broken_off("run", "method=fixmatch", "optim.lr=0.2")
    (folder / "notes.txt").write_text("mine")
    for leftover in ("last.new", "last.old", "dry_run"):  # of a kill
        shutil.copytree(folder / "last", folder / leftover)
    assert_same_run(whole, trained("run", "method=fixmatch", "overwrite=true"))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.json",
        "history.jsonl",
        "run.log",
        "card.md",
        "last",
        "best",
        "notes.txt",
        "pseudo_labels",
    }


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("optim.lr=0.06", "optim.lr"),
        ("seed=1", "seed"),
        ("train.batch=3", "train.batch"),
        ("train.steps=8", "train.steps"),
        ("method=supervised", "method"),
        ("options.fixmatch.threshold=0.5", "options.fixmatch.threshold"),
        ("data.split=classes=3", "data.split"),
        ("hooks.pixel_weight=none", "hooks.pixel_weight"),
        ("train.precision=bf16", "train.precision"),
    ],
)
def test_another_configuration_is_refused_naming_the_key(trained, broken_off, stop, word, key):
    stop(3)
    folder = broken_off("run", "method=fixmatch")
    state = (folder / "last" / checkpoint.STATE).read_bytes()
    with pytest.raises(UserError, match=rf"\b{key}=") as caught:
        trained("run", "method=fixmatch", word, "resume=true")
    assert "\n" not in str(caught.value)
    assert (folder / "last" / checkpoint.STATE).read_bytes() == state


def test_what_is_only_shown_may_differ_on_resume(trained, broken_off, stop):
    whole = trained("whole", "method=fixmatch")
    stop(3)
    broken_off("parts", "method=fixmatch")
    resumed = trained("parts", "method=fixmatch", "resume=true", "train.log_every=2", "diagnose=true")
    assert differences(left_by(whole)["weights"], left_by(resumed)["weights"]) == []


def test_resume_and_overwrite_together_are_refused(trained):
    with pytest.raises(UserError, match="not both"):
        trained("run", "method=fixmatch", "resume=true", "overwrite=true")


@pytest.mark.parametrize("word", ["resume=true", "overwrite=true"])
def test_the_configuration_that_a_run_leaves_neither_resumes_nor_overwrites(trained, word):
    """`--config` with it must not wipe or continue a run that nobody asked it to."""
    folder = trained("run", "method=fixmatch", word)
    assert resolve([], folder / "config.yaml").resume is False
    assert resolve([], folder / "config.yaml").overwrite is False


def test_resuming_where_nothing_lies_is_a_fresh_run(trained):
    assert_same_run(trained("one", "method=fixmatch"), trained("two", "method=fixmatch", "resume=true"))
