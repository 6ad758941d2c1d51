"""Tests that every method must pass. Inherit from `MethodContract` and name the method; pytest runs the tests."""

from __future__ import annotations

import copy
import inspect
import math
import re
import signal
import sys
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import Config
from ssss_zoo.data.loading.loader import BatchLoader
from ssss_zoo.engine import plugin_source
from ssss_zoo.engine.registry import (
    CHOOSABLE_HOOKS,
    HOOKS,
    OPTION_TYPES,
    implemented_hooks,
    marked_hooks,
    method_classes,
)
from ssss_zoo.engine.step import Engine
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.gpu_sync import HostReads
from ssss_zoo.testing.late_draws import LateDraws
from ssss_zoo.testing.tiny import TinyRun, make_tiny_run, tiny_entry_points, tiny_overrides
from ssss_zoo.toolkit.types import IGNORE, Progress, RawBatch, RawLabelled, RawUnlabelled
from ssss_zoo.train import checkpoint
from ssss_zoo.train.result import RunResult
from ssss_zoo.train.run import run_training
from ssss_zoo.train.run_folder import RunFolder

LONG_RUN = "train.steps=30"  # about 3 steps per epoch: every warm-up is over at the last steps
STOPPED_RUN = ("train.steps=9", "train.checkpoint_every=4", "train.eval_every=3")

SITUATIONS = {
    "two classes": ["data.split=classes=2"],
    "a class that no image shows": ["data.split=absent=3"],
    "five channels": ["data.split=channels=5", "model.in_channels=5"],
    "one channel": ["data.split=channels=1", "model.in_channels=1"],
    "one labelled and one unlabelled image": ["data.split=labelled=1,unlabelled=1"],
    "a batch of one": ["train.batch=1"],
    "an odd batch": ["train.batch=3"],
    "two passes a step": ["train.accumulate=2"],
    "crops that are no squares": ["train.crop=[16,24]"],
    "all views in one pass": ["train.fuse=true"],
    "bfloat16": ["train.precision=bf16"],
    "tensors in channels-first order": ["train.channels_last=false"],
    "the hardest labelled pixels": ["loss.supervised=ohem"],
    "class weights on the target": ["loss.class_weight=per_class"],
    "AdamW": ["optim.name=adamw"],
    "AdamW, few images, two passes": ["optim.name=adamw", "data.split=labelled=1,unlabelled=1", "train.accumulate=2"],
}

MakeTinyRun = Callable[..., TinyRun]
FIRST_TEST = (
    "test_two_steps_move_every_weight_by_finite_losses"  # the only test that runs for a method whose first step fails
)
TestedMethod = tuple[str, str, str]  # the module and name of a test class, and the method that it tests
FIRST_STEPS: dict[TestedMethod, bool] = {}  # whether the first step works
WHOLE_RUNS: dict[TestedMethod, RunResult] = {}  # runs of STOPPED_RUN without a stop


class MethodContract:
    """method: the name of an installed method, or the path of a Python file that holds one. partners: the methods that
    it is mixed with. The defaults: labels by the student itself, soft labels by an average, labels by two networks.
    """

    method: ClassVar[str] = ""
    partners: ClassVar[Sequence[str]] = ("fixmatch", "farcluss", "cps")

    @pytest.fixture
    def name(self) -> str:
        return self.method

    @pytest.fixture
    def configured(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
        """A function from overrides to the configuration of a tiny run of the method, in a folder of the test."""
        monkeypatch.setattr(plugin_source, "entry_points", tiny_entry_points().entry_points)
        return lambda *more: resolve(tiny_overrides(f"method={name}", f"output={tmp_path / 'run'}", *more))

    @pytest.fixture
    def make(self, configured: Callable[..., Config]) -> MakeTinyRun:
        """A function from overrides to a tiny run of the method before its first step."""
        return lambda *more: make_tiny_run(configured(*more))

    @pytest.fixture
    def tested(self, name: str) -> TestedMethod:
        return (type(self).__module__, type(self).__qualname__, name)

    @pytest.fixture
    def whole_run(
        self, tested: TestedMethod, configured: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
    ) -> RunResult:
        """A finished run of STOPPED_RUN, which several tests look at."""
        if tested not in WHOLE_RUNS:
            output = f"output={tmp_path_factory.mktemp('whole') / 'run'}"
            WHOLE_RUNS[tested] = run_training(configured(*STOPPED_RUN, output))
        return WHOLE_RUNS[tested]

    @pytest.fixture(autouse=True)
    def _first_step_goes(
        self, request: pytest.FixtureRequest, tested: TestedMethod, configured: Callable[..., Config], tmp_path: Path
    ) -> None:
        """A method whose first step fails should fail one test and skip the others, which would fail for it too."""
        if tested not in FIRST_STEPS:
            try:
                make_tiny_run(configured(f"output={tmp_path / 'first_step'}")).steps(1)
                FIRST_STEPS[tested] = True
            except Exception:
                FIRST_STEPS[tested] = False
        if not FIRST_STEPS[tested] and request.node.originalname != FIRST_TEST:
            pytest.skip(f"the first step fails: see {FIRST_TEST}")

    # --- the class --------------------------------------------------------------------------------------------------

    def test_it_is_a_dataclass_that_names_its_paper_and_types_its_options(self, configured: Any) -> None:
        """`ssss list` and the configuration read these from the class."""
        _, method = method_under_test(configured())
        assert is_dataclass(method), "decorate the class with @dataclass(eq=False): its fields are the options"
        assert method.__eq__ is object.__eq__, "pluggy compares plugins: write @dataclass(eq=False)"
        paper = getattr(method, "paper", None)
        assert isinstance(paper, str) and paper.strip() and "\n" not in paper, (  # noqa: PT018 - one rule
            "say `paper: ClassVar[str] = ...`, one line: `ssss list` shows it"
        )
        docstring = method.__doc__ if not str(method.__doc__).startswith(f"{method.__name__}(") else None
        module = sys.modules.get(method.__module__)  # None: the class of a single file
        assert (docstring or getattr(module, "__doc__", None) or "").strip(), "say in a docstring what the method does"
        hints = typing.get_type_hints(method)
        for key, value in vars(method).items():
            bare = isinstance(value, OPTION_TYPES) and not key.startswith("__") and key not in hints
            assert not bare, f"{key} has no type, so it is no option: write `{key}: {type(value).__name__} = {value!r}`"

    def test_its_options_are_explained(self, configured: Any) -> None:
        """Each option is explained in the class's docstring, or by a comment on its line or above it."""
        _, method = method_under_test(configured())
        text = inspect.getsource(method)
        explained = [option.name for option in fields(method) if re.search(rf"\b{option.name}\b", str(method.__doc__))]
        for option in fields(method):
            line = re.search(rf"(^ *#[^\n]*\n)?^ +{option.name} *:[^\n]*", text, re.MULTILINE)
            comment = line is None or "#" in line[0]  # None: a base class declares and explains it
            assert comment or option.name in explained, f"say what option {option.name} is: `# ...` on its line"

    def test_what_it_marks_as_a_hook_is_one(self, configured: Any) -> None:
        _, method = method_under_test(configured())
        assert implemented_hooks(method), f"no function is marked with @hookimpl; the hooks are: {', '.join(HOOKS)}"
        assert set(marked_hooks(method)) <= set(HOOKS), f"hooks are: {', '.join(HOOKS)}"

    def test_an_unknown_option_is_refused_by_its_name(self, configured: Any, make: MakeTinyRun) -> None:
        name, _ = method_under_test(configured())
        with pytest.raises(UserError, match=rf"options\.{name}\.no_such_option"):
            make(f"options.{name}.no_such_option=1")

    def test_a_hook_that_it_does_not_answer_cannot_be_asked_of_it(self, configured: Any, make: MakeTinyRun) -> None:
        name, method = method_under_test(configured())
        missing = [hook for hook in CHOOSABLE_HOOKS if hook not in implemented_hooks(method)]
        if missing:
            with pytest.raises(UserError, match=f"hooks.{missing[0]}"):
                make(f"hooks.{missing[0]}={name}")

    # --- steps ------------------------------------------------------------------------------------------------------

    def test_two_steps_move_every_weight_by_finite_losses(self, make: MakeTinyRun) -> None:
        made = make()
        before = [copy.deepcopy(student.state_dict()) for student in made.engine.students]
        losses = made.steps(2)
        assert all_finite(losses)
        parts = sum(value for key, value in losses[0].items() if key != "total")
        assert losses[0]["total"] == pytest.approx(parts, rel=1e-5), "the total is the sum of the terms"
        for old, student in zip(before, made.engine.students, strict=True):
            still = [key for key, value in student.named_parameters() if torch.equal(value, old[key])]
            assert not still, f"no loss reaches {', '.join(still[:3])}"

    def test_its_last_steps_go_well_after_its_first_ones(self, make: MakeTinyRun) -> None:
        """Loss terms that start late must work with an optimizer that started without them."""
        assert all_finite(early_and_late(make(LONG_RUN)))

    @pytest.mark.parametrize("situation", SITUATIONS)
    def test_it_takes_what_data_and_settings_bring(self, situation: str, make: MakeTinyRun) -> None:
        made = make(LONG_RUN, *SITUATIONS[situation])
        assert all_finite([*made.steps(1), *made.steps(1, first=29)]), f"with {situation}"

    def test_nothing_to_learn_from_gives_zero_and_not_nan(self, make: MakeTinyRun) -> None:
        """All labelled pixels are void, and all unlabelled ones are padding."""
        made, counts = make(LONG_RUN), []
        made.engine.on_pseudo_label = lambda label, weight, hidden: counts.append(bool(label.valid.any()))
        batch = next(made.feed)
        void = RawLabelled(batch.labelled.image, torch.full_like(batch.labelled.mask, IGNORE))
        blank, far = (
            u and RawUnlabelled(u.image, torch.zeros_like(u.valid)) for u in (batch.unlabelled, batch.partner)
        )
        for step in (0, 28, 29):
            losses = made.engine.step(iter([RawBatch(void, blank, far)]), made.stage.progress(step))
            assert not losses["supervised"].any(), "void pixels teach"
            unused = losses.get("consistency", torch.zeros(())).item() == 0
            assert any(counts) or unused, "padding teaches: pass `valid` on in the PseudoLabel"
            assert all_finite([{key: value.item() for key, value in losses.items()}])
        assert all(torch.isfinite(value).all() for value in made.student.state_dict().values())

    # --- labels and gradients ---------------------------------------------------------------------------------------

    def test_it_never_reads_a_mask_of_an_unlabelled_image(self, make: MakeTinyRun) -> None:
        assert all_finite(early_and_late(make("data.split=hidden=2", LONG_RUN)))  # reading one raises

    def test_hidden_labels_change_nothing(self, make: MakeTinyRun) -> None:
        with_labels, without = (make(f"data.split=hidden={there}").steps(2) for there in (1, 0))
        assert with_labels == without

    def test_its_teachers_learn_nothing_by_gradient(self, make: MakeTinyRun) -> None:
        made = make(LONG_RUN)
        trained = {id(p) for group in made.engine.optimizer.param_groups for p in group["params"]}
        own_weights = [t.network for t in made.engine.teachers if t.network is not None]
        grads: list[bool] = []
        made.engine.optimizer.register_step_pre_hook(
            lambda *_: grads.extend(p.grad is not None for network in own_weights for p in network.parameters())
        )
        early_and_late(made)
        assert not any(grads), "a loss reaches the teacher's weights: its passes belong under torch.no_grad()"
        assert not any(id(p) in trained for network in own_weights for p in network.parameters())

    # --- state ------------------------------------------------------------------------------------------------------

    def test_its_state_lies_in_modules_that_a_checkpoint_holds(self, configured: Any, make: MakeTinyRun) -> None:
        """The state that a method keeps between steps, besides its options, must be restored with the run."""
        made = make(LONG_RUN)
        method = made.methods[method_under_test(configured())[0]]
        plain = {key: by_value(value) for key, value in vars(method).items() if not isinstance(value, nn.Module)}
        early_and_late(made)
        for name, module in made.run.modules.items():
            unsaved = [
                key for part in module.modules() for key, value in vars(part).items() if isinstance(value, Tensor)
            ]
            assert not unsaved, f"{unsaved[0]} of module {name} is a plain tensor, and not saved: register a buffer"
        saved = {id(tensor) for module in made.run.modules.values() for tensor in tensors_of_module(module)}
        for key, value in vars(method).items():
            if isinstance(value, nn.Module):
                kept = all(id(tensor) in saved for tensor in tensors_of_module(value))
                assert kept, f"self.{key} is not among the modules that `setup` returned"
            else:
                assert key in plain, f"self.{key} appeared during the steps: keep it in a module that `setup` returns"
                changed = by_value(value) != plain[key]
                assert not changed, f"self.{key} changed during the steps: keep it in a module of `setup`"

    def test_a_stopped_and_resumed_run_equals_one_without_a_stop(
        self, configured: Any, whole_run: RunResult, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The weights are bit-identical, and so is the method's own state."""
        original, done = Engine.step, [0]

        def step_and_stop(engine: Engine, batches: Any, progress: Progress) -> dict[str, Tensor]:
            losses = original(engine, batches, progress)
            done[0] += isinstance(batches, BatchLoader)  # the dry run's step is not counted
            if done[0] == 5:
                signal.raise_signal(signal.SIGINT)
            return losses

        with monkeypatch.context() as patched:
            patched.setattr(Engine, "step", step_and_stop)
            with pytest.raises(Interrupted):
                run_training(configured(*STOPPED_RUN))
        resumed = run_training(configured(*STOPPED_RUN, "resume=true")).folder
        one, other = (saved_weights(folder) for folder in (whole_run.folder, resumed))
        different = [key for key in one if not torch.equal(one[key], other[key])]
        assert not different, f"{', '.join(different[:3])} differ: something was not saved, or a draw was not torch's"

    def test_the_same_seed_gives_the_same_numbers(self, make: MakeTinyRun) -> None:
        first, second = early_and_late(make(LONG_RUN)), early_and_late(make(LONG_RUN))
        assert first == second, "two runs of one seed differ: draw from torch's generators, which each step seeds"

    def test_a_run_writes_what_it_promises(self, whole_run: RunResult) -> None:
        assert whole_run.metrics["status"] == "finished"
        assert whole_run.metrics["step"] == 9
        assert 0 <= whole_run.metrics["val"]["miou"] <= 1
        folder = RunFolder(whole_run.folder)
        records = {folder.metrics, folder.history, folder.config, folder.log, folder.card}
        assert set(whole_run.folder.iterdir()) - {folder.stages, folder.pseudo_labels} == {
            *records,
            folder.last,
            folder.best,
        }

    # --- mixing -----------------------------------------------------------------------------------------------------

    def test_it_mixes_with_others_or_is_refused_in_one_line(self, name: str, make: MakeTinyRun) -> None:
        for partner in self.partners:
            for mix in (f"{name}+{partner}", f"{partner}+{name}"):
                if partner != name:
                    losses = first_and_last(make, f"method={mix}", LONG_RUN)
                    assert losses is None or all_finite(losses), mix

    def test_each_of_its_hooks_serves_others(self, configured: Any, make: MakeTinyRun) -> None:
        config = configured()
        name, method = method_under_test(config)
        path = [f"plugins.path={file}" for file in config.plugins.path]
        for hook in implemented_hooks(method):
            for partner in self.partners if hook in CHOOSABLE_HOOKS else ():
                losses = first_and_last(make, f"method={partner}", f"hooks.{hook}={name}", LONG_RUN, *path)
                assert losses is None or all_finite(losses), f"method={partner} hooks.{hook}={name}"

    def test_any_hook_may_be_left_to_the_default(self, configured: Any, make: MakeTinyRun) -> None:
        """Tries each hook that the method or its base methods implement, and one that none of them implements."""
        answered = {hook for method in method_classes(configured()).values() for hook in implemented_hooks(method)}
        unanswered = [hook for hook in CHOOSABLE_HOOKS if hook not in answered]
        for hook in [*(hook for hook in CHOOSABLE_HOOKS if hook in answered), *unanswered[:1]]:
            losses = first_and_last(make, f"hooks.{hook}=none", LONG_RUN)
            assert losses is None or all_finite(losses), f"hooks.{hook}=none"

    # --- a GPU ------------------------------------------------------------------------------------------------------

    def test_no_step_reads_what_a_gpu_would_have_to_finish_first(self, make: MakeTinyRun) -> None:
        """Runs on any machine and checks the first steps and the last."""
        made = make(LONG_RUN, "diagnose=true")
        made.engine.hooks.checked, made.stage.stats.active = False, True
        for step in (0, 28):
            batch = next(made.feed)
            with HostReads([*device_tensors(made), *batch_tensors(batch)]) as reads:
                made.engine.step(iter([batch]), made.stage.progress(step))
            assert not reads.found, f"{reads.found[0]}: a GPU waits there; multiply by a mask, or keep it on the device"

    def test_chance_on_the_cpu_is_drawn_before_the_device_work(self, make: MakeTinyRun) -> None:
        """Later draws must be made on the device, so that the device work of a step can be captured as a graph."""
        made = make(LONG_RUN)
        for step in (0, 28):
            with LateDraws(made.engine) as draws:
                made.engine.step(made.feed, made.stage.progress(step))
            assert not draws.found, f"{draws.found[0]} on the CPU; draw in make_views, or with device=..."

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_no_step_waits_for_the_device(self, make: MakeTinyRun) -> None:
        made = make(LONG_RUN, "train.device=cuda", "diagnose=true")
        feed, made.stage.stats.active = made.feed, True
        for step in range(3):
            made.engine.step(feed, made.stage.progress(step))
        made.engine.hooks.checked = False
        torch.cuda.set_sync_debug_mode("error")
        try:
            for step in (3, 28):
                made.engine.step(feed, made.stage.progress(step))
        finally:
            torch.cuda.set_sync_debug_mode("default")


def method_under_test(config: Config) -> tuple[str, type]:
    """The name and the class of the method under test: the last of the methods that its run needs."""
    return list(method_classes(config).items())[-1]


def device_tensors(made: TinyRun) -> list[Tensor]:
    """Weights and buffers of everything that is on the device in a step."""
    modules = [*made.engine.networks().values(), *made.run.modules.values()]
    return [value for module in modules for value in (*module.parameters(), *module.buffers())]


def batch_tensors(batch: RawBatch) -> list[Tensor]:
    """The tensors of a batch that go to the device."""
    weak = [stream for stream in (batch.unlabelled, batch.partner) if stream]
    hidden = [batch.hidden] if batch.hidden is not None else []
    return [batch.labelled.image, batch.labelled.mask, *hidden, *(one for s in weak for one in (s.image, s.valid))]


def tensors_of_module(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of the module and of all its submodules."""
    return [*module.parameters(), *module.buffers()]


def by_value(value: Any) -> Any:
    """A copy that `==` compares by contents and that no later step changes: tensors and arrays become lists."""
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: by_value(one) for key, one in value.items()}
    return [by_value(one) for one in value] if isinstance(value, list | tuple | set | deque) else value


def all_finite(losses: list[dict[str, float]]) -> bool:
    return bool(losses) and all(math.isfinite(value) for step in losses for value in step.values())


def early_and_late(made: TinyRun) -> list[dict[str, float]]:
    """The losses of the first two steps and of the last two."""
    return [*made.steps(2), *made.steps(2, first=28)]


def first_and_last(make: MakeTinyRun, *more: str) -> list[dict[str, float]] | None:
    """The losses of the first step and the last one; None when the mix is refused by an error of one line with a
    remedy."""
    try:
        made = make(*more)
        return [*made.steps(1), *made.steps(1, first=29)]
    except UserError as error:
        if "hooks." not in str(error) or "\n" in str(error):  # a fault, or a refusal without a remedy
            raise
        return None


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a run's last checkpoint, the methods' own included."""
    place = checkpoint.find_folder(RunFolder(folder).last)
    assert place is not None
    from safetensors.torch import load_file

    files = sorted(place.glob("*.safetensors"))
    return {f"{file.stem}/{key}": value for file in files for key, value in load_file(file).items()}
