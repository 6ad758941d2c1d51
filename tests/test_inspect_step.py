"""The picture of a step shows what the step did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ssss_zoo.commands.cli import command_line
from ssss_zoo.engine.registry import installed
from ssss_zoo.errors import UserError
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.toolkit.types import PseudoLabel
from ssss_zoo.train.inspect_step import (
    FRAME_COLOUR,
    draw_inspection,
    grey_levels,
    make_inspected_step,
    panels_of,
    share_used,
    with_box_frame,
)
from ssss_zoo.train.run import run_training


@pytest.fixture
def inspect(tiny_run):
    """(words) -> the rig, and its first step as it is inspected."""

    def go(*more):
        rig = tiny_run(*more)
        return rig, make_inspected_step(rig.stage, next(rig.feed), 0)

    return go


@pytest.mark.parametrize("method", sorted(installed("methods")))
def test_every_method_can_be_looked_at(method, tiny_plugins, tmp_path):
    picture, file = draw_inspection([*tiny_overrides(f"method={method}"), "after=2", f"file={tmp_path / 'step.png'}"])
    assert picture.width > 300
    assert file == tmp_path / "step.png"


def test_it_is_the_step_that_a_run_makes(inspect, tiny_run):
    _, inspected = inspect("method=farcluss")
    assert inspected.losses == pytest.approx(
        {k: v for k, v in tiny_run("method=farcluss").steps(1)[0].items() if k != "total"}
    )
    assert [seen.view.name for seen, _ in inspected.views] == ["strong"]


def test_panels_are_the_tensors_of_the_step(inspect):
    rig, inspected = inspect("method=fixmatch", "options.fixmatch.threshold=0.2")
    panels = dict(panels_of(inspected, 1, rig.run.dataset, rig.feed.names(0)))
    first, second = (rig.feed.names(0)[stream][1] for stream in ("labelled", "unlabelled"))
    assert list(panels)[:3] == [f"labelled: {first}", "its mask", f"weak view: {second}"]
    label, weight = inspected.weak[0]
    shown = np.array(panels["pseudo-label"])
    times = shown.shape[0] // label.ids.shape[1]
    colours = np.array(rig.run.dataset.colours, np.uint8)
    assert np.array_equal(shown[::times, ::times], colours[label.ids[1].numpy()])
    white = np.array(next(panel for head, panel in panels.items() if head.startswith("pixel weight")))
    assert np.array_equal(white[::times, ::times, 0] > 0, weight[1].numpy() > 0)
    assert any(head.startswith("strong: weight") for head in panels)


def test_labels_alone_have_two_panels(inspect):
    rig, inspected = inspect("method=supervised")
    heads = [head for head, _ in panels_of(inspected, 0, rig.run.dataset, {"labelled": ["a.png", "b.png"]})]
    assert heads == ["labelled: a.png", "its mask"]


def test_boxes_have_a_frame_and_their_inside_is_seen():
    box = torch.zeros(1, 8, 8, dtype=torch.bool)
    box[0, 2:6, 3:7] = True
    shown = with_box_frame(np.zeros((8, 8, 3), np.uint8), box, 0)
    assert tuple(shown[2, 3]) == FRAME_COLOUR
    assert tuple(shown[3, 4]) == (0, 0, 0)
    assert tuple(shown[1, 3]) == (0, 0, 0)


def test_grey_and_shares_by_hand():
    assert grey_levels(torch.tensor([[0.0, 1.0, 2.0]]), 2.0)[0, :, 0].tolist() == [0, 127, 255]
    valid = torch.tensor([[[True, True, True, False]]])
    label = PseudoLabel(torch.zeros(1, 1, 4, dtype=torch.int64), torch.ones(1, 1, 4), valid)
    text = share_used("weak", label, torch.tensor([[[0.0, 0.5, 1.0, 9.0]]]))
    assert text == "weak: 66.7 % of the pixels count (padding left out), mean weight 0.5"


def test_a_finished_run_is_looked_at_with_its_weights(tiny_plugins, tiny_config, tmp_path):
    run_training(tiny_config("method=farcluss"))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    first, _ = draw_inspection(tiny_overrides("method=farcluss"))
    later, _ = draw_inspection([f"run={tmp_path / 'run'}"])
    assert np.array(first).shape[1] == np.array(later).shape[1]
    assert not np.array_equal(np.array(first)[:200], np.array(later)[:200])
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_the_command_writes_the_picture(tiny_plugins, tmp_path, capsys):
    assert command_line(["inspect", *tiny_overrides("method=cps"), f"file={tmp_path / 'i.png'}", "images=1"]) == 0
    with Image.open(tmp_path / "i.png") as picture:
        assert picture.width > 300
    assert command_line(["inspect", *tiny_overrides(), "after=soon"]) == 2
    assert "after takes a whole number from 0 to 999999999, got 'soon'" in capsys.readouterr().err
    assert command_line(["inspect", *tiny_overrides(), "images=0", f"file={tmp_path / 'i.png'}"]) == 2
    assert "images takes a whole number from 1 to 999999999, got '0'" in capsys.readouterr().err
    for wrong in ("step.bmpp", "gone/step.png"):
        with pytest.raises(UserError, match=r"takes a .png or .jpg in a folder that is there"):
            draw_inspection(["method=fixmatch", f"file={tmp_path / wrong}"])
    with pytest.raises(UserError, match="holds no run"):
        draw_inspection([f"run={tmp_path}"])
