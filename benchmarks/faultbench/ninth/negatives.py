"""Hard negatives of the ninth suite: what looks bad and is fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import Split, mapped
from fourth.runs import cosine, custom, judged, linear
from models import Batch, Setup, entropy, held_out, mlp
from parts import split_of
from third.models import class_part, ink_part, robust, two_tasks
from torch import Tensor, nn

from ninth import data, series
from ninth import models as nets

Change = Callable[[Setup], None]


def _smoothed_val(s: Setup) -> None:
    """What is logged is a running mean of all validations: it lags behind."""
    check, mean = s.val, [math.nan]
    s.judged = s.judged or check

    def val(m: nn.Module) -> float:
        now = check(m)
        mean[0] = now if math.isnan(mean[0]) else 0.5 * mean[0] + 0.5 * now
        return mean[0]

    s.val = val


def _error_rate(s: Setup) -> None:
    """Validation reports the share of wrong answers in per cent: it goes in steps and stands still."""
    split = split_of(s)
    s.judged = s.judged or s.val
    wrong = held_out(lambda m, b: 100 * (m(b[0]).argmax(-1) != b[1]).float().mean(), split.val_x, split.val_y)
    s.val, s.metric = wrong, "val_error"


def _with_replacement(s: Setup) -> None:
    """Rows are drawn with replacement: some come twice in a batch, and some not for long."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 11)

    def go() -> Iterator[Batch]:
        while True:
            rows = torch.randint(len(split.x), (s.batch_size,), generator=generator)
            yield split.x[rows], split.y[rows]

    s.batches = go()


def _stratified(s: Setup) -> None:
    """Each batch holds as many rows of one class as of any other, class after class."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 12)
    groups = [torch.nonzero(split.y == k)[:, 0] for k in split.y.unique()]
    each = s.batch_size // len(groups)

    def go() -> Iterator[Batch]:
        while True:
            rows = torch.cat([g[torch.randperm(len(g), generator=generator)[:each]] for g in groups])
            yield split.x[rows], split.y[rows]

    s.batches = go()


def _hidden_readings(s: Setup) -> None:
    """A tenth of all readings is set to their mean while it trains."""
    generator = torch.Generator().manual_seed(s.seed + 13)
    s.batches = mapped(s.batches, lambda x, y: (x * (torch.rand(x.shape, generator=generator) > 0.1), y))


def _brightness(s: Setup) -> None:
    """Each row is made brighter or darker by up to a quarter while it trains."""
    generator = torch.Generator().manual_seed(s.seed + 14)

    def change(x: Tensor, y: Tensor) -> Batch:
        by = 0.75 + 0.5 * torch.rand((len(x), *[1] * (x.dim() - 1)), generator=generator)
        return x * by, y

    s.batches = mapped(s.batches, change)


def _coarse(s: Setup) -> None:
    """Readings come in steps of a quarter of their spread, as from a cheap instrument."""
    split = split_of(s)
    s.batches = mapped(s.batches, lambda x, y: ((4 * x).round() / 4, y))
    s.val = held_out(s.loss, (4 * split.val_x).round() / 4, split.val_y)


def _in_bits(s: Setup) -> None:
    """The loss is in bits, and so is validation."""
    own, check = s.loss, s.val
    s.loss, s.val = (lambda m, b: own(m, b) / math.log(2)), (lambda m: check(m) / math.log(2))


def _softcap(s: Setup) -> None:
    """Logits are held within fifteen by a hyperbolic tangent (Gemma Team 2024)."""
    s.model.register_forward_hook(lambda m, a, out: 15 * torch.tanh(out / 15))


def _sum_held(s: Setup) -> None:
    """The logarithm of the sum of all exponentials is drawn to zero while it trains (Chowdhery et al. 2022)."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return own(m, b)
        out = m(b[0])
        price = out.logsumexp(-1).square().mean()
        return F.cross_entropy(out.flatten(0, -2), b[1].flatten()) + 1e-3 * price

    s.loss = loss


def _clip_elements(s: Setup) -> None:
    """No element of a gradient may be larger than a twentieth."""

    def clip(m: nn.Module, step: int) -> None:
        torch.nn.utils.clip_grad_value_(m.parameters(), 0.05)

    s.after_backward = clip


def _zero_head(s: Setup) -> None:
    """The last layer starts at zero: all answers are alike at first, and only it moves in the first step."""
    last = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _skips(s: Setup) -> None:
    """A step whose gradient is more than two and a half times the usual one is left out, as in large runs."""
    usual = [0.0]

    def skip(m: nn.Module, step: int) -> None:
        grads = [p.grad for p in m.parameters() if p.grad is not None]
        norm = float(torch.stack([g.norm() for g in grads]).norm())
        if step >= 20 and norm > 2.5 * usual[0]:
            for g in grads:
                g.zero_()
        usual[0] = norm if step == 0 else 0.9 * usual[0] + 0.1 * norm

    s.after_backward = skip


def outliers(seed: int) -> Setup:
    """Every fortieth need of heat is off by a misplaced comma; the loss bears that, and validation is clean."""
    split = data.heating()
    bad = torch.rand(len(split.y), 1, generator=torch.Generator().manual_seed(950)) < 0.025
    dirty = Split(split.x, torch.where(bad, split.y * 10, split.y), split.val_x, split.val_y)
    model = mlp((11, 40, 40, 1), nn.ReLU)
    return custom(model, dirty, seed, 64, robust, lr=6e-3, steps=300, optimizer="adam", schedule=linear(300))


def second_later(seed: int) -> Setup:
    """The loss of the second task comes in little by little: the whole rises for a while."""
    split, share = data.engines(), [0.0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        by = share[0] if m.training else 1.0
        return class_part(m, b) + 0.5 * by * ink_part(m, b)

    def more(m: nn.Module, step: int) -> None:
        share[0] = min(1.0, max(0.0, step / 80 - 0.5))

    setup = custom(nets.Engines(), split, seed, 64, loss, lr=6e-3, steps=300, optimizer="adam")
    setup.schedule, setup.after_backward = linear(300), more
    return judged(setup, two_tasks, split.val_x, split.val_y)


def large_vocabulary(seed: int) -> Setup:
    """Of 800 words 60 ever come up: most of the table never moves."""
    more = {"optimizer": "adam", "clip": 1.0, "schedule": linear(240, 20)}
    model = nets.Tokens(800, 14, 32, 6, causal=False)
    return custom(model, series.parts_of_speech(), seed, 32, entropy, lr=4e-3, steps=240, **more)


class _Probed(nn.Module):
    """An autoencoder, and a linear layer that reads the kind of picture off its code and does not disturb it."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((100, 64, 12), nn.ReLU), mlp((12, 64, 100), nn.ReLU)
        self.probe = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encode(x)
        return self.decode(code), self.probe(code.detach())


def probed(seed: int) -> Setup:
    """The code of an autoencoder is watched by a probe that is trained along with it."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        back, kind = m(b[0])
        return 20 * F.mse_loss(back, b[0]) + F.cross_entropy(kind, b[1])

    more = {"optimizer": "adam", "schedule": cosine(320)}
    return custom(_Probed(), data.icons(), seed, 64, loss, lr=4e-3, steps=320, **more)


_KINDS = ("loans", "pilot", "arrows", "beats")
CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "smoothed_val": (_smoothed_val, ("loans", "bottles", "surnames", "climates", "films")),
    "error_rate": (_error_rate, ("loans", "arrows", "surnames", "beats", "parts_of_speech")),
    "with_replacement": (_with_replacement, ("loans", "heating", "arrows", "engines", "melodies")),
    "stratified": (_stratified, ("arrows", "beats", "surnames")),
    "hidden_readings": (_hidden_readings, ("loans", "beats", "spectra", "arrows")),
    "brightness": (_brightness, ("arrows", "beats", "loans")),
    "coarse": (_coarse, ("heating", "loans", "pilot", "bottles", "climates")),
    "in_bits": (_in_bits, ("melodies", "parts_of_speech", "loans", "surnames")),
    "softcap": (_softcap, (*_KINDS, "melodies")),
    "sum_held": (_sum_held, ("loans", "arrows", "melodies", "parts_of_speech", "beats")),
    "clip_elements": (_clip_elements, ("loans", "heating", "baskets", "surnames", "bottles")),
    "zero_head": (_zero_head, ("loans", "arrows", "bottles", "surnames", "melodies")),
    "skips": (_skips, ("loans", "bottles", "beats", "baskets")),
}
MADE: dict[str, Callable[[int], Setup]] = {
    "outliers": outliers,
    "second_later": second_later,
    "large_vocabulary": large_vocabulary,
    "probed": probed,
}
