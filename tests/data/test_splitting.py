"""`ssss data split`: nested lists that show every class, written in the field's format and read back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.errors import refusal
from helpers.folders import sample_names, write_images, write_masks
from ssss_zoo.commands.cli import command_line
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.data.tools.split import labelled_order, list_sizes


@pytest.fixture(autouse=True)
def _own_memory(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    """Twenty pairs of which one alone shows class 2, and three images without masks."""
    write_images(
        tmp_path, *(f"images/{index:02d} x.jpg" for index in range(20)), *(f"unlabelled/{i}.jpg" for i in range(3))
    )
    write_masks(tmp_path, *(f"masks/{index:02d} x.png" for index in range(20)), values=[[0, 1]] * 2)
    for number in range(20):
        Image.fromarray(np.full((2, 2, 3), number, np.uint8)).save(tmp_path / f"images/{number:02d} x.jpg")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def rare(root):
    """Class 2 into one image that is not held out for validation."""
    chosen = Folder(DataConfig(root=str(root))).labelled[5]
    write_masks(root, chosen.mask.relative_to(root).as_posix(), values=[[0, 2]] * 2)
    return chosen.name


@given(st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=12), st.integers(0, 9))
def test_every_image_comes_once_and_classes_as_early_as_each_choice_can(classes, seed):
    order = labelled_order(classes, seed)
    assert sorted(order) == list(range(len(classes)))
    seen, everything = set(), set().union(*classes)
    for index in order:
        missing = everything - seen
        if missing:
            assert len(classes[index] & missing) == max(len(other & missing) for other in classes)
        seen |= classes[index]
    assert labelled_order(classes, seed) == order


def test_another_seed_is_another_order():
    assert labelled_order([set()] * 20, 0) != labelled_order([set()] * 20, 1)


def test_sizes_are_shares_or_numbers():
    assert list_sizes("1/16, 1/4,5", 16) == {"1/16": 1, "1/4": 4, "5": 5}
    refusal(lambda: list_sizes("1/4,16", 16), "'16'", "16 images")
    refusal(lambda: list_sizes("", 16), "sizes names nothing", "sizes=1/16")
    refusal(lambda: list_sizes("half", 16), "half", "a share such as 1/4")


def test_lists_are_written_nested_covering_and_readable(root, capsys):
    name = rare(root)
    words = ["data", "split", "dataset=folder", f"data.root={root}"]
    assert command_line([*words, "sizes=2,1/4,1/2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "data.split=2: 2 labelled, 17 unlabelled, every class shown"
    assert said[3] == "val.txt is also new: it keeps the present 4 validation images for every list of this folder"
    files = {
        root / "splits" / home / f"{part}.txt" for home in ("2", "1_4", "1_2") for part in ("labeled", "unlabeled")
    }
    assert set(said[4].removeprefix("written: ").split(", ")) == {
        str(file) for file in files | {root / "splits/val.txt"}
    }
    assert files | {root / "splits/val.txt"} == {file for file in (root / "splits").rglob("*") if file.is_file()}
    val = sample_names(Folder(DataConfig(root=str(root))).val)
    chosen = {}
    for size, count in (("2", 2), ("1/4", 4), ("1/2", 8)):
        dataset = Folder(DataConfig(root=str(root), split=size))
        chosen[size] = set(sample_names(dataset.labelled))
        assert (len(chosen[size]), len(dataset.unlabelled)) == (count, 19 - count)
        assert sample_names(dataset.val) == val
        assert not chosen[size] & {*val, *sample_names(dataset.unlabelled)}
        assert name in chosen[size]
    assert chosen["2"] < chosen["1/4"] < chosen["1/2"]
    before = (root / "splits/2/labeled.txt").read_bytes()
    assert command_line([*words, "sizes=2", "seed=4"]) == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert (root / "splits/2/labeled.txt").read_bytes() == before
    assert command_line([*words, "sizes=2", "seed=4", "overwrite=true"]) == 0
    assert (root / "splits/2/labeled.txt").read_bytes() != before


def test_a_class_that_a_list_lacks_is_named(root, capsys):
    assert command_line(["data", "split", "dataset=folder", f"data.root={root}", "sizes=3"]) == 0
    assert capsys.readouterr().out.startswith("data.split=3: 3 labelled, 16 unlabelled, without car\n")


def test_a_list_against_the_val_list_that_was_written_is_told_where_that_came_from(root, capsys):
    words = ["data", "split", "dataset=folder", f"data.root={root}", "sizes=3"]
    assert command_line(words) == 0
    (root / "mine.txt").write_text((root / "splits/val.txt").read_text())
    refusal(
        lambda: Folder(DataConfig(root=str(root), split="mine.txt")),
        "mine.txt", "splits/val.txt (val), which `ssss data split` writes where there is none", "4 such images",
    )  # fmt: skip
    assert command_line([*words, "overwrite=true"]) == 0
    assert "val.txt" not in capsys.readouterr().out.splitlines()[-1]


def test_a_data_set_in_memory_has_no_folder(capsys):
    assert command_line(["data", "split", "dataset=shapes", "sizes=2"]) == 2
    assert "has no folder" in capsys.readouterr().err
