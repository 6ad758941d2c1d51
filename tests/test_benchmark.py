"""The benchmark compares like with like: its hand-written loops do what the engine does. Nothing here is timed."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ssss_zoo.engine.device_batch import floats
from ssss_zoo.errors import UserError

pytestmark = pytest.mark.long  # hand-written loops against the engine
FILE = Path(__file__).parents[1] / "benchmarks" / "step.py"
CLASSES = 5
TINY = (
    "model.encoder=test_resnet", "model.channels=16", "train.crop=[32,32]", "train.batch=4", "train.threads=1",
    "train.device=cpu", "train.precision=32", "optim.name=sgd", "optim.lr=0.01", "optim.head_multiplier=2",
    "optim.weight_decay=0.5",
)  # fmt: skip
CLOSE = 1e-3  # of weights after three steps: rounding grows with every BatchNorm; dropping weight decay moves 7e-3
OPTIONS = {  # so that some pixels pass each threshold and some do not, and averages move visibly
    "supervised": (),
    "fixmatch": ("options.fixmatch.threshold=0.6",),
    "unimatch": ("options.unimatch.threshold=0.6",),
    "farcluss": (
        "options.farcluss.ramp_epochs=0", "options.farcluss.contrast_confidence=0.6", "options.farcluss.ema_decay=0.9",
        "options.farcluss.contrast_momentum=0.5", "options.farcluss.contrast_temperature=0.02",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("benchmark_step", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def make(step, name: str, *more: str, with_loop: bool = True):
    bench = step.make_bench([f"method={name}", *TINY, *OPTIONS.get(name, ()), *more], CLASSES, with_loop)
    if bench.loop:
        settle(bench)
    return bench


def settle(bench) -> None:
    """Give both sides, teachers included, a network with something to say: BatchNorm statistics of real maps and larger
    logits. A new network's teacher is sure of nothing, which hides most of what a loop might do wrong."""
    student, loop = bench.engine.students[0], bench.loop
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        logits = student(
            floats(bench.batches[0][0].labelled.image, bench.engine.device, bench.config.train.channels_last)
        ).logits
        student.classify.weight.mul_(2 / logits.std())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for network in (bench.engine.teachers[0].network, loop.student, loop.teacher):
        if network is not None:
            network.load_state_dict(student.state_dict())


def gap(ours: nn.Module, theirs: nn.Module) -> float:
    """The largest difference of any tensor of two networks, relative to its largest value (0.1 at least)."""
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    floats = [(a.float(), b.float()) for a, b in pairs]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=0.1)) for a, b in floats)


# --- engine and loop do the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_three_steps_of_engine_and_loop_agree(name, step):
    bench = make(step, name)
    sides = networks(bench)
    before = copy.deepcopy(list(sides))
    for index in range(3):
        ours, theirs = bench.engine_step(index), bench.loop_step(index)
        assert all(value > 0 for value in ours.values())
        assert step.difference(ours, theirs) < 1e-5
    for start, ours, theirs in zip(before, sides, sides.values(), strict=True):
        assert gap(ours, theirs) < CLOSE < gap(ours, start)


def networks(bench) -> dict[nn.Module, nn.Module]:
    """All that a step moves on the engine's side, student, teacher and a method's own modules, with the loop's."""
    engine, loop = bench.engine, bench.loop
    pairs = {engine.students[0]: loop.student}
    pairs |= {engine.teachers[0].network: loop.teacher} if loop.teacher else {}
    return pairs | {module: loop.modules[name] for name, module in bench.parts.modules.items()}


@pytest.mark.parametrize(
    "words",
    [
        ["train.accumulate=2"],
        ["optim.name=adamw"],
        ["loss.supervised=ohem", "loss.ohem_min_kept=500"],
        ["train.channels_last=false"],
    ],
    ids=" ".join,
)
def test_the_loop_follows_the_settings_of_the_run(words, step):
    bench = make(step, "fixmatch", *words)
    for index in range(2):
        assert step.difference(bench.engine_step(index), bench.loop_step(index)) < 1e-5


@pytest.mark.parametrize(
    ("name", "word", "told"),
    [
        ("farcluss", "options.farcluss.contrast=off", "options.farcluss.contrast=proto_infonce, got off"),
        ("farcluss", "options.farcluss.uncertainty_gamma=2", "options.farcluss.uncertainty_gamma=1.0, got 2.0"),
        ("fixmatch", "options.fixmatch.partner=next", "options.fixmatch.partner=stream, got next"),
        ("unimatch", "train.fuse=true", "train.fuse=False, got True"),
        ("fixmatch", "hooks.pixel_weight=none", "hooks={}, got"),
    ],
)
def test_what_a_loop_does_not_do_is_refused(name, word, told, step):
    with pytest.raises(UserError, match=re.escape(told)):
        make(step, name, word)
    assert make(step, name, word, with_loop=False).loop is None


def test_every_choice_of_a_method_is_followed_or_refused(step):
    """An option that is text or yes-or-no selects other work: the loop must say which one it is written for."""
    for name in OPTIONS:
        values = step.make_bench([f"method={name}", *TINY], CLASSES, False).config.options[name]
        choices = {key for key, value in values.items() if isinstance(value, (str, bool))}
        assert choices - {"contrast_class_mean"} <= set(step.WRITTEN_FOR[name]) <= set(values)


def test_a_loop_that_does_other_work_is_not_timed(step, monkeypatch):
    plain = step.LOOPS["supervised"]
    monkeypatch.setitem(
        step.LOOPS, "supervised", lambda loop, batch: {"supervised": plain(loop, batch)["supervised"] / 2}
    )
    with pytest.raises(UserError, match="not the same work"):
        step.measure(["method=supervised", *TINY], 1, CLASSES)


# --- the floor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "passes"),  # shape of the batch, rows decoded, with gradient, in train mode
    [
        ("supervised", [(4, [4], True, True)]),
        ("fixmatch", [(4, [4], False, False), (8, [8], True, True), (4, [4], True, True)]),
        ("unimatch", [(4, [4], False, False), (8, [16], True, True), (8, [8], True, True)]),
        ("farcluss", [(4, [4], False, False), (8, [8], True, True), (4, [4], False, False)]),
    ],
)
def test_the_passes_of_a_step_are_noted_and_those_of_the_loop_are_the_same(name, passes, step):
    bench = make(step, name)
    for networks, action in (
        (bench.engine.networks().values(), bench.engine_step),
        ([network for network in (bench.loop.student, bench.loop.teacher) if network], bench.loop_step),
    ):
        with step.noted_passes(networks) as noted:
            action(0)
        assert [(one.shape[0], one.decoded, one.trained, one.train_mode) for one in noted] == passes
        assert all("encode" not in vars(network) for network in networks)


def test_the_floor_leaves_the_engine_alone_and_counts_images(step):
    bench = make(step, "unimatch", with_loop=False)
    with step.noted_passes(bench.engine.networks().values()) as passes:
        bench.engine_step(0)
    before = copy.deepcopy(bench.engine.students[0])
    floor = step.Floor(bench.engine, passes)
    start = copy.deepcopy(floor.networks)
    floor(0)
    assert gap(before, bench.engine.students[0]) == 0
    assert gap(start[True], floor.networks[True]) > 0  # BatchNorm saw a batch
    assert gap(start[False], floor.networks[False]) == 0
    assert floor.image_passes() == {"trained": 16, "without_gradient": 4, "decoded_again": 8}


def test_the_floor_goes_backward_through_what_was_trained(step):
    bench = make(step, "fixmatch", with_loop=False)
    with step.noted_passes(bench.engine.networks().values()) as passes:
        bench.engine_step(0)
    floor = step.Floor(bench.engine, passes)
    for one, image in zip(passes, floor.images, strict=True):
        network = floor.networks[one.train_mode]
        floor.replay(one, network, image)
        assert all((parameter.grad is not None) == one.trained for parameter in network.parameters())
        network.zero_grad(set_to_none=True)


# --- the figures ----------------------------------------------------------------------------------------------------


def test_ratios_are_those_of_neighbours(step):
    times = {"engine": [10.0, 22.0, 60.0], "loop": [10.0, 20.0, 50.0], "floor": [5.0, 11.0, 20.0]}
    found = step.figures(times)
    assert (found["step_ms"], found["loop_ms"], found["floor_ms"]) == (22, 20, 11)
    assert found["engine_over_loop"] == pytest.approx(1.1)  # of 1, 1.1, 1.2
    assert found["engine_over_floor"] == pytest.approx(2)  # of 2, 2, 3
    assert found["engine_over_loop_quartiles"] == pytest.approx([1.05, 1.15])
    del times["loop"]
    assert step.figures(times) | {"loop_ms": None, "engine_over_loop": None} == step.figures(times)


def test_they_take_turns_forwards_and_backwards(step):
    calls: list[tuple[str, int]] = []
    actions = {name: (lambda index, name=name: calls.append((name, index))) for name in "abc"}
    times = step.interleave(actions, 3, 2, torch.device("cpu"))
    assert calls == [("c", 3), ("b", 3), ("a", 3), ("a", 4), ("b", 4), ("c", 4)]
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("with_loop", [True, False])
def test_a_measurement_has_the_figures_that_scripts_read(with_loop, step):
    found = step.measure(["method=supervised", *TINY], 2, CLASSES, with_loop)
    assert json.loads(json.dumps(found)) == found
    figures = ["step_ms", "engine_over_floor", "floor_ms", "peak_memory", *(["engine_over_loop"] if with_loop else [])]
    assert all(math.isfinite(found[key]) and found[key] > 0 for key in figures)
    assert found["loss_difference"] == (0 if with_loop else None)
    assert (found["engine_over_loop"] is None) == (not with_loop)


@pytest.mark.parametrize("name", ["augseg", "prevmatch", "stpp"])  # without a loop of their own, each of another make
def test_methods_without_a_loop_can_be_measured_against_the_floor(name, step):
    assert step.measure([f"method={name}", *TINY], 1, CLASSES, with_loop=False)["step_ms"] > 0


def test_the_measured_steps_lie_late_in_the_run(step):
    bench = make(step, "farcluss", "train.steps=100", with_loop=False)
    late = [bench.progress(index) for index in (0, 49, 50)]
    assert [progress.step for progress in late] == [50, 99, 50]
    assert late[0].epoch >= 5  # the ramp is over with the method's own defaults


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(step, monkeypatch) -> list[list[str]]:
    """The words that each method would be measured with; nothing is."""
    found: list[list[str]] = []

    def measured(words, steps, classes, with_loop):
        found.append([*words, f"{steps} {classes} {with_loop}"])
        times = {"engine": [3.0], "floor": [2.0]}
        return step.figures(times) | {"method": words[0].removeprefix("method="), "peak_memory": 2**20}

    monkeypatch.setattr(step, "in_own_process", measured)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return found


def test_methods_and_words_may_stand_anywhere_and_options_find_their_method(step, asked, capsys):
    step.main(["fixmatch", "--steps", "5", "options.fixmatch.threshold=0.5", "unimatch", "--json", "seed=1"])
    assert asked == [
        ["method=fixmatch", "options.fixmatch.threshold=0.5", "seed=1", "5 11 True"],
        ["method=unimatch", "seed=1", "5 11 True"],
    ]
    assert [one["method"] for one in json.loads(capsys.readouterr().out)] == ["fixmatch", "unimatch"]


def test_four_methods_by_default_a_line_each(step, asked, capsys):
    step.main(["--no-loop", "--classes", "7"])
    assert [words[0] for words in asked] == [f"method={name}" for name in step.METHODS]
    assert {words[-1] for words in asked} == {"30 7 False"}
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", *step.COLUMNS, "peak_memory"]
    assert lines[1].split() == ["fixmatch", "3.0", "-", "2.0", "-", "1.500", "1", "MiB"]


def test_a_mistake_is_one_line(step, monkeypatch):
    monkeypatch.setattr(step, "in_own_process", step.measure)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit, match="fixmach: unknown method 'fixmach'"):
        step.main(["fixmach"])
    with pytest.raises(SystemExit, match="2"):
        step.main(["--steps", "0"])


def test_the_script_measures_in_a_process_of_its_own():
    words = ["supervised", "--steps", "1", "--classes", str(CLASSES), "--json", *TINY]
    done = subprocess.run([sys.executable, str(FILE), *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0]["loss_difference"] == 0
