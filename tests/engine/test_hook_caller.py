"""How answers of hooks combine (product, sum, ones for silence), which are refused, and what a trace line says."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pluggy
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from helpers.errors import refusal
from ssss_zoo.engine.defaults import Defaults
from ssss_zoo.engine.hook_checks import check_answer
from ssss_zoo.engine.hook_trace import describe_value, trace_line
from ssss_zoo.engine.hooks import HookCaller, product
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.toolkit import hookspecs
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.teachers import SelfTeacher
from ssss_zoo.toolkit.types import CutMix, Output, Progress, PseudoLabel, View, ViewOutput, Views

B, C, H, W = 2, 3, 4, 5
PROGRESS = Progress(3, 10, 5)


def some_label(**changes: Any) -> PseudoLabel:
    parts = {
        "target": torch.zeros(B, H, W, dtype=torch.long),
        "confidence": torch.full((B, H, W), 0.5),
        "valid": torch.ones(B, H, W, dtype=torch.bool),
    }
    return PseudoLabel(**(parts | changes))


def connected(*plugins: Any) -> HookCaller:
    """A caller of the hooks of some plugins, the leftmost asked first."""
    caller = HookCaller()
    manager = pluggy.PluginManager("ssss_zoo")
    manager.add_hookspecs(hookspecs)
    for plugin in reversed(plugins):
        manager.register(plugin)
    caller.connect(manager.hook)
    return caller


class Weights:
    def __init__(self, pixel: Tensor | None, classes: Tensor | None, terms: dict[str, Tensor] | None) -> None:
        self.pixel, self.classes, self.terms = pixel, classes, terms

    @hookimpl
    def pixel_weight(self) -> Tensor | None:
        return self.pixel

    @hookimpl
    def class_weight(self) -> Tensor | None:
        return self.classes

    @hookimpl
    def regularize(self) -> dict[str, Tensor] | None:
        return self.terms


NOTHING, SILENT = Weights(None, None, None), Weights(None, None, None)
REGULARIZE = dict.fromkeys(inspect.signature(hookspecs.regularize).parameters)


def pixel_weight(caller: HookCaller) -> Tensor:
    asked = {"probs": torch.ones(B, C, H, W) / C, "label": some_label(), "stream": "unlabelled", "progress": PROGRESS}
    return caller.pixel_weight(**asked)


def class_weight(caller: HookCaller) -> Tensor:
    return caller.class_weight(some_label(), torch.ones(B, H, W), C, PROGRESS)


# --- combining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugins", [(), (NOTHING,), (NOTHING, SILENT)])
def test_silence_means_ones_and_no_term(plugins):
    caller = connected(*plugins)
    assert_close(pixel_weight(caller), torch.ones(B, H, W), rtol=0, atol=0)
    assert_close(class_weight(caller), torch.ones(C), rtol=0, atol=0)
    assert caller.regularize(**REGULARIZE) == {}


def test_weights_are_multiplied_and_float32():
    first = Weights(torch.full((B, H, W), 0.5, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0]).double(), None)
    second = Weights(torch.full((B, H, W), 3.0), torch.tensor([0.5, 0.5, 0.0]), None)
    caller = connected(first, NOTHING, second)
    assert_close(pixel_weight(caller), torch.full((B, H, W), 1.5), rtol=0, atol=0)
    assert_close(class_weight(caller), torch.tensor([0.5, 1.0, 0.0]), rtol=0, atol=0)
    assert pixel_weight(caller).dtype == class_weight(caller).dtype == torch.float32


def test_a_single_answer_is_taken_as_it_is():
    weight = torch.rand(B, H, W)
    assert_close(pixel_weight(connected(Weights(weight, None, None))), weight, rtol=0, atol=0)
    assert_close(product([weight]), weight, rtol=0, atol=0)


def test_terms_of_one_name_are_summed_and_others_kept_apart():
    first = Weights(None, None, {"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    second = Weights(None, None, {"a": torch.tensor(10.0), "c": torch.tensor(-1.0)})
    terms = connected(first, NOTHING, second).regularize(**REGULARIZE)
    assert {name: term.item() for name, term in terms.items()} == {"a": 11.0, "b": 2.0, "c": -1.0}


def test_the_first_answer_that_is_not_none_is_the_pseudo_label():
    class Says:
        def __init__(self, label: PseudoLabel | None) -> None:
            self.label = label

        @hookimpl
        def pseudo_label(self) -> PseudoLabel | None:
            return self.label

    one, two = some_label(), some_label()
    asked = dict.fromkeys(inspect.signature(hookspecs.pseudo_label).parameters)
    assert connected(Says(None), Says(one), Says(two)).pseudo_label(**asked) is one


def test_a_view_is_as_it_was_where_nobody_refines_it():
    class Refines:
        @hookimpl
        def refine(self) -> ViewOutput:
            return other

    seen, other = a_seen(), a_seen()
    asked = dict.fromkeys(inspect.signature(hookspecs.refine).parameters) | {"view_output": seen}
    assert connected().refine(**asked) is seen
    assert connected(Refines()).refine(**asked) is other


def test_the_defaults_speak_last_and_take_the_likeliest_class():
    caller = connected(Defaults())
    probs = torch.tensor([[0.2, 0.5], [0.8, 0.5]]).view(1, 2, 1, 2)
    valid = torch.tensor([[[True, False]]])
    label = caller.pseudo_label(
        probs=probs, logits=probs, output=None, stream="unlabelled", valid=valid, progress=PROGRESS
    )
    assert label.target.tolist() == [[[1, 0]]]
    assert_close(label.confidence, torch.tensor([[[0.8, 0.5]]]))
    assert label.valid is valid
    (view,) = caller.make_views((2, 8, 8), PROGRESS).views
    assert (view.strength, view.cutmix.partner, view.loss_weight) == ("strong", "next", 1.0)
    student = nn.Identity()
    teacher = caller.call("make_teacher", students=[student], index=0)
    assert isinstance(teacher, SelfTeacher)
    assert teacher.student is student
    assert teacher.reads_from is None
    assert caller.call("make_students", make_network=lambda: student) == [student]
    (stage,) = caller.call("plan_stages", info=None)
    assert (stage.labelled, stage.unlabelled, stage.steps) == (None, None, None)


# --- what is refused ------------------------------------------------------------------------------------------------

BAD = torch.full((B, H, W), float("nan"))
IDS = torch.zeros(B, H, W, dtype=torch.long)


def views(**changes: Any) -> Views:
    return Views((View("strong", **changes),))


def boxes(*shape: int, dtype: torch.dtype = torch.long) -> CutMix:
    return CutMix("next", torch.zeros(*shape, dtype=dtype))


def a_seen(**changes: Any) -> ViewOutput:
    output = Output(torch.zeros(B, C, H, W), torch.zeros(B, 1, 1, 1))
    seen = ViewOutput(View("strong"), torch.zeros(B, 3, H, W), output, some_label(), torch.ones(B, H, W), None, max)
    return replace(seen, **changes)


SOME = torch.zeros(B, H, W, dtype=torch.long)  # one pixel is 1
SOME[0, 1, 2] = 1
FAULTS = [
    ("setup", [], "a dict of torch modules by name, got []"),
    ("setup", {"a": 3}, "a dict of torch modules by name, got {a: 3}"),
    ("make_students", nn.Identity(), "a list of networks, got Identity"),
    ("make_students", [], "a list of networks, got []"),
    ("make_students", [3], "a list of networks, got [3]"),
    ("make_teacher", nn.Identity(), "a Teacher; Identity has no reads_from, forward_group, network, is_result, update"),
    ("plan_stages", [], "a generator of Stage"),
    ("make_views", [], "Views, got list"),
    ("make_views", Views((View("a"), View("a"))), "views with different names, got ['a', 'a']"),
    (
        "make_views",
        views(strength="stronk"),
        "views of strength weak, strong or an Augmentation, got 'stronk' for strong",
    ),
    (
        "make_views",
        views(divide_by="mean"),
        "a divide_by of valid, kept, weight, all, kept_share, got 'mean' for strong",
    ),
    (
        "make_views",
        views(cutmix=CutMix("last", IDS)),
        "a CutMix partner of next, reverse, rows, stream, twin, labelled, got 'last'",
    ),
    ("make_views", views(cutmix=boxes(B, 4)), "CutMix boxes (B, n, 4) int64 with B = 2, got 2x4:int64"),
    ("make_views", views(cutmix=boxes(B + 1, 1, 4)), "CutMix boxes (B, n, 4) int64 with B = 2, got 3x1x4:int64"),
    ("make_views", views(cutmix=boxes(B, 1, 3)), "CutMix boxes (B, n, 4) int64 with B = 2, got 2x1x3:int64"),
    ("make_views", views(cutmix=boxes(B, 1, 4, dtype=torch.float32)), "CutMix boxes (B, n, 4) int64 with B = 2, got 2"),
    ("make_views", Views(supervised_weight=-0.5), "a supervised_weight that is finite and >= 0, got -0.5"),
    ("make_views", Views(supervised_weight=float("inf")), "a supervised_weight that is finite and >= 0, got inf"),
    ("make_views", views(cutmix=CutMix("rows", boxes(B, 1, 4).boxes)), "CutMix rows with the partner rows, none with"),
    ("make_views", views(cutmix=replace(boxes(B, 1, 4), rows=IDS[:, 0, 0])), "CutMix rows with the partner rows, none"),
    ("pseudo_label", some_label(target=SOME * C), "class ids below 3, got 3"),
    ("pseudo_label", some_label(target=-SOME), "numbers >= 0, got -1"),
    ("pseudo_label", some_label(target=torch.ones(B, C, H, W) / C * (1 + SOME[:, None])), "targets that sum to 1"),
    ("pixel_weight", 1.0 - 3 * SOME, "numbers >= 0, got -2"),
    ("refine", some_label(), "a ViewOutput, got PseudoLabel"),
    ("refine", a_seen(label=some_label(target=IDS + C)), "class ids below 3, got 3"),
    ("refine", a_seen(weight=torch.ones(B, 1, W)), "weight (B, H, W) = (2, 4, 5), got (2, 1, 5)"),
    ("pseudo_label", (IDS, IDS), "a PseudoLabel, got tuple"),
    ("pseudo_label", some_label(target=IDS[:, None]), "target (B, H, W) = (2, 4, 5), got (2, 1, 4, 5)"),
    ("pseudo_label", some_label(target=IDS + C), "class ids below 3, got 3"),
    ("pseudo_label", some_label(target=IDS.int()), "class ids of type int64, got torch.int32"),
    ("pseudo_label", some_label(target=IDS - 1), "numbers >= 0, got -1"),
    ("pseudo_label", some_label(target=torch.ones(B, H, W)), "target (B, C, H, W) = (2, 3, 4, 5), got (2, 4, 5)"),
    ("pseudo_label", some_label(target=torch.ones(B, C, H, W)), "targets that sum to 1 over the classes"),
    ("pseudo_label", some_label(confidence=BAD), "finite numbers, got 40 of 40 that are not"),
    ("pseudo_label", some_label(confidence=IDS), "floats, got torch.int64"),
    ("pseudo_label", some_label(valid=IDS), "valid (B, H, W) = (2, 4, 5) bool, got 2x4x5:int64"),
    ("pseudo_label", some_label(valid=None), "valid (B, H, W) = (2, 4, 5) bool, got None"),
    ("pseudo_label", some_label(target=None), "target"),
    ("pixel_weight", 1.0, "a tensor (B, H, W) = (2, 4, 5), got float"),
    ("pixel_weight", torch.ones(B, 1, H, W), "(B, H, W) = (2, 4, 5), got (2, 1, 4, 5)"),
    ("pixel_weight", BAD, "finite numbers, got 40 of 40 that are not"),
    ("pixel_weight", -torch.ones(B, H, W), "numbers >= 0, got -1"),
    ("pixel_weight", torch.ones(B, H, W).bool(), "floats, got torch.bool"),
    ("class_weight", torch.ones(B), "(C,) = (3,), got (2,)"),
    ("class_weight", torch.tensor([1.0, float("inf"), 1.0]), "finite numbers, got 1 of 3 that are not"),
    ("regularize", torch.tensor(1.0), "a dict of scalar losses by name, got Tensor"),
    ("regularize", {"a": torch.ones(1)}, "'a': a scalar = (), got (1,)"),
    ("regularize", {"a": torch.tensor(float("nan"))}, "finite numbers, got 1 of 1 that are not"),
    ("regularize", {"a": 0.5}, "a tensor 'a': a scalar = (), got float"),
    ("regularize", {"a": torch.tensor(1.0)}, "'a': a loss that reaches the student, got one without a gradient"),
]


ASKED = {"probs": torch.ones(B, C, H, W) / C, "size": (B, H, W), "num_classes": C}


def test_a_wrong_answer_names_hook_plugin_and_what_it_should_be():
    for hook, answer, fault in FAULTS:
        message = refusal(partial(check_answer, "mine", hook, answer, ASKED))
        assert message.startswith(f"hook {hook} of 'mine' must return {fault}")


def test_a_hook_that_writes_into_what_it_is_given_is_named():
    caller, label = HookCaller(), some_label(confidence=torch.rand(B, H, W))

    def writes(label):
        label.confidence.mul_(0.5)

    caller.arguments = {"probs": torch.ones(B, C, H, W) / C, "label": label}
    with pytest.raises(UserError, match=r"^hook pixel_weight of 'mine' writes into label\.confidence, which others"):
        caller.wrap("mine", "pixel_weight", writes)(label)
    caller.wrap("mine", "pixel_weight", lambda label: label.confidence * 0.5)(label)
    caller.checked = False
    caller.wrap("mine", "pixel_weight", writes)(label)


def test_a_fault_inside_a_hook_is_told_by_hook_method_and_line():
    def deep(label):
        return label.confidense

    def fails(label):
        return deep(label) + 1

    for watching in (True, False):
        caller = HookCaller()
        caller.checked = watching
        with pytest.raises(UserError) as caught:
            caller.wrap("mine", "pixel_weight", fails)(some_label())
        line = deep.__code__.co_firstlineno + 1
        assert str(caught.value).startswith(  # newer Pythons add what was meant
            f"hook pixel_weight of 'mine' fails in test_hook_caller.py, line {line}: AttributeError: 'PseudoLabel' "
            "object has no attribute 'confidense'"
        )
        assert isinstance(caught.value.__cause__, AttributeError)


def test_a_fault_in_a_library_is_told_by_the_line_of_the_method():
    def fails(label):
        return torch.ones(2) + torch.ones(3)

    with pytest.raises(UserError, match=rf"line {fails.__code__.co_firstlineno + 1}: RuntimeError: The size of tensor"):
        HookCaller().wrap("mine", "pixel_weight", fails)(some_label())


@pytest.mark.parametrize("error", [UserError("mine"), Interrupted("stop"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_fault_of_a_hook_passes_it(error):
    def fails(label):
        raise error

    with pytest.raises(type(error)) as caught:
        HookCaller().wrap("mine", "pixel_weight", fails)(some_label())
    assert caught.value is error


NAN = torch.full((B, C, H, W), float("nan"))
BROKEN = {
    "probs": {"probs": NAN},
    "output.features": {"output": Output(torch.zeros(B, C, H, W), NAN), "probs": NAN.nan_to_num()},
    "label.confidence": {"label": some_label(confidence=BAD), "probs": NAN.nan_to_num()},
    "views[0].output.logits": {"views": (a_seen(output=Output(NAN, NAN)),)},
}


@pytest.mark.parametrize(("name", "arguments"), BROKEN.items())
@pytest.mark.parametrize("fails", [False, True])
def test_a_hook_is_not_blamed_for_numbers_that_came_to_it_broken(name, arguments, fails):
    """Neither for its answer, nor for what it raises at them."""

    def weigh():
        return 1 // 0 if fails else BAD

    caller = connected()
    caller.arguments = arguments | {"probs": arguments.get("probs", NAN.nan_to_num()), "progress": Progress(2, 30, 5)}
    with pytest.raises(UserError) as caught:
        caller.wrap("mine", "pixel_weight", weigh)()
    assert str(caught.value) == (
        f"the network's outputs are not finite at step 3: so hook pixel_weight was given {name}; lower optim.lr or "
        "set train.precision=32; the last checkpoint, if one was saved, is in the run's folder"
    )


@pytest.mark.parametrize(
    ("largest", "blamed"), [(1e12, "the network's outputs are as large as 1e+12"), (1e5, "'mine'")]
)
def test_a_hook_whose_sums_overflow_is_blamed_only_where_it_was_given_reasonable_numbers(largest, blamed):
    caller = connected()
    output = Output(torch.full((B, C, H, W), -largest), torch.zeros(B, C, H, W))
    caller.arguments = {"probs": torch.zeros(B, C, H, W), "output": output}
    with pytest.raises(UserError) as caught:
        caller.wrap("mine", "pixel_weight", lambda: BAD)()
    assert blamed in str(caught.value)


RIGHT = [
    ("setup", {"a": nn.Identity()}),
    ("setup", {}),
    ("make_students", [nn.Identity()]),
    ("make_teacher", SelfTeacher(nn.Identity())),
    ("plan_stages", (stage for stage in ())),
    ("make_views", Views()),
    ("make_views", views(cutmix=boxes(B, 2, 4))),
    ("pseudo_label", some_label()),
    ("pseudo_label", some_label(target=torch.ones(B, C, H, W) / C)),
    ("pixel_weight", torch.zeros(B, H, W)),
    ("pixel_weight", torch.full((B, H, W), 2.0)),
    ("class_weight", torch.ones(C)),
    ("refine", a_seen()),
    ("make_views", Views(supervised_weight=0.0)),
    ("make_views", views(cutmix=replace(boxes(B, 1, 4), partner="rows", rows=IDS[:, 0, 0]))),
    ("regularize", {}),
    ("regularize", {"a": torch.tensor(-3.0, requires_grad=True)}),
    ("after_step", "whatever"),
]


def test_a_right_answer_and_none_pass():
    for hook, answer in RIGHT:
        check_answer("mine", hook, answer, ASKED)
        check_answer("mine", hook, None, ASKED)


# --- when answers are checked ---------------------------------------------------------------------------------------


def wrapped(answer: Any, caller: HookCaller) -> Any:
    return caller.wrap("mine", "class_weight", lambda *given: answer)


def test_answers_are_checked_only_in_checked_steps():
    caller = HookCaller()
    caller.arguments = {"num_classes": C}
    with pytest.raises(UserError, match="hook class_weight of 'mine'"):
        wrapped(torch.ones(1), caller)()
    caller.checked = False
    assert wrapped(torch.ones(1), caller)().shape == (1,)


def test_a_checked_answer_is_given_back_with_its_arguments_passed_on():
    caller = HookCaller()
    caller.arguments = {"num_classes": C}
    seen: list[Any] = []
    function = caller.wrap("mine", "class_weight", lambda *given: seen.append(given) or torch.ones(C))
    assert function(1, 2).shape == (C,)
    assert seen == [(1, 2)]


def test_the_trace_has_a_line_an_answer_and_stops_with_the_checks():
    lines: list[str] = []
    caller = HookCaller(trace=lines.append)
    caller.arguments = {"num_classes": C, "progress": PROGRESS}
    wrapped(torch.ones(C), caller)()
    caller.checked = False
    wrapped(torch.ones(C), caller)()
    assert len(lines) == 1
    assert lines[0].startswith("class_weight  mine ")
    assert lines[0].endswith("ms  -> 3:float32  [num_classes 3, progress 3/10]")


def test_a_trace_line_says_hook_plugin_time_answer_and_arguments():
    line = trace_line("mine", "pixel_weight", {"probs": torch.ones(B, C, H, W)}, torch.ones(B, H, W), 0.00125)
    assert line == "pixel_weight  mine             1.25 ms  -> 2x4x5:float32  [probs 2x3x4x5:float32]"


DESCRIPTIONS = [
    (torch.tensor(1.0), "scalar:float32"),
    (torch.ones(2, 3, dtype=torch.bool), "2x3:bool"),
    (some_label(), "PseudoLabel(target 2x4x5:int64)"),
    (Views((View("a", loss_weight=0.5), View("b", forward_group="g"))), "Views(a*0.5 in strong, b*1 in g)"),
    (Views(), "Views(labels alone)"),
    (PROGRESS, "3/10"),
    ({"a": torch.ones(2), "b": None}, "{a: 2:float32, b: None}"),
    ([1, "x", (2.5, True)], "[1, x, [2.5, True]]"),
    (np.zeros(3), "ndarray"),
    (nn.ReLU(), "ReLU"),
]


def test_describe():
    assert [describe_value(value) for value, _ in DESCRIPTIONS] == [text for _, text in DESCRIPTIONS]
