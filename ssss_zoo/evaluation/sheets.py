"""The one look of all pictures: rows of panels with titles, scale bars, a legend, tables and bars.

Pillow draws them, with the font of matplotlib: a pixel of a mask stays a square of whole pixels, and a sheet of sixty
images takes a fraction of the time of matplotlib's axes. Text grows with the width of a sheet, so that it can be read
where the whole sheet is as wide as a phone or as a page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ssss_zoo.data.base import Dataset
from ssss_zoo.evaluation.painting import VOID_STRIPES, colour_values, stripes, wrong_pixels
from ssss_zoo.text import visible

MAX_COLUMNS = 5  # panels side by side
GAP_SHARE = 0.5  # of the size of the text: between panels, and around the sheet
TEXT_SHARE = 1 / 46  # of the width of a sheet: the size of its text, in pixels
TEXT_SIZES = (15, 44)  # pixels, the least and the most
LINE_HEIGHT = 1.3  # times the size of the text
TITLE_LINES = 2  # of a panel, at most
MAX_LEGEND_CLASSES = 30  # a data set with more has a legend of the classes that the sheet shows
TEXT_COLOUR = (27, 27, 27)
FRAME_COLOUR = (170, 170, 170)  # around panels and swatches: shows where a white one ends
WRONG_NAME = "wrong"  # in the legend
VOID_NAME = "void, not counted"
LEGEND_TOP = "legend_top"  # in the info of a sheet and of its PNG: the row of pixels at which the legend begins


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture and its title. scale_top: where the picture shows values, what its brightest colour stands for; a scale
    bar from 0 to this value lies below it."""

    title: str
    picture: Image.Image
    scale_top: float | None = None


@dataclass(frozen=True, eq=False)
class PanelRow:
    """Panels side by side below a caption, on several lines where there are more than MAX_COLUMNS."""

    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True, eq=False)
class LegendEntry:
    """swatch: (H, W, 3), a pattern that is drawn beside the name."""

    name: str
    swatch: np.ndarray


# --- text -----------------------------------------------------------------------------------------------------------


@cache
def load_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def text_size(width: int) -> int:
    """The size of the text of a sheet, in pixels."""
    least, most = TEXT_SIZES
    return min(most, max(least, round(width * TEXT_SHARE)))


def line_height(size: int) -> int:
    return round(size * LINE_HEIGHT)


def wrap_text(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The lines of a text that is `width` pixels wide at most, broken between words. A word that is longer than a line,
    as a path is, begins on the line before and is broken where that line ends."""
    lines = [""]
    for word in visible(text).split(" "):
        blank = " " if lines[-1] else ""
        if font.getlength(lines[-1] + blank + word) <= width:
            lines[-1] += blank + word
        elif font.getlength(word) <= width:
            lines.append(word)
        else:
            lines[-1:] = break_word(lines[-1] + blank + word, width, font)
    return lines


def break_word(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The text in pieces that fit the width, each as long as it can be."""
    pieces = []
    while font.getlength(text) > width and len(text) > 1:
        ends = range(len(text) - 1, 0, -1)
        fitting = next(end for end in ends if end == 1 or font.getlength(text[:end]) <= width)
        pieces.append(text[:fitting])
        text = text[fitting:]
    return [*pieces, text]


def cut_start(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The end of a text that is `width` pixels wide at most: the end of a path tells most."""
    shown = visible(text)
    while len(shown) > 2 and font.getlength(shown) > width:
        shown = "…" + shown[2:]
    return shown


def draw_text_block(text: str, width: int, size: int, *, bold: bool = False) -> Image.Image:
    """A text of as many lines as it takes, on white, `width` pixels wide."""
    font = load_font(size, bold=bold)
    lines = wrap_text(text, width, font)
    canvas = Image.new("RGB", (width, line_height(size) * len(lines)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((0, number * line_height(size)), line, fill=TEXT_COLOUR, font=font)
    return canvas


# --- sheets ---------------------------------------------------------------------------------------------------------


def draw_sheet(rows: Sequence[PanelRow], legend: Sequence[LegendEntry], columns: int = MAX_COLUMNS) -> Image.Image:
    """All rows on white, each with its caption, and the legend below them, where `info` says that it begins. columns:
    panels side by side, at most MAX_COLUMNS."""
    lines = [
        (row.caption if start == 0 else "", row.panels[start : start + columns])
        for row in rows
        for start in range(0, len(row.panels), columns)
    ]
    most = max(len(panels) for _, panels in lines)
    widths = [
        max(panels[column].picture.width for _, panels in lines if column < len(panels)) for column in range(most)
    ]
    gap = round(text_size(sum(widths)) * GAP_SHARE)
    width = sum(widths) + (most + 1) * gap
    size = text_size(width)
    blocks = [draw_line(caption, panels, widths, size) for caption, panels in lines]
    sheet = stack_vertically([*blocks, draw_legend(legend, width, size)])
    sheet.info[LEGEND_TOP] = str(sum(block.height for block in blocks))
    return sheet


def save_sheet(sheet: Image.Image, file: Path) -> None:
    """Write a sheet as a PNG that says where its legend begins. Raises OSError as Pillow does."""
    note = PngInfo()
    note.add_text(LEGEND_TOP, sheet.info[LEGEND_TOP])
    sheet.save(file, pnginfo=note)


def without_legend(sheet: Image.Image) -> Image.Image:
    """The rows of a sheet; all of it where it does not say where its legend begins."""
    top = str(sheet.info.get(LEGEND_TOP, ""))
    return sheet.crop((0, 0, sheet.width, min(int(top), sheet.height))) if top.isdecimal() and int(top) else sheet


def draw_line(caption: str, panels: Sequence[Panel], widths: Sequence[int], size: int) -> Image.Image:
    """A line of panels below its caption. widths: of the columns of the sheet."""
    drawn = [draw_panel(panel, size) for panel in panels]
    gap = round(size * GAP_SHARE)
    top = line_height(size) + gap if caption else gap // 2
    titles = max(title.height for title, _ in drawn)
    width = sum(widths) + (len(widths) + 1) * gap
    canvas = Image.new("RGB", (width, top + titles + max(body.height for _, body in drawn) + gap), "white")
    font = load_font(size, bold=True)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, gap // 2), cut_start(caption, width - 2 * gap, font), fill=TEXT_COLOUR, font=font)
    left = gap
    for (title, body), column_width in zip(drawn, widths, strict=False):
        canvas.paste(title, (left, top + titles - title.height))
        canvas.paste(body, (left, top + titles))
        left += column_width + gap
    return canvas


def draw_panel(panel: Panel, size: int) -> tuple[Image.Image, Image.Image]:
    """The title of a panel, and its picture with a frame and, where it shows values, a scale bar."""
    font = load_font(size)
    width = panel.picture.width
    lines = wrap_text(panel.title, width, font)
    kept = lines if len(lines) <= TITLE_LINES else [*lines[: TITLE_LINES - 1], cut_start(panel.title, width, font)]
    title = Image.new("RGB", (width, line_height(size) * len(kept)), "white")
    for number, line in enumerate(kept):
        ImageDraw.Draw(title).text((0, number * line_height(size)), line, fill=TEXT_COLOUR, font=font)
    framed = panel.picture.convert("RGB")
    ImageDraw.Draw(framed).rectangle((0, 0, framed.width - 1, framed.height - 1), outline=FRAME_COLOUR)
    if panel.scale_top is None:
        return title, framed
    return title, stack_vertically([framed, draw_scale_bar(width, panel.scale_top, size)])


def draw_scale_bar(width: int, top: float, size: int) -> Image.Image:
    """The colours of values from 0 to `top`, with both numbers."""
    font, highest = load_font(size), f"{top:.3g}"
    canvas = Image.new("RGB", (width, line_height(size) + 4), "white")
    draw = ImageDraw.Draw(canvas)
    left, right = round(font.getlength("0 ")), width - round(font.getlength(f" {highest}"))
    bar = colour_values(np.linspace(0, 1, max(2, right - left))[None].repeat(max(2, size * 2 // 3), axis=0), 1.0)
    canvas.paste(Image.fromarray(bar), (left, 4 + size // 3))
    draw.text((0, 4), "0", fill=TEXT_COLOUR, font=font)
    draw.text((width - round(font.getlength(highest)), 4), highest, fill=TEXT_COLOUR, font=font)
    return canvas


def stack_vertically(pictures: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


# --- legends --------------------------------------------------------------------------------------------------------


def class_legend(dataset: Dataset, shown: Collection[int], *, errors: bool = False) -> list[LegendEntry]:
    """The entries of the classes, of wrong pixels where the sheet shows errors, and of void. shown: the class ids in
    the sheet, which are all that a legend of more than MAX_LEGEND_CLASSES classes names."""
    names = list(enumerate(dataset.class_names))
    if len(names) > MAX_LEGEND_CLASSES:
        names = [(index, name) for index, name in names if index in shown]
    shape = (64, 64)
    solid = [LegendEntry(name, np.full((*shape, 3), dataset.colours[index], np.uint8)) for index, name in names]
    wrong = [LegendEntry(WRONG_NAME, wrong_pixels(shape, dataset.colours))] if errors else []
    return [*solid, *wrong, LegendEntry(VOID_NAME, stripes(shape, VOID_STRIPES, slope=1))]


def draw_legend(entries: Sequence[LegendEntry], width: int, size: int) -> Image.Image:
    """The entries one after the other, on as few lines as they fit."""
    font, side, gap = load_font(size), size, round(size * GAP_SHARE)
    names = [cut_start(entry.name, width - 3 * gap - side, font) for entry in entries]
    places = flow_positions([side + 3 * gap + round(font.getlength(name)) for name in names], width - gap)
    lines = max((line for _, line in places), default=-1) + 1
    canvas = Image.new("RGB", (width, lines * line_height(size) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for entry, name, (along, line) in zip(entries, names, places, strict=True):
        left, top = gap + along, line * line_height(size)
        swatch = Image.fromarray(np.ascontiguousarray(entry.swatch[:side, :side]))
        canvas.paste(swatch, (left, top + size // 6))
        draw.rectangle((left, top + size // 6, left + side - 1, top + size // 6 + side - 1), outline=FRAME_COLOUR)
        draw.text((left + side + gap // 2, top), name, fill=TEXT_COLOUR, font=font)
    return canvas


def flow_positions(lengths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Where things of these lengths lie, as words of a text do: pixels from the left, and the line from 0."""
    places = list[tuple[int, int]]()
    along = line = 0
    for length in lengths:
        if along and along + length > width:
            along = 0
            line += 1
        places.append((along, line))
        along += length
    return places


# --- tables and bars ------------------------------------------------------------------------------------------------


def draw_table(rows: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Two columns of text: names in bold, and what they are."""
    size = text_size(width)
    gap = round(size * GAP_SHARE)
    bold = load_font(size, bold=True)
    names = min(round(max(bold.getlength(visible(name)) for name, _ in rows)) + gap, width // 3)
    blocks = []
    for name, text in rows:
        left = draw_text_block(name, names, size, bold=True)
        right = draw_text_block(text, width - names - 3 * gap, size)
        block = Image.new("RGB", (width, max(left.height, right.height) + gap // 2), "white")
        block.paste(left, (gap, 0))
        block.paste(right, (names + 2 * gap, 0))
        blocks.append(block)
    return stack_vertically(blocks)


def draw_class_bars(
    title: str, values: Sequence[float], dataset: Dataset, label: Callable[[float], str], width: int
) -> Image.Image:
    """A bar for each class, the longest for the largest value. label: the text beside the bar of a value."""
    size = text_size(width)
    gap = round(size * GAP_SHARE)
    font = load_font(size)
    names = [cut_start(name, width // 3, font) for name in dataset.class_names]
    start = 2 * gap + max(round(font.getlength(name)) for name in names)
    numbers = max(round(font.getlength(label(value))) for value in values)
    longest, largest = width - start - numbers - 3 * gap, max(*values, 1e-9)
    canvas = Image.new("RGB", (width, line_height(size) * (len(names) + 1) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 0), cut_start(title, width - 2 * gap, font), fill=TEXT_COLOUR, font=load_font(size, bold=True))
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        top = line_height(size) * (index + 1)
        end = start + round(longest * value / largest)
        box = (start, top + size // 6, end, top + size // 6 + size)
        draw.rectangle(box, fill=dataset.colours[index], outline=FRAME_COLOUR)
        draw.text((gap, top), name, fill=TEXT_COLOUR, font=font)
        draw.text((end + gap, top), label(value), fill=TEXT_COLOUR, font=font)
    return canvas
