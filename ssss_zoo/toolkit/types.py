"""The words that engine, hooks and methods share. Frozen, compared by identity: a record is never changed in place.

Shapes: B images, C classes, D feature width, H x W pixels, h x w feature cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

IGNORE = 255  # a mask's value for void, and for the padding of a labelled crop

Perturbation = Callable[[list[Tensor]], list[Tensor]]


class Augmentation(Protocol):
    """A photometric change of a batch in two steps, so that all that chance decides on the CPU is drawn before the
    device work begins. `ssss_zoo.toolkit.augment.Strong` is one."""

    def draw(self, images: int) -> Any:
        """What chance decides about so many images, on the CPU."""

    def apply(self, image: Tensor, draw: Any) -> Tensor:
        """The changed images, a new tensor; image: (B, channels, H, W) float in [0, 1], draw: what `draw` returned."""


@dataclass(frozen=True)
class FixedAugmentation:
    """An augmentation without chance: a function of images (B, channels, H, W) in [0, 1]."""

    function: Callable[[Tensor], Tensor]

    def draw(self, images: int) -> None:
        return None

    def apply(self, image: Tensor, draw: None) -> Tensor:
        return self.function(image)


@dataclass(frozen=True, eq=False)
class RawLabelled:
    """Labelled crops as the loader makes them: image (B, channels, H, W) and mask (B, H, W), uint8 on the CPU, pinned
    where the run trains on a GPU. pseudo: as in `Labelled`."""

    image: Tensor
    mask: Tensor
    pseudo: Tensor | None = None


@dataclass(frozen=True, eq=False)
class RawUnlabelled:
    """Unlabelled crops as the loader makes them: image (B, channels, H, W) uint8 and valid (B, H, W) bool on the CPU,
    pinned where the run trains on a GPU."""

    image: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class RawBatch:
    """A batch as the loader makes it; the engine turns it into a `Batch`. hidden: (B, H, W) uint8."""

    labelled: RawLabelled
    unlabelled: RawUnlabelled | None = None
    partner: RawUnlabelled | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """A batch of the labelled stream.

    image: (B, channels, H, W) float in [0, 1].
    mask: (B, H, W) int64, IGNORE where void.
    pseudo: (B,) bool on the CPU: the images whose mask an earlier stage made (`Sample.pseudo`), None for none.
    """

    image: Tensor
    mask: Tensor
    pseudo: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """A batch of weak views.

    image: (B, channels, H, W) float in [0, 1].
    valid: (B, H, W) bool, False on crop padding.
    """

    image: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's images, on the training device. `unlabelled` is None for a method without views; `partner` is a second
    draw from the unlabelled images, read only when a view's CutMix asks for it (`partner="stream"` or `"twin"`).
    `hidden` (B, H, W): the unlabelled images' own labels where `diagnose=true` reads them; no hook ever sees it."""

    labelled: Labelled
    unlabelled: Unlabelled | None = None
    partner: Unlabelled | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Output:
    """What a network returns.

    logits: (B, C, H, W) at image size.
    features: (B, D, h, w), the decoder's last map.
    maps: what the decoder read, the encoder's maps from shallow to deep, each (B, D', h', w').
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...] = ()

    def detach(self) -> Output:
        return Output(self.logits.detach(), self.features.detach(), tuple(level.detach() for level in self.maps))


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """What the teacher says of a weak view.

    target: int64 class ids (B, H, W), or a float distribution (B, C, H, W) that sums to 1 over C.
    confidence: (B, H, W) float in [0, 1], the teacher's largest class probability.
    valid: (B, H, W) bool; False means "never use" (padding). There is no 255 in a pseudo-label.
    """

    target: Tensor
    confidence: Tensor
    valid: Tensor

    @property
    def ids(self) -> Tensor:
        """The likeliest class of each pixel, (B, H, W) int64, for either kind of target."""
        return self.target if self.target.dim() == 3 else self.target.max(dim=1).indices


PixelLoss = Callable[[Tensor, PseudoLabel], Tensor]  # logits (B, C, H, W), label to a loss a pixel (B, H, W)


@dataclass(frozen=True, eq=False)
class CutMix:
    """Rectangles of a partner image laid over a view; image, pseudo-label, weight and validity move together.

    partner: `next` (the batch rolled by one: no image meets itself unless it is alone), `reverse` (the batch
        read backwards, UniMatch V2's rule: the middle one of an odd batch meets itself), `rows` (the batch in the order
        `rows`), `stream` (a second, independent unlabelled batch, labelled by a pass of its own), `twin` (such a batch
        with the same photographs, cropped and flipped anew: what UniMatch V1's release does), `labelled` (the labelled
        images: their truth comes along as a label of confidence 1).
    boxes: (B, n, 4) int64 on the CPU: top, left, bottom, right, half open; an empty box mixes nothing.
        Overlapping boxes of one image toggle (CutMix-Seg's rule).
    rows: (B,) int64 on the CPU: which image of the partner each image gets; None: the partner's own order.
    gate: which images are mixed at all, by the teacher's word on them: probs (B, C, H, W) of the weak views to (B,)
        bool on their device. It needs a teacher with a pass of its own.
    under: boxes that are laid over the batch before it is taken as partner (AugSeg).
    """

    partner: str
    boxes: Tensor
    rows: Tensor | None = None
    gate: Callable[[Tensor], Tensor] | None = None
    under: CutMix | None = None


@dataclass(frozen=True, eq=False)
class View:
    """One look of the student at a batch, trained towards the pseudo-label.

    strength: `strong` (the run's photometric augmentation on top of the weak view), `weak` (the weak view itself), or
        an `Augmentation` that makes the view's images from the weak ones.
    loss_weight: weight of this view's loss in the total.
    forward_group: the forward pass it goes into. `labelled` is the pass of the labelled images; views of one group
        share a pass, and so BatchNorm statistics.
    cutmix: boxes of a partner, or None.
    perturb: changes the encoder's features on their way to the decoder (list of maps in, the same list out).
    perturb_labelled: also decode a perturbed copy of the labelled images, thrown away after BatchNorm saw it.
    divide_by: what the summed loss is divided by: `valid` (pixels that are not padding), `kept` (pixels with a
        weight above 0), `weight` (sum of the weights), `all` (every pixel), `kept_share` (kept^2 / all: the mean over
        kept pixels times the inverse of their share, U2PL). Never less than 1 (weight: 1e-6).
    weight_pooling: what one weight is for: a `pixel`, or, as the mean of the view's weights, the whole `batch`
        (CutMix-Seg).
    loss: (B, H, W) from logits and label; None: cross-entropy.
    images: the images it shows, `unlabelled` or `labelled` (consistency on labelled images; their masks are not used).
    """

    name: str
    strength: str | Augmentation = "strong"
    loss_weight: float = 1.0
    forward_group: str = "strong"
    cutmix: CutMix | None = None
    perturb: Perturbation | None = None
    perturb_labelled: bool = False
    divide_by: str = "valid"
    weight_pooling: str = "pixel"
    loss: PixelLoss | None = None
    images: str = "unlabelled"


@dataclass(frozen=True, eq=False)
class Views:
    """All that the student looks at in one step: the views, and the share of the labelled loss.
    No views at all means that the method learns from labels alone: no unlabelled image is read.

    augment_labelled: draws, from the raw labelled batch, how the labelled images and masks change before anything reads
        them; returns the function that changes them on the device, or None.
    labelled_last: the pass of the labelled images comes after the others, so that BatchNorm's running statistics end
        with it (CPS with CutMix).
    """

    views: tuple[View, ...] = ()
    supervised_weight: float = 1.0
    augment_labelled: Callable[[RawLabelled], Callable[[Labelled], Labelled] | None] | None = None
    labelled_last: bool = False


class Mix(Protocol):
    """Lays what goes with a view's images together as the images were; `ssss_zoo.toolkit.mixing.Mixing` is one."""

    def __call__(self, own: Tensor, others: Mapping[str, Tensor]) -> Tensor: ...

    def label(self, own: PseudoLabel, others: Mapping[str, PseudoLabel]) -> PseudoLabel: ...


@dataclass(frozen=True, eq=False)
class ViewOutput:
    """A view after the student's pass: its image as shown (boxes mixed in), the student's output with gradient, and the
    target and pixel weight (B, H, W) mixed by the same boxes.

    box: (B, H, W) bool, where something else than the image itself lies; None without boxes.
    mix: lays anything that goes with the images together as the images were: mix(own, {"partner": ..., "labelled":
        ...}), each (B, ..., H, W); mix.label does so for pseudo-labels.
    notes: what a `refine` hook leaves for the same method's `regularize`.
    """

    view: View
    image: Tensor
    output: Output
    label: PseudoLabel
    weight: Tensor
    box: Tensor | None
    mix: Mix
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where the run stands.

    step: 0-based index of this step.
    steps: how many there are.
    epoch_steps: steps in one pass over the unlabelled images (the labelled ones where the method reads no others).
    """

    step: int
    steps: int
    epoch_steps: int

    @property
    def done(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return self.step / max(self.steps, 1)

    @property
    def epoch(self) -> float:
        """Passes over the unlabelled images so far, fractional."""
        return self.step / max(self.epoch_steps, 1)


class SamplePredictor(Protocol):
    """Predicts whole images; `RunInfo.predict` is one."""

    def __call__(
        self, sample: Sample, network: nn.Module, scales: Sequence[float] = (1.0,), flip: bool = False
    ) -> PseudoLabel:
        """The hard label (1, H, W) of a sample's image at its own size, every pixel valid.

        The network predicts in evaluation mode at each of `scales` times the image's size, with `flip` the mirrored
        image as well; the label is made of the mean of these probabilities.
        """


@dataclass(frozen=True, eq=False)
class RunInfo:
    """What a method may know before the first step.

    feature_dim, map_dims: channels of `Output.features` and of each of `Output.maps`.
    crop, batch: (H, W) of the crops; labelled images a step, and unlabelled ones.
    students: the networks that will be trained, on their device.
    labelled, unlabelled: the run's lists.
    read: a sample's image (H, W, channels) in [0, 255].
    predict: what a network predicts of a sample's image, see `SamplePredictor`.
    supervised: the run's loss on labelled pixels, logits and mask to a scalar.
    strong: its strong photometric view.
    """

    class_names: tuple[str, ...]
    feature_dim: int
    map_dims: tuple[int, ...]
    in_channels: int
    crop: tuple[int, int]
    batch: int
    steps: int
    epoch_steps: int
    folder: Path
    students: tuple[nn.Module, ...]
    labelled: Sequence[Sample]
    unlabelled: Sequence[Sample]
    read: Callable[[Sample], Any]
    predict: SamplePredictor
    supervised: Callable[[Tensor, Tensor], Tensor]
    strong: Augmentation

    @property
    def num_classes(self) -> int:
        """How many classes there are, void left out."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Sample:
    """One entry of a list: where its image is, and its mask where it has one. `name` is what messages call it.

    pseudo: an 8-bit image of class ids that a stage of the run made; it then stands in place of the mask.
    """

    name: str
    image: Any
    mask: Any = None
    pseudo: Path | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """One training of a method of several (ST++): which lists it trains on (None: the run's own), for how many steps
    (None: the run's budget), and whether the networks start again from their first weights. stages: how many trainings
    the run is expected to have in all, from which the time left is estimated."""

    name: str = "train"
    labelled: Sequence[Sample] | None = None
    unlabelled: Sequence[Sample] | None = None
    steps: int | None = None
    restart: bool = True
    stages: int = 1


@dataclass(frozen=True, eq=False)
class StageResult:
    """What a finished stage leaves: its validation figures, its networks, and the lists that it was given. The next
    stage trains these very networks or starts them again: copy what is to be kept."""

    stage: Stage
    metrics: dict[str, Any]
    students: tuple[nn.Module, ...]
    teacher: nn.Module | None
    labelled: Sequence[Sample] = field(default_factory=tuple)
    unlabelled: Sequence[Sample] = field(default_factory=tuple)
