"""Videos: their frames as images to predict, and a video of the predictions over the frames."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssss_zoo.atomic_write import replacing_file
from ssss_zoo.data.colour_vision import Colour
from ssss_zoo.deploy.image_sources import SourceImage
from ssss_zoo.deploy.tiff_windows import UnreadableImage
from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.evaluation.painting import draw_overlay

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
OVERLAY_VIDEO_SUFFIX = ".mp4"
VIDEO_CODEC, PIXEL_FORMAT = "h264", "yuv420p"  # which every player shows
FRAME_NAME_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Video:
    """A video file. frames: one for each picture that the file announces or holds; the last ones may be lost."""

    path: Path
    frames: tuple[SourceImage, ...]


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def import_av() -> Any:
    """PyAV. Raises UserError where it is missing."""
    try:
        import av
    except ImportError:
        raise UserError("a video as input= needs another package: pip install 'ssss-zoo[video]'") from None
    return av


def open_video(path: Path) -> Video:
    """The frames of a video by name, such as `clip/000001`. Raises UserError for a file that is no whole video."""
    av = import_av()
    try:
        with av.open(str(path)) as container:
            (stream,) = container.streams.video[:1]
            announced = stream.frames
            seconds = container.duration / av.time_base if container.duration else 0
            if not announced and stream.average_rate:
                announced = round(seconds * stream.average_rate)
            held = sum(packet.pts is not None for packet in container.demux(stream))
    except (av.FFmpegError, ValueError) as error:
        raise UserError(f"input={path} cannot be read as a video: {av_reason(error)}") from None
    names = [f"{path.stem}/{number:0{FRAME_NAME_DIGITS}}" for number in range(1, max(announced, held) + 1)]
    return Video(path, tuple(SourceImage(path, name, name) for name in names))


def av_reason(error: Exception) -> str:
    """What PyAV says of a file; an unpacking error stands for a file without pictures."""
    return str(getattr(error, "strerror", "") or "there are no pictures in it")


def read_frames(video: Video) -> Iterator[tuple[SourceImage, Any]]:
    """The frames that are whole, in order: their names and PyAV's frames. Raises UnreadableImage at the end where
    frames that the file announces are missing."""
    av = import_av()
    number = 0
    try:
        with av.open(str(video.path)) as container:
            for frame in container.decode(video=0):
                if number == len(video.frames):
                    return
                yield video.frames[number], frame
                number += 1
    except av.FFmpegError as error:
        raise lost_frames(video, number, av_reason(error)) from None
    if number < len(video.frames) - 1:  # by a rounded duration, one frame may be missing of a whole video
        raise lost_frames(video, number, "the file ends there")


def upright_pixels(frame: Any) -> np.ndarray:
    """(H, W, 3) uint8 of PyAV's frame, turned as players show it: phones store portrait videos lying on their side."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def lost_frames(video: Video, whole: int, reason: str) -> UnreadableImage:
    return UnreadableImage(
        f"{video.path} is cut short or damaged: {whole} of its {len(video.frames)} frames are whole and were used "
        f"({reason})"
    )


def write_overlay_video(
    file: Path, video: Video, masks: Sequence[Path], colours: Sequence[Colour], predicted: Collection[str]
) -> None:
    """Write the classes over the frames as a video, each frame at its time. masks: the file of class ids of each frame.
    predicted: names of the frames that have one. Raises UserError where the disk refuses."""
    av = import_av()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(file, flush=False) as new, av.open(str(new), "w", format="mp4") as output:
            stream: Any = None
            for number, (source, frame) in enumerate(whole_frames(video)):
                if source.name not in predicted:
                    continue
                picture = even_sides(overlay_of_frame(frame, masks[number], colours))
                if stream is None:
                    stream = add_video_stream(output, frame, picture)
                shown = av.VideoFrame.from_ndarray(picture, format="rgb24")
                shown.pts, shown.time_base, shown.duration = frame.pts, frame.time_base, frame.duration
                output.mux(with_duration(stream.encode(shown), frame.duration))
            if stream is not None:
                output.mux(with_duration(stream.encode(), frame.duration))
    except OSError as error:  # PyAV's errors are among them
        raise cannot_write(file, error) from error


def with_duration(packets: list[Any], duration: int) -> list[Any]:
    """The packets, those without a duration with this one: the rate of the written video follows from them."""
    for packet in packets:
        packet.duration = packet.duration or duration
    return packets


def whole_frames(video: Video) -> Iterator[tuple[SourceImage, Any]]:
    """As `read_frames`, without its error at the end."""
    try:
        yield from read_frames(video)
    except UnreadableImage:
        return


def add_video_stream(output: Any, frame: Any, picture: np.ndarray) -> Any:
    """A stream with the time base of a frame, so that each frame keeps its time."""
    stream = output.add_stream(VIDEO_CODEC, rate=None, options={"crf": "18"})
    stream.height, stream.width = picture.shape[:2]
    stream.pix_fmt = PIXEL_FORMAT
    stream.codec_context.time_base = frame.time_base
    return stream


def overlay_of_frame(frame: Any, mask: Path, colours: Sequence[Colour]) -> np.ndarray:
    """(H, W, 3) uint8: the classes of a mask file over a frame."""
    with Image.open(mask) as image:
        return np.asarray(draw_overlay(upright_pixels(frame), np.array(image), colours))


def even_sides(picture: np.ndarray) -> np.ndarray:
    """The picture with even sides, which the codec needs: its last row or column is repeated where one is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
