"""Every damaged or mistaken file gives one line that names it; every readable one gives the right pixels."""

import numpy as np
import pytest
from PIL import Image

from helpers.errors import refusal
from helpers.images import save_image
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data.files import FileDataset, read_mask
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.data.images import Reading, image_size, read_image
from ssss_zoo.toolkit.types import Sample

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, GREY + 1, GREY + 2], axis=2)


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "channels", "expected"),
    [
        ("RGB", 3, RGB),
        ("L", 1, GREY[:, :, None]),
        ("L", 3, np.repeat(GREY[:, :, None], 3, axis=2)),
        ("LA", 3, np.repeat(GREY[:, :, None], 3, axis=2)),
        ("RGBA", 3, RGB),
        ("RGBA", 4, np.dstack([RGB, np.full_like(GREY, 255)])),
    ],
)
def test_image_has_the_expected_channels(tmp_path, mode, channels, expected):
    path = save_image(tmp_path / "a.png", RGB if "RGB" in mode else GREY, mode)
    np.testing.assert_array_equal(read_image(path, Reading(channels)), expected)
    assert image_size(path, Reading(channels)) == (3, 4)


def test_palette_image_is_read_in_its_colours(tmp_path):
    path = tmp_path / "a.png"
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(path, transparency=b"\x00\xff")
    np.testing.assert_array_equal(read_image(path, Reading(3)), [[[10, 20, 30], [40, 50, 60]]])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation_is_applied_to_pixels_and_size(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = save_image(tmp_path / f"a.{suffix}", np.repeat(RGB, 8, axis=0).repeat(8, axis=1), exif=exif)
    upright = read_image(path, Reading(3))
    assert upright.shape == (32, 24, 3)
    assert image_size(path, Reading(3)) == (32, 24)
    assert upright[0, -1, 0] < upright[0, 0, 0]  # the dark upper left corner is now on the right


def test_image_with_other_channels_names_both_counts(tmp_path):
    path = save_image(tmp_path / "a.png", RGB)
    refusal(lambda: read_image(path, Reading(1)), str(path), "3 channels", "expected 1")
    refusal(lambda: image_size(path, Reading(5)), str(path), "3 channels", "expected 5")


def test_16_bit_image_is_refused(tmp_path):
    path = save_image(tmp_path / "a.png", GREY.astype(np.uint16))
    refusal(lambda: read_image(path, Reading(3)), str(path), "16-bit")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_truncated_file_is_named(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save_image(tmp_path / f"a.{suffix}", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refusal(lambda: read_image(path, Reading(3)), str(path))


def test_missing_empty_and_foreign_files_say_so(tmp_path):
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("hello")
    for read in (lambda path: read_image(path, Reading(3)), lambda path: image_size(path, Reading(3)), read_mask):
        refusal(lambda read=read: read(tmp_path / "none.png"), "none.png", "no such file")
        refusal(lambda read=read: read(empty), str(empty), "empty")
        refusal(lambda read=read: read(text), str(text), "not an image")
        refusal(lambda read=read: read(tmp_path), str(tmp_path), "directory")


# --- masks ----------------------------------------------------------------------------------------------------------


def test_mask_values_are_read_as_stored(tmp_path):
    ids = np.array([[0, 1, 254, 255]], np.uint8)
    np.testing.assert_array_equal(read_mask(save_image(tmp_path / "grey.png", ids)), ids)
    np.testing.assert_array_equal(read_mask(save_image(tmp_path / "deep.png", ids.astype(np.uint16))), ids)
    np.testing.assert_array_equal(read_mask(save_image(tmp_path / "bits.png", ids[:, :2] * 255, "1")), [[0, 1]])
    palette = Image.fromarray(ids, "P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "palette.png")
    mask = read_mask(tmp_path / "palette.png")
    np.testing.assert_array_equal(mask, ids)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_mask_is_refused(tmp_path, mode):
    path = save_image(tmp_path / "m.png", RGB, mode)
    refusal(lambda: read_mask(path), str(path), "colour masks are not class ids", "data.encoding=colours")


def test_deep_and_lossy_masks_are_refused(tmp_path):
    deep = save_image(tmp_path / "m.png", GREY.astype(np.uint16) * 100)
    refusal(lambda: read_mask(deep), str(deep), "22000", "data.ignore=[22000]")
    refusal(lambda: read_mask(save_image(tmp_path / "m.jpg", GREY)), "m.jpg", "JPEG", "PNG")
    refusal(lambda: read_mask(save_image(tmp_path / "m.webp", GREY)), "m.webp", "lossy WebP", "PNG")
    refusal(lambda: read_mask(save_image(tmp_path / "m.tif", GREY, compression="jpeg")), "m.tif", "jpeg", "PNG")
    halves = save_image(tmp_path / "f.tif", GREY.astype(np.float32) / 8)
    refusal(lambda: read_mask(halves), "f.tif", "2.5", "6 of 12 pixels", "whole numbers")


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp"])
def test_a_mask_of_several_pages_is_refused(tmp_path, suffix):
    pages = [Image.fromarray(np.full((8, 8), number, np.uint8)) for number in (1, 90)]
    pages[0].save(tmp_path / f"m.{suffix}", save_all=True, append_images=pages[1:], lossless=True)
    refusal(lambda: read_mask(tmp_path / f"m.{suffix}"), f"m.{suffix}", "2 pages" if suffix == "tif" else "2 frames")


# --- the check before the first step --------------------------------------------------------------------------------


class Pairs(FileDataset):
    """Labelled pairs and as many of val, of the masks given; two unlabelled images."""

    def __init__(self, folder, masks, classes=3, val=None, size=None):
        self.class_names = tuple("abcdefgh"[:classes])
        self.labelled = [self.pair(folder, f"{i}", mask, size) for i, mask in enumerate(masks)]
        self.val = [self.pair(folder, f"v{i}", mask, None) for i, mask in enumerate(masks if val is None else val)]
        self.unlabelled = [
            Sample(n, save_image(folder / f"{n}.png", np.zeros((2, 2, 3), np.uint8))) for n in ("u0", "u1")
        ]

    @staticmethod
    def pair(folder, name, mask, size):
        mask = np.asarray(mask, np.uint8)
        shade = sum(name.encode()) % 256  # no image is the copy of another
        image = save_image(folder / f"{name}.png", np.full((*(size or mask.shape), 3), shade, np.uint8))
        return Sample(name, image, save_image(folder / f"{name}_mask.png", mask))


def test_check_accepts_good_pairs_down_to_one_pixel(tmp_path):
    dataset = Pairs(tmp_path, [[[0, 1], [2, 255]], [[1]], [[255]]], val=[[[0]]])
    dataset.check()
    assert list(dataset.notes) == []


def test_check_notes_classes_without_a_labelled_pixel(tmp_path):
    dataset = Pairs(tmp_path, [[[0, 1]]])
    dataset.check()
    assert dataset.notes == ["no labelled pixel of c"]


def test_check_counts_values_that_are_no_class(tmp_path):
    dataset = Pairs(tmp_path, [[[0, 1]], [[0, 3], [3, 4]], [[3, 0]]])
    refusal(
        dataset.check, "1_mask.png", "3 (2 pixels), 4 (1 pixels)", "0 to 2", "2 of 3 checked files", "name the missing"
    )


def test_check_knows_ids_that_start_at_1_and_grey_levels(tmp_path):
    refusal(Pairs(tmp_path / "one", [[[1, 2, 3]], [[1, 3, 255]]]).check, "0_mask.png", "start at 1")
    refusal(Pairs(tmp_path / "grey", [[[0, 76, 149, 255]]]).check, "0_mask.png", "grey levels")


def test_check_knows_0_255_masks(tmp_path):
    dataset = Pairs(tmp_path, [[[0, 255]], [[0, 0]]], classes=2)
    refusal(dataset.check, "0_mask.png", "2 labelled masks", "looks like 0/255 masks", "write 1 for the object")


def test_check_refuses_all_void_only_when_every_mask_is(tmp_path):
    refusal(Pairs(tmp_path / "a", [[[255]], [[255]]]).check, "0_mask.png", "nothing but void", "labelled")
    refusal(Pairs(tmp_path / "b", [[[0, 1, 2]]], val=[[[255]]]).check, "v0_mask.png", "nothing but void", "validation")


def test_check_compares_sizes(tmp_path):
    refusal(
        Pairs(tmp_path, [[[0, 1, 2]]], size=(2, 3)).check, "0_mask.png", "is 3x1", "image 3x2", "1 of 1 checked files"
    )


def test_check_finds_unreadable_files_in_every_part(tmp_path):
    for part, name in (("labelled", "0"), ("val", "v0"), ("unlabelled", "u1")):
        dataset = Pairs(tmp_path / part, [[[0, 1, 2]]])
        (tmp_path / part / f"{name}.png").write_bytes(b"")
        refusal(dataset.check, f"{name}.png", "empty")
        (tmp_path / part / f"{name}.png").unlink()
        refusal(dataset.check, f"{name}.png", "no such file")


def test_check_stops_soon(tmp_path, monkeypatch):
    dataset = Pairs(tmp_path, [[[0, 1, 2]]])
    bad = Pairs.pair(tmp_path, "bad", [[9]], None)
    dataset.labelled = [bad] * 1000
    seen = []
    monkeypatch.setattr(dataset, "read_mask", lambda sample: seen.append(1) or np.array([[9]], np.uint8))
    refusal(dataset.check, "bad_mask.png")
    assert len(seen) < 200


def test_check_needs_a_labelled_image(tmp_path):
    refusal(Pairs(tmp_path, []).check, "no labelled image")


def test_validation_images_that_are_trained_on_are_told_of(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images/a.png", "images/b.png", "images/val/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(tmp_path / name, rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        mask = tmp_path / name.replace("images", "masks")
        mask.parent.mkdir(parents=True, exist_ok=True)
        save_image(mask, np.arange(64, dtype=np.uint8).reshape(8, 8) % 2)
    (tmp_path / "unlabelled").mkdir()
    dataset = Folder(DataConfig(root=str(tmp_path)))
    dataset.check()
    assert not any("also used for training" in note for note in dataset.notes)
    (tmp_path / "unlabelled/copy.png").write_bytes((tmp_path / "images/val/c.png").read_bytes())
    dataset = Folder(DataConfig(root=str(tmp_path)))
    dataset.check()
    told = "1 validation images are also used for training: images/val/c.png, as unlabelled/copy.png"
    assert any(told in note for note in dataset.notes)
