"""What the settings must keep to together. The range or the choices of a single setting stand in the schema."""

from __future__ import annotations

from ssss_zoo.config.schema import Config
from ssss_zoo.errors import UserError, check_range
from ssss_zoo.text import brief

RIVAL_KEYS = (("steps", "epochs"), ("eval_every", "eval_epochs"))  # keys of `train` that say one thing in two ways
SMALL_CROP = 32  # pixels of a side below which a step sees next to nothing (our choice: the literature has 321 to 801)


def check_settings(config: Config) -> None:
    """Raise UserError for settings that cannot be, whatever the method."""
    train, augment = config.train, config.augment
    for key, other in RIVAL_KEYS:
        first, second = getattr(train, key), getattr(train, other)
        if first is not None and second is not None:
            raise UserError(f"give train.{key} or train.{other}, not both; got {first} and {second:g}")
    check_sides("train.crop", train.crop, least=1)
    check_sides("evaluate.window", config.evaluate.window, least=0)
    check_sides("evaluate.stride", config.evaluate.stride, least=0)
    check_pair("augment.scale", augment.scale, 0.01, 20)
    check_pair("augment.blur_sigma", augment.blur_sigma, 0.001, 50)
    if augment.scale_law == "halves" and not augment.scale[0] <= 1 <= augment.scale[1]:
        raise UserError(f"augment.scale_law=halves needs 1 within augment.scale; got {augment.scale}")
    check_channels_and_ranges(config)
    check_nodata(config.data.nodata)


def check_sides(key: str, sides: list[int], least: int) -> None:
    """Raise UserError unless there are at least `least` sides and at most 2, each of 1 pixel or more."""
    if not least <= len(sides) <= 2 or min(sides, default=1) < 1:
        raise UserError(f"{key} takes one side or [height, width] in pixels; got {brief(sides)}")


def check_pair(key: str, pair: list[float], low: float, high: float) -> None:
    """Raise UserError unless it is [smallest, largest], both within [low, high] (our choice of these)."""
    if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
        raise UserError(f"{key} takes [smallest, largest] with 0 < smallest <= largest; got {brief(pair)}")
    for value in pair:
        check_range(key, value, low, high)


def check_channels_and_ranges(config: Config) -> None:
    """Raise UserError for channels that no file has, and for pixel ranges that do not fit them."""
    data, expected = config.data, config.model.in_channels
    if data.channels and min(data.channels) < 1:
        raise UserError(f"data.channels={data.channels}: the channels of a file are counted from 1")
    if data.channels and len(data.channels) != expected:
        raise UserError(f"data.channels={data.channels} are {len(data.channels)}, and model.in_channels={expected}")
    paired = len(data.low) == len(data.high) and len(data.low) in (0, 1, expected)
    if not paired or any(low >= high for low, high in zip(data.low, data.high, strict=True)):
        raise UserError(
            f"data.low={data.low} and data.high={data.high} must both be one number or one for each of {expected} "
            "channels (model.in_channels), each low below its high"
        )


def check_nodata(values: list[str]) -> None:
    """Raise UserError unless all are numbers, or the only one is `off`."""
    for value in values:
        try:
            float(value)
        except ValueError:
            if values != ["off"]:
                raise UserError(
                    f"data.nodata={values}: expected the values of pixels without data, or off for none"
                ) from None


def check_budget(config: Config) -> None:
    """Raise UserError where neither the person nor a recipe says how long to train."""
    if config.train.steps is None and config.train.epochs is None:
        raise UserError("the length of the training is not set: give train.steps or train.epochs")


def warnings_of(config: Config) -> list[str]:
    """A line on each setting that is allowed and hardly meant."""
    lines = []
    if min(config.train.crop) < SMALL_CROP:
        lines.append(f"train.crop={brief(config.train.crop)} pixels: so small a crop shows a network almost nothing")
    if config.optim.lr == 0:
        lines.append("optim.lr=0: no weight will change")
    return lines
