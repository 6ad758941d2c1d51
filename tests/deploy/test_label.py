"""`ssss label`: the images that it chooses and the files that it writes for a person."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from helpers.hub import serving_hub, use_hub
from helpers.images import save_image
from helpers.label_runs import files_below, labelled_folder, read_ids, untrained_run
from helpers.trained_models import pointwise_model
from ssss_zoo.commands.cli import command_line, main
from ssss_zoo.data.folder.polygons import read_coco
from ssss_zoo.deploy import label
from ssss_zoo.deploy.demo import open_demo
from ssss_zoo.deploy.label import label_images
from ssss_zoo.record_files import read_metrics
from ssss_zoo.testing.tiny import tiny_overrides


@pytest.fixture
def run(tmp_path, monkeypatch, tiny_plugins) -> Path:
    """A run on a folder of images whose network is that of `pointwise_model`."""
    monkeypatch.setattr(label, "load_model", lambda *arguments: pointwise_model())
    return untrained_run(tmp_path / "run", labelled_folder(tmp_path / "data"))


def chosen(run: Path, *overrides: str) -> list[str]:
    """The names of the images that are chosen, in their order."""
    output = run.parent / f"chosen{len(list(run.parent.glob('chosen*')))}"
    result = label_images([f"run={run}", f"output={output}", *overrides])
    return [Path(row.image).stem for row in result.rows]


# --- the choice -----------------------------------------------------------------------------------------------------


def test_uncertain_images_come_first_and_diverse_ones_are_chosen_among_them(run):
    for by in ("entropy", "margin"):
        assert set(chosen(run, "count=3", f"by={by}", "diversity=none")) == {"u3", "u4", "u5"}
    assert chosen(run, "count=1", "by=diversity") == ["u2"], "blue is farthest from images of red and green"
    assert chosen(run, "count=2", "candidates=6")[0] == "u2"
    assert set(chosen(run, "count=2", "candidates=3")) < {"u3", "u4", "u5"}
    assert set(chosen(run, "count=3", "diversity=k-means++", "seed=1")) & {"u3", "u4", "u5"}


def test_random_images_follow_the_seed_and_nothing_else(run):
    draws = [chosen(run, "by=random", "count=4", f"seed={seed}") for seed in (0, 0, 1)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert all(len(set(draw)) == 4 for draw in draws)


def test_tiles_and_batches_give_the_same_scores(run):
    whole, tiled = (
        label_images([f"run={run}", f"output={run.parent / name}", "count=6", "by=diversity", *more])
        for name, more in (("whole", []), ("tiled", ["tile=32"]))
    )
    for one, other in zip(whole.rows, tiled.rows, strict=True):
        assert one.image == other.image
        assert (one.uncertainty, one.distance) == pytest.approx((other.uncertainty, other.distance), abs=1e-5)


# --- the files ------------------------------------------------------------------------------------------------------


def test_files_of_each_format(run, tmp_path):
    before = files_below(tmp_path / "data")
    for kind, written in {
        "labelme": {"images/u2.json", "images/u3.json"},
        "coco": {"annotations/instances_default.json"},
        "masks": {"masks/u2.png", "masks/u3.png"},
    }.items():
        output = tmp_path / kind
        done = CliRunner().invoke(
            main, ["label", f"run={run}", f"output={output}", "count=6", "by=diversity", f"format={kind}"]
        )
        assert done.exit_code == 0, done.output
        files = files_below(output)
        assert written | {"contact_sheet.png", "label.csv", "classes.txt", "images/u2.png"} <= set(files)
        assert files["images/u2.png"] == before["unlabelled/u2.png"]
        assert f"then: ssss label run={run} take={output}" in done.stdout
    rows = list(csv.DictReader((tmp_path / "coco/label.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert (rows[0]["image"], rows[0]["file"]) == ("unlabelled/u2.png", "images/u2.png")
    assert Image.open(tmp_path / "coco/contact_sheet.png").width > 6 * 240
    coco = read_coco(tmp_path / "coco/annotations/instances_default.json")
    assert set(coco.images) == {f"u{number}.png" for number in range(6)}
    assert set(coco.class_names.values()) == {"red", "green", "blue"}
    shapes = json.loads((tmp_path / "labelme/images/u2.json").read_text())["shapes"]
    assert [shape["label"] for shape in shapes] == ["blue"]
    assert (read_ids(tmp_path / "masks/masks/u2.png") == 2).all()
    assert files_below(tmp_path / "data") == before, "the data set is left as it is"


def test_an_image_that_cannot_be_read_is_named_and_not_chosen(run, tmp_path):
    (tmp_path / "data/unlabelled/u3.png").write_bytes(b"no image")
    done = CliRunner().invoke(main, ["label", f"run={run}", f"output={tmp_path / 'out'}", "count=2", "diversity=none"])
    assert done.exit_code == 1, done.output
    assert "u3.png: not an image, or damaged" in done.stderr
    assert "1 file not readable" in done.stdout
    assert {path.stem for path in (tmp_path / "out/images").glob("*.png")} == {"u4", "u5"}


# --- the circle -----------------------------------------------------------------------------------------------------


def label_and_take(run: str, folder: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Choose two images, draw their masks as a person would, take them; returns the command that is printed."""
    assert command_line(["label", f"run={run}", f"output={folder}", "count=2", "format=masks"]) == 0
    for mask in Path(folder, "masks").glob("*.png"):
        save_image(mask, np.full((20, 28), 2, np.uint8))
    capsys.readouterr()
    assert command_line(["label", f"run={run}", f"take={folder}"]) == 0
    return capsys.readouterr().out.splitlines()[-1].removeprefix("next: ")


@pytest.mark.usefixtures("tiny_plugins", "no_dry_run")
def test_train_label_correct_take_train(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = labelled_folder(tmp_path / "data")
    before = files_below(root)
    first = tiny_overrides("dataset=folder", f"data.root={root}", "train.steps=2", "output=first")
    assert command_line(["run", *first]) == 0
    metrics = read_metrics(Path("first/metrics.json"), "")
    command = label_and_take("first", "round1", capsys)
    assert command_line(shlex.split(command)[1:]) == 0
    trained = read_metrics(Path("first_round1_split/metrics.json"), "")
    assert trained["data"]["labelled"] == metrics["data"]["labelled"] + 2
    assert trained["data"]["unlabelled"] == 4
    label_and_take("first_round1_split", "round2", capsys)
    assert len(list(Path("round2_split/masks").glob("*.png"))) == 4, "earlier masks are copied"
    assert len(Path("round2_split/labeled.txt").read_text().splitlines()) == metrics["data"]["labelled"] + 4
    assert files_below(root) == before


@pytest.mark.usefixtures("tiny_plugins", "no_dry_run")
def test_a_run_on_the_hub_labels_and_shows_images_where_its_data_are_given(tmp_path, monkeypatch, capsys, warnings):
    monkeypatch.chdir(tmp_path)
    data = f"data.root={labelled_folder(tmp_path / 'data')}"
    assert command_line(["run", *tiny_overrides("dataset=folder", data, "train.steps=1", "output=first")]) == 0
    with serving_hub() as hub:
        use_hub(monkeypatch, hub, tmp_path / "cache")
        assert command_line(["push", "run=first", "repo=me/street"]) == 0
        capsys.readouterr()
        choose = ["label", "run=hf://me/street", "output=round", "count=2", "format=masks"]
        assert command_line(choose) == 2
        assert "where is the data set folder? give data.root=PATH" in capsys.readouterr().err.splitlines()[-1]
        assert command_line([*choose, data]) == 0
        assert "best student of hf://me/street, step 1" in capsys.readouterr().out
        assert command_line(["label", "run=hf://me/street", "take=round", data]) == 0
        shown = open_demo(["run=hf://me/street", data])
    assert len(Path("round_split/labeled.txt").read_text().splitlines()) == 8
    assert ([model.source for model in shown.models], len(shown.unlabelled)) == (
        ["best student of hf://me/street, step 1"],
        6,
    )
    assert not [line for line in warnings() if "has not finished" in line]


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_mistakes_of_choosing_are_one_line_and_write_nothing(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept.txt").write_text("mine")
    good = [f"run={run}", f"output={tmp_path / 'out'}", "count=2"]
    cases = {
        "count must be at least 1; got 0": [*good, "count=0"],
        "count=9 is more than the 6 unlabelled images of folder with data.split=all": [*good, "count=9"],
        "give output=: ssss label run=DIR count=20 output=DIR": good[:1],
        "give run=: ssss label": good[1:],
        f"output={tmp_path / 'full'} is not an empty folder": [*good, f"output={tmp_path / 'full'}"],
        f"output={tmp_path / 'full/kept.txt'} is not an empty": [*good, f"output={tmp_path / 'full/kept.txt'}"],
        f"output={tmp_path / 'data/new'} lies inside the data set": [*good, f"output={tmp_path / 'data/new'}"],
        f"output={tmp_path / 'full/kept.txt/x'} cannot be made: {tmp_path / 'full/kept.txt'} is no folder": [
            *good,
            f"output={tmp_path / 'full/kept.txt/x'}",
        ],
        "by must be one of entropy, margin, confidence, diversity, random; got 'entrpy'": [*good, "by=entrpy"],
        "by=random draws images whatever they show": [*good, "by=random", "diversity=none"],
        "by=diversity with diversity=none leaves nothing to choose by": [*good, "by=diversity", "diversity=none"],
        "candidates= is the number of uncertain images": [*good, "by=diversity", "candidates=3"],
        "candidates=1 is less than count=2": [*good, "candidates=1"],
        "unknown key 'cuont'; did you mean 'count'?": [*good, "cuont=3"],
        f"no folder {tmp_path / 'gone'} (data.root)": [*good, f"data.root={tmp_path / 'gone'}"],
    }
    for message, words in cases.items():
        done = CliRunner().invoke(main, ["label", *words])
        assert done.exit_code == 2, (message, done.output)
        assert message in done.stderr.splitlines()[-1], done.stderr
        assert not (tmp_path / "out").exists(), message
    assert [path.name for path in tmp_path.glob(".*")] == [], "no half-written folder"
    for path in (tmp_path / "data/unlabelled").iterdir():
        path.unlink()
    done = CliRunner().invoke(main, ["label", *good])
    assert "no unlabelled image is left in folder with data.split=all: add images without masks" in done.stderr


@pytest.mark.usefixtures("tiny_plugins")
def test_a_run_without_checkpoint_and_one_on_drawn_images_are_refused(tmp_path, monkeypatch):
    run = untrained_run(tmp_path / "run", labelled_folder(tmp_path / "data"))
    done = CliRunner().invoke(main, ["label", f"run={run}", f"output={tmp_path / 'out'}"])
    assert (done.exit_code, "holds no last checkpoint; the run has not written one yet" in done.stderr) == (2, True)
    monkeypatch.setattr(label, "load_model", lambda *arguments: pointwise_model())
    drawn = untrained_run(tmp_path / "drawn", tmp_path / "data", "dataset=tiny", "data.root=null")
    done = CliRunner().invoke(main, ["label", f"run={drawn}", f"output={tmp_path / 'out'}"])
    assert done.exit_code == 2
    assert "dataset=tiny is drawn in memory: there are no image files to label" in done.stderr
