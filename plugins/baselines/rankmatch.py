"""RankMatch (Mai et al., CVPR 2024): each pixel ranks a few agent pixels by similarity. The student learns to
rank them on a strong view as on the weak view. An addition: run it as `unimatch+rankmatch` or on another method with
strong views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.toolkit import Output, Range, View, ViewOutput, hookimpl, resize

RANKED_AGENTS = 4  # of each pixel; release
CHANNELS_AT_ONCE = 32  # channels that are mixed at image size together; bounds memory, changes nothing


@dataclass(eq=False)
class RankMatch:
    paper: ClassVar[str] = "RankMatch (Mai et al., CVPR 2024), an addition to UniMatch"

    weight: Annotated[float, Range(0, 1e6)] = 0.1  # release
    agents: Annotated[int, Range(RANKED_AGENTS, 1e5)] = 64  # of each image; release
    # Added to every divisor and in the logarithm; release | 0: no confident pixel is lost [ours].
    guard: Annotated[float, Range(0, 1)] = 1e-10

    @hookimpl
    def regularize(
        self,
        labelled_output: Output,
        teacher_output: Output | None,
        partner_output: Output | None,
        views: tuple[ViewOutput, ...],
    ) -> dict[str, Tensor]:
        strong = [view_output for view_output in views if is_strong(view_output.view)]
        if teacher_output is None or not strong:
            return {}
        others = {"labelled": labelled_output} | ({"partner": partner_output} if partner_output else {})
        with torch.autocast(teacher_output.features.device.type, enabled=False):
            losses = [
                ranking_loss(
                    mixed_features(view_output, teacher_output, others),
                    view_output.output.features,
                    self.agents,
                    self.guard,
                )
                for view_output in strong
            ]
        return {"rankmatch": self.weight * torch.stack(losses).mean()}


def is_strong(view: View) -> bool:
    """Whether a view shows unlabelled images otherwise than the weak view does: mixed, or changed in their pixels and
    not in their features alone."""
    changed = view.strength != "weak" and view.perturb is None
    return view.images == "unlabelled" and (view.cutmix is not None or changed)


@torch.no_grad()
def mixed_features(view_output: ViewOutput, teacher_output: Output, others: dict[str, Output]) -> Tensor:
    """The weak features, mixed as the view's images were: brought to image size, mixed, brought back to the view's
    grid; (B, D, h, w) float32, a few channels at a time."""
    size, grid = view_output.image.shape[-2:], view_output.output.features.shape[-2:]

    def at_image_size(output: Output, first: int) -> Tensor:
        return resize(output.features[:, first : first + CHANNELS_AT_ONCE].float(), size)

    parts = []
    for first in range(0, teacher_output.features.shape[1], CHANNELS_AT_ONCE):
        sources = {name: at_image_size(output, first) for name, output in others.items()}
        parts.append(resize(view_output.mix(at_image_size(teacher_output, first), sources), grid))
    return torch.cat(parts, dim=1)


def ranking_loss(weak: Tensor, strong: Tensor, agents: int, guard: float) -> Tensor:
    """KL(weak, strong) between the distributions over the orders of each pixel's likeliest agents; mean over pixels and
    orders. weak, strong: (B, D, h, w); agents are chosen, and the likeliest found, by the weak ones."""
    weak, strong = (maps.float().flatten(2).transpose(1, 2) for maps in (weak.detach(), strong))  # (B, N, D)
    cells = choose_agents(weak, agents).unsqueeze(2).expand(-1, -1, weak.shape[2])
    log_p, log_q = (
        (maps @ maps.gather(1, cells).transpose(1, 2)).log_softmax(dim=2) for maps in (weak, strong)
    )  # (B, N, agents)
    likeliest = log_p.topk(RANKED_AGENTS, dim=2).indices
    weak_orders, strong_orders = (log_orders(values.gather(2, likeliest), guard) for values in (log_p, log_q))
    return F.kl_div(strong_orders, weak_orders, reduction="none", log_target=True).mean()


def choose_agents(features: Tensor, number: int) -> Tensor:
    """Greedily: the first at random, then the cell whose largest |cosine| to those chosen is smallest. (B, number)
    int64; where there are fewer cells some come twice. features: (B, N, D)."""
    units = F.normalize(features, dim=2, eps=1e-6)
    chosen = [first_agents(features)]
    closest = torch.zeros_like(features[:, :, 0])
    for _ in range(number - 1):
        agent = units.gather(1, chosen[-1].view(-1, 1, 1).expand(-1, 1, units.shape[2]))
        closest = torch.maximum(closest, (units @ agent.transpose(1, 2)).squeeze(2).abs())
        closest = closest.scatter(1, chosen[-1].unsqueeze(1), 2.0)  # never twice, even where the features are all zero
        chosen.append(closest.argmin(dim=1))
    return torch.stack(chosen, dim=1)


def first_agents(features: Tensor) -> Tensor:
    """(B,) int64: a cell of each image, drawn on the device. features: (B, N, D)."""
    return torch.randint(features.shape[1], (len(features),), device=features.device)


def log_orders(logs: Tensor, guard: float) -> Tensor:
    """Log of the Plackett-Luce probability of each order of the last dimension, (..., K) to (..., K!), for entries of
    probability exp(log).

    guard: the release adds it to the divisor of each quotient, of the last one too (which would be 1), and to the
    probability before its logarithm. A pixel with an entry below about `guard` thereby gives all orders the same
    probability and teaches nothing. 0: the exact probability, for entries as small as they like.
    """
    orders = torch.tensor(list(permutations(range(logs.shape[-1]))))
    ordered = logs[..., orders.to(logs.device, non_blocking=True)]  # (..., K!, K)
    if guard == 0:
        remaining = ordered.flip(-1).logcumsumexp(-1).flip(-1)  # of the entries that are not yet placed
        return (ordered - remaining).sum(dim=-1)
    probs = ordered.exp()
    remaining = probs.flip(-1).cumsum(-1).flip(-1)
    quotients = (probs / (remaining + guard)).unbind(dim=-1)
    return (reduce(torch.mul, quotients) + guard).log()  # `prod` would wait for the device in its gradient
