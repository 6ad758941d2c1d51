"""The picture of a step shows what the step did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ssss_zoo.commands.cli import command_line
from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.errors import UserError
from ssss_zoo.evaluation.painting import VALUE_COLOURS, VOID_STRIPES
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.toolkit.types import PseudoLabel
from ssss_zoo.train.inspect_step import (
    BOX_COLOUR,
    draw_inspection,
    image_rows,
    make_inspected_step,
    share_used,
    values_panel,
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


def step_words(*words):
    """The words of a tiny run without its folder, which `ssss inspect` refuses."""
    return [word for word in tiny_overrides(*words) if not word.startswith("output=")]


MADE_DIFFERENTLY = ("cps", "farcluss", "stpp", "unimatch")  # two students, soft labels, two stages, two views


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=() if method in MADE_DIFFERENTLY else pytest.mark.long)
        for method in sorted(installed("methods"))
    ],
)
def test_every_method_can_be_looked_at(method, tiny_plugins, tmp_path):
    picture, file = draw_inspection([*step_words(f"method={method}"), "after=2", f"file={tmp_path / 'step.png'}"])
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
    names = rig.feed.names(0)
    labelled, weak, strong = image_rows(inspected, 1, rig.run.dataset, names)
    assert labelled.caption == f"labelled: {names['labelled'][1]}"
    assert weak.caption == f"unlabelled: {names['unlabelled'][1]}"
    assert strong.caption == "view strong"
    label, weight = inspected.weak[0]
    panels = {panel.title: panel for panel in weak.panels}
    shown = np.array(panels["pseudo-label"].picture)
    times = shown.shape[0] // label.ids.shape[1]
    colours = np.array(rig.run.dataset.colours, np.uint8)
    assert np.array_equal(shown[::times, ::times], colours[label.ids[1].numpy()])
    bright = np.array(panels["pixel weight"].picture)[::times, ::times]
    assert np.array_equal((bright != VALUE_COLOURS[0]).any(axis=2), weight[1].numpy() > 0)
    assert panels["pixel weight"].scale_top == weight.max()
    assert [panel.title for panel in strong.panels][1:] == ["its target", "its weight"]


def test_labels_alone_have_one_row(inspect):
    rig, inspected = inspect("method=supervised")
    (row,) = image_rows(inspected, 0, rig.run.dataset, {"labelled": ["a.png", "b.png"]})
    assert row.caption == "labelled: a.png"
    assert [panel.title for panel in row.panels] == ["as it is trained on", "its mask"]


def test_boxes_have_a_frame_and_their_inside_is_seen():
    box = np.zeros((12, 12), bool)
    box[2:10, 3:11] = True
    shown = with_box_frame(np.zeros((12, 12, 3), np.uint8), box)
    assert tuple(shown[2, 3]) == tuple(shown[3, 4]) == BOX_COLOUR
    assert tuple(shown[4, 5]) == (0, 0, 0)
    assert tuple(shown[1, 3]) == (0, 0, 0)


def test_values_and_shares_by_hand():
    valid = torch.tensor([[True, True, False]])
    panel = values_panel("its weight", torch.tensor([[0.0, 2.0, 9.0]]), 2.0, valid)
    first, second, third = np.array_split(np.array(panel.picture), 3, axis=1)
    assert (first == VALUE_COLOURS[0]).all()
    assert (second == VALUE_COLOURS[-1]).all()
    assert {tuple(colour) for colour in third.reshape(-1, 3).tolist()} == set(VOID_STRIPES)
    valid = torch.tensor([[[True, True, True, False]]])
    label = PseudoLabel(torch.zeros(1, 1, 4, dtype=torch.int64), torch.ones(1, 1, 4), valid)
    text = share_used(label, torch.tensor([[[0.0, 0.5, 1.0, 9.0]]]))
    assert text == "66.7 % of the pixels count (padding left out), mean weight 0.5"


def test_a_finished_run_is_looked_at_with_its_weights(tiny_plugins, tiny_config, tmp_path):
    run_training(tiny_config("method=farcluss"))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    first, _ = draw_inspection(step_words("method=farcluss"))
    later, _ = draw_inspection([f"run={tmp_path / 'run'}"])
    assert np.array(first).shape[1] == np.array(later).shape[1]
    assert not np.array_equal(np.array(first)[:200], np.array(later)[:200])
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_the_command_writes_the_picture(tiny_plugins, tmp_path, capsys):
    assert command_line(["inspect", *step_words("method=cps"), f"file={tmp_path / 'i.png'}", "images=1"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'i.png'}: are the pseudo-labels right")
    with Image.open(tmp_path / "i.png") as picture:
        assert picture.width > 300
    assert command_line(["inspect", *step_words("method=cps"), f"file={tmp_path / 'i.png'}"]) == 2
    assert "i.png exists: give another name, or overwrite=true" in capsys.readouterr().err
    assert command_line(["inspect", "method=cps", "dataset=shapes", "output=x"]) == 2
    assert "ssss inspect does not use output=" in capsys.readouterr().err
    assert command_line(["inspect", *step_words(), "after=soon"]) == 2
    assert "after takes a whole number from 0 to 999999999, got 'soon'" in capsys.readouterr().err
    assert command_line(["inspect", *step_words(), "images=0", f"file={tmp_path / 'j.png'}"]) == 2
    assert "images takes a whole number from 1 to 999999999, got '0'" in capsys.readouterr().err
    for wrong in ("step.bmpp", "gone/step.png"):
        with pytest.raises(UserError, match=r"takes a .png or .jpg in a folder that is there"):
            draw_inspection(["method=fixmatch", f"file={tmp_path / wrong}"])
    with pytest.raises(UserError, match="holds no run"):
        draw_inspection([f"run={tmp_path}"])
