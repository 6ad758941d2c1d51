"""What files hold: every change of an image, a mask, a class list is named, and nothing else is one."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssss_zoo.config.resolve import resolve
from ssss_zoo.config.schema import DataConfig
from ssss_zoo.data import fingerprint as module
from ssss_zoo.data.duplicates import (
    split_off,
)
from ssss_zoo.data.fingerprint import (
    NO_FILE,
    content_digests,
    describe_differences,
    digest_ranges,
    file_digest,
)
from ssss_zoo.data.folder.dataset import Folder
from ssss_zoo.data.loading.cache import InMemoryDataset
from ssss_zoo.toolkit.types import Sample
from ssss_zoo.train.setup import open_dataset


@pytest.fixture
def root(tmp_path):
    """Two classes in ten pairs, four of them in val, and three images without masks."""
    root, rng = tmp_path / "set", np.random.default_rng(0)
    for part, numbers in (("train", range(6)), ("val", range(6, 10))):
        for folder in ("images", "masks"):
            (root / folder / part).mkdir(parents=True)
        for number in numbers:
            Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(root / f"images/{part}/{number}.png")
            Image.fromarray(rng.integers(0, 2, (8, 12), np.uint8)).save(root / f"masks/{part}/{number}.png")
    (root / "unlabelled").mkdir()
    for number in range(10, 13):
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).save(root / f"unlabelled/{number}.png")
    (root / "classes.txt").write_text("sky\nroad\n")
    return root


def opened(root, **settings):
    return Folder(DataConfig(root=str(root), **settings))


def change(root, name):
    """One pixel of a mask or an image."""
    pixels = np.array(Image.open(root / name))
    pixels[3, 4] = 1 - pixels[3, 4] if pixels.ndim == 2 else 255 - pixels[3, 4]
    Image.fromarray(pixels).save(root / name)


def exchange(root, first, second):
    os.rename(root / first, root / "aside")
    os.rename(root / second, root / first)
    os.rename(root / "aside", root / second)


def add(root, name):
    shutil.copy(root / "images/train/0.png", root / "images/train" / name)
    shutil.copy(root / "masks/train/0.png", root / "masks/train" / name)


CHANGES = {
    "a mask": (lambda r: change(r, "masks/train/1.png"), "1 labelled mask changed (images/train/1.png)"),
    "a mask of val": (lambda r: change(r, "masks/val/7.png"), "1 val mask changed (images/val/7.png)"),
    "an image": (lambda r: change(r, "images/train/1.png"), "1 labelled image changed (images/train/1.png)"),
    "an unlabelled image": (lambda r: change(r, "unlabelled/11.png"), "1 unlabelled image changed (unlabelled/11.png)"),
    "two masks exchanged, times and all": (
        lambda r: exchange(r, "masks/train/1.png", "masks/train/2.png"),
        "2 labelled masks changed (images/train/1.png, images/train/2.png)",
    ),
    "all masks": (
        lambda r: [change(r, f"masks/train/{number}.png") for number in range(6)],
        "6 labelled masks changed (images/train/0.png, images/train/1.png, images/train/2.png and 3 more)",
    ),
    "a pair more": (
        lambda r: add(r, "99.png"),
        "1 labelled image added (images/train/99.png); 1 labelled mask added (images/train/99.png)",
    ),
    "an image less": (lambda r: (r / "unlabelled/12.png").unlink(), "1 unlabelled image removed (unlabelled/12.png)"),
    "a class more": (
        lambda r: (r / "classes.txt").write_text("sky\nroad\ncar\n"),
        "1 class added (car); 1 class list changed (classes.txt)",
    ),
    "classes in another order": (
        lambda r: (r / "classes.txt").write_text("road\nsky\n"),
        "2 classes changed (road, sky); 1 class list changed (classes.txt)",
    ),
    "what a value means": (
        lambda r: (r / "classes.txt").write_text("1: sky\n0: road\n"),
        "1 class list changed (classes.txt)",
    ),
}


def digests(data):
    """Of the files as they are now."""
    return content_digests(data.class_names, data.content_files())


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_named_and_has_another_fingerprint(root, what):
    before = opened(root)
    kept, first = digests(before), before.fingerprint
    act, told = CHANGES[what]
    act(root)
    after = opened(root)
    assert describe_differences(kept, digests(after)) == told
    assert after.fingerprint != first
    assert before.fingerprint == first, "a run is of the data that it began with"


def touch(root):
    for file in root.rglob("*.png"):
        os.utime(file, (1, 1))


@pytest.mark.parametrize(
    "act", [touch, lambda r: (r / "notes.md").write_text("of nobody"), lambda r: None], ids=["times", "strays", "none"]
)
def test_the_same_content_elsewhere_is_the_same(root, tmp_path, act):
    shutil.copytree(root, tmp_path / "copy")
    act(tmp_path / "copy")
    here, there = opened(root), opened(tmp_path / "copy")
    assert here.fingerprint == there.fingerprint
    assert describe_differences(digests(here), digests(there)) == ""
    assert InMemoryDataset(here, here.labelled, here.labelled).fingerprint == here.fingerprint


def test_order_counts_and_is_said(root):
    data = opened(root)
    first = digests(data)
    data.labelled = data.labelled[::-1]
    assert describe_differences(first, digests(data)) == (
        "the labelled images are in another order; the labelled masks are in another order"
    )


def test_what_is_gone_or_no_file_raises_nothing(root):
    data = opened(root)
    (root / "masks/train/1.png").unlink()
    os.mkfifo(root / "masks/train/1.png")
    (root / "masks/train/2.png").unlink()
    found = digests(data)["labelled masks"]
    assert found["images/train/1.png"] == found["images/train/2.png"] == NO_FILE


@given(size=st.integers(0, 20 << 18), whole=st.booleans())
def test_pieces_lie_within_the_file_and_hold_its_first_and_last_byte(size, whole):
    found = digest_ranges(size, whole)
    assert all(0 <= start <= start + length <= size for start, length in found)
    if size:
        assert found[0][0] == 0
        assert sum(found[-1]) == size
    if whole or size <= module.WHOLE_FILE_BYTES:
        assert sum(length for _, length in found) == size


def test_a_large_mask_is_read_whole_and_a_large_image_in_pieces(tmp_path):
    file, content = tmp_path / "large.bmp", bytearray(3 * module.WHOLE_FILE_BYTES)
    digests = {}
    for place in (None, 0, 2 * module.BLOCK, len(content) - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] = 1
        file.write_bytes(changed)
        digests[place] = file_digest(str(file), True), file_digest(str(file), False)
    assert len({whole for whole, _ in digests.values()}) == 4
    assert len({quick for _, quick in digests.values()}) == 3


# --- copies and what is held out ------------------------------------------------------------------------------------


def samples_of(folder, contents):
    """A sample for each content, a letter, in files of their own."""
    found = []
    for number, letter in enumerate(contents):
        file = folder / f"{number}.png"
        file.write_bytes(letter.encode())
        found.append(Sample(file.name, file))
    return found


@pytest.mark.parametrize(
    ("contents", "number", "chosen"),
    [
        ("abcdef", 2, "ab"),
        ("aabcde", 2, "aa"),
        ("abacde", 1, "b"),
        ("abacde", 2, "aa"),
        ("abbcde", 2, "ac"),
        ("aaaabc", 2, "bc"),
        ("aabbcc", 1, "aa"),
        ("aaaaaa", 2, "aa"),
        ("aaabbb", 1, "a"),
        ("ab", 1, "a"),
        ("aa", 1, "a"),
    ],
)
def test_copies_stay_on_one_side_where_they_can(tmp_path, contents, number, chosen):
    found = split_off(samples_of(tmp_path, contents), number, 1)
    assert "".join(sample.image.read_text() for sample in found) == chosen


@given(contents=st.text("abcdefgh", min_size=2, max_size=20), share=st.floats(0.05, 0.5))
@settings(max_examples=60, deadline=None)
def test_some_are_held_out_and_some_are_left(tmp_path_factory, contents, share):
    order = samples_of(tmp_path_factory.mktemp("copies"), contents)
    number = max(1, int(share * len(order)))
    found = split_off(order, number, 1)
    assert 1 <= len(found) <= 2 * number
    assert len(found) < len(order)
    assert len({sample.name for sample in found}) == len(found)
    if len(set(contents)) == len(contents):
        assert found == order[:number]


@pytest.mark.parametrize("hold_out", [0.0, 0.3])
def test_no_copy_of_what_validates_is_trained_on(root, hold_out):
    """By the folder where there is no val part, and by `data.hold_out`."""
    for number in range(6):
        shutil.copy(root / f"images/train/{number}.png", root / f"images/train/{number}b.png")
        shutil.copy(root / f"masks/train/{number}.png", root / f"masks/train/{number}b.png")
        shutil.copy(root / f"images/train/{number}.png", root / f"unlabelled/{number}c.png")
    if not hold_out:
        shutil.rmtree(root / "images/val")
        shutil.rmtree(root / "masks/val")
    words = ["dataset=folder", f"data.root={root}", f"data.hold_out={hold_out}"]
    data, _ = open_dataset(Folder, resolve(words))
    val, trained = (
        {sample.image.read_bytes() for sample in samples} for samples in (data.val, [*data.labelled, *data.unlabelled])
    )
    assert len(data.val) in (2, 4)
    assert not val & trained
    copies = len(data.val) // 2
    what = "image is a copy of one that is" if copies == 1 else "images are copies of some that are"
    assert f"{copies} unlabelled {what} held out for validation, and left out" in data.notes
