"""`ssss data preview`: a picture of the right pieces in the right places."""

import numpy as np
import pytest
from PIL import Image

from ssss_zoo.commands.cli import command_line
from ssss_zoo.commands.preview import mask_panels
from ssss_zoo.evaluation.painting import VOID_STRIPES


class Drawn:
    class_names = ("sky", "road")
    colours = ((0, 0, 255), (255, 0, 0))


def test_a_mask_lies_over_its_image_in_the_colours_of_its_classes():
    image, over = mask_panels(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]]), Drawn())
    shown = np.asarray(over.picture)
    assert image.picture.size == over.picture.size == (768, 256)
    assert shown[5, 5, 2] > 150 > shown[5, 5, 0]
    assert shown[5, 380, 0] > 150 > shown[5, 380, 2]
    assert (shown[:, 512:] == 100).all()  # void shows the image


def test_the_command_writes_the_sheet_and_says_what_to_look_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["data", "preview", "dataset=shapes", "count=2", "train.crop=64"]
    assert command_line(words) == 0
    assert capsys.readouterr().out.startswith("preview.png: ")
    first = np.asarray(Image.open("preview.png"))
    assert first.shape[1] > 5 * 256
    assert command_line(words) == 0
    assert capsys.readouterr().out.startswith("preview-2.png: ")  # the first one is not lost
    assert np.array_equal(np.asarray(Image.open("preview-2.png")), first)  # a function of the seed
    before = (tmp_path / "preview.png").read_bytes()
    assert command_line([*words, "file=preview.png"]) == 2
    assert "file=preview.png exists: give another name, or overwrite=true" in capsys.readouterr().err
    assert command_line([*words, "file=preview.png", "overwrite=true", "count=1"]) == 0
    assert (tmp_path / "preview.png").read_bytes() != before


def test_crops_are_padded_as_the_run_pads_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = []
    for words in ((), ("augment.pad_place=centre",), ("augment.pad_fill=mean",), ("augment.pad_label=0",)):
        words = (*words, "file=p.png", "overwrite=true")
        assert command_line(["data", "preview", "dataset=shapes", "count=1", "train.crop=264", *words]) == 0
        pictures.append(np.asarray(Image.open("p.png")))
    assert all(not np.array_equal(pictures[0], other) for other in pictures[1:])
    void = {tuple(colour) for colour in pictures[0].reshape(-1, 3).tolist()}
    assert set(VOID_STRIPES) <= void


@pytest.mark.parametrize(
    ("word", "expected"),
    [("count=none", "count must be a number"), ("count=0", "count must"), ("file=no/where.png", "file=no/where.png"),
     ("file=a.gif", "file=a.gif"), ("cuont=3", "unknown key 'cuont'"), ("overwrite=maybe", "overwrite"),
     ("output=x", "does not use output=, since it draws one picture: file= names the picture"),
     ("optim.lr=0.1", "does not use optim.lr="), ("train.steps=3", "does not use train.steps=")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_no_file(tmp_path, monkeypatch, capsys, word, expected):
    monkeypatch.chdir(tmp_path)
    assert command_line(["data", "preview", "dataset=shapes", word]) == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
