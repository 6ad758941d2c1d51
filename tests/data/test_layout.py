"""Layouts that people have: where each finds its images, and what is said of one that cannot be read."""

import pytest
from test_folder import image, mask, names, pairs, refusal

from ssss_zoo.config import DataConfig
from ssss_zoo.data.folder import Folder


def opened(root, **settings):
    return Folder(DataConfig(root=str(root), **settings))


@pytest.mark.parametrize(("images", "masks"), [("Images", "labels"), ("img", "annotations"), ("image", "gt")])
def test_usual_names_of_the_two_folders(tmp_path, images, masks):
    image(tmp_path, *(f"{images}/{index}.jpg" for index in range(5)))
    mask(tmp_path, *(f"{masks}/{index}.png" for index in range(5)))
    dataset = opened(tmp_path)
    assert (len(dataset.labelled), len(dataset.val)) == (4, 1)
    assert dataset.notes[1].startswith(f"layout folders: {images}/ with {masks}/; masks hold class ids")


def test_folders_of_other_names_are_given(tmp_path):
    image(tmp_path, *(f"photos/{index}.jpg" for index in range(5)))
    mask(tmp_path, *(f"truth/{index}.png" for index in range(5)))
    refusal(lambda: opened(tmp_path), str(tmp_path), "photos/, truth/", "data.images and data.masks")
    assert len(opened(tmp_path, images="photos", masks="truth").labelled) == 4


def test_masks_may_have_an_ending(tmp_path):
    image(tmp_path, *(f"images/{index}.jpg" for index in range(5)))
    mask(tmp_path, *(f"masks/{index}_mask.png" for index in range(4)), "masks/4.png")
    dataset = opened(tmp_path)
    assert {sample.mask.name for sample in (*dataset.labelled, *dataset.val)} == {
        *(f"{index}_mask.png" for index in range(4)),
        "4.png",
    }


def test_parts_above_the_two_folders(tmp_path):
    for part, count in (("train", 3), ("valid", 2), ("test", 4)):
        pairs(tmp_path / part, count)
    image(tmp_path, "train/images/loose.png", "train/unlabelled/a.png", "unlabeled/b.png")
    dataset = opened(tmp_path)
    assert names(dataset.labelled) == [f"train/images/0{index}.jpg" for index in range(3)]
    assert names(dataset.val) == ["valid/images/00.jpg", "valid/images/01.jpg"]
    assert sorted(names(dataset.unlabelled)) == ["train/images/loose.png", "train/unlabelled/a.png", "unlabeled/b.png"]
    assert dataset.notes[1].startswith("layout parts: train/images/ with train/masks/, valid/images/ with valid/masks/")
    assert dataset.notes[-1] == "4 images of the test part are left alone"


def test_one_folder_with_endings(tmp_path):
    image(tmp_path, *(f"a/{index}.jpg" for index in range(4)), "a/loose.jpg", "val/9.jpg", "unlabelled/8.jpg")
    mask(tmp_path, *(f"a/{index}_mask.png" for index in range(4)), "val/9-mask.png")
    dataset = opened(tmp_path)
    assert names(dataset.labelled) == [f"a/{index}.jpg" for index in range(4)]
    assert names(dataset.val) == ["val/9.jpg"]
    assert sorted(names(dataset.unlabelled)) == ["a/loose.jpg", "unlabelled/8.jpg"]
    assert dataset.notes[1].startswith("layout suffix: masks beside their images, told by their ending")


def test_two_layouts_at_once_ask_for_a_word(tmp_path):
    pairs(tmp_path, 3)
    pairs(tmp_path / "train", 2)
    refusal(lambda: opened(tmp_path), "two ways", "data.layout=folders", "data.layout=parts")
    assert len(opened(tmp_path, layout="folders").labelled) == 2
    assert names(opened(tmp_path, layout="parts").labelled)[0].startswith("train/images/")
    refusal(lambda: opened(tmp_path, layout="part"), "data.layout", "did you mean 'parts'")


def test_a_layout_that_does_not_fit_is_named(tmp_path):
    pairs(tmp_path, 3)
    refusal(lambda: opened(tmp_path, layout="parts"), "data.layout=parts does not fit", "train/ and val/")


def test_two_folders_that_could_be_meant(tmp_path):
    pairs(tmp_path, 3)
    mask(tmp_path, *(f"labels/{index:02d}.png" for index in range(3)))
    refusal(lambda: opened(tmp_path), "labels/ and masks/", "data.masks=labels")
    assert opened(tmp_path, masks="labels").labelled[0].mask.parent.name == "labels"


def test_a_second_mask_of_an_image(tmp_path):
    pairs(tmp_path, 3)
    mask(tmp_path, "masks/01_mask.png")
    refusal(opened(tmp_path).check, "masks/01.png", "masks/01_mask.png", "images/01.jpg")


def test_unlabelled_images_elsewhere(tmp_path):
    root = tmp_path / "root"
    pairs(root, 4)
    image(tmp_path, "pool/a.png", "pool/deep/b.png", "more/c.png")
    further = [str(tmp_path / "pool"), str(tmp_path / "more")]
    dataset = opened(root, unlabelled=further)
    assert [sample.image.name for sample in dataset.unlabelled] == ["a.png", "b.png", "c.png"]
    assert names(dataset.unlabelled)[0] == (tmp_path / "pool/a.png").as_posix()
    refusal(lambda: opened(root, unlabelled=[str(tmp_path / "none")]), "none", "data.unlabelled")


def test_a_csv_names_the_labelled_images(tmp_path):
    pairs(tmp_path, 6)
    (tmp_path / "mine.csv").write_text(
        "image,mask,who\nimages/01.jpg,masks/01.png,me\nimages/03.jpg,masks/03.png,you\n"
    )
    assert names(opened(tmp_path, split="mine.csv").labelled) == ["images/01.jpg", "images/03.jpg"]
    (tmp_path / "bare.csv").write_text("images/02.jpg;masks/02.png\n")
    assert names(opened(tmp_path, split="bare.csv").labelled) == ["images/02.jpg"]
    refusal(lambda: opened(tmp_path, split="none.csv"), "none.csv", "data.split")
