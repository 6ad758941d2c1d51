"""`ssss predict` where something is short or other than before: memory, disk, data, the run, the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image

from helpers.failures import FULL_DISK, raising
from helpers.images import save_image
from helpers.trained_models import pointwise_model
from ssss_zoo.commands.cli import main
from ssss_zoo.data.images import Reading
from ssss_zoo.deploy import predict, tiff_windows
from ssss_zoo.deploy.predict import predict_files
from ssss_zoo.deploy.tiles import choose_tile_side
from ssss_zoo.errors import UserError


@pytest.fixture
def model(monkeypatch):
    """The model of `pointwise_model`, which `run=` of any name is."""
    made = pointwise_model()
    monkeypatch.setattr(predict, "open_model", lambda *arguments: made)
    return made


@pytest.fixture
def pixels() -> np.ndarray:
    """(600, 300, 3) random pixels."""
    return np.random.default_rng(0).integers(1, 256, (600, 300, 3), np.uint8)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    return ["run=any", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}", *more]


def mask(tmp_path: Path, name: str = "a") -> np.ndarray:
    return np.asarray(Image.open(tmp_path / f"out/masks/{name}.png"))


def limit_memory(monkeypatch, model, most: int) -> None:
    """The network has no memory for more than so many pixels."""
    forward = model.network.forward

    def limited(image):
        if image.shape[-2] * image.shape[-1] > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        return forward(image)

    monkeypatch.setattr(model.network, "forward", limited)


@pytest.mark.parametrize("windowed", [False, True])
def test_tiles_are_halved_where_memory_is_short_and_that_is_said(
    tmp_path, monkeypatch, model, pixels, warnings, windowed
):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"in/{name}.tif", pixels, photometric="rgb")
    if windowed:
        monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    limit_memory(monkeypatch, model, 256 * 256)
    predict_files(arguments(tmp_path))
    for name in ("a", "b"):
        np.testing.assert_array_equal(mask(tmp_path, name), pixels.argmax(axis=2))
    said = [line for line in warnings() if "out of memory" in line]
    assert [line.rpartition(": ")[2] for line in said] == [
        f"from here on in tiles of {side} pixels" for side in (1024, 512, 256)
    ]


def test_memory_for_no_tile_is_one_line(tmp_path, monkeypatch, model, pixels):
    save_image(tmp_path / "in/a.png", pixels)
    limit_memory(monkeypatch, model, 10)
    done = CliRunner().invoke(main, ["predict", *arguments(tmp_path)])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"ssss: out of memory at {tmp_path / 'in/a.png'}, even in tiles of 256"
    )


def test_the_side_of_a_tile_follows_the_memory_and_the_width():
    assert [choose_tile_side(2000, 3, gib * 2**30) for gib in (16, 2, 0.01)] == [1024, 512, 256]
    assert [choose_tile_side(width, 3) for width in (2000, 20_000, 40_000)] == [1024, 512, 256]


@pytest.mark.usefixtures("model")
def test_a_stop_keeps_what_is_written_and_says_how_to_go_on(tmp_path, monkeypatch, pixels):
    for name, rows in (("a.png", 20), ("b.png", 21)):  # a batch each
        save_image(tmp_path / "in" / name, pixels[:rows])
    predict_pixels = predict.predict_pixels

    def stopped_at_b(model, settings, images):
        if images[0].shape[0] == 21:
            raise KeyboardInterrupt("stopped by SIGINT")  # as `Stop` does
        return predict_pixels(model, settings, images)

    monkeypatch.setattr(predict, "predict_pixels", stopped_at_b)
    done = CliRunner().invoke(main, ["predict", *arguments(tmp_path)])
    assert done.exit_code == 130
    assert done.stderr.endswith("ssss: stopped by SIGINT; the same command with resume=true goes on\n")
    monkeypatch.setattr(predict, "predict_pixels", predict_pixels)
    result = predict_files(arguments(tmp_path, "resume=true"))
    assert (result.skipped, result.predicted) == (1, 1)
    np.testing.assert_array_equal(mask(tmp_path, "b"), pixels[:21].argmax(axis=2))


@pytest.mark.usefixtures("model")
def test_a_full_disk_is_one_line_and_resume_goes_on(tmp_path, monkeypatch, pixels):
    for name, rows in (("a.png", 20), ("b.png", 21)):  # a batch each
        save_image(tmp_path / "in" / name, pixels[:rows])
    write = predict.write_png
    monkeypatch.setattr(
        predict, "write_png", lambda file, *more: raising(FULL_DISK)() if "b.png" in str(file) else write(file, *more)
    )
    done = CliRunner().invoke(main, ["predict", *arguments(tmp_path)])
    assert done.exit_code == 2
    assert f"cannot write {tmp_path / 'out/masks/b.png'}: No space left on device; free some space" in done.stderr
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["a.png"]
    monkeypatch.setattr(predict, "write_png", write)
    assert predict_files(arguments(tmp_path, "resume=true")).skipped == 1
    np.testing.assert_array_equal(mask(tmp_path, "b"), pixels[:21].argmax(axis=2))


def test_resume_takes_the_same_model_and_settings_alone(tmp_path, monkeypatch, model, pixels):
    save_image(tmp_path / "in/a.png", pixels[:20])
    predict_files(arguments(tmp_path))
    assert predict_files(arguments(tmp_path, "resume=true", "device=cpu")).skipped == 1
    with pytest.raises(
        UserError, match="was predicted with flip=false, now flip=true; give the same, or choose another"
    ):
        predict_files(arguments(tmp_path, "resume=true", "flip=true"))
    with monkeypatch.context() as patch:
        patch.setattr(predict, "open_model", lambda *arguments: replace(model, source="another run"))
        with pytest.raises(UserError, match="was predicted by pointwise, and run= is another run with other weights"):
            predict_files(arguments(tmp_path, "resume=true"))
    (tmp_path / "out/predictions.json").unlink()
    with pytest.raises(UserError, match=r"holds predictions without predictions\.json"):
        predict_files(arguments(tmp_path, "resume=true"))
    (tmp_path / "file").write_text("another's")
    with pytest.raises(UserError, match="cannot write"):
        predict_files([*arguments(tmp_path), f"output={tmp_path / 'file'}"])


def test_windows_without_data_are_not_predicted_and_no_row_is_read_twice(tmp_path, monkeypatch, model, pixels):
    monkeypatch.setattr(predict, "open_model", lambda *arguments: replace(model, reading=Reading(tags=True, gaps=True)))
    monkeypatch.setattr(tiff_windows, "WINDOWED_PIXELS", 1)
    pixels[:400] = 0
    pixels[:, :100] = 0
    (tmp_path / "in").mkdir()
    tifffile.imwrite(
        tmp_path / "in/a.tif", pixels, photometric="rgb", metadata=None, extratags=[(42113, 2, 2, "0", True)]
    )
    read: list[tuple[int, int]] = []
    rows = tiff_windows.TiffWindows.read_rows
    monkeypatch.setattr(
        tiff_windows.TiffWindows, "read_rows", lambda self, *bounds: read.append(bounds) or rows(self, *bounds)
    )
    seen: list[torch.Tensor] = []
    forward = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda image: seen.append(image) or forward(image))
    predict_files(arguments(tmp_path, "tile=64"))
    assert [bounds[0] for bounds in read[1:]] == [bounds[1] for bounds in read[:-1]]
    assert (read[0][0], read[-1][1]) == (0, 600)
    assert 0 < len(seen) < 40  # of 70 tiles
    assert all(image.any() for image in seen)
    expected = np.where((pixels == 0).all(axis=2), 255, pixels.argmax(axis=2))
    np.testing.assert_array_equal(mask(tmp_path), expected)


@pytest.mark.usefixtures("model")
def test_an_image_of_other_bands_is_named_and_the_others_are_predicted(tmp_path, pixels):
    save_image(tmp_path / "in/a.png", pixels[:20])
    tifffile.imwrite(
        tmp_path / "in/five.tif", np.zeros((20, 30, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    done = CliRunner().invoke(main, ["predict", *arguments(tmp_path)])
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if "five.tif" in line]
    assert "5 channels" in line
    assert "1 image predicted by pointwise, 1 file not readable" in done.stdout
