"""What a person may get wrong: one line that says so, exit code 2, and nothing lost or half-written."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import as_yaml
from ssss_zoo.testing.tiny import make_method, tiny_overrides
from ssss_zoo.train import checkpoint

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def ssss(tiny_plugins, capsys, tmp_path, monkeypatch):
    """More words of a tiny run into `run` -> exit code, last line of stderr without `ssss: `, all lines of it."""
    monkeypatch.chdir(tmp_path)

    def call(*more: str, command: str = "run") -> SimpleNamespace:
        capsys.readouterr()
        given = tiny_overrides("output=run", *more) if command == "run" else more
        code = command_line([command, *given])
        lines = capsys.readouterr().err.splitlines()
        return SimpleNamespace(code=code, line=lines[-1].removeprefix("ssss: ") if lines else "", lines=lines)

    return call


@pytest.fixture
def finished(ssss, tmp_path):
    """The folder of a finished tiny run."""
    assert ssss().code == 0
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the log."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.log"
    }


def status(folder: Path) -> str:
    return json.loads((folder / "metrics.json").read_text())["status"]


# --- what is found before anything is written -----------------------------------------------------------------------

EARLY = [
    (["method=fixmach"], "unknown method 'fixmach' in method=fixmach; did you mean 'fixmatch'?"),
    (["dataset=tinny"], "unknown data set 'tinny' in dataset=tinny; did you mean 'tiny'?"),
    (["model=tinny"], "unknown model 'tinny' in model=tinny; did you mean 'tiny'?"),
    (["hooks.pixel_wieght=fixmatch"], "unknown hook 'pixel_wieght'"),
    (["hooks.class_weight=fixmatch"], "hooks.class_weight=fixmatch: method 'fixmatch' does not answer class_weight"),
    (["options.fixmatch.treshold=1"], "unknown key 'options.fixmatch.treshold'; did you mean 'options.fixmatch.thr"),
    (["options.fixmatch.threshold=2"], "options.fixmatch.threshold must be between 0 and 1; got 2"),
    (["options.fixmatch.threshold=high"], "options.fixmatch.threshold takes a number; got 'high'"),
    (["options.unimatch.threshold=1"], "unknown method 'unimatch' in options.unimatch"),
    (["train.stpes=3"], "unknown key 'train.stpes'; did you mean 'train.steps'?"),
    (["train.steps=many"], "train.steps takes a whole number; got 'many'"),
    (["train.batch=0"], "train.batch must be between 1 and"),
    (["train.precision=16"], "train.precision must be one of 32, bf16, fp16; got '16'"),
    (["steps"], "expected key=value, got 'steps'"),
    (["plugins.path=gone.py"], "plugins.path=gone.py: no such file"),
    (["train.precision=fp16"], "train.precision=fp16 needs a GPU"),
    (["train.device=cuda:97"], "train.device=cuda:97 cannot be used: "),
    (["train.device=toaster"], "train.device=toaster cannot be used: "),
    (["resume=true", "overwrite=true"], "give resume=true to continue or overwrite=true to start again, not both"),
    (["data.split=unlabelled=0"], "method=fixmatch learns from unlabelled images and tiny has none"),
    (["data.split=hidden=0", "diagnose=true"], "diagnose=true needs hidden labels for every unlabelled image"),
    (["data.split=labelled=0"], "the labelled stream has no image"),
    (["data.snap=true"], "dataset=tiny does not use data.snap; it uses data.root, data.split"),
]


@pytest.mark.parametrize(("more", "expected"), EARLY)
def test_a_mistake_is_one_line_and_leaves_no_folder(more, expected, ssss, tmp_path):
    done = ssss(*more)
    assert done.code == 2
    assert done.line.startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "expected"), [item for item in EARLY if "data.split" not in item[0][0]])
def test_a_mistake_in_the_words_is_the_only_line(more, expected, ssss):
    assert len(ssss(*more).lines) == 1


def test_a_name_is_corrected_before_a_budget_is_asked_for(tiny_plugins, capsys):
    assert command_line(["run", "dataset=foldr"]) == 2
    assert capsys.readouterr().err.startswith("ssss: unknown data set 'foldr' in dataset=foldr; did you mean 'folder'?")
    assert command_line(["run", "dataset=tiny", "model=tiny", "method=supervised"]) == 2
    assert capsys.readouterr().err == "ssss: the length of the training is not set: give train.steps or train.epochs\n"


def test_a_method_that_reads_no_unlabelled_image_does_without(ssss, tmp_path):
    assert ssss("method=supervised", "data.split=unlabelled=0").code == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]["unlabelled"] == 0


def test_without_validation_images_a_run_trains_and_says_no_figures(ssss, tmp_path):
    assert ssss("data.split=val=0").code == 0
    assert status(tmp_path / "run") == "finished"


# --- where it is written --------------------------------------------------------------------------------------------


def test_an_output_that_is_a_file_is_left_alone(ssss, tmp_path):
    (tmp_path / "run").write_text("mine")
    for more in ([], ["overwrite=true"], ["resume=true"]):
        done = ssss(*more)
        assert done.code == 2
        assert done.line == "output=run is a file; give the path of a folder"
    assert (tmp_path / "run").read_text() == "mine"


def test_an_output_below_a_file_is_one_line(ssss, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = ssss("output=file/run")
    assert done.code == 2
    assert "output=file/run" in done.line
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_cannot_be_made_is_one_line(ssss):
    done = ssss("output=/proc/none/run")
    assert done.code == 2
    assert "/proc/none/run" in done.line


@pytest.mark.parametrize("more", [[], ["resume=true"], ["train.steps=9"], ["train.steps=9", "resume=true"]])
def test_a_finished_run_is_never_overwritten(more, finished, ssss):
    before = contents(finished)
    done = ssss(*more)
    assert done.code == 2
    assert done.line.startswith("run holds a finished run; look at it with `ssss evaluate run=run`. ")
    assert len(done.lines) == 1
    assert contents(finished) == before


def test_overwrite_starts_anew_and_removes_only_what_is_ours(finished, ssss):
    (finished / "notes.txt").write_text("mine")
    (finished / "pictures").mkdir()
    (finished / "pictures" / "one.png").write_text("mine too")
    assert ssss("overwrite=true", "train.steps=3").code == 0
    assert (finished / "notes.txt").read_text() == "mine"
    assert (finished / "pictures" / "one.png").read_text() == "mine too"
    assert json.loads((finished / "metrics.json").read_text())["step"] == 3
    assert max(json.loads(line)["step"] for line in (finished / "history.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "more",
    [
        ["method=fixmach"],
        ["dataset=shapes", "data.split=nonsense"],
        ["dataset=folder", "data.root=nowhere"],
        ["train.device=toaster"],
        ["model.in_channels=4"],
        *(
            pytest.param(more, marks=pytest.mark.long)
            for more in (
                ["data.split=unlabelled=0"],
                ["dataset=tinny"],
                ["model=deeplabv3plus", "model.encoder=no_such_net", "model.weights=none"],
            )
        ),
    ],
)
def test_overwrite_with_a_mistake_beside_it_loses_nothing(more, finished, ssss):
    before = contents(finished)
    assert ssss("overwrite=true", *more).code == 2
    assert contents(finished) == before


def test_a_repeated_run_does_not_inherit_overwrite_or_resume(finished, ssss, tmp_path):
    """config.yaml repeats the run: it must not carry the permission to overwrite it."""
    assert ssss("overwrite=true").code == 0
    before = contents(finished)
    assert command_line(["run", "--config", "run/config.yaml"]) == 2
    assert contents(finished) == before


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(ssss, tmp_path, monkeypatch):
    """The folder of a tiny run whose loss broke in its fifth step, after the checkpoint of the third."""
    with monkeypatch.context() as patch:
        break_loss(patch, step=5)
        assert ssss().code == 2
    return tmp_path / "run"


def break_loss(patch: pytest.MonkeyPatch, step: int) -> None:
    """Make the labelled loss infinite in a step (1-based; the dry run comes before the first)."""
    from ssss_zoo.toolkit import losses

    calls, true_loss = [], losses.cross_entropy

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # the dry run also makes a later step, without a gradient
            calls.append(mask)
        return true_loss(logits, mask) / (0 if len(calls) == step + 1 else 1)

    patch.setattr(losses, "cross_entropy", loss)


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_unasked(stopped, ssss):
    before = contents(stopped)
    done = ssss()
    assert done.code == 2
    assert done.line == "run holds an unfinished run; continue it with resume=true, or start again with overwrite=true"
    assert contents(stopped) == before


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["optim.lr=0.07"], "run was started with optim.lr=0.05, now optim.lr=0.07; resume with the same "),
        (["options.fixmatch.threshold=0.5"], "run was started with options.fixmatch.threshold=0.95, now options.fixm"),
        (["method=unimatch"], "run was started with "),
        (["seed=1", "train.steps=8"], "run was started with seed=0, now seed=1 (and 1 more)"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_naming_the_key(more, expected, stopped, ssss):
    before = contents(stopped)
    done = ssss("resume=true", *more)
    assert done.code == 2
    assert done.line.startswith(expected)
    assert len(done.lines) == 1
    assert contents(stopped) == before


def test_what_does_not_change_results_may_differ_on_resuming(stopped, ssss):
    assert ssss("resume=true", "train.log_every=2", "evaluate.predictions=1", "train.checkpoint_every=2").code == 0
    assert status(stopped) == "finished"


def test_a_damaged_checkpoint_is_one_line(stopped, ssss):
    (stopped / "last" / "state.pt").write_bytes(b"rubbish")
    done = ssss("resume=true")
    assert done.code == 2
    assert done.line.startswith("run/last/state.pt is not as it was written: it is damaged, or was changed since; ")


def test_weights_of_another_network_are_one_line_and_stay(stopped, ssss):
    state = checkpoint.load_state(stopped / "last")
    checkpoint.save_folder(stopped / "last", {"student": {"weight": torch.zeros(2)}, "methods": {}}, state)
    done = ssss("resume=true")
    assert done.code == 2
    assert "student.safetensors holds another network or method" in done.line
    assert (stopped / "last" / "state.pt").exists()


def test_resuming_where_there_is_nothing_starts_from_the_first_step(ssss, tmp_path):
    assert ssss("resume=true").code == 0
    assert status(tmp_path / "run") == "finished"


# --- what goes wrong under way --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_losses_views_and_images(stopped, ssss, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        break_loss(patch, step=2)
        done = ssss("output=other")
    assert done.code == 2
    assert done.line.startswith("loss not finite at step 2: supervised=inf, consistency=")
    assert "total=inf" in done.line
    assert re.search(r"views: labelled 0\S* to [01]\S*, mean 0\.\d+; weak 0", done.line)
    assert "images: labelled" in done.line
    assert "unlabelled" in done.line
    assert "lower optim.lr or set train.precision=32" in done.line
    assert status(tmp_path / "other") == "failed"
    assert status(stopped) == "failed"


def test_a_loss_that_is_not_finite_between_log_steps_names_the_step_it_broke_in(ssss, monkeypatch):
    break_loss(monkeypatch, step=4)
    done = ssss("train.log_every=6", "train.eval_every=6", "train.checkpoint_every=6")
    assert done.line.startswith("loss not finite at step 4: ")


def test_a_learning_rate_that_blows_the_weights_up_is_one_line(ssss):
    done = ssss("optim.lr=1000", "optim.head_multiplier=1e6", "train.steps=30")
    assert done.code == 2
    assert "not finite" in done.line or "finite numbers" in done.line
    assert "optim.lr" in done.line  # what to do about it, and no hook is blamed


@pytest.mark.parametrize("error", [FULL, SafetensorError("I/O error: No space left on device")])
def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_is_one_line(error, ssss, tmp_path, monkeypatch):
    calls, true_save = [], checkpoint.save_file

    def save(tensors: dict[str, Tensor], file: Path) -> None:
        calls.append(file)
        if sum("last.new" in str(path) for path in calls) > 2:  # the checkpoint of step 3 has two files
            raise error
        true_save(tensors, file)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save)
        done = ssss()
    assert done.code == 2
    assert done.line.startswith("cannot write run/last: ")
    assert "free some space, then continue: a run or a prediction with resume=true" in done.line
    assert checkpoint.load_state(tmp_path / "run" / "last")["step"] == 3
    assert status(tmp_path / "run") != "finished"
    assert ssss("resume=true").code == 0
    assert status(tmp_path / "run") == "finished"


def test_a_picture_that_cannot_be_written_does_not_cost_the_run(ssss, tmp_path, monkeypatch):
    from PIL import Image

    def refuse(*_: object, **__: object) -> None:
        raise FULL

    monkeypatch.setattr(Image.Image, "save", refuse)
    done = ssss("evaluate.predictions=1")
    assert done.code in (0, 2)  # told or refused, in one line, and never a traceback
    assert status(tmp_path / "run") == "finished"


@pytest.mark.parametrize(
    ("hook", "answer", "expected"),
    [
        ("pixel_weight", lambda self, label: label.confidence[:, None], "hook pixel_weight of 'own' must return (B, "),
        ("class_weight", lambda self, num_classes: torch.ones(num_classes + 1), "hook class_weight of 'own' must "),
        ("pseudo_label", lambda self, probs: probs, "hook pseudo_label of 'own' must return a PseudoLabel, got Tensor"),
        ("make_views", lambda self: [], "hook make_views of 'own' must return Views, got list"),
        ("regularize", lambda self: torch.zeros(()), "hook regularize of 'own' must return a dict of scalar losses"),
        ("setup", lambda self: 3, "hook setup of 'own' must return a dict of torch modules by name, got 3"),
        ("plan_stages", lambda self: [], "hook plan_stages of 'own' must return"),
        ("plan_stages", lambda self: iter(()), "hook plan_stages of 'own' "),
    ],
)
def test_a_method_that_answers_wrongly_is_named_before_the_first_step(hook, answer, expected, ssss, tiny_plugins):
    tiny_plugins.add("methods", "own", make_method(**{hook: answer}))
    done = ssss("method=own")
    assert done.code == 2
    assert done.line.startswith(expected)


def test_two_methods_that_keep_a_module_of_one_name_are_refused(ssss, tiny_plugins):
    for name in ("one", "two"):
        tiny_plugins.add("methods", name, make_method(setup=lambda self: {"memory": torch.nn.Linear(1, 1)}))
    assert ssss("method=one+two").line == "two methods keep a module called 'memory'; one must be renamed"


@pytest.mark.parametrize("more", [["model.in_channels=4"], ["data.split=unlabelled=0"]])
def test_after_a_run_that_failed_before_its_first_step_the_corrected_command_simply_works(more, ssss, tmp_path):
    assert ssss(*more).code == 2
    done = ssss()
    assert done.code == 0, done.line
    assert status(tmp_path / "run") == "finished"


def test_a_network_of_another_number_of_channels_is_one_line(ssss):
    done = ssss("model.in_channels=4")
    assert done.code == 2
    assert done.line == "the images have 3 channels, the network 4: set model.in_channels"


# --- evaluating -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["run=nowhere"], "run=nowhere holds no run (no config.yaml); give the folder that `ssss run` wrote"),
        (["run=run", "weights=first"], "weights must be one of last, best; got 'first'"),
        (["run=run", "on=test"], "on=test must be val, labelled, unlabelled or a file"),
        (["run=run", "evalute.mode=whole"], "unknown key 'evalute'; did you mean 'evaluate'?"),
        (["run=run", "method=unimatch"], "run/config.yaml names its plugins"),
        (["run=run", "train.device=toaster"], "train.device=toaster cannot be used"),
        (["run=run", "model=deeplabv3plus", "model.encoder=test_resnet"], "run/last/student.safetensors holds another"),
        (["run=[run"], "run=[run"),
    ],
)
def test_a_mistake_in_evaluating_is_one_line_and_changes_nothing(more, expected, finished, ssss):
    before = contents(finished)
    done = ssss(*more, command="evaluate")
    assert done.code == 2
    assert done.line.startswith(expected)
    assert len(done.lines) == 1
    assert contents(finished) == before


def test_a_run_without_a_checkpoint_cannot_be_evaluated_yet(ssss, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(as_yaml(resolve(tiny_overrides())))
    done = ssss("run=run", command="evaluate")
    assert done.code == 2
    assert done.line == "run holds no last checkpoint; the run has not written one yet"


def test_images_without_masks_cannot_be_scored(ssss):
    assert ssss("data.split=hidden=0").code == 0
    done = ssss("run=run", "on=unlabelled", command="evaluate")
    assert done.code == 2
    assert done.line == "on=unlabelled: some of these images have no mask, so there is nothing to compare with"


@pytest.mark.parametrize("words", [
    ("data", "check", "dataset=folder", "data.root=~nobodyx/a"),
    ("run", "method=fixmatch", "dataset=shapes", "output=~nobodyx/a"),
    ("run", "method=~nobodyx/m.py", "dataset=shapes"),
    ("evaluate", "run=~nobodyx/a"),
    ("data", "preview", "dataset=shapes", "file=~nobodyx/a.png"),
    ("compare", "study=~nobodyx/s.yaml", "dataset=shapes"),
], ids=" ".join)  # fmt: skip
def test_the_home_of_nobody_is_one_line(words, capsys):
    assert command_line(words) == 2
    assert "no home folder is known for ~nobodyx; write the whole path" in capsys.readouterr().err
