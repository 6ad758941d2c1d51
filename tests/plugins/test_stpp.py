"""ST++: what its stages train on, how it ranks and labels, what a step of each kind of crop costs."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from ssss_zoo.plugins.baselines import stpp as module
from ssss_zoo.plugins.baselines.stpp import STPlusPlus, oversampled, prediction_miou
from torch.testing import assert_close

from ssss_zoo.config.resolve import resolve
from ssss_zoo.errors import Interrupted, UserError
from ssss_zoo.testing.tiny import tiny_overrides
from ssss_zoo.toolkit.types import FixedAugmentation, Progress, RawBatch, RawLabelled, Sample
from ssss_zoo.train.run import run_training

START = Progress(0, 10, 5)


def raw(pseudo=(False, True, True)) -> RawBatch:
    made = torch.Generator().manual_seed(8)
    image = torch.randint(0, 256, (3, 3, 16, 16), generator=made, dtype=torch.uint8)
    mask = torch.randint(0, 5, (3, 16, 16), generator=made, dtype=torch.uint8)
    mask[:, :2, 3:9] = 255
    return RawBatch(RawLabelled(image, mask, torch.tensor(pseudo)))


@pytest.mark.parametrize("void", [False, True])
def test_a_step_is_one_cross_entropy_over_both_kinds_of_crops(tiny_run, monkeypatch, void):
    """Labelled crops as they are; pseudo-labelled ones strengthened, a box of theirs noise without label."""
    boxes = torch.tensor([[[1, 1, 5, 5]], [[2, 3, 9, 12]], [[0, 0, 0, 0]]])
    monkeypatch.setattr(module, "random_boxes", lambda *size, **given: boxes)
    monkeypatch.setattr(torch, "rand_like", lambda image: torch.full_like(image, 0.3))
    made, batch = tiny_run("method=stpp", "train.batch=3", "augment.flip=0").double(), raw()
    made.methods["stpp"].strong = FixedAugmentation(lambda image: image * 0.8)
    if void:
        batch.labelled.mask[:] = 255
    network = copy.deepcopy(made.student)
    image, mask = batch.labelled.image.double() / 255, batch.labelled.mask.long().clone()
    image[1:] *= 0.8
    image[1, :, 2:9, 3:12], mask[1, 2:9, 3:12] = 0.3, 255
    log_q, total, count = network(image).logits.log_softmax(dim=1), 0.0, 0
    for b, i, j in np.argwhere(mask.numpy() != 255):
        total, count = total - log_q[b, mask[b, i, j], i, j], count + 1
    kept = {}
    made.engine.optimizer.register_step_pre_hook(
        lambda *_: kept.update({name: p.grad.clone() for name, p in made.student.named_parameters()})
    )
    losses = made.engine.step(iter([batch]), START)
    assert set(losses) == {"supervised", "total"}
    if void:
        assert losses["total"].item() == 0
        assert all(not value.any() for value in kept.values())
        return
    (total / count).backward()
    assert losses["total"].item() == pytest.approx((total / count).item(), rel=1e-6)
    for name, parameter in network.named_parameters():
        assert_close(kept[name], parameter.grad, atol=1e-5, rtol=0)


def test_a_batch_without_pseudo_labels_is_a_supervised_one(tiny_run):
    batch = raw(pseudo=(False, False, False))
    found = [
        tiny_run(f"method={name}", "train.batch=3").engine.step(iter([batch]), START) for name in ("stpp", "supervised")
    ]
    assert found[0]["total"] == found[1]["total"]


# --- ranking and labelling ------------------------------------------------------------------------------------------


def test_two_predictions_agree_by_the_mean_iou_over_the_classes_found_in_either():
    one, other = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1])
    assert prediction_miou(one, other, 5) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert prediction_miou(one, one, 5) == 1


def test_snapshots_are_kept_at_a_third_and_at_two_thirds(tiny_run):
    made = tiny_run("method=stpp", "train.steps=9")
    method, kept = made.methods["stpp"], {}
    for step in range(9):
        for value in made.student.parameters():
            value.data.fill_(step)
        method.after_step(students=[made.student], progress=Progress(step, 9, 5))
        kept[step] = [next(network.parameters()).flatten()[0].item() for network in method.snapshots]
    assert [kept[step][0] for step in (2, 4, 8)] == [2, 2, 2]
    assert [kept[step][1] for step in (5, 8)] == [5, 5]
    assert kept[4][1] not in range(9)  # its first weights


def test_the_most_stable_come_first_and_the_order_is_kept(tiny_run, tmp_path):
    made = tiny_run("method=stpp")
    method, network = made.methods["stpp"], made.student
    torch.manual_seed(0)
    for snapshot in method.snapshots:
        for value in snapshot.parameters():
            value.add_(0.3 * torch.randn_like(value))
    samples, file = made.run.dataset.unlabelled, tmp_path / "ranking" / "order.json"
    ranked = method.rank(made.run.info, network, file)
    scores = []
    for sample in samples:
        image = torch.from_numpy(made.run.dataset.read_image(sample)).permute(2, 0, 1)[None].float() / 255
        maps = [net.eval()(image).logits.argmax(1) for net in (network, *method.snapshots)]
        ious = []
        for early in maps[1:]:
            both = [((early == c) & (maps[0] == c)).sum() / ((early == c) | (maps[0] == c)).sum() for c in range(5)]
            ious.append(torch.stack([value for value in both if not value.isnan()]).mean())
        scores.append(float(sum(ious) / 2))
    assert len(set(scores)) > 3
    order = json.loads(file.read_text())
    assert [scores[index] for index in order] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert [sample.name for sample in ranked] == [samples[index].name for index in order]
    file.write_text(json.dumps(order[::-1]))  # as a run that was stopped finds it
    assert method.rank(made.run.info, network, file) == ranked[::-1]


def test_labels_repeat_until_they_are_as_many_as_the_others():
    own, made = [Sample(f"own{i}", i, i) for i in range(3)], [Sample(f"made{i}", i) for i in range(7)]
    assert [sample.name for sample in oversampled(own, made)] == ["own0", "own1", "own2"] * 3 + [
        f"made{i}" for i in range(7)
    ]


# --- the stages -----------------------------------------------------------------------------------------------------


def a_run(tiny_plugins, folder, *more):
    return run_training(
        resolve(tiny_overrides("method=stpp", f"output={folder}", "train.steps=9", "options.stpp.scales=1.0", *more))
    )


def stages(folder) -> list[str]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [line["stage"] for line in lines if "losses" in line]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["labelled"] * 3 + ["reliable"] * 3 + ["all"] * 3),
        (["options.stpp.reliable=1", "train.steps=8"], ["labelled"] * 4 + ["reliable"] * 4),
        (["options.stpp.budget=each", "train.steps=3", "options.stpp.select=best"],
         ["labelled"] * 3 + ["reliable"] * 3 + ["all"] * 3),
    ],
)  # fmt: skip
def test_the_stages_of_a_run(tiny_plugins, tmp_path, options, expected):
    result = a_run(tiny_plugins, tmp_path / "run", *options)
    assert stages(tmp_path / "run") == expected
    number = len(set(expected))  # which the log says, for the time that is left
    assert f"stage {number}/{number}  step" in (tmp_path / "run/run.log").read_text()
    assert result.metrics["data"]["labelled"] == 5
    assert result.metrics["data"]["unlabelled"] == 7
    masks = sorted(file.parent.name for file in (tmp_path / "run" / "stages").glob("pseudo*/*.png"))
    assert masks == (["pseudo1"] * 7 if "reliable=1" in "".join(options) else ["pseudo1"] * 3 + ["pseudo2"] * 4)


def test_a_run_stopped_in_its_second_stage_ends_with_the_bits_of_one_that_was_not(tiny_plugins, tmp_path, monkeypatch):
    whole = a_run(tiny_plugins, tmp_path / "whole")
    from ssss_zoo.train.trainer import Trainer

    def stop(self):
        if self.stage.index == 1 and self.state.step == 2:
            self.save()
            raise Interrupted("here")

    monkeypatch.setattr(Trainer, "stop_if_asked", stop)
    with pytest.raises(Interrupted):
        a_run(tiny_plugins, tmp_path / "parts")
    monkeypatch.undo()
    from ssss_zoo.engine import plugin_source as plugins

    monkeypatch.setattr(plugins, "entry_points", tiny_plugins.entry_points)
    parts = a_run(tiny_plugins, tmp_path / "parts", "resume=true")
    assert parts.metrics["val"] == whole.metrics["val"]
    for name in ("student", "methods"):
        one, other = (
            (tmp_path / folder / "last" / f"{name}.safetensors").read_bytes() for folder in ("whole", "parts")
        )
        assert one == other


def test_without_unlabelled_images_it_says_so(tiny_plugins, tmp_path):
    with pytest.raises(UserError, match="there are none"):
        a_run(tiny_plugins, tmp_path / "run", "data.split=unlabelled=0")


def test_without_scales_it_says_so(tiny_plugins, tmp_path):
    with pytest.raises(UserError, match=r"options\.stpp\.scales must hold at least one number"):
        a_run(tiny_plugins, tmp_path / "run", "options.stpp.scales=[]")


def test_validation_has_no_say_unless_it_is_asked_for():
    method = STPlusPlus()
    method.after_eval(metrics={"miou": 1.0}, students=[], progress=START)  # nothing was set up: reading would fail
