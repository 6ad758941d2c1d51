"""RankMatch (Mai et al., CVPR 2024): each pixel ranks a few agent pixels by likeness; the student's ranking on a strong
view should be the weak view's. An addition: run it as `unimatch+rankmatch` or on another method with strong views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssss_zoo.toolkit import Output, ViewOutput, check_range, device_generator, hookimpl

TOP = 4  # agents that are ranked; release
AT_ONCE = 32  # channels that are mixed at image size together; bounds memory, changes nothing


@dataclass(eq=False)
class RankMatch:
    paper: ClassVar[str] = "RankMatch (Mai et al., CVPR 2024), an addition to UniMatch"

    weight: float = 0.1  # release
    agents: int = 64  # of each image; release
    guard: float = 1e-10  # beside every quotient and in the logarithm; release | 0: no sure pixel is lost [ours]

    def __post_init__(self) -> None:
        check_range("options.rankmatch.weight", self.weight, 0, 1e6)
        check_range("options.rankmatch.agents", self.agents, TOP, 1e5)
        check_range("options.rankmatch.guard", self.guard, 0, 1)

    @hookimpl
    def regularize(
        self,
        labelled_output: Output,
        teacher_output: Output | None,
        partner_output: Output | None,
        views: tuple[ViewOutput, ...],
    ) -> dict[str, Tensor]:
        strong = [
            view_output for view_output in views if view_output.view.images == "unlabelled" and is_strong(view_output)
        ]
        if teacher_output is None or not strong:
            return {}
        sources = {"labelled": labelled_output} | ({"partner": partner_output} if partner_output else {})
        with torch.autocast(teacher_output.features.device.type, enabled=False):
            pairs = [
                (mixed(view_output, teacher_output, sources), view_output.output.features) for view_output in strong
            ]
            terms = [ranking_loss(*pair, self.agents, self.guard) for pair in pairs]
        return {"rankmatch": self.weight * torch.stack(terms).mean()}


def is_strong(view_output: ViewOutput) -> bool:
    """Whether a view looks unlike the weak one: mixed, or changed in its pixels and not in its features alone."""
    return view_output.view.cutmix is not None or (
        view_output.view.strength != "weak" and view_output.view.perturb is None
    )


@torch.no_grad()
def mixed(view_output: ViewOutput, teacher_output: Output, sources: dict[str, Output]) -> Tensor:
    """The weak features laid together as the view's images were: brought to image size, mixed, brought back to the
    view's grid; (B, D, h, w) float32, a few channels at a time."""
    size, grid = view_output.image.shape[-2:], view_output.output.features.shape[-2:]
    parts = []
    for first in range(0, teacher_output.features.shape[1], AT_ONCE):
        own, *others = (
            resize(output.features[:, first : first + AT_ONCE].float(), size)
            for output in (teacher_output, *sources.values())
        )
        parts.append(resize(view_output.mix(own, dict(zip(sources, others, strict=True))), grid))
    return torch.cat(parts, dim=1)


def ranking_loss(weak: Tensor, strong: Tensor, number: int, guard: float) -> Tensor:
    """KL(weak, strong) between the distributions over the orders of each pixel's likeliest agents; mean over pixels and
    orders. weak, strong: (B, D, h, w); agents are chosen, and the likeliest found, by the weak ones."""
    weak, strong = (maps.float().flatten(2).transpose(1, 2) for maps in (weak.detach(), strong))  # (B, N, D)
    places = choose_agents(weak, number).unsqueeze(2).expand(-1, -1, weak.shape[2])
    shares, answers = (
        (maps @ maps.gather(1, places).transpose(1, 2)).log_softmax(dim=2) for maps in (weak, strong)
    )  # (B, N, agents)
    likeliest = shares.topk(TOP, dim=2).indices
    told, said = (log_orders(values.gather(2, likeliest), guard) for values in (shares, answers))
    return F.kl_div(said, told, reduction="none", log_target=True).mean()


def choose_agents(features: Tensor, number: int) -> Tensor:
    """Greedily: the first at random, then the place whose largest |cosine| to those chosen is smallest. (B, number)
    int64; where there are fewer places some come twice. features: (B, N, D)."""
    units = F.normalize(features, dim=2, eps=1e-6)
    make = device_generator(features.device)
    chosen = [torch.randint(features.shape[1], (len(features),), device=features.device, generator=make)]
    closest = torch.zeros_like(features[:, :, 0])
    for _ in range(number - 1):
        agent = units.gather(1, chosen[-1].view(-1, 1, 1).expand(-1, 1, units.shape[2]))
        closest = torch.maximum(closest, (units @ agent.transpose(1, 2)).squeeze(2).abs())
        closest = closest.scatter(1, chosen[-1].unsqueeze(1), 2.0)  # never twice, even where the features are all zero
        chosen.append(closest.argmin(dim=1))
    return torch.stack(chosen, dim=1)


def log_orders(logs: Tensor, guard: float) -> Tensor:
    """Log of the Plackett-Luce probability of each order of the last dimension, (..., K) to (..., K!), where an entry's
    worth is exp(log).

    guard: what the release adds to the divisor of each quotient, of the last one too (which would be 1), and to the
    probability before its logarithm. A pixel one of whose entries is worth less than about `guard` thereby gives all
    orders the same and teaches nothing. 0: the probability itself, whose entries may be as small as they like.
    """
    orders = torch.tensor(list(permutations(range(logs.shape[-1]))))
    ordered = logs[..., orders.to(logs.device, non_blocking=True)]  # (..., K!, K)
    if guard == 0:
        left = ordered.flip(-1).logcumsumexp(-1).flip(-1)  # all that are not yet placed
        return (ordered - left).sum(dim=-1)
    worth = ordered.exp()
    left = worth.flip(-1).cumsum(-1).flip(-1)
    quotients = (worth / (left + guard)).unbind(dim=-1)
    return (reduce(torch.mul, quotients) + guard).log()  # `prod` would wait for the device in its gradient


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)
