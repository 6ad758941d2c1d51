"""The settings that follow from the data set and the device, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from ssss_zoo.config.layers import recipes
from ssss_zoo.config.parse import read_file
from ssss_zoo.planning.data_facts import RGB_CHANNELS, DataFacts
from ssss_zoo.planning.records import MEASURED_HERE, OUR_CHOICE, PlannedSetting
from ssss_zoo.text import count, format_bytes

CROP_SHARE = 2 / 3  # of an image's sides: 240x320 of 360x480 was measured on CamVid
CROP_SHARES = (1.0, 0.8, 0.65, 0.5)  # of that crop, where steps take too long (our choice)
CROP_LONGEST = 512  # pixels of a side (our choice: the literature has 321 to 801)
CROP_SHORTEST = 64  # pixels of a side (our choice)
CROP_MULTIPLE = 16  # the network's stride
BATCH_CPU = 4  # the batch of the measurements on CamVid
BATCHES_GPU = (16, 8, 4)  # a GPU takes 16 small images in little more time than 8 (measured); our choice of numbers
SCALE, SCALE_RANGE = 0.5, 2.0  # the smallest scale, and the largest by it, as in the measurements on CamVid
SCALE_OF_SMALL_IMAGES = (
    0.75  # the smallest scale where an image is smaller than SMALL_IMAGE (our choice: that of shapes)
)
SMALL_IMAGE = 256  # pixels of the long side (our choice)
THINNEST_SCALED = 1.5  # pixels that the thinnest class keeps at the smallest scale (our choice)
WHOLE_BYTES_PER_PIXEL = 600  # memory of one pass over an image (our estimate for this network: stride 2, 32 channels)
WHOLE_SHARE = 0.25  # of the memory that one image may take (our choice)
HOLD_OUT = 0.2  # share of the labelled images that validate where there is no validation part (our choice)
LEAST_TO_HOLD_OUT = 5  # labelled images, so that one can be spared (our choice)
AVERAGED_STEPS = 20  # decay 1 - 20 / steps: 0.98 for the 1,000 steps that were measured on CamVid
DECAY_SHORTEST, DECAY_LONGEST = 0.98, 0.999  # the recipe of camvid, and AugSeg's on VOC
RAMP_EPOCHS, RAMP_SHARE = 5.0, 0.17  # CW-BASS's ramp; at most the share that the ramp had in the runs on CamVid


@dataclass(frozen=True)
class CropSize:
    """A crop and a batch that a step may have."""

    height: int
    width: int
    batch: int

    @property
    def pixels(self) -> int:
        """The pixels of a batch."""
        return self.height * self.width * self.batch

    def overrides(self) -> list[str]:
        """The crop and the batch as arguments of a run."""
        return [f"train.crop=[{self.height},{self.width}]", f"train.batch={self.batch}"]


@dataclass(frozen=True)
class PlanRules:
    """A file of configs/plan/. method: for unlabelled images; average, ramp: its options that follow from the number of
    steps. settings: those that are always the same."""

    method: str
    average: str
    ramp: str
    settings: tuple[PlannedSetting, ...]


def read_rules() -> PlanRules:
    """The rules that come with the package."""
    tree = read_file(recipes("plan")["default"])
    settings = tuple(PlannedSetting(**one) for one in tree["settings"])
    return PlanRules(tree["method"], tree["average"], tree["ramp"], settings)


# --- crop and batch -------------------------------------------------------------------------------------------------


def crop_candidates(facts: DataFacts, crop: tuple[int, int] | None, batch: int | None, *, gpu: bool) -> list[CropSize]:
    """Crops and batches, from the ones that the data want to the cheapest. crop, batch: the person's own, or None."""
    goal = goal_crop(facts)
    sizes = [crop] if crop else [(round_side(goal[0] * part), round_side(goal[1] * part)) for part in CROP_SHARES]
    usual = [size for size in (BATCHES_GPU if gpu else (BATCH_CPU,)) if size <= max(facts.labelled, BATCH_CPU)]
    batches = [batch] if batch else usual
    large = [CropSize(*sizes[0], size) for size in batches]
    small = [CropSize(*size, batches[-1]) for size in sizes[1:]]
    return list(dict.fromkeys([*large, *small]))


def goal_crop(facts: DataFacts) -> tuple[float, float]:
    """(height, width) of CROP_SHARE of an image, its long side at most CROP_LONGEST."""
    shrink = min(1.0, CROP_LONGEST / (CROP_SHARE * max(facts.height, facts.width)))
    return CROP_SHARE * shrink * facts.height, CROP_SHARE * shrink * facts.width


def round_side(side: float) -> int:
    """The nearest multiple of CROP_MULTIPLE, within the bounds of a crop."""
    return int(min(CROP_LONGEST, max(CROP_SHORTEST, CROP_MULTIPLE * round(side / CROP_MULTIPLE))))


# --- settings by the data -------------------------------------------------------------------------------------------


def scale_setting(facts: DataFacts) -> PlannedSetting:
    """The range of scales, by the size of images and by the thinnest class: from the smallest to twice of it."""
    small = max(facts.height, facts.width) < SMALL_IMAGE
    low = SCALE_OF_SMALL_IMAGES if small else SCALE
    if facts.thickness:
        low = min(1.0, max(low, round(THINNEST_SCALED / facts.thickness, 2)))
    thin = f"; {facts.thin_class} stays {low * facts.thickness:.1f} pixels thick" if facts.thickness else ""
    why = "a crop then shows more of an image" if low == SCALE else "small images, or thin regions"
    source = "measured" if low == SCALE else OUR_CHOICE
    return PlannedSetting("augment.scale", f"[{low:g},{SCALE_RANGE * low:g}]", why + thin, source)


def evaluation_setting(facts: DataFacts, memory: float) -> PlannedSetting:
    """Whole images, or sliding windows where the largest one is too large for the memory, in bytes."""
    needed = facts.largest_pixels * (WHOLE_BYTES_PER_PIXEL + 8 * facts.classes)
    text = f"the largest validation image takes about {format_bytes(needed)}, and {format_bytes(memory)} are there"
    mode = "whole" if needed <= WHOLE_SHARE * memory else "sliding"
    return PlannedSetting("evaluate.mode", mode, text, OUR_CHOICE)


def channel_settings(channels: int) -> list[PlannedSetting]:
    """The channels of the network, where the images are not RGB."""
    if channels == RGB_CHANNELS:
        return []
    return [
        PlannedSetting("model.in_channels", str(channels), f"the images have {count(channels, 'channel')}", "the data")
    ]


def hold_out_settings(val: int, labelled: int) -> list[PlannedSetting]:
    """A share of the labelled images to validate on, where the data set has no validation part and can spare some."""
    if val or labelled < LEAST_TO_HOLD_OUT:
        return []
    reason = f"there are no validation images, and {labelled} labelled ones to spare some of"
    return [PlannedSetting("data.hold_out", f"{HOLD_OUT:g}", reason, OUR_CHOICE)]


def size_settings(size: CropSize, facts: DataFacts) -> list[PlannedSetting]:
    """Crop and batch, as they were found."""
    seen = f"{size.height / facts.height:.0%} of an image's height, {size.width / facts.width:.0%} of its width"
    goal = goal_crop(facts)
    whole = (size.height, size.width) == (round_side(goal[0]), round_side(goal[1]))
    reason = f"{seen}; " + ("as large as is useful" if whole else "larger ones leave too few steps")
    return [
        PlannedSetting("train.crop", f"[{size.height},{size.width}]", reason, OUR_CHOICE if whole else MEASURED_HERE),
        PlannedSetting("train.batch", str(size.batch), "images of each kind in a step", OUR_CHOICE),
    ]


# --- settings by the budget -----------------------------------------------------------------------------------------


def averaging_settings(rules: PlanRules, steps: int, epoch_steps: int) -> list[PlannedSetting]:
    """The method's options that must suit the number of steps. epoch_steps: in a pass over the unlabelled images."""
    decay = min(DECAY_LONGEST, max(DECAY_SHORTEST, 1 - AVERAGED_STEPS / steps))
    ramp = min(RAMP_EPOCHS, RAMP_SHARE * steps / epoch_steps)
    return [
        PlannedSetting(
            rules.average,
            f"{decay:.3f}",
            f"the teacher averages the last {1 / (1 - decay):.0f} of {steps} steps",
            OUR_CHOICE,
        ),
        PlannedSetting(
            rules.ramp,
            f"{ramp:.2g}",
            f"full weight after {ramp * epoch_steps:.0f} steps, of {epoch_steps} an epoch",
            OUR_CHOICE,
        ),
    ]
