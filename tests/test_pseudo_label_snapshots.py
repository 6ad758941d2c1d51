"""Pictures of pseudo-labels: what they show, and that drawing them changes nothing."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssss_zoo.engine.plugin_source import installed
from ssss_zoo.evaluation.painting import MIN_PICTURE_SIDE, VALUE_COLOURS, colour_values
from ssss_zoo.evaluation.sheets import without_legend
from ssss_zoo.toolkit.types import Progress
from ssss_zoo.train.pseudo_label_snapshots import PHOTO, WIDEST, restoring, shrink_to_widest
from ssss_zoo.train.run import run_training
from ssss_zoo.train.run_folder import RunFolder

METHODS = sorted(installed("methods"))
LATE = Progress(5, 6, 3)


def state(rig):
    modules = [*rig.stage.networks().values(), *rig.run.modules.values()]
    return copy.deepcopy([module.state_dict() for module in modules])


def the_same(one, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a)


@pytest.mark.parametrize("method", METHODS)
def test_asking_changes_no_weight_and_no_statistic(method, tiny_run):
    rig = tiny_run(f"method={method}")
    if rig.stage.snapshots is None:
        assert not rig.run.needs.unlabelled
        return
    before = state(rig)
    target, size = rig.stage.snapshots.label(LATE)
    assert the_same(before, state(rig))
    images, height, width = target.weight.shape
    assert images == 2
    assert height >= size[0]
    assert width >= size[1]
    assert not target.label.valid[0, size[0] :].any()
    assert not target.label.valid[0, :, size[1] :].any()


def test_a_run_draws_at_each_evaluation(tiny_config):
    result = run_training(tiny_config("method=farcluss", "train.eval_every=3"))
    folder = RunFolder(result.folder).pseudo_labels
    assert {file.name for file in folder.iterdir()} == {PHOTO, "3.png", "6.png"}
    with Image.open(folder / PHOTO) as photo, Image.open(folder / "6.png") as drawn:
        assert drawn.width > 3 * MIN_PICTURE_SIDE > photo.width
        rows, legend = without_legend(drawn), drawn.crop((0, without_legend(drawn).height, *drawn.size))
        colours = tuple((40 * index % 256, 90 * index % 256, 200) for index in range(5))  # of the data set
        assert set(colours) <= {colour for _, colour in legend.getcolors(1 << 20)}
        assert MIN_PICTURE_SIDE < rows.height < drawn.height


def test_it_shows_the_label_in_its_colours_and_the_weights_with_a_scale(tiny_run):
    rig = tiny_run("method=fixmatch", "options.fixmatch.threshold=0.2")
    drawn = rig.stage.snapshots.draw(5, LATE)
    target, (height, width) = rig.stage.snapshots.label(LATE)
    ids = target.label.ids[0, :height, :width].numpy()
    found = {tuple(colour) for colour in np.array(drawn).reshape(-1, 3).tolist()}
    assert {rig.run.dataset.colours[index] for index in np.unique(ids)} <= found
    shown = colour_values(target.weight[0, :height, :width].numpy(), 1.0)
    assert {tuple(colour) for colour in shown.reshape(-1, 3).tolist()} <= found
    assert {VALUE_COLOURS[0], VALUE_COLOURS[-1]} <= found  # the scale


def test_what_cannot_be_drawn_is_told_and_stops_nothing(tiny_run, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    tiny_run("method=fixmatch").stage.snapshots.write(tmp_path / "file", 3, LATE)
    assert "could not be drawn" in caplog.text


def test_large_images_are_made_smaller():
    assert shrink_to_widest(torch.zeros(1, 3, 8, 10)).shape[-2:] == (8, 10)
    assert max(shrink_to_widest(torch.zeros(1, 1, WIDEST, 2 * WIDEST)).shape) == WIDEST


def test_restoring_puts_back_what_a_forward_pass_moves():
    norm = nn.BatchNorm2d(2)
    with restoring([norm]):
        norm(torch.randn(4, 2, 3, 3))
        assert norm.num_batches_tracked == 1
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(2))
