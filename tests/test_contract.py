"""What every installed method must do; a new one needs no line in here."""

from __future__ import annotations

import copy
import itertools
import math
import typing
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from tiny import Rig

from ssss_zoo import plugins
from ssss_zoo.errors import UserError
from ssss_zoo.plugins import CHOSEN, HOOKS, implements, installed, load
from ssss_zoo.records import IGNORE, Batch, Labelled, Unlabelled

METHODS = sorted(installed("methods"))
PLAIN = (str, int, float, bool)
LONG = "train.steps=30"  # of about 3 an epoch: late terms are on at the last steps

every_method = pytest.mark.parametrize("name", METHODS)


def finite(losses: list[dict[str, float]]) -> bool:
    return bool(losses) and all(math.isfinite(value) for step in losses for value in step.values())


def early_and_late(made: Rig) -> list[dict[str, float]]:
    """Two first steps and two last ones."""
    return [*made.steps(2), *made.steps(2, first=28)]


def first_and_last(made: Rig) -> list[dict[str, float]] | None:
    """The first step and the last one; None when the mix is refused, which takes one line that says what to do."""
    try:
        return [*made.steps(1), *made.steps(1, first=29)]
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - refusing is the other way to be right
        assert "choose hooks." in str(error)  # noqa: PT017
        return None


@every_method
def test_two_steps_move_the_student_by_finite_losses(name, tiny_run):
    made = tiny_run(f"method={name}")
    before = [copy.deepcopy(student.state_dict()) for student in made.engine.students]
    losses = made.steps(2)
    assert finite(losses)
    assert losses[0]["total"] == pytest.approx(sum(v for k, v in losses[0].items() if k != "total"), rel=1e-5)
    for old, student in zip(before, made.engine.students, strict=True):
        moved = [key for key, value in student.named_parameters() if not torch.equal(value, old[key])]
        assert len(moved) == len(list(student.parameters()))


@every_method
def test_its_last_steps_go_well_after_its_first_ones(name, tiny_run):
    """Terms that begin late meet an optimiser that has begun without them."""
    assert finite(early_and_late(tiny_run(f"method={name}", LONG)))


@every_method
@pytest.mark.parametrize(
    "words",
    [
        ["data.split=classes=2"],
        ["data.split=absent=3"],
        ["data.split=channels=5", "model.in_channels=5"],
        ["data.split=channels=1", "model.in_channels=1"],
        ["data.split=labelled=1,unlabelled=1"],
        ["train.batch=1"],
        ["train.batch=3"],
        ["train.accumulate=2"],
        ["train.crop=[16,24]"],
        ["train.fuse=true"],
        ["train.precision=bf16"],
        ["train.channels_last=false"],
        ["loss.supervised=ohem"],
        ["loss.class_weight=per_class"],
        ["optim.name=adamw"],
        ["optim.name=adamw", "data.split=labelled=1,unlabelled=1", "train.accumulate=2"],
    ],
    ids=lambda words: words[0],
)
def test_it_takes_what_the_data_and_the_settings_bring(name, words, tiny_run):
    assert finite(early_and_late(tiny_run(f"method={name}", LONG, *words)))


@every_method
def test_nothing_to_learn_from_gives_zero_and_not_nan(name, tiny_run):
    """All labelled pixels void, all unlabelled ones padding: nothing to learn for a method that leaves padding out."""
    made, counts = tiny_run(f"method={name}", LONG), []
    made.engine.on_health = lambda label, weight, hidden: counts.append(bool(label.valid.any()))
    batch = next(made.feed)
    void = Labelled(batch.labelled.image, torch.full_like(batch.labelled.mask, IGNORE))
    blank = [u and Unlabelled(u.image, torch.zeros_like(u.valid)) for u in (batch.unlabelled, batch.partner)]
    for step in (0, 28, 29):
        losses = made.engine.step(iter([Batch(void, *blank)]), made.training.progress(step))
        assert losses["supervised"].item() == 0
        assert any(counts) or losses.get("consistency", torch.zeros(())).item() == 0
        assert finite([{key: value.item() for key, value in losses.items()}])
    assert all(torch.isfinite(value).all() for value in made.student.state_dict().values())


@every_method
def test_it_never_reads_a_mask_of_an_unlabelled_image(name, tiny_run):
    made = tiny_run(f"method={name}", "data.split=hidden=2", LONG)  # reading one raises
    assert finite(early_and_late(made))


@every_method
def test_hidden_labels_are_never_needed(name, tiny_run):
    with_labels, without = (tiny_run(f"method={name}", f"data.split=hidden={h}").steps(2) for h in (1, 0))
    assert with_labels == without


@every_method
def test_its_teachers_learn_nothing_by_gradient(name, tiny_run):
    made = tiny_run(f"method={name}", LONG)
    trained = {id(p) for group in made.engine.optimizer.param_groups for p in group["params"]}
    own = [t.network for t in made.engine.teachers if t.network is not None]
    grads: list[bool] = []
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad is not None for network in own for p in network.parameters())
    )
    early_and_late(made)
    assert not any(grads)
    assert not any(id(p) in trained for network in own for p in network.parameters())


@every_method
def test_its_state_lies_in_modules_that_a_checkpoint_holds(name, tiny_run):
    """What a method remembers between steps, other than options, must come back with the run."""
    made = tiny_run(f"method={name}", LONG)
    method = made.methods[name]
    plain = {key: copy.copy(value) for key, value in vars(method).items() if not isinstance(value, torch.nn.Module)}
    early_and_late(made)
    known = {id(part) for module in made.run.modules.values() for part in module.modules()}
    for key, value in vars(method).items():
        if isinstance(value, torch.nn.Module):
            assert id(value) in known, f"{key} is not among the modules that setup returned"
        else:
            assert key in plain, f"{key} appeared during the steps"
            assert value == plain[key], f"{key} changed during the steps"


@every_method
def test_it_is_a_dataclass_that_names_its_paper_and_types_its_options(name):
    method = load("methods", name)
    assert is_dataclass(method)
    assert method.__eq__ is object.__eq__  # pluggy compares plugins
    assert isinstance(method.paper, str)
    assert method.paper.strip()
    assert "\n" not in method.paper
    assert (method.__doc__ or typing.cast(str, __import__(method.__module__, fromlist="_").__doc__)).strip()
    assert implements(method)
    hints = typing.get_type_hints(method)
    for option in fields(method):
        kind = hints[option.name]
        parts = typing.get_args(kind) if typing.get_origin(kind) is list else (kind,)
        assert all(part in PLAIN for part in parts), f"{option.name}: {kind}"


@every_method
def test_its_hooks_have_names_that_are_hooks(name):
    method = load("methods", name)
    marked = [key for key in dir(method) if hasattr(getattr(method, key), plugins.MARK)]
    assert marked
    assert set(marked) <= set(HOOKS)


@every_method
def test_an_unknown_option_is_refused_with_its_name(name, tiny_run):
    with pytest.raises(UserError, match=rf"options\.{name}\.no_such_option"):
        tiny_run(f"method={name}", f"options.{name}.no_such_option=1")


@every_method
def test_a_run_with_it_writes_what_it_promises(name, tiny_config):
    from ssss_zoo.run import run

    result = run(tiny_config(f"method={name}"))
    assert result.metrics["status"] == "finished"
    assert result.metrics["step"] == 6
    assert 0 <= result.metrics["val"]["miou"] <= 1
    names = {path.name for path in result.folder.iterdir()}
    assert names - {"stages", "pseudo_labels"} == {
        "config.yaml",
        "metrics.json",
        "history.jsonl",
        "run.log",
        "last",
        "best",
    }


# --- mixtures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(METHODS, 2)))
def test_every_pair_runs_or_is_refused_in_one_line(first, second, tiny_run):
    losses = first_and_last(tiny_run(f"method={first}+{second}", LONG))
    assert losses is None or finite(losses)


def provided() -> list[tuple[str, str]]:
    return [(hook, name) for name in METHODS for hook in implements(load("methods", name)) if hook in CHOSEN]


def serves(name: str, hook: str, provider: str, tiny_run) -> None:
    losses = first_and_last(tiny_run(f"method={name}", f"hooks.{hook}={provider}", LONG))
    assert losses is None or finite(losses)


@pytest.mark.parametrize(
    "name", ["fixmatch", "farcluss", "cps"]
)  # labels of its own, soft ones of a mean teacher, two peers
@pytest.mark.parametrize(("hook", "provider"), provided())
def test_every_hook_of_every_method_serves_others(name, hook, provider, tiny_run):
    serves(name, hook, provider, tiny_run)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize(("hook", "provider"), provided())
def test_every_hook_of_every_method_serves_every_other(name, hook, provider, tiny_run):
    serves(name, hook, provider, tiny_run)


@every_method
@pytest.mark.parametrize("hook", CHOSEN)
def test_any_hook_may_be_left_to_the_default(name, hook, tiny_run):
    losses = first_and_last(tiny_run(f"method={name}", f"hooks.{hook}=none", LONG))
    assert losses is None or finite(losses)


@every_method
def test_a_hook_that_it_does_not_answer_cannot_be_asked_of_it(name, tiny_run):
    missing = [hook for hook in CHOSEN if hook not in implements(load("methods", name))]
    with pytest.raises(UserError, match=f"hooks.{missing[0]}"):
        tiny_run("method=supervised", f"hooks.{missing[0]}={name}")


@every_method
def test_a_batch_is_never_changed_in_place(name, tiny_run):
    """What hooks and losses read of a batch is still there after the step."""
    made = tiny_run(f"method={name}", LONG)
    batch = made.engine.receive(next(made.feed))
    kept = copy.deepcopy(replace(batch))
    for step in (0, 29):
        torch.stack(list(made.engine.losses(batch, made.training.progress(step)).values())).sum().backward()
    assert torch.equal(batch.labelled.image, kept.labelled.image)
    assert torch.equal(batch.labelled.mask, kept.labelled.mask)
    for part, old in ((batch.unlabelled, kept.unlabelled), (batch.partner, kept.partner)):
        if part is not None:
            assert torch.equal(part.image, old.image)
            assert torch.equal(part.valid, old.valid)
