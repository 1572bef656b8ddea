"""The healthy runs of the third suite: each network with the settings under which it trains well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from data import Split, digits, shuffled
from models import Batch, Setup, _classes, entropy, held_out, square
from torch import Tensor, nn

from third import models as nets
from third.data import (
    clouds,
    customers,
    demand,
    digits_and_ink,
    grades,
    masked_text,
    noised,
    pendulum,
    picture,
    reversals,
    triplets,
    waveforms,
)


def _custom(model: nn.Module, split: Split, seed: int, size: int, loss: Any, **more: Any) -> Setup:
    """Without a table of its own, so that operators which know squares and classes only are kept away."""
    check = held_out(loss, split.val_x, split.val_y)
    return Setup(model, shuffled(split, size, seed), loss, check, batch_size=size, seed=seed, **more)


def _stream(
    model: nn.Module,
    draw: Callable[..., Any],
    loss: Callable[[nn.Module, Batch], Tensor],
    seed: int,
    size: int,
    held: dict[str, Any] | None = None,
    **more: Any,
) -> Setup:
    """Batches drawn without end; the held-out ones are always the same."""
    check = held_out(loss, *next(draw(400, 10**6, **(held or {}))))
    return Setup(model, draw(size, seed), loss, check, batch_size=size, seed=seed, **more)


def _triplet(seed: int, **more: Any) -> Setup:
    setup = _stream(nets.Near(), triplets, nets.apart, seed, 64, {"held_out": True}, **more)
    setup.judged = nets.neighbor_errors
    return setup


def _distill(seed: int, **more: Any) -> Setup:
    setup = _custom(nets.Distilled(), digits(), seed, 64, nets.taught, **more)
    setup.parameters = lambda m: [p for p in m.parameters() if p.requires_grad]
    setup.val = held_out(nets.label_part, digits().val_x, digits().val_y)
    return setup


def warm(steps: int) -> Callable[[int], float]:
    return lambda k: min(1.0, (k + 1) / steps)


def cosine(steps: int) -> Callable[[int], float]:
    return lambda k: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * k / steps))


def one_cycle(steps: int) -> Callable[[int], float]:
    """Up for a third, down to next to nothing (Smith 2018)."""
    return lambda k: min((k + 5) / (0.3 * steps), max(0.01, (steps - k) / (0.7 * steps)))


def stairs(steps: int) -> Callable[[int], float]:
    return lambda k: 0.2 ** (3 * k // steps)


def _line(steps: int) -> Callable[[int], float]:
    return lambda k: min(1.0, (k + 1) / 30) * max(0.02, 1 - k / steps)


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Callable[[int], Setup]]] = {
    "attend": {
        "adam": lambda s: _stream(
            nets.Attend(), reversals, nets.turned, s, 64, lr=1e-2, steps=220, clip=1.0, optimizer="adam"
        ),
    },
    "convnext": {
        "adamw": lambda s: _custom(
            nets.convnext(),
            digits(),
            s,
            64,
            nets.smoothed,
            lr=4e-3,
            steps=220,
            optimizer="adamw",
            weight_decay=0.05,
            schedule=cosine(220),
        ),
        "sgd": lambda s: _classes(
            nets.convnext(),
            digits(),
            s,
            48,
            lr=0.05,
            steps=220,
            optimizer="sgd",
            weight_decay=1e-4,
            schedule=cosine(220),
        ),
    },
    "series": {
        "sgd": lambda s: _classes(
            nets.series(),
            waveforms(),
            s,
            64,
            lr=0.1,
            steps=240,
            optimizer="sgd",
            weight_decay=5e-4,
            schedule=one_cycle(240),
        ),
        "adam": lambda s: _classes(nets.series(), waveforms(), s, 32, lr=3e-3, steps=240, optimizer="adam"),
    },
    "sets": {
        "adam": lambda s: _classes(nets.Sets(), clouds(), s, 64, square, lr=4e-3, optimizer="adam"),
        "rmsprop": lambda s: _classes(
            nets.Sets(), clouds(), s, 128, square, lr=2e-3, optimizer="rmsprop", schedule=cosine(300)
        ),
    },
    "orbit": {
        "adam": lambda s: _classes(
            nets.orbit(), pendulum(), s, 64, square, lr=4e-3, optimizer="adam", schedule=stairs(300)
        ),
        "sgd": lambda s: _classes(
            nets.orbit(),
            pendulum(),
            s,
            32,
            square,
            lr=0.02,
            steps=350,
            clip=1.0,
            optimizer="sgd",
            schedule=cosine(350),
            options={"nesterov": True},
        ),
    },
    "triplet": {
        "adam": lambda s: _triplet(s, lr=1e-3, steps=250, optimizer="adam"),
    },
    "wide_deep": {
        "adagrad": lambda s: _custom(
            nets.WideDeep(), customers(), s, 128, nets.logistic, lr=0.05, steps=350, optimizer="adagrad"
        ),
        "adamw": lambda s: _custom(
            nets.WideDeep(),
            customers(),
            s,
            256,
            nets.logistic,
            lr=4e-3,
            steps=200,
            optimizer="adamw",
            weight_decay=0.05,
        ),
    },
    "masked_lm": {
        "adamw": lambda s: _stream(
            nets.MaskedModel(),
            masked_text,
            entropy,
            s,
            32,
            {"held_out": True},
            lr=6e-3,
            steps=220,
            clip=1.0,
            optimizer="adamw",
            weight_decay=0.01,
            schedule=_line(220),
        ),
    },
    "denoiser": {
        "adam": lambda s: _stream(
            nets.Denoiser(), noised, square, s, 256, lr=3e-3, steps=350, clip=1.0, optimizer="adam"
        ),
    },
    "two_heads": {
        "sgd": lambda s: _custom(
            nets.TwoHeads(), digits_and_ink(), s, 32, nets.two_tasks, lr=0.02, steps=250, optimizer="sgd"
        ),
        "nadam": lambda s: _custom(
            nets.TwoHeads(), digits_and_ink(), s, 64, nets.two_tasks, lr=1e-3, steps=300, optimizer="nadam"
        ),
    },
    "ordinal": {
        "adam": lambda s: _custom(
            nets.grader(), grades(), s, 64, nets.logistic, lr=4e-3, optimizer="adam", schedule=cosine(300)
        ),
        "sgd": lambda s: _custom(
            nets.grader(), grades(), s, 16, nets.logistic, lr=0.05, optimizer="sgd", weight_decay=1e-4
        ),
    },
    "distill": {
        "sgd": lambda s: _distill(s, lr=0.02, steps=250, optimizer="sgd", schedule=stairs(250)),
        "adam": lambda s: _distill(s, lr=5e-3, steps=250, optimizer="adam"),
    },
    "fourier": {
        "adam": lambda s: _classes(
            nets.fourier(),
            picture(),
            s,
            128,
            square,
            lr=3e-3,
            steps=400,
            optimizer="adam",
            schedule=lambda k: 0.995**k,
        ),
    },
    "forecast": {
        "adamw": lambda s: _custom(
            nets.Forecaster(),
            demand(),
            s,
            64,
            nets.robust,
            lr=1e-2,
            steps=220,
            clip=1.0,
            optimizer="adamw",
            weight_decay=0.01,
            schedule=warm(20),
        ),
    },
}

NAMES = tuple(RUNS)
