"""A folder of one's own: how each layout is read, and the error for a wrong one."""

import pytest

from helpers.errors import refusal
from helpers.folders import open_folder, sample_names, write_images, write_masks, write_pairs

# --- layouts --------------------------------------------------------------------------------------------------------


def test_pairs_by_stem_the_rest_is_unlabelled(tmp_path):
    write_pairs(tmp_path, 10)
    write_images(tmp_path, "images/extra.png", "unlabelled/a.JPG", "unlabelled/deep/b.tif", "unlabelled/.hidden.png")
    (tmp_path / "unlabelled/notes.md").touch()
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar")
    dataset = open_folder(tmp_path)
    assert (len(dataset.labelled), len(dataset.val)) == (8, 2)
    assert sample_names(dataset.unlabelled) == ["images/extra.png", "unlabelled/a.JPG", "unlabelled/deep/b.tif"]
    assert all(sample.mask == tmp_path / "masks" / f"{sample.image.stem}.png" for sample in dataset.labelled)
    assert dataset.notes == [
        "8 labelled, 2 held out for validation (no val part found), 3 unlabelled, 3 classes from classes.txt",
        "layout folders: images/ with masks/; masks hold class ids",
        "files read: 8 labelled images, 2 validation images, 3 unlabelled images, 10 masks, 1 class list; left out: "
        "1 .md file: unlabelled/notes.md; 1 hidden: unlabelled/.hidden.png",
    ]
    dataset.check()


def test_the_other_spelling_of_unlabelled(tmp_path):
    write_pairs(tmp_path, 2)
    write_images(tmp_path, "unlabeled/a.png")
    assert sample_names(open_folder(tmp_path).unlabelled) == ["unlabeled/a.png"]


def test_nested_parts(tmp_path):
    write_pairs(tmp_path, 3, "train/")
    write_pairs(tmp_path, 2, "val/")
    write_images(tmp_path, "images/train/loose.png")
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.labelled) == [f"images/train/0{index}.jpg" for index in range(3)]
    assert sample_names(dataset.val) == ["images/val/00.jpg", "images/val/01.jpg"]
    assert sample_names(dataset.unlabelled) == ["images/train/loose.png"]
    assert dataset.notes[0].startswith("3 labelled, 2 for validation (val part), 1 unlabelled")


def test_train_images_may_lie_beside_the_val_folder(tmp_path):
    write_pairs(tmp_path, 1)
    write_pairs(tmp_path, 1, "val/")
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.labelled) == ["images/00.jpg"]
    assert sample_names(dataset.val) == ["images/val/00.jpg"]


def test_linked_folders_are_followed(tmp_path):
    write_pairs(tmp_path / "elsewhere", 2)
    (tmp_path / "root/images").mkdir(parents=True)
    (tmp_path / "root/images/val").symlink_to(tmp_path / "elsewhere/images")
    (tmp_path / "root/masks").mkdir()
    (tmp_path / "root/masks/val").symlink_to(tmp_path / "elsewhere/masks")
    write_pairs(tmp_path / "root", 1)
    assert sample_names(open_folder(tmp_path / "root").val) == ["images/val/00.jpg", "images/val/01.jpg"]


def test_held_out_images_are_fixed_and_apart(tmp_path):
    write_pairs(tmp_path, 20)
    first, second = open_folder(tmp_path), open_folder(tmp_path)
    assert sample_names(first.val) == sample_names(second.val)
    assert len(first.val) == 4
    assert not set(sample_names(first.val)) & {*sample_names(first.labelled), *sample_names(first.unlabelled)}


def test_two_pairs_are_enough(tmp_path):
    write_pairs(tmp_path, 2)
    dataset = open_folder(tmp_path)
    assert (len(dataset.labelled), len(dataset.val)) == (1, 1)


def test_without_unlabelled_images_the_labelled_serve(tmp_path):
    write_pairs(tmp_path, 5)
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.unlabelled) == sample_names(dataset.labelled)
    assert "used as unlabelled" in dataset.notes[3]


# --- splits ---------------------------------------------------------------------------------------------------------


def test_shares_and_numbers_are_nested_and_leave_the_rest_unlabelled(tmp_path):
    write_pairs(tmp_path, 20)
    write_images(tmp_path, "unlabelled/a.png")
    chosen = {
        split: set(sample_names(open_folder(tmp_path, split=split).labelled))
        for split in ("1/8", "1/4", "1/2", "5", "all")
    }
    assert {split: len(found) for split, found in chosen.items()} == {"1/8": 2, "1/4": 4, "1/2": 8, "5": 5, "all": 16}
    assert chosen["1/8"] < chosen["1/4"] < chosen["5"] < chosen["1/2"] < chosen["all"]
    quarter = open_folder(tmp_path, split="1/4")
    assert len(quarter.unlabelled) == 13
    assert quarter.unlabelled[0].mask is not None  # hidden label, for diagnosis only
    assert sample_names(quarter.val) == sample_names(open_folder(tmp_path).val)


def test_a_share_is_at_least_one_image(tmp_path):
    write_pairs(tmp_path, 3)
    assert len(open_folder(tmp_path, split="1/100").labelled) == 1


@pytest.mark.parametrize("split", ["0", "17"])
def test_numbers_out_of_range(tmp_path, split):
    write_pairs(tmp_path, 20)
    refusal(lambda: open_folder(tmp_path, split=split), f"data.split={split}", "16")


@pytest.mark.parametrize("split", ["3/2", "0/4", "1/0", "al", "half"])
def test_unknown_split(tmp_path, split):
    write_pairs(tmp_path, 5)
    refusal(lambda: open_folder(tmp_path, split=split), f"data.split={split}", "a share such as 1/4", "all")


def test_path_of_a_labelled_list(tmp_path):
    write_pairs(tmp_path, 10)
    write_images(tmp_path, "unlabelled/a.png")
    (tmp_path / "mine.txt").write_text("images/03.jpg masks/03.png\nimages/05.jpg masks/05.png\n")
    dataset = open_folder(tmp_path, split="mine.txt")
    assert sample_names(dataset.labelled) == ["images/03.jpg", "images/05.jpg"]
    assert (len(dataset.val), len(dataset.unlabelled)) == (2, 7)
    assert not set(sample_names(dataset.val)) & {*sample_names(dataset.labelled), *sample_names(dataset.unlabelled)}


def test_split_lists_of_its_own(tmp_path):
    write_pairs(tmp_path, 10)
    line = "images/{0}.jpg masks/{0}.png".format
    (tmp_path / "splits/1_4").mkdir(parents=True)
    (tmp_path / "splits/1_4/labelled.txt").write_text(line("00"))
    (tmp_path / "splits/1_4/unlabelled.txt").write_text("images/01.jpg\nimages/02.jpg")
    (tmp_path / "splits/val.txt").write_text(line("09"))
    dataset = open_folder(tmp_path, split="1/4")
    assert sample_names(dataset.labelled) == ["images/00.jpg"]
    assert sample_names(dataset.unlabelled) == ["images/01.jpg", "images/02.jpg"]
    assert sample_names(dataset.val) == ["images/09.jpg"]
    assert len(open_folder(tmp_path, split="1/2").labelled) == 5  # of 9: no list of that name: a share
    (tmp_path / "splits/val.txt").write_text(line("00"))
    refusal(lambda: open_folder(tmp_path, split="1/4"), "images/00.jpg", "1_4/labelled.txt (labelled)", "val.txt (val)")


# --- classes --------------------------------------------------------------------------------------------------------


def test_classes_from_the_values_of_the_masks(tmp_path):
    write_pairs(tmp_path, 5)
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("class_0", "class_1", "class_2")
    assert len(set(dataset.colours)) == 3
    assert dataset.notes[0].endswith("3 classes from the values of the masks")


def test_colours_from_the_class_list(tmp_path):
    write_pairs(tmp_path, 5)
    (tmp_path / "classes.txt").write_text("a 1 2 3\nb 4 5 6\nc 7 8 9\n")
    assert open_folder(tmp_path).colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[0, 255]], ["0/255", "data.encoding=values"]),
        ([[0, 128]], ["0, 128", "grey levels", "data.encoding=values"]),
        ([[0, 85, 170]], ["170", "grey"]),
    ],
)
def test_values_that_cannot_be_classes(tmp_path, values, words):
    write_pairs(tmp_path, 4)
    write_masks(tmp_path, *(f"masks/0{index}.png" for index in range(4)), values=values)
    refusal(lambda: open_folder(tmp_path), str(tmp_path), *words)


def test_check_of_a_class_list_that_is_too_short(tmp_path):
    write_pairs(tmp_path, 4)
    (tmp_path / "classes.txt").write_text("a\nb")
    refusal(open_folder(tmp_path).check, "masks/0", "holds 2 (1 pixels)", "ids are 0 to 1")


def test_a_colour_mask_among_others_is_named(tmp_path):
    write_pairs(tmp_path, 20)
    write_masks(tmp_path, "masks/13.png", values=[[[255, 0, 0]] * 2] * 2)
    refusal(lambda: open_folder(tmp_path), "masks/13.png", "colour masks are not class ids")


# --- wrong layouts --------------------------------------------------------------------------------------------------


def test_missing_parts(tmp_path):
    refusal(lambda: open_folder(tmp_path), str(tmp_path), "images/")
    write_images(tmp_path, "images/a.png")
    refusal(lambda: open_folder(tmp_path), str(tmp_path), "masks/")
    (tmp_path / "masks").mkdir()
    refusal(lambda: open_folder(tmp_path), str(tmp_path / "masks"), "no image in", ".png")


def test_mask_without_an_image(tmp_path):
    write_pairs(tmp_path, 3)
    write_masks(tmp_path, "masks/x.png", "masks/y_mask.png")
    refusal(open_folder(tmp_path).check, "masks/x.png", "no image", "2 files have this fault", "_mask")
    (tmp_path / "images").rename(tmp_path / "old")
    write_images(tmp_path, "images/z.png")
    refusal(lambda: open_folder(tmp_path), "masks/00.png", "none of 5 masks")


def test_two_images_of_one_stem(tmp_path):
    write_pairs(tmp_path, 3)
    write_images(tmp_path, "images/01.png")
    refusal(open_folder(tmp_path).check, "images/01.jpg", "images/01.png", "same name")


def test_too_few_labelled_images_to_hold_one_out(tmp_path):
    write_pairs(tmp_path, 1)
    refusal(lambda: open_folder(tmp_path), "1 labelled images", "at least 2", "images/val")


def test_val_image_without_a_mask(tmp_path):
    write_pairs(tmp_path, 3)
    write_images(tmp_path, "images/val/a.png")
    refusal(open_folder(tmp_path).check, "images/val/a.png", "no mask")
