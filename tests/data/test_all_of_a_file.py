"""All of an image file is read, or it is refused in a line: pages, bands, depth, frames, turns, sizes."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.errors import refusal
from helpers.images import save_image, save_png16
from ssss_zoo.data.images import ORIENTATION_TURNS, Reading, image_size, read_header, read_image
from ssss_zoo.data.mask_values import read_mask_values
from ssss_zoo.errors import UserError

RNG = np.random.default_rng(0)
EIGHT = RNG.integers(0, 256, (9, 12, 5), np.uint8)
DEEP = RNG.integers(0, 65536, (9, 12, 5), np.uint16)
FULL = ((0.0,), (65535.0,))


def pages(path, bands, **more):
    """A TIFF of a page for each band, as tifffile writes them one by one."""
    with tifffile.TiffWriter(path) as writer:
        for band in np.moveaxis(bands, 2, 0):
            writer.write(band, photometric="minisblack", metadata=None, **more)


def pillow_pages(path, bands):
    first, *rest = (Image.fromarray(band) for band in np.moveaxis(bands, 2, 0))
    first.save(path, save_all=True, append_images=rest)


def imagej(path, bands):
    tifffile.imwrite(path, np.moveaxis(bands, 2, 0), imagej=True, metadata={"axes": "CYX"})


def one_entry(path, bands):
    """ImageJ's way of many pages behind the entry of the first."""
    count, size = bands.shape[2], bands[..., 0].nbytes
    tifffile.imwrite(path, bands[..., 0], description=f"ImageJ=1.11a\nimages={count}\nslices={count}\n", metadata=None)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].dataoffsets[0] + size == path.stat().st_size
    with open(path, "ab") as file:
        file.write(b"".join(band.tobytes() for band in np.moveaxis(bands, 2, 0)[1:]))


def samples(path, bands):
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")


def unspecified(path, bands):
    """Red, green, blue and further ones of which the file does not say what they are, as GDAL writes infrared."""
    extra = [0] * (bands.shape[2] - 3)
    tifffile.imwrite(path, bands, photometric="rgb", planarconfig="contig", extrasamples=extra)


def planes(path, bands):
    planes = np.ascontiguousarray(np.moveaxis(bands, 2, 0))
    extra = [0] * (bands.shape[2] - 3)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", extrasamples=extra)


@pytest.mark.parametrize("bands", [EIGHT, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize("write", [pages, pillow_pages, imagej, one_entry, samples, unspecified, planes])
def test_every_band_of_a_tiff_is_there(tmp_path, bands, count, write):
    path, bands = tmp_path / "a.tif", bands[..., :count]
    write(path, bands)
    stretch = FULL if bands.dtype == np.uint16 else ((), ())
    expected = bands if bands.dtype == np.uint8 else bands / 65535 * 255
    np.testing.assert_allclose(read_image(path, Reading(count, (), *stretch)), expected, rtol=1e-6)
    np.testing.assert_allclose(
        read_image(path, Reading(2, (count, 1), *stretch)), expected[..., [count - 1, 0]], rtol=1e-6
    )
    assert image_size(path, Reading(count, (), *stretch)) == (9, 12)
    for wanted in {1, 3, 4} - {count, count - read_header(path).alpha}:
        for call in (read_image, image_size):
            refusal(lambda call=call, n=wanted: call(path, Reading(n, (), *stretch)), "a.tif", f"{count} channels")
    refusal(lambda: read_image(path, Reading(1, (count + 1,), *stretch)), f"data.channels=[{count + 1}]")


def several(path, suffix):
    frames = [Image.fromarray(np.full((8, 8, 3), 80 * step, np.uint8)) for step in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_pictures_are_refused_and_one_is_not(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    several(path, suffix)
    told = "3 pictures" if suffix == "tif" else "animation of 3 frames"
    for call in (read_image, image_size):
        refusal(lambda call=call: call(path, Reading()), f"a.{suffix}", told, "a file of its own")
    Image.new("RGB", (8, 8)).save(path)
    assert read_image(path, Reading()).shape == (8, 8, 3)


def test_pages_of_two_kinds_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(EIGHT[..., 0], metadata=None)
        writer.write(EIGHT[:4, :6, 0], metadata=None)
    refusal(lambda: read_image(tmp_path / "a.tif", Reading()), "2 pictures (12x9, 6x4)")
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(EIGHT[..., 0], metadata=None)
        writer.write(DEEP[..., 0], metadata=None)
    refusal(lambda: read_image(tmp_path / "b.tif", Reading()), "2 pictures")


@pytest.mark.parametrize("where", ["after", "before", "below"])
def test_reduced_copies_in_a_tiff_are_passed_over(tmp_path, where):
    path, picture, small = tmp_path / "a.tif", EIGHT[..., :3], EIGHT[::2, ::2, :3]
    with tifffile.TiffWriter(path) as writer:
        if where == "before":
            writer.write(small, photometric="rgb", subfiletype=1, metadata=None)
        writer.write(picture, photometric="rgb", metadata=None, subifds=1 if where == "below" else 0)
        if where != "before":
            writer.write(small, photometric="rgb", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(path, Reading()), picture)
    assert image_size(path, Reading()) == (9, 12)


def test_of_a_scanned_slide_the_largest_level_is_read(tmp_path):
    """Aperio's files hold a thumbnail, smaller levels, a label and an overview, none of them marked as reduced."""
    slide = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for part, tile in ((slide, (16, 16)), (slide[::8, ::8], None), (slide[::2, ::2], (16, 16))):
            writer.write(part, photometric="rgb", tile=tile, metadata=None, description="Aperio Image Library v12")
        for name, kind in (("label", 1), ("macro", 9)):
            writer.write(
                slide[:9, :9], photometric="rgb", subfiletype=kind, metadata=None, description=f"Aperio\n{name} 9x9"
            )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", Reading()), slide)
    assert image_size(tmp_path / "a.tif", Reading()) == (64, 96)


def test_a_preview_above_the_picture_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(EIGHT[::2, ::2, :3], photometric="rgb", subifds=1, metadata=None)
        writer.write(EIGHT[..., :3], photometric="rgb", metadata=None)
    refusal(lambda: read_image(path, Reading()), "a.tif", "reduced copy", "plain TIFF")


def test_a_second_picture_of_a_jpeg_is_counted(tmp_path):
    first, second = (Image.fromarray(EIGHT[..., at : at + 3]).resize((64, 48)) for at in (0, 2))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    first.save(tmp_path / "b.jpg")
    assert read_header(tmp_path / "a.jpg").further == 1
    np.testing.assert_allclose(
        read_image(tmp_path / "a.jpg", Reading()), read_image(tmp_path / "b.jpg", Reading()), atol=1
    )


def ppm16(path, pixels):
    kind = {1: "P5", 3: "P6"}[pixels.shape[2]]
    path.write_bytes(f"{kind}\n# 16 bits\n12 9\n65535\n".encode() + pixels.astype(">u2").tobytes())


def jpeg2000(path, pixels):
    import imagecodecs

    path.write_bytes(
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(pixels.squeeze()), level=0, reversible=True, codecformat="jp2")
    )


def png(path, pixels):
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels.squeeze())))


def tiff16(path, pixels):
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.shape[2] == 3 else "minisblack")


@pytest.mark.parametrize(
    ("name", "write", "channels"),
    [
        ("a.ppm", ppm16, 3),
        ("a.pgm", ppm16, 1),
        ("a.jp2", jpeg2000, 3),
        ("a.jp2", jpeg2000, 1),
        ("a.png", png, 1),
        ("a.png", png, 3),
        ("a.tif", tiff16, 3),
    ],
)
def test_no_bit_of_16_is_lost(tmp_path, name, write, channels):
    path, pixels = tmp_path / name, DEEP[..., :channels]
    write(path, pixels)
    assert read_header(path).depth in ("16-bit", "32-bit")
    np.testing.assert_allclose(read_image(path, Reading(channels, (), *FULL)), pixels / 65535 * 255, rtol=1e-6)
    refusal(lambda: image_size(path, Reading(channels)), name, "-bit image", "data.low")
    refusal(lambda: read_image(path, Reading(channels)), name, "-bit image", "data.low")


def test_10_bits_of_an_avif_are_not_cut(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels, path = DEEP[..., :3] >> 6, tmp_path / "a.avif"
    path.write_bytes(imagecodecs.avif_encode(np.ascontiguousarray(pixels), level=100, bitspersample=10))
    np.testing.assert_allclose(read_image(path, Reading(3, (), (0,), (1023,))), pixels / 1023 * 255, atol=1)
    refusal(lambda: read_image(path, Reading()), "16-bit image", "data.low")
    Image.fromarray(EIGHT[..., :3]).save(path, quality=100)
    assert read_image(path, Reading()).dtype == np.uint8


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_is_left_out_or_read_as_asked(tmp_path, channels, bits):
    path, stretch = tmp_path / "a.png", FULL if bits == 16 else ((), ())
    pixels = (DEEP if bits == 16 else EIGHT)[..., :channels]
    png(path, pixels)
    expected = pixels if bits == 8 else pixels / 65535 * 255
    np.testing.assert_allclose(read_image(path, Reading(channels, (), *stretch)), expected, rtol=1e-6)
    grey = np.repeat(expected[..., :1], 3, axis=2)
    bare = grey if channels == 2 else expected[..., :3]
    np.testing.assert_allclose(read_image(path, Reading(3, (), *stretch)), bare, rtol=1e-6)
    np.testing.assert_allclose(read_image(path, Reading(1, (channels,), *stretch)), expected[..., -1:], rtol=1e-6)
    assert read_header(path).alpha


def test_colours_that_are_not_rgb(tmp_path):
    lab = tmp_path / "a.tif"
    tifffile.imwrite(lab, EIGHT[..., :3], photometric="cielab")
    refusal(lambda: read_image(lab, Reading()), "L*a*b*", "data.channels=[1, 2, 3]")
    np.testing.assert_array_equal(read_image(lab, Reading(3, (1, 2, 3))), EIGHT[..., :3])
    signed = tmp_path / "b.tif"
    tifffile.imwrite(signed, EIGHT[..., 0].view(np.int8), photometric="minisblack")
    refusal(lambda: read_image(signed, Reading()), "signed 8-bit")
    cmyk = save_image(tmp_path / "c.jpg", EIGHT[..., :3], "CMYK")
    assert read_image(cmyk, Reading()).shape == (9, 12, 3)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "grey.tif", "deep.tif", "deep.png", "webp"])
def test_a_tag_turns_unless_it_is_not_to(tmp_path, kind, tag):
    path, exif = tmp_path / f"a.{kind}", Image.Exif()
    exif[0x0112] = tag
    grey = np.repeat(np.repeat(EIGHT[:3, :4, 0], 16, axis=0), 16, axis=1)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels = grey.astype(np.uint16) if "deep" in kind else grey if "grey" in kind else pixels
    image = Image.fromarray(pixels)
    image.save(path, exif=exif, **({"lossless": True} if kind == "webp" else {"quality": 95} if kind == "jpg" else {}))
    stretch = ((0,), (255,)) if "deep" in kind else ((), ())
    stored = np.repeat(grey[..., None], 3, axis=2).astype(float)
    for obeyed in (True, False):
        reading = Reading(3, (), *stretch, exif=obeyed)
        expected = ORIENTATION_TURNS[tag](stored) if obeyed and tag > 1 else stored
        found = read_image(path, reading)
        assert found.shape == expected.shape
        assert abs(found - expected).max() <= 8  # a JPEG's
        assert image_size(path, reading) == expected.shape[:2]


def test_the_limit_of_pixels_is_ours(tmp_path, recwarn):
    path = save_image(tmp_path / "a.png", EIGHT[..., 0])
    deep = tmp_path / "a.tif"
    pages(deep, DEEP)
    for file, reading in ((path, Reading(3, max_pixels=107)), (deep, Reading(5, (), *FULL, max_pixels=107))):
        for call in (read_image, image_size):
            refusal(
                lambda call=call, file=file, reading=reading: call(file, reading),
                file.name,
                "12x9",
                "data.max_pixels=107",
                "tiles",
            )
    assert read_image(path, Reading(3, max_pixels=108)).shape == (9, 12, 3)
    large = tmp_path / "large.png"
    Image.new("1", (10_000, 9_500)).save(large)  # Pillow would warn
    assert image_size(large, Reading(3)) == (9_500, 10_000)
    assert not recwarn.list


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_in_which_0_is_white_is_read_in_one_way_or_refused(tmp_path, bits):
    """Pillow turns 8 bits about and leaves 16, and ids are what is stored: a mask's 1 would be a 254."""
    path = tmp_path / "a.tif"
    values = np.arange(12, dtype=f"uint{bits}").reshape(3, 4)
    tifffile.imwrite(path, values, photometric="miniswhite")
    with pytest.raises(UserError, match="0 is white"):
        read_mask_values(path, colours=False, lossy=False)
    if bits == 8:
        assert (read_image(path, Reading(channels=1))[..., 0] == 255 - values).all()
    else:
        with pytest.raises(UserError, match="0 is white"):
            read_image(path, Reading(channels=1, low=(0.0,), high=(11.0,)))


def test_a_tiff_under_another_name_is_read_as_one(tmp_path):
    tifffile.imwrite(tmp_path / "a.png", DEEP, photometric="minisblack", planarconfig="contig")
    assert read_image(tmp_path / "a.png", Reading(5, (), *FULL)).shape == (9, 12, 5)


def test_16_bits_of_a_png_by_hand_are_the_same(tmp_path):
    path = save_png16(tmp_path / "a.png", DEEP[..., :3])
    np.testing.assert_allclose(read_image(path, Reading(3, (), *FULL)), DEEP[..., :3] / 65535 * 255, rtol=1e-6)
