"""The laws of the crop streams: what a crop shows, and that a position decides it alone."""

import re
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from ssss_zoo.data.base import Dataset
from ssss_zoo.data.loading.crops import (
    GEOMETRY_DRAW,
    ORDER_DRAW,
    CropDataset,
    CropRules,
    Padding,
    Positions,
    crop_image,
    crop_mask,
    draw_geometry,
    make_stream,
)
from ssss_zoo.errors import UserError
from ssss_zoo.toolkit.types import Sample

sides = st.integers(1, 60)
sizes = st.tuples(sides, sides)
scales = st.tuples(st.floats(0.1, 3.0), st.floats(0.1, 3.0)).map(lambda pair: (min(pair), max(pair)))
seeds = st.integers(0, 2**31)


class Memory(Dataset):
    """Images (H, W, channels) of random pixels 1 to 255 and masks of ids 0 to 4; sample i is (size, i)."""

    def __init__(self, count=5, size=(20, 30), channels=3, broken=()):
        self.class_names, self.colours = tuple("abcde"), ((0, 0, 0),) * 5
        self.labelled = [Sample(f"sample {i}", i, i) for i in range(count)]
        self.unlabelled, self.val = [Sample(f"bare {i}", i) for i in range(count)], []
        self.size, self.channels, self.broken = size, channels, broken

    def read_image(self, sample):
        if sample.image in self.broken:
            raise UserError(f"cannot read {sample.name}: damaged")
        shape = (*self.size, self.channels)
        return np.random.default_rng(sample.image).integers(1, 256, shape, dtype=np.uint8)

    def read_mask(self, sample):
        return np.random.default_rng(sample.mask).integers(0, 5, self.size, dtype=np.uint8)


def crops(dataset=None, crop=(16, 16), scale=(0.5, 2.0), seed=0, tag="labelled", masks=True, samples=None):
    dataset = dataset or Memory()
    return CropDataset(dataset, samples or dataset.labelled, crop, scale, seed, tag, masks=masks)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[k]), torch.as_tensor(second[k])) for k in first
    )


# --- geometry -------------------------------------------------------------------------------------------------------


@given(sizes, sizes, scales, seeds)
@settings(deadline=None)
def test_geometry_keeps_its_promises(source, crop, scale, seed):
    drawn = draw_geometry(source, crop, scale, np.random.default_rng(seed))
    long = max(source)
    assert max(int(scale[0] * long), 1) <= max(drawn.size) <= max(int(scale[1] * long), 1)
    if max(drawn.size) > 1:
        exact = min(source) * max(drawn.size) / long
        assert abs(min(drawn.size) - max(exact, 1)) <= 0.5
    for axis in (0, 1):
        assert drawn.filled[axis] == min(drawn.size[axis], crop[axis])
        assert 0 <= drawn.offset[axis] <= drawn.size[axis] - drawn.filled[axis]


def test_scale_and_offset_reach_both_ends():
    rng = np.random.default_rng(0)
    drawn = [draw_geometry((10, 20), (8, 8), (0.5, 1.0), rng) for _ in range(2000)]
    assert {geometry.size[1] for geometry in drawn} == set(range(10, 21))
    full = [geometry.offset for geometry in drawn if geometry.size == (10, 20)]
    assert {corner[0] for corner in full} == {0, 1, 2}
    assert {corner[1] for corner in full} == set(range(13))


def test_other_side_is_rounded_half_up():
    geometry = draw_geometry((30, 20), (8, 8), (0.85, 0.85), np.random.default_rng(0))
    assert geometry.size == (25, 17)  # 20 * 25 / 30 = 16.67


def whole(image, size):
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def cut(array, geometry):
    (top, left), (rows, columns) = geometry.offset, geometry.filled
    return array[top : top + rows, left : left + columns]


def difference(image, geometry):
    """Of the crop from resizing the whole and cutting, (rows, columns, channels)."""
    return np.abs(crop_image(image, geometry) - cut(whole(image, geometry.size), geometry).astype(int))


@given(sizes, sizes, scales, seeds)
@settings(max_examples=200, deadline=None)
def test_crop_equals_resize_then_crop(source, crop, scale, seed):
    """Up to rounding: Pillow keeps the box in 32 bits, which may turn one rounding of .5 in each of its two passes."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*source, 3), dtype=np.uint8)
    assert difference(image, draw_geometry(source, crop, scale, rng)).max() <= 2


def test_crop_of_a_large_image_equals_resize_then_crop_nearly_everywhere():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (361, 479, 3), dtype=np.uint8)
    for _ in range(20):
        assert (difference(image, draw_geometry((361, 479), (160, 208), (0.5, 2.0), rng)) > 0).mean() < 0.01


@given(sizes, sizes, scales, seeds)
@settings(deadline=None)
def test_mask_crop_is_the_nearest_pixel_of_the_whole(source, crop, scale, seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 256, source, dtype=np.uint8)
    geometry = draw_geometry(source, crop, scale, rng)
    rows, columns = (
        [int((place + 0.5) * (source[axis] / geometry.size[axis]) + 1e-9) for place in range(geometry.size[axis])]
        for axis in (0, 1)
    )
    np.testing.assert_array_equal(crop_mask(mask, geometry), cut(mask[np.ix_(rows, columns)], geometry))


def test_mask_crop_is_pillows_nearest():
    """Where the centre of a pixel falls between two source pixels, Pillow's sums of fractions may take either."""
    mask = np.random.default_rng(0).integers(0, 256, (36, 48), dtype=np.uint8)
    for seed in range(50):
        geometry = draw_geometry(mask.shape, (16, 16), (0.5, 2.0), np.random.default_rng(seed))
        resized = Image.fromarray(mask).resize(geometry.size[::-1], Image.Resampling.NEAREST)
        rows, columns = (
            (2 * np.arange(size) + 1) * side % (2 * size) > 0
            for size, side in zip(geometry.size, mask.shape, strict=True)
        )
        clear = cut(rows[:, None] & columns, geometry)
        np.testing.assert_array_equal(crop_mask(mask, geometry)[clear], cut(np.asarray(resized), geometry)[clear])


def test_identity_scale_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    geometry = draw_geometry((9, 7), (4, 5), (1.0, 1.0), np.random.default_rng(3))
    np.testing.assert_array_equal(crop_image(image, geometry), cut(image, geometry))
    np.testing.assert_array_equal(crop_mask(image[:, :, 0], geometry), cut(image[:, :, 0], geometry))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_are_cropped_alike(channels):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    many = np.concatenate([rgb, rgb[:, :, ::-1]], axis=2)[:, :, :channels]
    geometry = draw_geometry((20, 30), (16, 16), (0.5, 1.5), np.random.default_rng(1))
    expected = crop_image(rgb, geometry)
    expected = np.concatenate([expected, expected[:, :, ::-1]], axis=2)[:, :, :channels]
    np.testing.assert_array_equal(crop_image(many, geometry), expected)


# --- items ----------------------------------------------------------------------------------------------------------


@given(sizes, sizes, scales, seeds, st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_valid_is_where_the_image_is(source, crop, scale, seed, position):
    item = crops(Memory(size=source), crop=crop, scale=scale, seed=seed)[position]
    assert item["image"].shape == (3, *crop)
    assert item["image"].dtype == item["mask"].dtype == torch.uint8
    assert item["valid"].shape == item["mask"].shape == crop
    assert torch.equal(item["image"].amin(dim=0) > 0, item["valid"])  # pixels start at 1, padding is 0
    assert torch.equal(item["mask"] != 255, item["valid"])  # no void in these masks
    rows, columns = item["valid"].any(dim=1), item["valid"].any(dim=0)
    assert torch.equal(item["valid"], rows[:, None] & columns)  # a rectangle
    assert bool((rows.int().diff() <= 0).all() and (columns.int().diff() <= 0).all())  # at the top left


def test_padding_by_hand():
    """A 2 x 3 image at its own size in a crop of 5 x 6: one row above and two below, one column left and two right."""
    dataset, colour = Memory(size=(2, 3)), (0.485, 0.456, 0.406)
    own = dataset.labelled[:1]
    padding = Padding(colour, centred=True, label=0)
    item = CropDataset(dataset, own, (5, 6), (1.0, 1.0), 0, "labelled", masks=True, rules=CropRules(padding=padding))[0]
    image, mask = dataset.read_image(own[0]), dataset.read_mask(own[0])
    assert item["image"][:, 1:3, 1:4].permute(1, 2, 0).tolist() == image.tolist()
    assert item["mask"][1:3, 1:4].tolist() == mask.tolist()
    around = torch.ones(5, 6, dtype=torch.bool)
    around[1:3, 1:4] = False
    assert torch.equal(item["valid"], ~around)
    assert item["image"][:, around].tolist() == [[124] * 24, [116] * 24, [104] * 24]  # 123.7, 116.3, 103.5
    assert item["mask"][around].tolist() == [0] * 24
    plain = CropDataset(dataset, own, (5, 6), (1.0, 1.0), 0, "labelled", masks=True)[0]
    assert plain["image"][:, :2, :3].permute(1, 2, 0).tolist() == image.tolist()
    assert plain["image"].sum() == int(image.sum())
    assert plain["mask"][2:].unique().tolist() == plain["mask"][:, 3:].unique().tolist() == [255]


@given(sizes, sizes, scales, seeds, st.booleans(), st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_padding_moves_the_image_and_nothing_in_it(source, crop, scale, seed, centred, label):
    dataset = Memory(size=source)
    given = (dataset, dataset.labelled, crop, scale, seed, "labelled")
    rules = CropRules(padding=Padding((0.5,) * 3, centred, label))
    plain, padded = CropDataset(*given, masks=True)[3], CropDataset(*given, masks=True, rules=rules)[3]
    assert torch.equal(plain["image"][:, plain["valid"]], padded["image"][:, padded["valid"]])
    assert torch.equal(plain["mask"][plain["valid"]], padded["mask"][padded["valid"]])
    assert set(padded["image"][:, ~padded["valid"]].flatten().tolist()) <= {128}
    assert set(padded["mask"][~padded["valid"]].tolist()) <= {label}
    for axis in (0, 1):
        filled = padded["valid"].any(dim=1 - axis).int().tolist()
        before, after = filled.index(1), filled[::-1].index(1)
        assert after - before in ((0, 1) if centred else (after,))  # the odd pixel at the end, or all of it


def test_the_colour_of_deep_images_is_not_rounded():
    canvas = Padding((0.485, 0.5)).canvas(2, (1, 2), torch.float32)
    assert_close(canvas, 255 * torch.tensor([0.485, 0.5]).view(2, 1, 1).expand(2, 1, 2))
    assert Padding().canvas(2, (1, 2), torch.uint8).tolist() == [[[0, 0]], [[0, 0]]]


def test_halves_are_below_and_above_one_equally_often():
    """U2PL's law has a median of 1, uniform from 0.5 to 2 one of 1.25: a third of its draws are below 1."""
    rng = np.random.default_rng(0)
    sides = [max(draw_geometry((10, 200), (8, 8), (0.5, 2.0), rng, law="halves").size) for _ in range(4000)]
    assert set(sides) == set(range(100, 401))
    assert np.mean([side < 200 for side in sides]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([side < 150 for side in sides]) == pytest.approx(0.25, abs=0.03)
    uniform = [max(draw_geometry((10, 200), (8, 8), (0.5, 2.0), rng).size) for _ in range(4000)]
    assert np.mean([side < 200 for side in uniform]) == pytest.approx(1 / 3, abs=0.03)


def test_a_feed_pads_labelled_masks_as_told_and_hidden_ones_never(tiny_run):
    words = ["augment.pad_fill=mean", "augment.pad_place=centre", "augment.pad_label=0", "diagnose=true"]
    batch = next(tiny_run("train.crop=[40,48]", "augment.scale=[1,1]", *words).feed)  # images are smaller
    edges = [batch.labelled.image[:, :, side] for side in (0, -1)]
    assert all(edge.unique().tolist() == [128] for edge in edges)  # the tiny network's mean is 0.5
    assert batch.labelled.mask[:, 0].unique().tolist() == [0]
    assert batch.hidden[:, 0].unique().tolist() == [255]
    assert not batch.unlabelled.valid[:, 0].any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["augment.pad_label=5"],
            "augment.pad_label=5 is no class: tiny has 5 classes, 0 to 4; 255 leaves padding out",
        ),
        (["evaluate.mode=centre", "evaluate.pad_label=254"], "evaluate.pad_label=254 is no class"),
        (["augment.pad_label=256"], "augment.pad_label must be between 0 and 255"),
        (["augment.pad_fill=white"], "augment.pad_fill"),
        (["augment.pad_place=center"], "did you mean 'centre'"),
        (["augment.scale_law=halves", "augment.scale=[1.2,2]"], "halves needs 1 within augment.scale; got [1.2, 2.0]"),
    ],
)
def test_what_padding_and_scales_cannot_be_is_said(tiny_config, words, said):
    from ssss_zoo.train.run import run_training

    with pytest.raises(UserError, match=re.escape(said)):
        run_training(tiny_config(*words))


def test_void_is_valid():
    dataset = Memory(size=(8, 8))
    dataset.read_mask = lambda sample: np.full((8, 8), 255, np.uint8)
    item = crops(dataset, crop=(8, 12), scale=(1.0, 1.0))[0]
    assert bool((item["mask"] == 255).all())
    assert item["valid"].sum() == 64


def test_mask_only_on_request_and_void_without_one():
    dataset = Memory()
    assert "mask" not in crops(dataset, masks=False)[0]
    assert bool((crops(dataset, samples=dataset.unlabelled)[0]["mask"] == 255).all())


def test_mask_of_another_size_is_refused():
    dataset = Memory()
    dataset.read_mask = lambda sample: np.zeros((3, 4), np.uint8)
    with pytest.raises(UserError, match=r"sample .* mask is 4x3, the image 30x20"):
        crops(dataset)[0]


def test_no_samples_is_refused():
    with pytest.raises(UserError, match="unlabelled stream has no image"):
        CropDataset(Memory(), [], (8, 8), (1.0, 1.0), 0, "unlabelled", masks=False)


# --- positions ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), seeds)
@settings(max_examples=30, deadline=None)
def test_every_sample_once_an_epoch(count, seed):
    stream = crops(Memory(count), seed=seed)
    for epoch in range(3):
        assert sorted(stream.index(epoch * count + place) for place in range(count)) == list(range(count))


def test_epochs_seeds_and_tags_order_differently():
    def order(epoch=0, **settings):
        stream = crops(Memory(50), **settings)
        return [stream.index(epoch * 50 + place) for place in range(50)]

    orders = [order(), order(epoch=1), order(seed=1), order(tag="unlabelled")]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_order_and_geometry_draw_apart():
    stream = crops()
    assert stream.generator(ORDER_DRAW, 3).random() != stream.generator(GEOMETRY_DRAW, 3).random()


def test_an_item_depends_on_its_position_alone():
    forward, backward = crops(), crops()
    items = [forward[position] for position in range(12)]
    assert all(same(backward[position], items[position]) for position in reversed(range(12)))
    assert items[0]["index"] == forward.index(0)
    assert forward.sample(0).name == f"sample {forward.index(0)}"


def test_positions_never_end():
    assert list(islice(Positions(7), 4)) == [7, 8, 9, 10]


def batches(count, start=0, workers=0, batch=3, dataset=None):
    stream = make_stream(crops(dataset), batch, start, workers, pin=False)
    return list(islice(stream, count))


def test_batches_are_stacked_items():
    first, second = batches(2)
    expected = [crops()[position] for position in range(6)]
    assert torch.equal(torch.cat([first["image"], second["image"]]), torch.stack([item["image"] for item in expected]))
    assert torch.cat([first["index"], second["index"]]).tolist() == [item["index"] for item in expected]
    assert first["valid"].dtype == torch.bool


def test_workers_and_restarts_change_nothing():
    alone = batches(6)
    assert all(map(same, batches(6, workers=2), alone))
    assert all(map(same, batches(3, start=9, workers=1), alone[3:]))


def test_short_list_is_repeated():
    (batch,) = batches(1, batch=7, dataset=Memory(2))
    assert sorted(batch["index"].tolist()[:6]) == [0, 0, 0, 1, 1, 1]


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    batches(2, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_file_in_mid_run_is_one_line(workers):
    stream = crops(Memory(5, broken=(2,)))
    place = [stream.index(position) for position in range(5)].index(2)
    batches_read = make_stream(stream, 1, 0, workers, pin=False)
    for _ in range(place):
        next(batches_read)
    with pytest.raises(UserError, match=r"^cannot read sample 2: damaged$"):
        next(batches_read)


# --- what some methods ask of the streams ---------------------------------------------------------------------------


def test_the_long_side_may_count_from_a_base_of_its_own():
    rng = np.random.default_rng(0)
    sides = {max(draw_geometry((30, 60), (8, 8), (0.5, 2.0), rng, base=10).size) for _ in range(400)}
    assert (min(sides), max(sides)) == (5, 20)
    given_base = CropDataset(
        Memory(size=(30, 60)),
        Memory().labelled,
        (16, 16),
        (1.0, 1.0),
        0,
        "labelled",
        masks=True,
        rules=CropRules(base=8),
    )
    assert given_base[0]["valid"].sum() == 4 * 8


def test_a_twin_shows_the_same_photographs_cropped_anew():
    dataset = Memory(count=7)
    given = (dataset, dataset.unlabelled, (16, 16), (0.5, 2.0), 0)
    plain = CropDataset(*given, "unlabelled", masks=False)
    twin = CropDataset(*given, "partner", masks=False, order="unlabelled")
    stream = CropDataset(*given, "partner", masks=False)
    numbers = [[one.index(position) for position in range(21)] for one in (plain, twin, stream)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert not all(torch.equal(plain[k]["image"], twin[k]["image"]) for k in range(7))


def test_a_mask_that_a_stage_made_stands_in_place_of_the_own_one(tmp_path):
    dataset = Memory(size=(16, 16))
    Image.fromarray(np.full((16, 16), 3, np.uint8)).save(tmp_path / "made.png")
    made = [Sample("made", 0, mask=None, pseudo=tmp_path / "made.png"), Sample("own", 1, 1)]
    items = [crops(dataset, samples=made, scale=(1.0, 1.0))[position] for position in range(2)]
    by_number = {item["index"]: item for item in items}
    assert (by_number[0]["mask"] == 3).all()
    assert by_number[0]["pseudo"] is True
    assert by_number[1]["pseudo"] is False
    assert len(by_number[1]["mask"].unique()) > 1
