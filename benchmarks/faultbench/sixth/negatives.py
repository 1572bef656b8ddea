"""Hard negatives of the sixth suite: what looks bad and is fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from data import mapped
from models import Batch, Setup, held_out
from parts import split_of
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sixth import made

Change = Callable[[Setup], None]


def _lookahead(s: Setup) -> None:
    """Every sixth step the weights go half of the way back to slow ones (Zhang et al. 2019)."""
    slow: list[Tensor] = []

    def back(model: nn.Module, step: int) -> None:
        if step % 6 or step == 0:
            return
        own = list(model.parameters())
        with torch.no_grad():
            if not slow:
                slow.extend(p.clone() for p in own)
            for kept, p in zip(slow, own, strict=True):
                kept.lerp_(p, 0.6)
                p.copy_(kept)

    s.after_backward = back


class _Times(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.by

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / self.by


def _equalized(s: Setup) -> None:
    """Weights are kept near one and made small as they are used (Karras et al. 2018); the rate suits that."""
    for module in list(s.model.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            by = 1 / math.sqrt(module.weight[0].numel())
            parametrize.register_parametrization(module, "weight", _Times(by))
    s.lr *= 3


def _centralized(s: Setup) -> None:
    """The mean over the inputs is taken from each unit's gradient (Yong et al. 2020)."""

    def center(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None and p.dim() > 1:
                p.grad -= p.grad.mean(tuple(range(1, p.dim())), keepdim=True)

    s.after_backward = center


def _ragged(s: Setup) -> None:
    """The last batch of each epoch has three rows, whose loss says nothing."""
    split, size = split_of(s), s.batch_size
    generator, number = torch.Generator().manual_seed(s.seed), len(split.x) // size * size - size + 3

    def go() -> Iterator[Batch]:
        while True:
            for rows in torch.randperm(len(split.x), generator=generator)[:number].split(size):
                yield split.x[rows], split.y[rows]

    s.batches = go()


class _Standard(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        flat = weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-4)
        return flat.reshape(weight.shape) / flat.shape[1] ** 0.5


def _standardized(s: Setup) -> None:
    """Filters before a norm are standardized (Qiao et al. 2019): their size does not matter, and grows."""
    parts = list(s.model.modules())
    for module, after in zip(parts, parts[1:], strict=False):
        if isinstance(module, nn.Conv2d) and isinstance(after, (nn.GroupNorm, nn.InstanceNorm2d)):
            parametrize.register_parametrization(module, "weight", _Standard())


def _best_so_far(s: Setup) -> None:
    """What is logged is the best of all validations yet: it stands still and leaps."""
    check, best = s.val, [math.inf]
    s.judged = s.judged or check

    def val(m: nn.Module) -> float:
        best[0] = min(best[0], check(m))
        return best[0]

    s.val = val


def _perplexity(s: Setup) -> None:
    """Validation reports the exponential of the loss."""
    check = s.val
    s.judged = s.judged or check
    s.val, s.metric = (lambda m: math.exp(check(m))), "val_ppl"


def _val_drawn(s: Setup) -> None:
    """Each validation is done on 60 rows of its own, to save time."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 5)
    s.judged = s.judged or s.val

    def val(m: nn.Module) -> float:
        rows = torch.randperm(len(split.val_x), generator=generator)[:60]
        return held_out(s.loss, split.val_x[rows], split.val_y[rows])(m)

    s.val = val


def _random_rates(s: Setup) -> None:
    """Each step has a rate of its own, from a third of the usual to nearly twice."""
    by = 0.33 + 1.5 * torch.rand(s.steps, generator=torch.Generator().manual_seed(s.seed + 6))
    before, factors = s.schedule, by.tolist()
    s.schedule = lambda k: before(k) * factors[min(k, s.steps - 1)]


def _souped(s: Setup) -> None:
    """Late in the run the weights are replaced by their mean over the last quarter, once."""
    kept: list[Tensor] = []
    number = [0]

    def soup(model: nn.Module, step: int) -> None:
        own = list(model.parameters())
        with torch.no_grad():
            if 0.5 * s.steps <= step < 0.75 * s.steps:
                number[0] += 1
                for mean, p in zip(kept or own, own, strict=True):
                    mean.lerp_(p, 1 / number[0])
                if not kept:
                    kept.extend(p.clone() for p in own)
            elif kept and number[0]:
                number[0] = 0
                for mean, p in zip(kept, own, strict=True):
                    p.copy_(mean)

    s.after_backward = soup


def _smooth_inputs(s: Setup) -> None:
    """The slope with respect to the inputs is punished, by the gradient of a gradient."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        x = b[0].clone().requires_grad_()
        value = own(m, (x, b[1]))
        slope = torch.autograd.grad(value, x, create_graph=True)[0]
        return value + 0.02 * len(x) * slope.square().sum()

    s.loss = loss


def _hardest(s: Setup) -> None:
    """Only the worse half of each batch counts (Shrivastava et al. 2016); validation counts all."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        each = (m(b[0]) - b[1]).square().flatten(1).mean(1)
        return each.topk(len(each) // 2).values.mean()

    s.loss = loss


def _clearing(s: Setup) -> None:
    """Inputs are drowned in noise first, and less and less of it."""
    generator, count = torch.Generator().manual_seed(s.seed + 7), [0]

    def change(x: Tensor, y: Tensor) -> Batch:
        count[0] += 1
        share = max(0.0, 1 - count[0] / (0.6 * s.steps))
        return x + share * torch.randn(x.shape, generator=generator), y

    s.batches = mapped(s.batches, change)


def _compressed(s: Setup) -> None:
    """A fifth of each gradient is passed on, the rest waits for its turn (Lin et al. 2018)."""
    rest: dict[int, Tensor] = {}

    def compress(model: nn.Module, step: int) -> None:
        for index, p in enumerate(model.parameters()):
            if p.grad is None:
                continue
            whole = p.grad + rest.get(index, torch.zeros_like(p.grad))
            least = whole.abs().flatten().kthvalue(max(1, int(0.8 * whole.numel()))).values
            p.grad.copy_(whole * (whole.abs() >= least))
            rest[index] = whole - p.grad

    s.after_backward = compress


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "lookahead": (_lookahead, ("turned", "prices", "churn", "tumors", "vitals")),
    "equalized": (_equalized, ("vitals", "rentals", "upscale", "prototypes")),
    "centralized": (_centralized, ("turned", "slides", "churn", "cells", "springs")),
    "ragged": (_ragged, ("prices", "slides", "tumors", "turned", "springs")),
    "standardized": (_standardized, ("turned", "cells")),
    "best_so_far": (_best_so_far, ("turned", "churn", "prices", "twins", "origins")),
    "perplexity": (_perplexity, ("turned", "churn", "slides", "origins", "dates")),
    "val_drawn": (_val_drawn, ("churn", "prices", "slides", "turned", "springs")),
    "random_rates": (_random_rates, ("turned", "prices", "churn", "vitals", "slides", "twins")),
    "souped": (_souped, ("prices", "turned", "slides", "bearings", "vitals")),
    "smooth_inputs": (_smooth_inputs, ("prices", "tumors", "slides")),
    "hardest": (_hardest, ("prices", "springs", "field", "tumors")),
    "clearing": (_clearing, ("turned", "churn", "slides", "tumors", "bearings")),
    "compressed": (_compressed, ("prices", "churn", "slides")),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "bayes": made.bayes,
    "proximal": made.proximal,
    "balanced_draws": made.balanced_draws,
    "stateful": made.stateful,
    "gumbel": made.gumbel,
}
