"""Layouts that people have: where each finds images, masks and parts, and the error for one that cannot be read."""

import pytest

from helpers.errors import refusal
from helpers.folders import (
    open_folder,
    sample_names,
    write_five_pairs,
    write_images,
    write_masks,
    write_pairs,
    write_photos,
)


def test_usual_names_of_the_two_folders(tmp_path):
    for images, masks in (("Images", "labels"), ("img", "annotations"), ("image", "gt")):
        root = tmp_path / images
        write_images(root, *(f"{images}/{index}.jpg" for index in range(5)))
        write_masks(root, *(f"{masks}/{index}.png" for index in range(5)))
        dataset = open_folder(root)
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
    assert dataset.notes[-1] == "4 images of the test part are not used"


def test_one_folder_with_endings(tmp_path):
    write_images(tmp_path, *(f"a/{index}.jpg" for index in range(4)), "a/loose.jpg", "val/9.jpg", "unlabelled/8.jpg")
    write_masks(tmp_path, *(f"a/{index}_mask.png" for index in range(4)), "val/9-mask.png")
    dataset = open_folder(tmp_path)
    assert sample_names(dataset.labelled) == [f"a/{index}.jpg" for index in range(4)]
    assert sample_names(dataset.val) == ["val/9.jpg"]
    assert sorted(sample_names(dataset.unlabelled)) == ["a/loose.jpg", "unlabelled/8.jpg"]
    assert dataset.notes[1].startswith("layout suffix: masks in the folder of their images, recognised by their ending")


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


# --- names of masks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif"])
def test_a_piece_that_all_names_of_masks_share_is_no_class(tmp_path, suffix):
    endings = "{}_GT {}_labelTrainIds {}_Mask {}_annotation {}_L {}_segmentation {}-x1 {}.seg {}_MASK {}_colour_ids"
    for name in [*endings.split(), "{} mask", "gt_{}", "mask-{}", "trimaps/{}", "{}/label"]:
        root = tmp_path / name
        dataset = open_folder(write_five_pairs(root, f"masks/{name}{suffix}"))
        assert (len(dataset.labelled), len(dataset.val), len(dataset.class_names)) == (4, 1, 3), name
        masks = [str(sample.mask.relative_to(root)) for sample in dataset.labelled]
        assert [mask.count(sample.image.stem) for mask, sample in zip(masks, dataset.labelled, strict=True)] == [1] * 4
        assert "masks hold class ids" in dataset.notes[1], name
        assert dataset.notes[-2].endswith("left out: none"), name


@pytest.mark.parametrize("name", ["masks/{}_{}.png", "masks/{1}/{0}.png", "masks/{}/{}.png", "masks/{1}_{0}.png"])
def test_several_masks_an_image_of_many_values_are_no_classes(tmp_path, name):
    write_photos(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(tmp_path, *(name.format(stem, what) for stem in "ab" for what in ("ids", "colour")))
    refusal(lambda: open_folder(tmp_path), "colour, ids", "4 values", "not one file for each class", "move the others")


def test_one_mask_an_image_under_changing_names_is_no_class_file(tmp_path):
    write_photos(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(tmp_path, "masks/a_car.png", "masks/b_road.png")
    refusal(lambda: open_folder(tmp_path), "has no image", "none of 2 masks", "an ending that all masks share")


def test_a_class_file_of_three_values_is_refused_when_it_is_read(tmp_path):
    write_photos(tmp_path, *(f"images/{stem}.jpg" for stem in range(40)), size=(2, 2))
    write_masks(tmp_path, *(f"masks/{stem}_{what}.png" for stem in range(40) for what in "xy"), values=[[0, 9]] * 2)
    write_masks(tmp_path, "masks/7_y.png", values=[[0, 1], [2, 2]])
    refusal(lambda: open_folder(tmp_path).check(), "7_y.png", "3 values")


def test_a_class_called_like_a_part(tmp_path):
    write_photos(tmp_path, "images/a.jpg", "images/b.jpg")
    write_masks(
        tmp_path, *(f"masks/{what}/{stem}.png" for stem in "ab" for what in ("train", "car")), values=[[0, 9]] * 2
    )
    assert open_folder(tmp_path).class_names == ("background", "car", "train")


# --- parts ------------------------------------------------------------------------------------------------------------

PART_FOLDERS = [
    *(("Train", "Val", "Test"), ("TRAINING", "VALID", "TESTING"), ("training_set", "validate", "testing_set")),
    *(("train2017", "val2017", "test2017"), ("trainSet", "devSet", "HoldOut"), ("trn", "eval", "tst")),
    ("train images", "validation-images", "test.images"),
]


@pytest.mark.parametrize("name", ["{home}/{part}/{stem}", "{part}/{home}/{stem}", "{home}/site/{part}/{stem}"])
def test_parts_in_any_case_and_by_other_words(tmp_path, name):
    for train, val, test in PART_FOLDERS:
        root = tmp_path / f"data of {train}"
        for part, count in ((train, 3), (val, 2), (test, 4)):
            for stem in range(count):
                write_photos(root, name.format(home="images", part=part, stem=f"{stem}.jpg"))
                write_masks(root, name.format(home="masks", part=part, stem=f"{stem}.png"))
        dataset = open_folder(root)
        assert [train in sample for sample in sample_names(dataset.labelled)] == [True] * 3, train
        assert [val in sample for sample in sample_names(dataset.val)] == [True] * 2, val
        assert dataset.notes[-1] == "4 images of the test part are not used", test


@pytest.mark.parametrize("folder", ["test_site_3", "ValBridge", "my-dev-kit", "Evaluation day 2", "crack_test"])
def test_a_folder_that_mentions_a_part_is_asked_about(tmp_path, folder):
    write_pairs(tmp_path, 4)
    write_pairs(tmp_path, 2, f"{folder}/")
    refusal(lambda: open_folder(tmp_path), folder, "it would be used for training", "data.parts=")
    assert len(open_folder(tmp_path, parts={folder.upper(): "val"}).val) == 2
    assert len(open_folder(tmp_path, parts={folder: "train"}).val) == 1
    assert len(open_folder(tmp_path, parts={folder: "test"}).labelled) == 3
    refusal(lambda: open_folder(tmp_path, parts={folder: "tset"}), f"data.parts.{folder}", "did you mean 'test'")


def test_other_folders_are_no_parts(tmp_path):
    write_pairs(tmp_path, 4)
    for folder in ("valley", "Testarossa", "device", "trains", "contest", "2021"):
        write_pairs(tmp_path, 2, f"{folder}/")
    dataset = open_folder(tmp_path)
    assert len(dataset.labelled) + len(dataset.val) == 4 + 6 * 2
    assert "no val part found" in dataset.notes[0]


@pytest.mark.parametrize("home", ["", "Train/"])
def test_images_without_masks_in_any_case(tmp_path, home):
    folders = ["Unlabelled", "UNLABELED", "unlabeled_images", "unlabelledData", "no_labels"]
    write_pairs(tmp_path / home, 4)
    for folder in folders:
        write_images(tmp_path, f"{home}{folder}/u.jpg", f"{home}{folder}/deep/v.jfif")
    assert len(open_folder(tmp_path).unlabelled) == 2 * len(folders)


# --- one folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_name", "mask_name"),
    [("{}.bmp", "{}.png"), ("{}.jpg", "{}.png"), ("{}.JPEG", "{}.gif"), ("{}.png", "{}.tif"), ("{}.png", "{}_zz.png")],
)
def test_images_and_masks_of_one_name_in_one_folder(tmp_path, image_name, mask_name):
    dataset = open_folder(write_five_pairs(tmp_path, mask_name, image_name))
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
    dataset = open_folder(write_five_pairs(tmp_path, mask_name, image_name))
    assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
    assert all(sample.mask.name[:3] == sample.image.name[:3] for sample in dataset.labelled)


def test_two_suffixes_that_nothing_tells_apart_are_asked_about(tmp_path):
    write_photos(tmp_path, *(f"{stem}{suffix}" for stem in "abc" for suffix in (".png", ".bmp")))
    refusal(lambda: open_folder(tmp_path), "a.bmp", "a.png", "their pixels do not show", "masks/", "3 such pairs")


def test_a_mask_without_its_image_in_one_folder(tmp_path):
    write_five_pairs(tmp_path, "{}.png", "{}.jpg")
    (tmp_path / "a03.jpg").unlink()
    refusal(open_folder(tmp_path).check, "a03.png", "has no image")


def test_files_that_were_seen_are_named_where_no_layout_fits(tmp_path):
    write_photos(tmp_path, "a.png", "b.png", "images/c.jpg")
    refusal(lambda: open_folder(tmp_path), "there: images/, 2 files of .png")


def test_a_wrong_layout_says_what_each_is_for(tmp_path):
    write_five_pairs(tmp_path)
    refusal(
        lambda: open_folder(tmp_path, layout="beside"),
        "suffix (masks in the folder of their images, as a.jpg and a_mask.png)",
    )
