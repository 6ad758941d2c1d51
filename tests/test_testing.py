"""The kit for authors finds what is wrong with a method, and says it in words that its author knows. That it finds
nothing wrong with a sound one: `test_docs.py` for a file, `test_new.py` for a package."""

from __future__ import annotations

import pytest
import torch

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.engine import plugin_source as plugins
from ssss_zoo.errors import UserError
from ssss_zoo.testing import DatasetContract, MethodContract
from ssss_zoo.testing.gpu_sync import HostReads
from ssss_zoo.testing.methods import STOPPED_RUN
from ssss_zoo.testing.tiny import TinyData, make_tiny_run, tiny_entry_points, tiny_overrides
from ssss_zoo.train.run import run_training

HEAD = """
from dataclasses import dataclass, field
from typing import ClassVar
import numpy as np
import torch
from torch import Tensor, nn
from ssss_zoo.toolkit.types import PseudoLabel, Labelled, Output, Unlabelled, Views
from ssss_zoo.toolkit.hookspecs import hookimpl
from ssss_zoo.toolkit.teachers import EMATeacher, BaseTeacher, predict

"""
BODY = """
@dataclass(eq=False)
class Mine:
    "A method of the tests."
    paper: ClassVar[str] = "the tests"
"""
WEIGHT = """
    @hookimpl
    def pixel_weight(self, label):
        return label.confidence
"""

NO_PAPER = BODY.replace('    paper: ClassVar[str] = "the tests"\n', "") + WEIGHT
EQUAL = BODY.replace("eq=False", "eq=True") + WEIGHT
ODD_OPTION = BODY + "    table: dict = field(default_factory=dict)\n" + WEIGHT
SILENT = BODY.replace('    "A method of the tests."\n', "") + WEIGHT
BARE_OPTION = BODY + "    share: float = 0.5\n" + WEIGHT
IN_PLACE = (
    BODY
    + """
    @hookimpl
    def regularize(self, labelled):
        labelled.image.mul_(0.5)
"""
)
REMEMBERS = (
    BODY
    + """
    @hookimpl
    def pixel_weight(self, label):
        self.last = float(label.confidence.mean())
        return label.confidence
"""
)
COUNTS = (
    BODY
    + """
    @hookimpl
    def setup(self, info):
        self.count = torch.zeros(info.num_classes)
        self.seen = []

    @hookimpl
    def pixel_weight(self, label):
        self.count += 1
        return label.confidence
"""
)
LISTS = COUNTS.replace("self.count += 1", "self.seen.append(label.confidence.mean())")
BARE = BODY + "    share = 0.5\n" + WEIGHT
LOOSE = (
    BODY
    + """
    @hookimpl
    def setup(self, info):
        self.memory = nn.Module()
        self.memory.count = torch.zeros(info.num_classes)
        return {"mine": self.memory}
"""
)
NO_COPY = LOOSE.replace("self.memory.count = ", 'self.memory.register_buffer("count", ').replace(
    "info.num_classes)", "info.num_classes))"
) + (
    """
    @hookimpl
    def regularize(self, labelled_output):
        said = labelled_output.logits.mean((0, 2, 3))
        loss = (self.memory.count * said).sum()
        self.memory.count += said.detach()
        return {"mine": loss}
"""
)
KEEPS_GRAPH = NO_COPY.replace("self.memory.count * said", "self.memory.count.clone() * said").replace(
    "self.memory.count += said.detach()", "self.memory.count = self.memory.count + said"
)
DRAWS = (
    BODY
    + """
    @hookimpl
    def pixel_weight(self, label):
        import secrets
        return label.confidence * secrets.randbelow(1000) / 1000
"""
)
READS = (
    BODY
    + """
    @hookimpl
    def pixel_weight(self, label):
        sure = label.confidence.mean().item()
        return label.confidence * sure
"""
)
DRAWS_LATE = (
    BODY
    + """
    @hookimpl
    def pixel_weight(self, label):
        return label.confidence * torch.rand(label.confidence.shape)
"""
)
FORGETS_A_MODULE = (
    BODY
    + """
    @hookimpl
    def setup(self, info):
        self.head = nn.Conv2d(info.feature_dim, 2, 1)
"""
)
TRAINS_ITS_TEACHER = (
    BODY
    + """
    @hookimpl
    def make_teacher(self, students, index):
        return EMATeacher(students[index], 0.9)

    @hookimpl
    def regularize(self, labelled, teacher):
        teacher.network.requires_grad_(True)
        return {"mine": teacher.network(labelled.image).logits.mean()}
"""
)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """(text of a method, name of a test of the kit, fixtures it takes) -> the test is run on the method."""
    monkeypatch.setattr(plugins, "entry_points", tiny_entry_points().entry_points)

    def go(text: str, test: str) -> None:
        (tmp_path / "mine.py").write_text(HEAD + text)
        name = str(tmp_path / "mine.py")
        configured = lambda *more: resolve(tiny_overrides(f"method={name}", f"output={tmp_path / 'run'}", *more))  # noqa: E731
        given = {
            "name": name,
            "configured": configured,
            "make": lambda *more: make_tiny_run(configured(*more)),
            "monkeypatch": monkeypatch,
        }
        function = getattr(MethodContract(), test)
        taken = function.__code__.co_varnames[1 : function.__code__.co_argcount]
        if "whole_run" in taken:
            given["whole_run"] = run_training(configured(*STOPPED_RUN, f"output={tmp_path / 'whole'}"))
        function(**{key: given[key] for key in taken})

    return go


CLASS = "test_it_is_a_dataclass_that_names_its_paper_and_types_its_options"


@pytest.mark.parametrize(
    ("text", "test", "said"),
    [
        (NO_PAPER, CLASS, "say `paper: ClassVar"),
        (EQUAL, CLASS, r"write @dataclass\(eq=False\)"),
        (ODD_OPTION, CLASS, "option table is declared as dict; an option is a str, int"),
        (SILENT, CLASS, "say in a docstring"),
        (BARE_OPTION, "test_its_options_are_explained", "say what option share is"),
        (IN_PLACE, "test_two_steps_move_every_weight_by_finite_losses", r"writes into labelled\.image, which others"),
        (REMEMBERS, "test_its_state_lies_in_modules_that_a_checkpoint_holds", "self.last appeared during the steps"),
        (BARE, CLASS, "share has no type, so it is no option: write `share: float = 0.5`"),
        (
            LOOSE,
            "test_its_state_lies_in_modules_that_a_checkpoint_holds",
            "count of module mine is a plain tensor, and not saved",
        ),
        (NO_COPY, "test_two_steps_move_every_weight_by_finite_losses", r"let the loss read a copy, as memory\.clone"),
        (KEEPS_GRAPH, "test_two_steps_move_every_weight_by_finite_losses", r"keeps a tensor of an earlier step"),
        (COUNTS, "test_its_state_lies_in_modules_that_a_checkpoint_holds", "self.count changed during the steps"),
        (LISTS, "test_its_state_lies_in_modules_that_a_checkpoint_holds", "self.seen changed during the steps"),
        (DRAWS, "test_the_same_seed_gives_the_same_numbers", "two runs of one seed differ"),
        (
            DRAWS,
            "test_a_stopped_and_resumed_run_equals_one_without_a_stop",
            "differ: something was not saved, or a draw",
        ),
        (
            READS,
            "test_no_step_reads_what_a_gpu_would_have_to_finish_first",
            r"mine\.py, line \d+: `sure = .*values \(item",
        ),
        (
            DRAWS_LATE,
            "test_chance_on_the_cpu_is_drawn_before_the_device_work",
            r"mine\.py, line \d+: `return .* draws by rand on the CPU",
        ),
        (
            FORGETS_A_MODULE,
            "test_its_state_lies_in_modules_that_a_checkpoint_holds",
            "self.head is not among the modules that `setup` returned",
        ),
        (TRAINS_ITS_TEACHER, "test_its_teachers_learn_nothing_by_gradient", "a loss reaches the teacher's weights"),
    ],
)
def test_it_finds_what_is_wrong_and_says_it(ask, text, test, said):
    with pytest.raises((AssertionError, UserError), match=said):
        ask(text, test)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda x: float(x.sum()), "float"),
        (lambda x: 1 if x.sum() > 0 else 0, "bool"),
        (lambda x: x[x > 0], "getitem"),
        (lambda x: x.clone().__setitem__(x > 0, x[:1]), "setitem"),
        (lambda x: torch.where(x > 0), "where"),
        (lambda x: (2 * x).nonzero(), "nonzero"),
        (lambda x: x.unique(), "unique"),
        (lambda x: torch.masked_select(x, x > 0), "masked_select"),
        (lambda x: x.max(dim=0).values.tolist(), "tolist"),
        (lambda x: torch.stack([x, x]).to("cpu"), "to"),
    ],
)
def test_a_read_is_found_where_it_is(read, what):
    with HostReads([torch.ones(3)]):
        read(torch.ones(3))  # of no marked tensor
    values = torch.ones(3)
    with HostReads([values]) as reads:
        read(values)
    assert len(reads.found) == 1
    assert reads.found[0].startswith("test_testing.py, line ")
    assert reads.found[0].endswith(f"reads values ({what})")


def test_what_does_not_wait_is_let_pass():
    values = torch.ones(3)
    with HostReads([values]) as reads:
        drawn = torch.rand(2).tolist()  # on the CPU
        masked = torch.where(values > 0, values, 0.0) * drawn[0]
        masked[masked > 0] = 1  # a masked fill
        _ = masked.shape, masked[0], masked[torch.tensor([0, 1])], len(masked), masked.sum()
    assert not reads.found


class Keeps(TinyData):
    def read_image(self, sample):
        self.kept = getattr(self, "kept", {})
        return self.kept.setdefault(sample.name, super().read_image(sample))


class Leaks(TinyData):
    def __init__(self, data):
        super().__init__(data)
        self.val = [*self.val, self.labelled[0]]


class Shifts(TinyData):
    def read_mask(self, sample):
        return super().read_mask(sample) + 3


@pytest.mark.parametrize(
    ("kind", "test", "said"),
    [
        (
            Keeps,
            "test_reading_twice_gives_the_same_and_hands_out_no_memory",
            "read_image hands out an array that it keeps",
        ),
        (Leaks, "test_lists_are_there_and_share_nothing", r"validation images are trained on: \['labelled0'\]"),
        (Shifts, "test_images_and_masks_are_what_the_loader_expects", "are no classes"),
    ],
)
def test_it_finds_what_is_wrong_with_a_data_set(kind, test, said):
    with pytest.raises(AssertionError, match=said):
        getattr(DatasetContract(), test)(lambda **more: kind(DataConfig(**more)))
