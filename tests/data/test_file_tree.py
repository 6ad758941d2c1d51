"""Every file below a folder has one use, or one reason why it is left out."""

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
from helpers.folders import (
    open_folder,
    summary_of_files,
    write_images,
    write_masks,
    write_pairs,
    write_photos,
)
from ssss_zoo.commands.cli import command_line
from ssss_zoo.data.folder.file_tree import relative_name

# --- files that are read, and files that are not ----------------------------------------------------------------------


def test_every_format_of_pillow_is_read(tmp_path):
    suffixes = [".gif", ".jfif", ".jpe", ".jp2", ".tga", ".avif", ".JPG", ".pbm"]
    write_pairs(tmp_path, 3)
    for suffix in suffixes:
        file_format = {".jfif": "JPEG", ".jpe": "JPEG", ".pbm": "PPM"}.get(suffix)
        mode = "L" if suffix == ".pbm" else "RGB"
        Image.new(mode, (4, 4)).save(tmp_path / f"images/u{suffix[1:]}{suffix}", file_format)
    dataset = open_folder(tmp_path)
    shapes = {sample.image.suffix: dataset.read_image(sample).shape for sample in dataset.unlabelled}
    assert shapes == dict.fromkeys(suffixes, (4, 4, 3))


def test_pictures_that_are_not_read_are_counted_with_the_remedy(tmp_path):
    suffixes = [".heic", ".npy", ".CR2", ".mp4"]
    write_pairs(tmp_path, 3)
    (tmp_path / "unlabelled").mkdir()
    for suffix in suffixes:
        for stem in "ab":
            (tmp_path / f"unlabelled/{stem}{suffix}").touch()
    dataset = open_folder(tmp_path)
    assert {(fault.level, fault.kind) for fault in dataset.faults} == {("warning", "left out")}
    messages = [fault.message for fault in dataset.faults]
    for suffix in suffixes:
        counted = f"2 {suffix.lower()} files"
        remedy = "convert them to PNG, JPEG or TIFF"
        assert f"{counted}, such as unlabelled/a{suffix} ({remedy})" in dataset.notes[2]
        assert sum(counted in message for message in messages) == 1
        assert dataset.file_roles[f"unlabelled/a{suffix}"].startswith("left out: ")
    dataset.check()  # a warning stops no run


@pytest.mark.parametrize(
    "name", ["masks/03.npy", "masks/03_mask.heic", "masks/03.nii.gz", "masks/03.txt", "masks/03.json"]
)
def test_an_unreadable_file_named_like_the_mask_of_an_image_without_one_is_a_fault(tmp_path, name):
    write_pairs(tmp_path, 3)
    write_images(tmp_path, "images/03.jpg")
    (tmp_path / name).touch()
    refusal(open_folder(tmp_path).check, "images/03.jpg", "no mask that can be read", name)


@pytest.mark.parametrize("name", ["b_mask.npy", "b-label.heic", "b.json"])
@pytest.mark.parametrize("home", ["images", "unlabelled"])
def test_a_mask_that_is_not_read_beside_an_image_without_one_is_a_fault(tmp_path, home, name):
    write_pairs(tmp_path, 3)
    write_photos(tmp_path, f"{home}/b.jpg")
    (tmp_path / home / name).write_text('{"shapes": [], "imageHeight": 2, "imageWidth": 2}')
    refusal(open_folder(tmp_path).check, f"{home}/{name}")


def test_other_files_beside_an_image_are_no_masks(tmp_path):
    write_pairs(tmp_path, 3)
    write_photos(tmp_path, "unlabelled/b.jpg")
    for name in ("b.xml", "b.json", "b.txt", "b.jpg.aux.xml", "b_notes.md"):
        (tmp_path / "unlabelled" / name).write_text("{}")
    assert open_folder(tmp_path).faults == []


@pytest.mark.parametrize("home", ["images", "unlabelled"])
def test_a_mask_among_images_is_a_fault(tmp_path, home):
    write_pairs(tmp_path, 3)
    write_photos(tmp_path, f"{home}/b.jpg")
    write_masks(tmp_path, f"{home}/b_Mask.png")
    refusal(open_folder(tmp_path).check, f"{home}/b_Mask.png is named like the mask of", "move it to the masks")


def test_the_fault_of_a_mask_names_its_image_that_is_not_read(tmp_path):
    write_pairs(tmp_path, 3)
    (tmp_path / "images/01.jpg").rename(tmp_path / "images/01.heic")
    refusal(open_folder(tmp_path).check, "masks/01.png", "images/01.heic is a .heic file", "convert")


def test_one_name_in_two_spellings_of_unicode_pairs(tmp_path):
    for stem in range(5):
        composed, parted = (unicodedata.normalize(form, f"straße_é_{stem}") for form in ("NFC", "NFD"))
        write_photos(tmp_path, f"images/{composed}.jpg", size=(2, 2))
        write_masks(tmp_path, f"masks/{parted}.png")
    dataset = open_folder(tmp_path)
    assert len(dataset.labelled) == 4
    dataset.check()


# --- any files --------------------------------------------------------------------------------------------------------

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


def write_files(root, files, strange):
    """Writes two pairs, `files` (folder, name) and `strange` things (name, folder)."""
    for name in ("images/k.jpg", "images/l.jpg", "masks/k.png", "masks/l.png", *("/".join(file) for file in files)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((PNG if "mask" in name else JPEG).getvalue())
    (root / "classes.txt").write_text("a\nb\n")
    make = {
        "pipe.jpg": os.mkfifo,
        "lost.png": lambda path: path.symlink_to("nowhere"),
        "circle": lambda path: path.symlink_to(root),
        "empty": os.mkdir,
    }
    for name, home in strange:
        path = root / home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink() and not path.exists():
            make[name](path)


def every_path(folder):
    """Every path below a folder; hidden folders, links and empty folders are not entered."""
    for path in folder.iterdir():
        closed = path.name.startswith((".", "__")) or path.is_symlink()
        if path.is_dir() and not closed and any(path.iterdir()):
            yield from every_path(path)
        else:
            yield path


@settings(deadline=None, max_examples=40)
@given(st.lists(FILES, max_size=14), st.lists(STRANGE, max_size=3))
def test_every_file_has_one_use_and_is_used_so(files, strange):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, files, strange)
        dataset = open_folder(root)
        assert set(dataset.file_roles) == {relative_name(path, root) for path in every_path(root)}
        read = [name for name, use in dataset.file_roles.items() if not use.startswith("left out: ")]
        samples = [*dataset.labelled, *dataset.unlabelled, *dataset.val]
        used = {relative_name(path, root) for sample in samples for path in (sample.image, sample.mask) if path}
        assert set(read) == used | {"classes.txt"}
        assert sum(map(int, re.findall(r"(?:read: |out: |, |; )(\d+) ", summary_of_files(dataset)))) == len(
            dataset.file_roles
        )


def test_a_json_of_the_check_has_every_file(tmp_path, capsys):
    write_pairs(tmp_path, 16)
    (tmp_path / "notes.md").touch()
    command_line(["data", "check", "--json", "dataset=folder", f"data.root={tmp_path}"])
    files = json.loads(capsys.readouterr().out)["files"]
    assert files["notes.md"] == "left out: .md file"
    assert len(files) == 33
