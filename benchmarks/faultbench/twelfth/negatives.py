"""Hard negatives of the twelfth suite: what looks bad and is fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import mapped
from models import Batch, Setup, entropy, held_out
from parts import split_of
from torch import Tensor, nn

from twelfth import made

Change = Callable[[Setup], None]


def _val_accuracy(s: Setup) -> None:
    """Validation reports the share of right answers, which goes up."""
    split = split_of(s)
    s.judged = s.judged or s.val
    right = held_out(lambda m, b: (m(b[0]).argmax(-1) == b[1]).float().mean(), split.val_x, split.val_y)
    s.val, s.metric = right, "val_accuracy"


def _val_r2(s: Setup) -> None:
    """Validation reports the share of the variance that is told, which goes up from below zero."""
    check, spread = s.val, float(split_of(s).val_y.var(unbiased=False))
    s.judged = s.judged or check
    s.val, s.metric = (lambda m: 1 - check(m) / spread), "val_r2"


def _val_seldom(s: Setup) -> None:
    """Validation is done each third time, and its last number is logged again in between."""
    check, last, count = s.val, [math.nan], [0]
    s.judged = s.judged or check

    def val(m: nn.Module) -> float:
        if count[0] % 3 == 0:
            last[0] = check(m)
        count[0] += 1
        return last[0]

    s.val = val


def _poly_loss(s: Setup) -> None:
    """One less the chance of the right class is added to the entropy while it trains (Leng et al. 2022)."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        out = m(b[0])
        each = F.cross_entropy(out.flatten(0, -2), b[1].flatten(), reduction="none")
        return (each + 1 - (-each).exp()).mean()

    s.loss = loss


def _consistency(s: Setup) -> None:
    """Two passes with their own dropout have to agree (Liang et al. 2021): the loss is above validation."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        one, other = m(b[0]).log_softmax(-1), m(b[0]).log_softmax(-1)
        apart = ((one.exp() - other.exp()) * (one - other)).sum(-1).mean()
        return 0.5 * (F.nll_loss(one, b[1]) + F.nll_loss(other, b[1])) + 0.5 * apart

    s.loss = loss


def _lower_slower(s: Setup) -> None:
    """The gradient of the first layer is divided by three."""

    def slow(m: nn.Module, step: int) -> None:
        first = next(x for x in m.modules() if isinstance(x, (nn.Linear, nn.Conv2d)))
        for p in first.parameters():
            p.grad.mul_(1 / 3)

    s.after_backward = slow


def _shards(s: Setup) -> None:
    """Rows come from eight files that are read side by side, each in its own order, again and again."""
    split = split_of(s)
    files = torch.randperm(len(split.x), generator=torch.Generator().manual_seed(s.seed + 31)).chunk(8)
    each = s.batch_size // 8

    def go() -> Iterator[Batch]:
        at = 0
        while True:
            rows = torch.cat([f[(torch.arange(at, at + each)) % len(f)] for f in files])
            at += each
            yield split.x[rows], split.y[rows]

    s.batches = go()


def _dropout_fades(s: Setup) -> None:
    """Dropout of a third on what comes out of each activation, which is gone after half of the run."""
    share = [0.33]

    def fade(m: nn.Module, step: int) -> None:
        share[0] = 0.33 * max(0.0, 1 - 2 * step / s.steps)

    for m in s.model.modules():
        if isinstance(m, (nn.ReLU, nn.GELU, nn.LeakyReLU)):
            m.register_forward_hook(lambda m, a, out: F.dropout(out, share[0], training=m.training))
    s.after_backward = fade


def _bfloat_loss(s: Setup) -> None:
    """The loss is rounded to eight bits on its way to the log: it goes in steps."""
    own = s.loss
    s.loss = lambda m, b: own(m, b).bfloat16().float()


def _quiet_head(s: Setup) -> None:
    """What the last layer says is divided by four: answers are nearly alike at first (Yang et al. 2021)."""
    last = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_hook(lambda m, a, out: out / 4)


def _grayed(s: Setup) -> None:
    """A fifth of the pictures lose their color while it trains."""
    generator = torch.Generator().manual_seed(s.seed + 32)

    def change(x: Tensor, y: Tensor) -> Batch:
        gray = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.2
        return torch.where(gray, x.mean(1, keepdim=True), x), y

    s.batches = mapped(s.batches, change)


def _to_zero(s: Setup) -> None:
    """The rate falls in a straight line, to exactly zero in the last step."""
    s.schedule = lambda k: min((k + 1) / 15, (s.steps - 1 - k) / (s.steps - 1))


def _duplicated_rows(s: Setup) -> None:
    """A third of the rows is in the file four times; validation is not."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 33)
    weight = torch.ones(len(split.x))
    weight[: len(weight) // 3] = 4.0

    def go() -> Iterator[Batch]:
        while True:
            rows = weight.multinomial(s.batch_size, generator=generator)
            yield split.x[rows], split.y[rows]

    s.batches = go()


def _swap_noise(s: Setup) -> None:
    """One reading of fourteen is that of another row while it trains."""
    generator = torch.Generator().manual_seed(s.seed + 34)

    def change(x: Tensor, y: Tensor) -> Batch:
        swap = torch.rand(x.shape, generator=generator) < 0.07
        return torch.where(swap, x[torch.randperm(len(x), generator=generator)], x), y

    s.batches = mapped(s.batches, change)


def _coarse_targets(s: Setup) -> None:
    """Targets to train on are given in quarters; those of validation are exact."""
    s.batches = mapped(s.batches, lambda x, y: (x, (4 * y).round() / 4))


def _small_logits(s: Setup) -> None:
    """The mean square of all answers costs a five-hundredth of itself while it trains."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        out = m(b[0])
        return F.cross_entropy(out.flatten(0, -2), b[1].flatten()) + 0.002 * out.square().mean()

    s.loss = loss


def _word_dropout(s: Setup) -> None:
    """One word of twenty is any other one while it trains."""
    generator, most = torch.Generator().manual_seed(s.seed + 35), int(split_of(s).x.max())

    def change(x: Tensor, y: Tensor) -> Batch:
        other = torch.randint(most + 1, x.shape, generator=generator)
        return torch.where(torch.rand(x.shape, generator=generator) < 0.05, other, x), y

    s.batches = mapped(s.batches, change)


def _prioritized(s: Setup) -> None:
    """Rows that were hard when last seen come more often, and count less (Schaul et al. 2016)."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 36)
    hard, own = torch.ones(len(split.x)), s.loss
    drawn = [torch.arange(1), torch.ones(1)]

    def go() -> Iterator[Batch]:
        while True:
            chance = (hard + 0.3) / (hard + 0.3).sum()
            drawn[0] = chance.multinomial(s.batch_size, generator=generator)
            drawn[1] = 1 / (len(hard) * chance[drawn[0]])
            yield split.x[drawn[0]], split.y[drawn[0]]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        out = m(b[0])
        if own is entropy:
            each = F.cross_entropy(out, b[1], reduction="none")
        else:
            each = (out - b[1]).square().mean(1)
        hard[drawn[0]] = each.detach().clamp(max=3.0)
        return (drawn[1] * each).mean()

    s.batches, s.loss = go(), loss


_TABLES = ("soils", "alloys", "donors", "rooms")
_KINDS = ("soils", "knots", "clouds", "reviews")
CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "val_accuracy": (_val_accuracy, (*_KINDS, "stones", "gestures")),
    "val_r2": (_val_r2, ("alloys", "gauges", "rooms", "rivers")),
    "val_seldom": (_val_seldom, ("donors", "genes", "chants", "ferries", "rivers")),
    "poly_loss": (_poly_loss, ("soils", "knots", "reviews", "stones")),
    "consistency": (_consistency, ("soils",)),
    "lower_slower": (_lower_slower, ("soils", "alloys", "knots", "gauges")),
    "prioritized": (_prioritized, ("soils", "alloys", "rooms", "donors")),
    "shards": (_shards, (*_TABLES, "clouds", "stones")),
    "dropout_fades": (_dropout_fades, ("donors", "knots", "soils")),
    "bfloat_loss": (_bfloat_loss, ("soils", "knots", "chants", "genes", "ferries", "lakes")),
    "quiet_head": (_quiet_head, ("reviews", "gestures", "recipes")),
    "grayed": (_grayed, ("stones",)),
    "to_zero": (_to_zero, ("alloys", "knots", "reviews", "shops", "voices")),
    "duplicated_rows": (_duplicated_rows, (*_TABLES, "verses")),
    "swap_noise": (_swap_noise, ("soils", "donors")),
    "coarse_targets": (_coarse_targets, ("alloys", "drones", "gauges", "rooms")),
    "small_logits": (_small_logits, (*_KINDS, "chants")),
    "word_dropout": (_word_dropout, ("reviews", "recipes")),
}
MADE: dict[str, Callable[[int], Setup]] = made.MADE
