"""Hard negatives in the loop and in validation: turns, new heads, two subjects, and odd numbers that are logged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from eighth.architectures_common import fixed, forever, normal, uniform
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from sixth.made import Stateful
from tenth.judged_data import bent, of_made
from torch import Tensor, nn

from eleventh.hard_losses import smooth
from eleventh.hard_weights import kinds, trained


def _held_still(layers: list[nn.Module]) -> None:
    for layer in layers:
        for p in layer.parameters():
            p.grad = None


def by_turns(seed: int) -> Setup:
    """Thirty steps for the lower half of a net, thirty for the upper half, and so on: each waits for the other."""
    setup = of_made(mlp((12, 64, 64, 8), nn.ReLU), kinds, seed, entropy, lr=1e-2, steps=480, number=1000)

    def one_half(model: nn.Module, step: int) -> None:
        _held_still([model[2], model[4]] if step // 30 % 2 == 0 else [model[0]])

    setup.after_backward, setup.schedule = one_half, linear(480)
    return setup


def thaw(seed: int) -> Setup:
    """A net for one site goes on at another: the last layer first, then layer by layer (Howard and Ruder 2018)."""
    model, turn = mlp((12, 64, 64, 8), nn.ReLU), torch.linalg.qr(fixed(1130, 12, 12) + 6 * torch.eye(12))[0]
    trained(model, kinds, entropy, 150)

    def other(size: int, g: torch.Generator) -> Batch:
        x, y = kinds(size, g)
        return x @ turn + 0.5, (y + 3) % 8

    def frozen(net: nn.Module, step: int) -> None:
        _held_still([net[0], net[2]] if step < 80 else [net[0]] if step < 160 else [])

    more: dict[str, Any] = {"number": 1000, "schedule": cosine(350, 15), "after_backward": frozen}
    return of_made(model, other, seed, entropy, lr=1.2e-2, steps=350, **more)


def fresh_head(seed: int) -> Setup:
    """Half way the last layer is drawn anew (Nikishin et al. 2022): the loss leaps to its first value and comes back."""
    setup = of_made(mlp((12, 64, 64, 8), nn.ReLU), kinds, seed, entropy, lr=8e-3, steps=400, number=1000)

    def anew(model: nn.Module, step: int) -> None:
        if step == 180:
            model[-1].reset_parameters()
            for p in model[-1].parameters():
                p.grad.zero_()

    setup.after_backward, setup.schedule = anew, linear(400)
    return setup


def _meters(size: int, length: int, g: torch.Generator) -> Iterator[Tensor]:
    """Series whose pull to and fro changes its sign now and then, in pieces that follow one another."""
    now, sign = normal(g, size), torch.sign(uniform(g, size) - 0.5)
    while True:
        piece = []
        for _ in range(length + 1):
            piece.append(now)
            sign = torch.where(uniform(g, size) < 0.01, -sign, sign)
            now = 0.9 * sign * now + 0.4 * normal(g, size)
        now = piece[-1]
        yield torch.stack(piece, 1)[..., None]


def carried_state(seed: int) -> Setup:
    """Sixteen long series in their order, a piece in each step; the state goes on from step to step."""

    def pieces(size: int, length: int, g: torch.Generator) -> Iterator[Batch]:
        for piece in _meters(size, length, g):
            yield piece[:, :-1], piece[:, 1:]

    held = next(pieces(48, 50, torch.Generator().manual_seed(10**6)))
    rows = pieces(16, 16, torch.Generator().manual_seed(seed))
    more: dict[str, Any] = {"optimizer": "adam", "batch_size": 16, "seed": seed, "clip": 1.0}
    return Setup(Stateful(24), rows, square, held_out(square, *held), lr=1.2e-2, steps=300, **more)


def bursts(seed: int) -> Setup:
    """A batch is eight houses with eight readings each that are nearly the same: it is worth eight rows only."""

    def make(size: int, g: torch.Generator) -> Batch:
        x = normal(g, size // 8, 8).repeat_interleave(8, 0)
        return x + 0.05 * normal(g, size, 8), bent(x) + 0.3 * normal(g, size, 1)

    more: dict[str, Any] = {"number": 2000, "schedule": linear(500)}
    return of_made(mlp((8, 48, 48, 1), nn.SiLU), make, seed, square, lr=1.2e-2, steps=500, **more)


def _summed(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum()


def totals(seed: int) -> Setup:
    """Squares are summed up over a batch of 256: slopes of hundreds under a rate of less than a thousandth."""
    more: dict[str, Any] = {"number": 500, "size": 256, "schedule": cosine(350), "optimizer": "sgd"}
    return of_made(mlp((8, 64, 64, 1), nn.Tanh), smooth, seed, _summed, lr=3e-4, steps=350, **more)


def whole_sum(seed: int) -> Setup:
    """Validation is the sum over 3000 rows, and training the mean over 32: thousands next to less than one."""
    more: dict[str, Any] = {"number": 3000, "size": 32, "check": _summed, "schedule": linear(350)}
    return of_made(mlp((8, 48, 48, 1), nn.GELU), smooth, seed, square, lr=1e-2, steps=350, **more)


def _yes_or_no(size: int, g: torch.Generator) -> Batch:
    x = normal(g, size, 8)
    chance = torch.sigmoid(2.5 * bent(x) - 3.0)
    return x, (uniform(g, size, 1) < chance).float()


def _binary(model: nn.Module, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def _disorder(model: nn.Module, batch: Batch) -> Tensor:
    """How often a row without the event is put above one with it."""
    score, is_so = model(batch[0])[:, 0], batch[1][:, 0] > 0
    return (score[~is_so][:, None] > score[is_so][None]).float().mean()


def ranks_only(seed: int) -> Setup:
    """What is logged for validation is one less the area under the curve: only the order of the scores counts."""
    more: dict[str, Any] = {"number": 1500, "check": _disorder, "schedule": linear(350)}
    return of_made(mlp((8, 48, 48, 1), nn.ReLU), _yes_or_no, seed, _binary, lr=1e-2, steps=350, **more)


def _regions(size: int, g: torch.Generator) -> Batch:
    region = torch.randint(6, (size, 1), generator=g)
    x, noise = normal(g, size, 8), 0.1 + 0.15 * region
    return torch.cat([x, F.one_hot(region[:, 0], 6)], 1), bent(x) + 0.3 * region + noise * normal(g, size, 1)


def _worst(model: nn.Module, batch: Batch) -> Tensor:
    off = (model(batch[0]) - batch[1]).square()
    return torch.stack([off[batch[0][:, 8 + k] > 0].mean() for k in range(6)]).amax()


def worst_region(seed: int) -> Setup:
    """Validation is the loss of the worst of six regions, which has the most noise: it is far above training."""
    more: dict[str, Any] = {"number": 1200, "check": _worst, "schedule": linear(350)}
    return of_made(mlp((14, 48, 48, 1), nn.SiLU), _regions, seed, square, lr=8e-3, steps=350, **more)


def _swing(state: Tensor) -> Tensor:
    angle, speed = state[:, :1], state[:, 1:]
    return torch.cat([0.2 * speed, -0.2 * torch.sin(angle) - 0.04 * speed], 1)


def _swings(size: int, g: torch.Generator) -> Batch:
    state = uniform(g, size, 2, low=-2.0, high=2.0)
    return state, _swing(state) / 0.2 + 0.5 * normal(g, size, 2)


def rolled_out(seed: int) -> Setup:
    """Training tells one moment of a pendulum from noisy readings; what is logged is where it is 25 moments later."""
    setup = of_made(
        mlp((2, 48, 48, 2), nn.Tanh), _swings, seed, square, lr=8e-3, steps=400, judge=square, number=2000
    )
    start = next(forever(_swings)(100, 10**6 + 1))[0] * 0.75

    def later(model: nn.Module) -> float:
        mine, true = start, start
        with torch.no_grad():
            for _ in range(25):
                mine, true = mine + 0.2 * model(mine), true + _swing(true)
        return float((mine - true).square().mean())

    setup.val, setup.schedule = later, linear(400)
    return setup


def _far_off(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).abs().quantile(0.95)


def one_of_twenty(seed: int) -> Setup:
    """What is logged is the error that one of twenty rows is above, and it hardly moves after the start."""
    more: dict[str, Any] = {"number": 800, "check": _far_off, "schedule": cosine(350), "optimizer": "sgd"}
    return of_made(mlp((8, 48, 48, 1), nn.SiLU), smooth, seed, square, lr=0.05, steps=350, **more)


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        by_turns,
        thaw,
        fresh_head,
        carried_state,
        bursts,
        totals,
        whole_sum,
        ranks_only,
        worst_region,
        rolled_out,
        one_of_twenty,
    )
}
