"""`card.md`: what a finished run says of its model, in a form that others read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from ssss_zoo.record_files import read_metrics
from ssss_zoo.train.model_card import limits_of, model_card, write_model_card
from ssss_zoo.train.run_folder import RunFolder


@pytest.fixture
def finished(trained, tiny_config):
    folder = RunFolder(trained("run"))
    return folder, tiny_config(), read_metrics(folder.metrics, "")


def test_its_head_is_yaml_with_the_figure_of_the_run(finished):
    folder, _, metrics = finished
    text = folder.card.read_text("utf-8")
    head = yaml.safe_load(text.split("---")[1])
    (result,) = head["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    error = metrics["val"]["calibration_error"]
    assert values["mean_iou"] == pytest.approx(metrics["val"]["miou"], abs=1e-4)
    assert values["expected_calibration_error"] == pytest.approx(error, abs=1e-4)
    assert f"the expected calibration error is {100 * error:.2f} %" in text
    assert "of one run with seed 0" in text
    assert head["pipeline_tag"] == "image-segmentation"
    for name, iou in metrics["val"]["iou"].items():
        assert f"| {name} | {'not in the truth' if iou is None else format(100 * iou, '.2f')} |" in text


def test_a_run_without_calibration_has_a_card(finished, tiny_run):
    """A run of an earlier version that is continued after its last evaluation."""
    _, config, metrics = finished
    older = {key: value for key, value in metrics["val"].items() if key != "calibration_error"}
    text = model_card(config, tiny_run().run.dataset, {}, {**metrics, "val": older})
    assert "alibration" not in text
    assert yaml.safe_load(text.split("---")[1])


def test_a_name_of_a_class_adds_no_line_and_no_column(finished, tiny_run):
    _, config, metrics = finished
    names = {"a\nb | c": 0.5, "d": 0.25}
    metrics = {**metrics, "val": {**metrics["val"], "iou": names, "miou": 0.375}}
    text = model_card(config, tiny_run().run.dataset, {}, metrics)
    assert "| a\\nb \\| c | 50.00 |" in text.splitlines()


def test_limits_name_what_the_figures_cannot_tell(finished):
    _, config, metrics = finished
    val = {**metrics["val"], "iou": {"seen": 0.9, "poor": 0.1, "absent": None}, "miou": 0.5}
    few = {**metrics, "val": val, "data": {**metrics["data"], "val": 3}}
    text = " ".join(limits_of(few, config))
    assert "from 3 validation images:" in text
    assert "classes absent:" in text
    assert "as the mean: poor." in text
    assert "ImageNet" in text
    many = {**few, "data": {**metrics["data"], "val": 500}}
    plain = " ".join(limits_of(many, replace(config, model=replace(config.model, weights="none"))))
    assert "500" not in plain
    assert "ImageNet" not in plain


def test_a_disk_that_refuses_costs_the_card_and_no_run(finished, tiny_run, tmp_path, warnings):
    _, config, metrics = finished
    file = tmp_path / "file"
    file.write_text("")
    write_model_card(RunFolder(file / "run"), config, tiny_run().run.dataset, {}, metrics)
    assert any("card.md" in line and "the run itself is complete" in line for line in warnings())
