"""Split lists in a user's folder: which are used, what their columns mean, and how they name files."""

import itertools
import os
import unicodedata

import pytest

from helpers.errors import refusal
from helpers.folders import (
    open_folder,
    sample_names,
    summary_of_files,
    write_images,
    write_masks,
    write_pairs,
)

# --- lists that are found ---------------------------------------------------------------------------------------------


def write_list(path, numbers, line="images/{0:02d}.jpg masks/{0:02d}.png", head=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*([head] if head else []), *(line.format(number) for number in numbers)]))


def numbers_of(samples):
    return {int(sample.image.stem) for sample in samples}


def parts_of(dataset):
    return [numbers_of(samples) for samples in (dataset.labelled, dataset.unlabelled, dataset.val)]


@pytest.mark.parametrize(("train", "val"), [("train.txt", "val.txt"), ("Training_Set.lst", "validation-list.txt")])
def test_lists_in_the_folder_are_used(tmp_path, train, val):
    lines = ["images/{0:02d}.jpg masks/{0:02d}.png", "images/{:02d}.jpg", "{:02d}.jpg", "{:02d}"]
    for at, (folder, line) in enumerate(itertools.product(["", "splits/", "lists/"], lines)):
        root = write_pairs(tmp_path / str(at), 16)
        write_list(root / f"{folder}{train}", range(6), line)
        write_list(root / f"{folder}{val}", range(6, 10), line)
        case = (folder, line)
        assert parts_of(open_folder(root)) == [set(range(6)), set(range(10, 16)), set(range(6, 10))], case
        write_list(root / f"{folder}test.txt", range(10, 14), line)
        for split in ("all", f"{folder}{train}"):
            dataset = open_folder(root, split=split)
            assert parts_of(dataset) == [set(range(6)), {14, 15}, set(range(6, 10))], (*case, split)
            assert f"{folder}{val} (val: 4)" in dataset.notes[2], (*case, split)
            assert dataset.file_roles["images/10.jpg"] == "left out: image of the test part", (*case, split)
        assert len(open_folder(root, split="1/2").labelled) == 3, case


def test_a_train_list_that_is_all_there_is(tmp_path):
    write_list(write_pairs(tmp_path, 16) / "train.txt", range(8))
    write_list(tmp_path / "test.txt", range(8, 16))
    labelled, unlabelled, val = parts_of(open_folder(tmp_path))
    assert (labelled | val, labelled & val, unlabelled) == (set(range(8)), set(), labelled)


def test_labelled_and_unlabelled_lists(tmp_path):
    write_list(write_pairs(tmp_path, 16) / "labeled.txt", range(4))
    write_list(tmp_path / "unlabeled.txt", range(3, 8))
    write_list(tmp_path / "val.txt", range(8, 10))
    dataset = open_folder(tmp_path)
    assert parts_of(dataset) == [set(range(4)), set(range(4, 8)), {8, 9}]
    assert "1 images are in two lists, labeled.txt and unlabeled.txt, such as images/03.jpg" in dataset.notes[3]
    assert dataset.file_roles["images/15.jpg"] == "left out: image that no list names"


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("labelled", "test"), ("unlabelled", "val")])
def test_an_image_in_two_lists_is_named_with_both(tmp_path, one, other):
    write_list(write_pairs(tmp_path, 16) / f"{one}.txt", range(8))
    write_list(tmp_path / f"{other}.txt", range(7, 16))
    refusal(
        lambda: open_folder(tmp_path), "images/07.jpg", f"{one}.txt ({one})", f"{other}.txt ({other})", "take it off"
    )


def test_two_lists_of_one_part_are_asked_about_and_the_first_place_counts(tmp_path):
    write_list(write_pairs(tmp_path, 16) / "val.txt", range(4))
    write_list(tmp_path / "splits/val.txt", range(4, 8))
    dataset = open_folder(tmp_path)
    assert numbers_of(dataset.val) == set(range(4))
    assert "splits/val.txt is not used: val.txt is used" in dataset.notes
    write_list(tmp_path / "valid.txt", range(4))
    refusal(lambda: open_folder(tmp_path), "val.txt and", "valid.txt", "rename or remove one")


@pytest.mark.parametrize(
    ("name", "line", "why"),
    [
        ("trainval.txt", "images/{:02d}.jpg", "data.split=trainval.txt takes its images"),
        ("val.txt", "/home/me/{:02d}.jpg", "it names no image that is here, but /home/me/00.jpg"),
        ("boxes.csv", "images/{:02d}.jpg,7", "has a column 'area'"),
    ],
)
def test_a_list_that_is_not_used_is_named(tmp_path, name, line, why):
    write_list(write_pairs(tmp_path, 16) / name, range(4), line, head="image,area" if name.endswith("csv") else "")
    (tmp_path / "README.txt").write_text("hello\n")
    dataset = open_folder(tmp_path)
    assert [note for note in dataset.notes if note.startswith(f"{name} is not used: ") and why in note]
    assert [(fault.level, fault.kind, fault.name) for fault in dataset.faults] == [("warning", "list", name)]
    assert dataset.file_roles[name] == "left out: unused list"
    assert dataset.file_roles["README.txt"] == "left out: .txt file"


def test_a_list_with_one_wrong_line_is_not_passed_over(tmp_path):
    write_list(write_pairs(tmp_path, 16) / "val.txt", [1, 2, 99])
    refusal(lambda: open_folder(tmp_path), "val.txt line 3", "no image")
    (tmp_path / "val.txt").write_bytes("images/01.jpg".encode("utf-16"))
    refusal(lambda: open_folder(tmp_path), "val.txt", "UTF-8")


# --- columns by name --------------------------------------------------------------------------------------------------
def test_a_csv_names_the_labelled_images(tmp_path):
    write_pairs(tmp_path, 6)
    (tmp_path / "mine.csv").write_text("image,mask\nimages/01.jpg,masks/01.png\nimages/03.jpg,masks/03.png\n")
    assert sample_names(open_folder(tmp_path, split="mine.csv").labelled) == ["images/01.jpg", "images/03.jpg"]
    (tmp_path / "bare.csv").write_text("images/02.jpg;masks/02.png\n")
    assert sample_names(open_folder(tmp_path, split="bare.csv").labelled) == ["images/02.jpg"]
    refusal(lambda: open_folder(tmp_path, split="none.csv"), "none.csv", "data.split")


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("image,mask,split", "images/{0:02d}.jpg,masks/{0:02d}.png,{1}"),
        ("Subset,File_Name", "{1},{0:02d}.jpg"),
        ("gt,PART,img", "None,{1},images/{0:02d}.jpg"),
    ],
)
def test_columns_are_read_by_name_in_any_order(tmp_path, head, line):
    words = ["train", "TRAINING", "Val", "testing", "unlabeled"]
    rows = [line.format(number, words[number // 2]) for number in range(10)]
    write_pairs(tmp_path, 16)
    for gap, split in itertools.product([",", ";", "\t"], ["all", "parts.csv"]):
        (tmp_path / "parts.csv").write_text("\n".join([head, *rows]).replace(",", gap))
        assert parts_of(open_folder(tmp_path, split=split)) == [{0, 1, 2, 3}, {8, 9}, {4, 5}], (gap, split)


def test_rows_of_a_test_part_are_not_trained_on_and_val_is_held_out(tmp_path):
    rows = [f"images/{n:02d}.jpg,masks/{n:02d}.png,{'train' if n < 6 else 'test'}" for n in range(16)]
    (write_pairs(tmp_path, 16) / "parts.csv").write_text("\n".join(["image,mask,split", *rows]))
    labelled, _, val = parts_of(open_folder(tmp_path, split="parts.csv"))
    assert (labelled | val, labelled & val, len(val)) == (set(range(6)), set(), 1)


@pytest.mark.parametrize("split", ["all", "parts.csv"])
@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("image,mask,split,patient", ["column 'patient' that is not known", "known are image: image", "split"]),
        (",image,mask,split", ["a column without a name"]),
        ("image,image_path,split", ["2 columns of the image"]),
        ("image,mask,split", ["line 2: 'x' is no part", "train", "unlabelled"]),
    ],
)
def test_a_wrong_column_or_part_is_refused(tmp_path, split, head, words):
    (write_pairs(tmp_path, 16) / "parts.csv").write_text(
        f"{head}\n" + ",".join(["images/00.jpg", "", "x", "x"][: head.count(",") + 1])
    )
    refusal(lambda: open_folder(tmp_path, split=split), "parts.csv", *words)


def test_columns_without_names(tmp_path):
    (write_pairs(tmp_path, 16) / "mine.csv").write_text("images/00.jpg,masks/00.png,test\n")
    refusal(lambda: open_folder(tmp_path, split="mine.csv"), "line 1 has 3 columns", "image,mask,split")


# --- how lists name files ---------------------------------------------------------------------------------------------


def test_a_list_names_files_in_any_spelling(tmp_path):
    write_pairs(tmp_path, 16)
    parted = unicodedata.normalize("NFD", "images/é.jpg")
    write_images(tmp_path, parted)
    write_masks(tmp_path, unicodedata.normalize("NFC", "masks/é.png"))
    lines = ["./images/00.jpg", "images//01.jpg", "images\\02.jpg masks\\02.png", "images/../images/03.jpg", "é"]
    (tmp_path / "mine.txt").write_text("\n".join([*lines, f"{tmp_path}/images/04.jpg"]))
    dataset = open_folder(tmp_path, split="mine.txt")
    assert sample_names(dataset.labelled) == [
        *(f"images/0{number}.jpg" for number in range(4)),
        parted,
        "images/04.jpg",
    ]
    assert not any("outside" in note for note in dataset.notes)
    (tmp_path / "mine.txt").write_text("images/00.jpg\n./images/00.jpg")
    refusal(lambda: open_folder(tmp_path, split="mine.txt"), "line 2", "listed twice")


def test_files_outside_the_root_are_noted_once(tmp_path):
    root = write_pairs(tmp_path / "root", 16)
    write_pairs(tmp_path / "other", 3)
    (root / "mine.txt").write_text(
        f"../other/images/00.jpg ../other/masks/00.png\n{tmp_path}/other/images/01.jpg masks/01.png\nimages/02.jpg\n"
    )
    dataset = open_folder(root, split="mine.txt")
    (note,) = (note for note in dataset.notes if "outside" in note)
    assert note.startswith(f"the lists name 3 files outside {root}: ")


@pytest.mark.parametrize("home", ["images", "masks", "unlabelled"])
def test_a_pipe_is_never_opened(tmp_path, home):
    write_pairs(tmp_path, 16)
    (tmp_path / home).mkdir(exist_ok=True)
    os.mkfifo(tmp_path / home / "p.png")
    dataset = open_folder(tmp_path)
    dataset.check()
    assert "1 special file" in summary_of_files(dataset)
    (tmp_path / "mine.txt").write_text(
        f"images/00.jpg {home}/p.png" if home == "masks" else f"{home}/p.png masks/00.png"
    )
    refusal(lambda: open_folder(tmp_path, split="mine.txt"), f"{home}/p.png is no regular file")


def test_a_name_that_two_images_have_is_asked_about(tmp_path):
    write_pairs(tmp_path, 16)
    write_images(tmp_path, "unlabelled/03.jpg")
    (tmp_path / "mine.txt").write_text("03\n")
    refusal(lambda: open_folder(tmp_path, split="mine.txt"), "images/03.jpg and unlabelled/03.jpg are called so")
