"""`ssss predict` of a video: masks of its frames, a video of overlays, and what is whole of a video that was cut."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from helpers.trained_models import pointwise_model
from ssss_zoo.commands.cli import main
from ssss_zoo.deploy import predict

av = pytest.importorskip("av")
FRAMES = 30


@pytest.fixture(autouse=True)
def _pointwise(monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda *arguments: pointwise_model())


def make_video(file: Path) -> Path:
    """A video of 32 x 40 pixels at 12.5 frames a second whose frames are red, green, blue, red, ..."""
    with av.open(str(file), "w") as output:
        stream = output.add_stream("mpeg4", rate=Fraction(25, 2))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 40, 32, "yuv420p", 1
        for number in range(FRAMES):
            pixels = np.full((32, 40, 3), 20, np.uint8)
            pixels[..., number % 3] = 220
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file


def run(file: Path, *more: str):
    return CliRunner().invoke(main, ["predict", "run=any", f"input={file}", f"output={file.parent / 'out'}", *more])


def test_each_frame_has_a_mask_and_the_overlays_keep_the_frame_rate(tmp_path):
    done = run(make_video(tmp_path / "clip.mp4"), "save=overlays")
    assert done.exit_code == 0, done.stderr
    masks = sorted((tmp_path / "out/masks/clip").iterdir())
    assert [mask.name for mask in masks] == [f"{number:06}.png" for number in range(1, FRAMES + 1)]
    for number, mask in enumerate(masks):
        assert (np.asarray(Image.open(mask)) == number % 3).all()
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(12.5)
        frames = list(container.decode(video=0))
    assert len(frames) == FRAMES
    assert frames[-1].time == pytest.approx((FRAMES - 1) / 12.5, abs=1e-3)
    assert [int(frame.to_ndarray(format="rgb24")[16, 20].argmax()) for frame in frames[:4]] == [0, 1, 2, 0]
    assert "exists: continue with resume=true" in run(tmp_path / "clip.mp4", "save=overlays").stderr
    masks[4].unlink()
    assert (
        "1 image predicted by pointwise, 29 images predicted before"
        in run(tmp_path / "clip.mp4", "save=overlays", "resume=true").stdout
    )


def test_a_video_that_a_phone_turned_is_predicted_upright(tmp_path):
    """Its track says that players turn it by 90 degrees, clockwise: the left of a stored frame is the top."""
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        pixels = np.full((32, 40, 3), 20, np.uint8)
        pixels[:, :20, 0] = pixels[:, 20:, 2] = 220  # red, then blue
        output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    one, no, minus = b"\0\1\0\0", bytes(4), b"\xff\xff\0\0"
    matrix, end = (
        {"stored": b"".join((one, no, no, no, one, no)), "turned": b"".join((no, one, no, minus, no, no))},
        no * 2,
    )
    stored = file.read_bytes()
    assert stored.count(matrix["stored"] + end) == 2  # of the file and of its track
    file.write_bytes(matrix["turned"].join(stored.rsplit(matrix["stored"], 1)))
    done = run(file, "save=overlays")
    assert done.exit_code == 0, done.stderr
    classes = np.asarray(Image.open(tmp_path / "out/masks/clip/000001.png"))
    assert classes.shape == (40, 32)
    assert (classes[5].mean(), classes[35].mean()) == (0, 2)
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as container:
        (shown,) = container.decode(video=0)
        assert (shown.height, shown.width, shown.rotation) == (40, 32, 0)


def test_what_is_whole_of_a_video_cut_short_is_used_and_said(tmp_path):
    file = make_video(tmp_path / "clip.mkv")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    done = run(file, "save=overlays")
    assert done.exit_code == 1
    assert "is cut short or damaged: " in done.stderr
    masks = len(list((tmp_path / "out/masks/clip").iterdir()))
    assert 5 < masks < 25
    assert f"{masks} of " in done.stderr
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as container:
        assert len(list(container.decode(video=0))) == masks


def test_mistakes_with_videos_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "none.mp4").write_bytes(b"no video")
    file = make_video(tmp_path / "clip.mp4")
    cases = {
        f"input={tmp_path / 'none.mp4'} cannot be read as a video: ": (tmp_path / "none.mp4",),
        "save=polygons is for images": (file, "save=polygons"),
    }
    for message, arguments in cases.items():
        done = run(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"ssss: {message}"), done.stderr
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'ssss-zoo[video]'" in run(file).stderr
    assert not (tmp_path / "out").exists()
