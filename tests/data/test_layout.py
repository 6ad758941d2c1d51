"""Layouts that people have: where each finds its images, and what is said of one that cannot be read."""

import io
import json
import os
import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.errors import refusal
from helpers.folders import open_folder, sample_names, write_images, write_masks, write_pairs
from ssss_zoo.commands.cli import command_line
from ssss_zoo.data.folder.file_tree import relative_name


@pytest.mark.parametrize(("images", "masks"), [("Images", "labels"), ("img", "annotations"), ("image", "gt")])
def test_usual_names_of_the_two_folders(tmp_path, images, masks):
    write_images(tmp_path, *(f"{images}/{index}.jpg" for index in range(5)))
    write_masks(tmp_path, *(f"{masks}/{index}.png" for index in range(5)))
    dataset = open_folder(tmp_path)
    assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
    assert dataset.notes[1].startswith(f"layout folders: {images}/ with {masks}/; masks hold class ids")


def test_folders_of_other_names_are_given(tmp_path):
    write_images(tmp_path, *(f"photos/{index}.jpg" for index in range(5)))
    write_masks(tmp_path, *(f"truth/{index}.png" for index in range(5)))
    refusal(lambda: open_folder(tmp_path), str(tmp_path), "photos/, truth/", "data.images and data.masks")
    assert len(open_folder(tmp_path, images="photos", masks="truth").labelled) == 4


@pytest.mark.parametrize("written", ["photos/", "./photos", "deep/photos"])
def test_folders_are_given_in_any_spelling(tmp_path, written):
    write_images(tmp_path, *(f"{written}/{index}.jpg" for index in range(5)))
    write_masks(tmp_path, *(f"truth/{index}.png" for index in range(5)))
    assert len(open_folder(tmp_path, images=written, masks="./truth/").labelled) == 4


@pytest.mark.parametrize("written", ["root/more", "root/../root/more", "{0}/root/more", "{0}/root/../pool"])
def test_unlabelled_folders_are_found_however_they_are_written(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "root", 4)
    write_images(tmp_path, "root/more/a.png", "pool/a.png")
    dataset = open_folder("root", unlabelled=[written.format(tmp_path)])
    assert len(dataset.unlabelled) == 1
    assert list(dataset.file_roles.values()).count("unlabelled image") == 1


def test_masks_may_have_an_ending(tmp_path):
    write_images(tmp_path, *(f"images/{index}.jpg" for index in range(5)))
    write_masks(tmp_path, *(f"masks/{index}_mask.png" for index in range(4)), "masks/4.png")
    dataset = open_folder(tmp_path)
    assert {sample.mask.name for sample in (*dataset.labelled, *dataset.val)} == {
        *(f"{index}_mask.png" for index in range(4)),
        "4.png",
    }


def test_parts_above_the_two_folders(tmp_path):
    for part, count in (("train", 3), ("valid", 2), ("test", 4)):
        write_pairs(tmp_path / part, count)
    write_images(tmp_path, "train/images/loose.png", "train/unlabelled/a.png", "unlabeled/b.png")
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.labelled) == [f"train/images/0{index}.jpg" for index in range(3)]
    assert sample_names(dataset.val) == ["valid/images/00.jpg", "valid/images/01.jpg"]
    assert sorted(sample_names(dataset.unlabelled)) == [
        "train/images/loose.png",
        "train/unlabelled/a.png",
        "unlabeled/b.png",
    ]
    assert dataset.notes[1].startswith("layout parts: train/images/ with train/masks/, valid/images/ with valid/masks/")
    assert dataset.notes[-1] == "4 images of the test part are left alone"


def test_one_folder_with_endings(tmp_path):
    write_images(tmp_path, *(f"a/{index}.jpg" for index in range(4)), "a/loose.jpg", "val/9.jpg", "unlabelled/8.jpg")
    write_masks(tmp_path, *(f"a/{index}_mask.png" for index in range(4)), "val/9-mask.png")
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.labelled) == [f"a/{index}.jpg" for index in range(4)]
    assert sample_names(dataset.val) == ["val/9.jpg"]
    assert sorted(sample_names(dataset.unlabelled)) == ["a/loose.jpg", "unlabelled/8.jpg"]
    assert dataset.notes[1].startswith("layout suffix: masks beside their images, told by their ending")


def test_two_layouts_at_once_ask_for_a_word(tmp_path):
    write_pairs(tmp_path, 3)
    write_pairs(tmp_path / "train", 2)
    refusal(lambda: open_folder(tmp_path), "two ways", "data.layout=folders", "data.layout=parts")
    assert len(open_folder(tmp_path, layout="folders").labelled) == 2
    assert sample_names(open_folder(tmp_path, layout="parts").labelled)[0].startswith("train/images/")
    refusal(lambda: open_folder(tmp_path, layout="part"), "data.layout", "did you mean 'parts'")


def test_a_layout_that_does_not_fit_is_named(tmp_path):
    write_pairs(tmp_path, 3)
    refusal(lambda: open_folder(tmp_path, layout="parts"), "data.layout=parts does not fit", "train/ and val/")


def test_two_folders_that_could_be_meant(tmp_path):
    write_pairs(tmp_path, 3)
    write_masks(tmp_path, *(f"labels/{index:02d}.png" for index in range(3)))
    refusal(lambda: open_folder(tmp_path), "labels/ and masks/", "data.masks=labels")
    assert open_folder(tmp_path, masks="labels").labelled[0].mask.parent.name == "labels"


def test_a_second_mask_of_an_image(tmp_path):
    write_pairs(tmp_path, 3)
    write_masks(tmp_path, "masks/01_mask.png")
    refusal(open_folder(tmp_path).check, "masks/01.png", "masks/01_mask.png", "images/01.jpg")


def test_unlabelled_images_elsewhere(tmp_path):
    root = tmp_path / "root"
    write_pairs(root, 4)
    write_images(tmp_path, "pool/a.png", "pool/deep/b.png", "more/c.png")
    further = [str(tmp_path / "pool"), str(tmp_path / "more")]
    dataset = open_folder(root, unlabelled=further)
    assert [sample.image.name for sample in dataset.unlabelled] == ["a.png", "b.png", "c.png"]
    assert sample_names(dataset.unlabelled)[0] == (tmp_path / "pool/a.png").as_posix()
    refusal(lambda: open_folder(root, unlabelled=[str(tmp_path / "none")]), "none", "data.unlabelled")


def test_a_csv_names_the_labelled_images(tmp_path):
    write_pairs(tmp_path, 6)
    (tmp_path / "mine.csv").write_text("image,mask\nimages/01.jpg,masks/01.png\nimages/03.jpg,masks/03.png\n")
    assert sample_names(open_folder(tmp_path, split="mine.csv").labelled) == ["images/01.jpg", "images/03.jpg"]
    (tmp_path / "bare.csv").write_text("images/02.jpg;masks/02.png\n")
    assert sample_names(open_folder(tmp_path, split="bare.csv").labelled) == ["images/02.jpg"]
    refusal(lambda: open_folder(tmp_path, split="none.csv"), "none.csv", "data.split")


# --- one mask an image, whatever it is called -----------------------------------------------------------------------


def photo(root, *names, size=(16, 24)):
    """Images of many colours, no two of them alike."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / name)


def five(root, mask_name="masks/{}.png", image_name="images/{}.jpg"):
    photo(root, *(image_name.format(f"a{index:02d}") for index in range(5)))
    write_masks(root, *(mask_name.format(f"a{index:02d}") for index in range(5)))
    return root


@pytest.mark.parametrize(
    "name",
    [
        *(
            "{}_GT",
            "{}_labelTrainIds",
            "{}_Mask",
            "{}_annotation",
            "{}_L",
            "{}_segmentation",
            "{}-x1",
            "{}.seg",
            "{} mask",
        ),
        *("gt_{}", "mask-{}", "trimaps/{}", "{}/label", "{}_MASK", "{}_colour_ids"),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif"])
def test_what_all_masks_are_called_besides_is_no_class(tmp_path, name, suffix):
    dataset = open_folder(five(tmp_path, f"masks/{name}{suffix}"))
    assert (len(dataset.labelled), len(dataset.val), len(dataset.class_names)) == (4, 1, 3)
    assert all(str(sample.mask).count(sample.image.stem) == 1 for sample in dataset.labelled)
    assert "masks hold class ids" in dataset.notes[1]
    assert dataset.notes[-2].endswith("left out: none")


@pytest.mark.parametrize("name", ["masks/{}_{}.png", "masks/{1}/{0}.png", "masks/{}/{}.png", "masks/{1}_{0}.png"])
def test_several_masks_an_image_of_many_values_are_no_classes(tmp_path, name):
    photo(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(tmp_path, *(name.format(stem, what) for stem in "ab" for what in ("ids", "colour")))
    refusal(lambda: open_folder(tmp_path), "colour, ids", "4 values", "not one file for each class", "move the others")


def test_one_mask_an_image_under_changing_names_is_no_class_file(tmp_path):
    photo(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(tmp_path, "masks/a_car.png", "masks/b_road.png")
    refusal(lambda: open_folder(tmp_path), "has no image", "none of 2 masks", "one that all masks have")


def test_a_class_file_of_three_values_is_refused_when_it_is_read(tmp_path):
    photo(tmp_path, *(f"images/{stem}.jpg" for stem in range(40)), size=(2, 2))
    write_masks(tmp_path, *(f"masks/{stem}_{what}.png" for stem in range(40) for what in "xy"), values=[[0, 9]] * 2)
    write_masks(tmp_path, "masks/7_y.png", values=[[0, 1], [2, 2]])
    refusal(lambda: open_folder(tmp_path).check(), "7_y.png", "3 values")


def test_a_class_called_like_a_part(tmp_path):
    photo(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(
        tmp_path, *(f"masks/{what}/{stem}.png" for stem in "ab" for what in ("train", "car")), values=[[0, 9]] * 2
    )
    assert open_folder(tmp_path).class_names == ("background", "car", "train")


# --- parts ----------------------------------------------------------------------------------------------------------

THREE = [
    *(("Train", "Val", "Test"), ("TRAINING", "VALID", "TESTING"), ("training_set", "validate", "testing_set")),
    *(("train2017", "val2017", "test2017"), ("trainSet", "devSet", "HoldOut"), ("trn", "eval", "tst")),
    ("train images", "validation-images", "test.images"),
]


@pytest.mark.parametrize(("train", "val", "test"), THREE)
@pytest.mark.parametrize("name", ["{home}/{part}/{stem}", "{part}/{home}/{stem}", "{home}/site/{part}/{stem}"])
def test_parts_in_any_case_and_by_other_words(tmp_path, name, train, val, test):
    for part, count in ((train, 3), (val, 2), (test, 4)):
        for stem in range(count):
            photo(tmp_path, name.format(home="images", part=part, stem=f"{stem}.jpg"))
            write_masks(tmp_path, name.format(home="masks", part=part, stem=f"{stem}.png"))
    dataset = open_folder(tmp_path)
    assert (len(dataset.labelled), len(dataset.val)) == (3, 2)
    assert all(train in sample.name for sample in dataset.labelled)
    assert all(val in sample.name for sample in dataset.val)
    assert dataset.notes[-1] == "4 images of the test part are left alone"


@pytest.mark.parametrize("folder", ["test_site_3", "ValBridge", "my-dev-kit", "Evaluation day 2", "crack_test"])
def test_a_folder_that_speaks_of_a_part_is_asked_about(tmp_path, folder):
    write_pairs(tmp_path, 4)
    write_pairs(tmp_path, 2, f"{folder}/")
    refusal(lambda: open_folder(tmp_path), folder, "it would be trained on", "data.parts=")
    assert len(open_folder(tmp_path, parts={folder.upper(): "val"}).val) == 2
    assert len(open_folder(tmp_path, parts={folder: "train"}).val) == 1
    assert len(open_folder(tmp_path, parts={folder: "test"}).labelled) == 3
    refusal(lambda: open_folder(tmp_path, parts={folder: "tset"}), f"data.parts.{folder}", "did you mean 'test'")


@pytest.mark.parametrize("folder", ["valley", "Testarossa", "device", "trains", "contest", "2021"])
def test_other_folders_are_no_parts(tmp_path, folder):
    write_pairs(tmp_path, 4)
    write_pairs(tmp_path, 2, f"{folder}/")
    assert len(open_folder(tmp_path).labelled) == 5


@pytest.mark.parametrize("folder", ["Unlabelled", "UNLABELED", "unlabeled_images", "unlabelledData", "no_labels"])
@pytest.mark.parametrize("home", ["", "Train/"])
def test_images_without_masks_in_any_case(tmp_path, home, folder):
    write_pairs(tmp_path / home, 4)
    write_images(tmp_path, f"{home}{folder}/u.jpg", f"{home}{folder}/deep/v.jfif")
    assert len(open_folder(tmp_path).unlabelled) == 2


# --- nothing is left out, or taken in, without a word ---------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".jpe", ".jp2", ".tga", ".avif", ".JPG", ".pbm"])
def test_what_pillow_reads_is_read(tmp_path, suffix):
    write_pairs(tmp_path, 3)
    file_format = {".jfif": "JPEG", ".jpe": "JPEG", ".pbm": "PPM"}.get(suffix)
    Image.new("L" if suffix == ".pbm" else "RGB", (4, 4)).save(tmp_path / f"images/u{suffix}", file_format)
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.unlabelled) == [f"images/u{suffix}"]
    assert dataset.read_image(dataset.unlabelled[0]).shape == (4, 4, 3)


@pytest.mark.parametrize("suffix", [".heic", ".npy", ".CR2", ".mp4"])
def test_pictures_that_are_not_read_are_counted_with_the_way_out(tmp_path, suffix):
    write_pairs(tmp_path, 3)
    (tmp_path / "unlabelled").mkdir()
    for stem in "ab":
        (tmp_path / f"unlabelled/{stem}{suffix}").touch()
    dataset = open_folder(tmp_path)
    told = f"2 {suffix.lower()} files, such as unlabelled/a{suffix} (convert them to PNG, JPEG or TIFF)"
    assert told in dataset.notes[2]
    (fault,) = dataset.faults
    assert (fault.level, fault.kind) == ("warning", "left out")
    assert f"2 {suffix.lower()} files" in fault.message
    assert dataset.file_roles[f"unlabelled/a{suffix}"].startswith("left out: ")
    dataset.check()  # a warning stops no run


@pytest.mark.parametrize(
    "name", ["masks/03.npy", "masks/03_mask.heic", "masks/03.nii.gz", "masks/03.txt", "masks/03.json"]
)
def test_what_is_called_like_the_mask_of_an_image_without_one_is_a_fault(tmp_path, name):
    write_pairs(tmp_path, 3)
    write_images(tmp_path, "images/03.jpg")
    (tmp_path / name).touch()
    refusal(open_folder(tmp_path).check, "images/03.jpg", "no mask that can be read", name)


@pytest.mark.parametrize("name", ["b_mask.npy", "b-label.heic", "b.json"])
@pytest.mark.parametrize("home", ["images", "unlabelled"])
def test_a_mask_that_is_not_read_beside_an_image_without_one_is_a_fault(tmp_path, home, name):
    write_pairs(tmp_path, 3)
    photo(tmp_path, f"{home}/b.jpg")
    (tmp_path / home / name).write_text('{"shapes": [], "imageHeight": 2, "imageWidth": 2}')
    refusal(open_folder(tmp_path).check, f"{home}/{name}")


def test_other_files_beside_an_image_are_no_masks(tmp_path):
    write_pairs(tmp_path, 3)
    for name in ("b.jpg", "b.xml", "b.json", "b.txt", "b.jpg.aux.xml", "b_notes.md"):
        (
            photo(tmp_path, f"unlabelled/{name}")
            if name == "b.jpg"
            else (tmp_path / "unlabelled" / name).write_text("{}")
        )
    assert open_folder(tmp_path).faults == []


@pytest.mark.parametrize("home", ["images", "unlabelled"])
def test_a_mask_among_images_is_a_fault(tmp_path, home):
    write_pairs(tmp_path, 3)
    photo(tmp_path, f"{home}/b.jpg")
    write_masks(tmp_path, f"{home}/b_Mask.png")
    refusal(open_folder(tmp_path).check, f"{home}/b_Mask.png is called like the mask of", "move it to the masks")


def test_an_image_that_is_not_read_is_told_of_where_its_mask_is(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "images/01.jpg").rename(tmp_path / "images/01.heic")
    refusal(open_folder(tmp_path).check, "masks/01.png", "images/01.heic is a .heic file", "convert")


def test_one_name_in_two_spellings_of_unicode_pairs(tmp_path):
    for stem in range(5):
        composed, parted = (unicodedata.normalize(form, f"straße_é_{stem}") for form in ("NFC", "NFD"))
        photo(tmp_path, f"images/{composed}.jpg", size=(2, 2))
        write_masks(tmp_path, f"masks/{parted}.png")
    dataset = open_folder(tmp_path)
    assert len(dataset.labelled) == 4
    dataset.check()


# --- one folder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [("{}.bmp", "{}.png"), ("{}.jpg", "{}.png"), ("{}.JPEG", "{}.gif"), ("{}.png", "{}.tif"), ("{}.png", "{}_zz.png")],
)
def test_images_and_masks_of_one_name_in_one_folder(tmp_path, image_name, mask_name):
    dataset = open_folder(five(tmp_path, mask_name, image_name))
    assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
    assert all(sample.mask.name == mask_name.format(sample.image.stem) for sample in dataset.labelled)


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [
        ("images/{}_sat.jpg", "masks/{}_mask.png"),
        ("images/{}_leftImg8bit.png", "masks/{}_gtFine_labelIds.png"),
        ("images/{}_image.jpg", "masks/{}_truth.png"),
        ("{}_sat.jpg", "{}_mask.png"),
        ("{}-photo.jpg", "{}_gt.png"),
    ],
)
def test_images_and_masks_may_have_an_ending_each(tmp_path, image_name, mask_name):
    dataset = open_folder(five(tmp_path, mask_name, image_name))
    assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
    assert all(sample.mask.name[:3] == sample.image.name[:3] for sample in dataset.labelled)


def test_two_suffixes_that_nothing_tells_apart_are_asked_about(tmp_path):
    photo(tmp_path, *(f"{stem}{suffix}" for stem in "abc" for suffix in (".png", ".bmp")))
    refusal(lambda: open_folder(tmp_path), "a.bmp", "a.png", "nothing in them tells", "masks/", "3 pairs")


def test_a_mask_without_its_image_in_one_folder(tmp_path):
    five(tmp_path, "{}.png", "{}.jpg")
    (tmp_path / "a03.jpg").unlink()
    refusal(open_folder(tmp_path).check, "a03.png", "has no image")


def test_files_that_were_seen_are_named_where_no_layout_fits(tmp_path):
    photo(tmp_path, "a.png", "b.png", "images/c.jpg")
    refusal(lambda: open_folder(tmp_path), "there: images/, 2 files of .png")


def test_a_wrong_layout_says_what_each_is_for(tmp_path):
    five(tmp_path)
    refusal(lambda: open_folder(tmp_path, layout="beside"), "suffix (masks beside their images, a.jpg and a_mask.png)")


# --- the law: every file below the root has one line, and what is read is what the line says ------------------------

JPEG, PNG = io.BytesIO(), io.BytesIO()
Image.new("RGB", (2, 2)).save(JPEG, "JPEG")
Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).save(PNG, "PNG")
HOMES = [
    "images",
    "masks",
    "unlabelled",
    "images/val",
    "masks/val",
    "images/Test",
    "images/site",
    "masks/site",
    "extra",
    "",
]
FILES = st.tuples(
    st.sampled_from([*HOMES, ".git", "__MACOSX"]),
    st.sampled_from(["p.jpg", "p.png", "p_mask.png", "q.jpg", "q.gif", ".r.png", "s.heic", "notes.md", "t", "q.npy"]),
)
STRANGE = st.tuples(st.sampled_from(["pipe.jpg", "lost.png", "circle", "empty"]), st.sampled_from(HOMES))


def planted(root, files, strange):
    """Two pairs, and whatever is asked for."""
    for name in ("images/k.jpg", "images/l.jpg", "masks/k.png", "masks/l.png", *("/".join(file) for file in files)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((PNG if "mask" in name else JPEG).getvalue())
    (root / "classes.txt").write_text("a\nb\n")
    for name, home in strange:
        path = root / home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink() and not path.exists():
            {"pipe.jpg": os.mkfifo, "lost.png": lambda p: p.symlink_to("nowhere"), "empty": os.mkdir,
             "circle": lambda p: p.symlink_to(root)}[name](path)  # fmt: skip


def every_path(folder):
    """All there is below a folder, hidden folders, links and empty ones not looked into."""
    for path in folder.iterdir():
        closed = path.name.startswith((".", "__")) or path.is_symlink()
        if path.is_dir() and not closed and any(path.iterdir()):
            yield from every_path(path)
        else:
            yield path


@settings(deadline=None, max_examples=40)
@given(st.lists(FILES, max_size=14), st.lists(STRANGE, max_size=3))
def test_every_file_is_accounted_for_once_and_read_as_it_is_said(files, strange):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        planted(root, files, strange)
        dataset = open_folder(root)
        assert set(dataset.file_roles) == {relative_name(path, root) for path in every_path(root)}
        read = [name for name, fate in dataset.file_roles.items() if not fate.startswith("left out: ")]
        samples = [*dataset.labelled, *dataset.unlabelled, *dataset.val]
        used = {relative_name(path, root) for sample in samples for path in (sample.image, sample.mask) if path}
        assert set(read) == used | {"classes.txt"}
        assert sum(map(int, re.findall(r"(?:read: |out: |, |; )(\d+) ", summary_of(dataset)))) == len(
            dataset.file_roles
        )


def summary_of(dataset):
    (line,) = (note for note in dataset.notes if note.startswith("files read: "))
    return line


# --- lists that lie in the folder -----------------------------------------------------------------------------------


def sixteen(root):
    write_pairs(root, 16)
    return root


def write_list(path, numbers, line="images/{0:02d}.jpg masks/{0:02d}.png", head=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*([head] if head else []), *(line.format(number) for number in numbers)]))


def numbers_of(samples):
    return {int(sample.image.stem) for sample in samples}


def parts_of(dataset):
    return [numbers_of(samples) for samples in (dataset.labelled, dataset.unlabelled, dataset.val)]


@pytest.mark.parametrize("place", ["", "splits/", "lists/"])
@pytest.mark.parametrize("line", ["images/{0:02d}.jpg masks/{0:02d}.png", "images/{:02d}.jpg", "{:02d}.jpg", "{:02d}"])
@pytest.mark.parametrize(("train", "val"), [("train.txt", "val.txt"), ("Training_Set.lst", "validation-list.txt")])
def test_lists_that_lie_there_are_used(tmp_path, place, line, train, val):
    sixteen(tmp_path)
    write_list(tmp_path / f"{place}{train}", range(6), line)
    write_list(tmp_path / f"{place}{val}", range(6, 10), line)
    assert parts_of(open_folder(tmp_path)) == [set(range(6)), set(range(10, 16)), set(range(6, 10))]
    write_list(tmp_path / f"{place}test.txt", range(10, 14), line)
    for split in ("all", f"{place}{train}"):
        dataset = open_folder(tmp_path, split=split)
        assert parts_of(dataset) == [set(range(6)), {14, 15}, set(range(6, 10))]
        assert f"{place}{val} (val: 4)" in dataset.notes[2]
        assert dataset.file_roles["images/10.jpg"] == "left out: image of the test part"
    assert len(open_folder(tmp_path, split="1/2").labelled) == 3


def test_a_train_list_that_is_all_there_is(tmp_path):
    write_list(sixteen(tmp_path) / "train.txt", range(8))
    write_list(tmp_path / "test.txt", range(8, 16))
    labelled, unlabelled, val = parts_of(open_folder(tmp_path))
    assert (labelled | val, labelled & val, unlabelled) == (set(range(8)), set(), labelled)


def test_labelled_and_unlabelled_lists(tmp_path):
    write_list(sixteen(tmp_path) / "labeled.txt", range(4))
    write_list(tmp_path / "unlabeled.txt", range(3, 8))
    write_list(tmp_path / "val.txt", range(8, 10))
    dataset = open_folder(tmp_path)
    assert parts_of(dataset) == [set(range(4)), set(range(4, 8)), {8, 9}]
    assert "1 images are in two lists, labeled.txt and unlabeled.txt, such as images/03.jpg" in dataset.notes[3]
    assert dataset.file_roles["images/15.jpg"] == "left out: image that no list names"


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("labelled", "test"), ("unlabelled", "val")])
def test_an_image_in_two_lists_is_named_with_both(tmp_path, one, other):
    write_list(sixteen(tmp_path) / f"{one}.txt", range(8))
    write_list(tmp_path / f"{other}.txt", range(7, 16))
    refusal(
        lambda: open_folder(tmp_path), "images/07.jpg", f"{one}.txt ({one})", f"{other}.txt ({other})", "take it off"
    )


def test_two_lists_of_one_part_are_asked_about_and_the_first_place_counts(tmp_path):
    write_list(sixteen(tmp_path) / "val.txt", range(4))
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
    write_list(sixteen(tmp_path) / name, range(4), line, head="image,area" if name.endswith("csv") else "")
    (tmp_path / "README.txt").write_text("hello\n")
    dataset = open_folder(tmp_path)
    assert [note for note in dataset.notes if note.startswith(f"{name} is not used: ") and why in note]
    assert [(fault.level, fault.kind, fault.name) for fault in dataset.faults] == [("warning", "list", name)]
    assert dataset.file_roles[name] == "left out: unused list"
    assert dataset.file_roles["README.txt"] == "left out: .txt file"


def test_a_list_with_one_wrong_line_is_not_passed_over(tmp_path):
    write_list(sixteen(tmp_path) / "val.txt", [1, 2, 99])
    refusal(lambda: open_folder(tmp_path), "val.txt line 3", "no image")
    (tmp_path / "val.txt").write_bytes("images/01.jpg".encode("utf-16"))
    refusal(lambda: open_folder(tmp_path), "val.txt", "UTF-8")


# --- columns by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["all", "parts.csv"])
@pytest.mark.parametrize("gap", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("image,mask,split", "images/{0:02d}.jpg,masks/{0:02d}.png,{1}"),
        ("Subset,File_Name", "{1},{0:02d}.jpg"),
        ("gt,PART,img", "None,{1},images/{0:02d}.jpg"),
    ],
)
def test_columns_are_read_by_name_in_any_order(tmp_path, split, gap, head, line):
    words = ["train", "TRAINING", "Val", "testing", "unlabeled"]
    rows = [line.format(number, words[number // 2]) for number in range(10)]
    (sixteen(tmp_path) / "parts.csv").write_text("\n".join([head, *rows]).replace(",", gap))
    assert parts_of(open_folder(tmp_path, split=split)) == [{0, 1, 2, 3}, {8, 9}, {4, 5}]


def test_rows_of_a_test_part_are_not_trained_on_and_val_is_held_out(tmp_path):
    rows = [f"images/{n:02d}.jpg,masks/{n:02d}.png,{'train' if n < 6 else 'test'}" for n in range(16)]
    (sixteen(tmp_path) / "parts.csv").write_text("\n".join(["image,mask,split", *rows]))
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
    (sixteen(tmp_path) / "parts.csv").write_text(
        f"{head}\n" + ",".join(["images/00.jpg", "", "x", "x"][: head.count(",") + 1])
    )
    refusal(lambda: open_folder(tmp_path, split=split), "parts.csv", *words)


def test_columns_without_names(tmp_path):
    (sixteen(tmp_path) / "mine.csv").write_text("images/00.jpg,masks/00.png,test\n")
    refusal(lambda: open_folder(tmp_path, split="mine.csv"), "line 1 has 3 columns", "image,mask,split")


# --- what lists may name --------------------------------------------------------------------------------------------


def test_a_list_names_files_in_any_spelling(tmp_path):
    sixteen(tmp_path)
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


def test_files_outside_the_root_are_told_of_once(tmp_path):
    root = sixteen(tmp_path / "root")
    write_pairs(tmp_path / "other", 3)
    (root / "mine.txt").write_text(
        f"../other/images/00.jpg ../other/masks/00.png\n{tmp_path}/other/images/01.jpg masks/01.png\nimages/02.jpg\n"
    )
    dataset = open_folder(root, split="mine.txt")
    (told,) = (note for note in dataset.notes if "outside" in note)
    assert told.startswith(f"the lists name 3 files outside {root}: ")


@pytest.mark.parametrize("home", ["images", "masks", "unlabelled"])
def test_a_pipe_is_never_opened(tmp_path, home):
    sixteen(tmp_path)
    (tmp_path / home).mkdir(exist_ok=True)
    os.mkfifo(tmp_path / home / "p.png")
    dataset = open_folder(tmp_path)
    dataset.check()
    assert "1 special file" in summary_of(dataset)
    (tmp_path / "mine.txt").write_text(
        f"images/00.jpg {home}/p.png" if home == "masks" else f"{home}/p.png masks/00.png"
    )
    refusal(lambda: open_folder(tmp_path, split="mine.txt"), f"{home}/p.png is no regular file")


def test_a_name_that_two_images_have_is_asked_about(tmp_path):
    sixteen(tmp_path)
    write_images(tmp_path, "unlabelled/03.jpg")
    (tmp_path / "mine.txt").write_text("03\n")
    refusal(lambda: open_folder(tmp_path, split="mine.txt"), "images/03.jpg and unlabelled/03.jpg are called so")


def test_a_json_of_the_check_has_every_file(tmp_path, capsys):
    sixteen(tmp_path)
    (tmp_path / "notes.md").touch()
    command_line(["data", "check", "--json", "dataset=folder", f"data.root={tmp_path}"])
    files = json.loads(capsys.readouterr().out)["files"]
    assert files["notes.md"] == "left out: .md file"
    assert len(files) == 33
