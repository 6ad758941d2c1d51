"""`ssss data preview`: a picture of the right pieces in the right places."""

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.commands.cli import command_line
from ssss_zoo.commands.preview import fitted, histogram, masked
from ssss_zoo.evaluation.figures import void_colours


class Drawn:
    class_names = ("sky", "road")
    colours = ((0, 0, 255), (255, 0, 0))


def test_a_mask_is_as_large_as_its_picture_and_void_is_checked_at_that_size():
    picture = fitted(np.full((1, 3, 3), 100, np.uint8))
    shown = np.asarray(masked(np.array([[0, 1, 255]]), picture, Drawn()))
    assert shown.shape == (80, 240, 3)
    assert (shown[:, :80] == (0, 0, 255)).all()
    assert (shown[:, 80:160] == (255, 0, 0)).all()
    assert {tuple(colour) for colour in shown[:, 160:].reshape(-1, 3).tolist()} == set(void_colours(Drawn.colours))


def test_a_histogram_has_bars_in_proportion():
    pixels = np.zeros(256, np.int64)
    pixels[0], pixels[1], pixels[255] = 300, 100, 9999
    bars = np.asarray(histogram(pixels, Drawn()))
    lengths = [int((bars == colour).all(axis=2).any(axis=0).sum()) for colour in Drawn.colours]
    assert lengths[0] == pytest.approx(3 * lengths[1], abs=6)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_any_size_fits(size):
    shown = fitted(np.zeros((*size, 3), np.uint8))
    assert 1 <= shown.width <= 240
    assert 1 <= shown.height <= max(240, size[0])


def test_the_command_writes_the_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line(["data", "preview", "dataset=shapes", "count=2", "train.crop=64"]) == 0
    assert capsys.readouterr().out == "preview.png\n"
    first = np.asarray(Image.open("preview.png"))
    assert first.shape[1] == 6 * (240 + 6) + 6
    assert command_line(["data", "preview", "dataset=shapes", "count=2", "train.crop=64", "file=again.png"]) == 0
    assert np.array_equal(np.asarray(Image.open("again.png")), first)  # a function of the seed


def test_crops_are_padded_as_the_run_pads_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = []
    for words in ((), ("augment.pad_place=centre",), ("augment.pad_fill=mean",), ("augment.pad_label=0",)):
        assert command_line(["data", "preview", "dataset=shapes", "count=1", "train.crop=400", *words]) == 0
        pictures.append(np.asarray(Image.open("preview.png")))
    assert all(not np.array_equal(pictures[0], other) for other in pictures[1:])


@pytest.mark.parametrize(
    ("word", "expected"),
    [("count=none", "count must be a number"), ("count=0", "count must"), ("file=no/where.png", "file=no/where.png"),
     ("file=a.gif", "file=a.gif"), ("cuont=3", "unknown key 'cuont'")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_no_file(tmp_path, monkeypatch, capsys, word, expected):
    monkeypatch.chdir(tmp_path)
    assert command_line(["data", "preview", "dataset=shapes", word]) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
