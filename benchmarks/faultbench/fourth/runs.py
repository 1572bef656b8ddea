"""The healthy runs of the fourth suite: each network with the settings under which it trains well."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from data import Split, digits, shuffled
from models import Batch, Setup, _classes, entropy, held_out, square
from torch import Tensor, nn

from fourth import data, sequences
from fourth import models as nets

Loss = Callable[[nn.Module, Batch], Tensor]


def custom(model: nn.Module, split: Split, seed: int, size: int, loss: Loss, **more: Any) -> Setup:
    """Keeps no table in the setup, so that operators which know squares and classes only are kept away."""
    check = held_out(loss, split.val_x, split.val_y)
    return Setup(model, shuffled(split, size, seed), loss, check, batch_size=size, seed=seed, **more)


def stream(
    model: nn.Module, draw: Callable[..., Iterator[Batch]], loss: Loss, seed: int, size: int, **more: Any
) -> Setup:
    held = {"held_out": True} if draw is data.couples else {}
    check = held_out(loss, *next(draw(400, 10**6, **held)))
    return Setup(model, draw(size, seed), loss, check, batch_size=size, seed=seed, **more)


def judged(setup: Setup, loss: Loss, x: Tensor, y: Tensor) -> Setup:
    """Judged by something else than is logged, as what is logged may be negative."""
    setup.judged = held_out(loss, x, y)
    return setup


def _process(seed: int, **more: Any) -> Setup:
    setup = stream(sequences.Process(), data.curves, sequences.told_points, seed, 64, **more)
    return judged(setup, sequences.points_error, *next(data.curves(400, 10**6)))


def _ranker(seed: int, size: int, **more: Any) -> Setup:
    split = data.results()
    setup = custom(sequences.ranker(), split, seed, size, sequences.listed, **more)
    return judged(setup, sequences.lost_gain, split.val_x, split.val_y)


def _quantized(seed: int, **more: Any) -> Setup:
    split = data.segments()
    setup = custom(nets.Quantized(), split, seed, 64, nets.quantized, **more)
    return judged(setup, nets.rebuilt, split.val_x, split.val_y)


def _routed(seed: int, **more: Any) -> Setup:
    split = data.regimes()
    setup = custom(nets.Routed(), split, seed, 64, nets.balanced, **more)
    return judged(setup, square, split.val_x, split.val_y)


def cosine(steps: int, warm: int = 1, least: float = 0.02) -> Callable[[int], float]:
    return lambda k: min((k + 1) / warm, least + (1 - least) * 0.5 * (1 + math.cos(math.pi * k / steps)))


def linear(steps: int, warm: int = 1) -> Callable[[int], float]:
    return lambda k: min((k + 1) / warm, max(0.05, 1 - k / steps))


def root(warm: int) -> Callable[[int], float]:
    """Up, then down as the inverse root of the step (Vaswani et al. 2017)."""
    return lambda k: min((k + 1) / warm, (warm / (k + 1)) ** 0.5)


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Callable[[int], Setup]]] = {
    "table_norm": {
        "adam": lambda s: _classes(
            nets.table_norm(), data.clusters(), s, 64, lr=3e-3, steps=250, optimizer="adam"
        ),
        "sgd": lambda s: _classes(
            nets.table_norm(),
            data.clusters(),
            s,
            64,
            lr=0.03,
            optimizer="sgd",
            weight_decay=1e-4,
            schedule=cosine(300),
        ),
    },
    "smooth": {
        "adam": lambda s: _classes(nets.smooth(), data.friedman(), s, 64, square, lr=3e-3, optimizer="adam"),
        "sgd": lambda s: _classes(
            nets.smooth(),
            data.friedman(),
            s,
            64,
            square,
            lr=0.02,
            optimizer="sgd",
            clip=5.0,
            schedule=linear(300),
        ),
    },
    "binary": {
        "adam": lambda s: _classes(
            nets.Binary(), data.segments(), s, 64, lr=3e-3, steps=250, optimizer="adam", schedule=linear(250)
        ),
    },
    "spiking": {
        "adam": lambda s: _classes(nets.Spiking(), digits(), s, 64, lr=2e-3, steps=220, optimizer="adam"),
        "sgd": lambda s: _classes(
            nets.Spiking(), digits(), s, 64, lr=0.03, steps=220, optimizer="sgd", schedule=cosine(220)
        ),
    },
    "squeeze": {
        "sgd": lambda s: _classes(
            nets.squeeze_net(),
            data.gratings(),
            s,
            32,
            lr=0.05,
            steps=160,
            optimizer="sgd",
            weight_decay=5e-4,
            schedule=cosine(160, 10),
        ),
        "adamw": lambda s: _classes(
            nets.squeeze_net(),
            data.gratings(),
            s,
            32,
            lr=3e-3,
            steps=160,
            optimizer="adamw",
            weight_decay=0.02,
        ),
    },
    "quantized": {
        "adam": lambda s: _quantized(s, lr=2e-3, steps=220, optimizer="adam", schedule=cosine(220))
    },
    "made": {
        "adam": lambda s: custom(
            nets.Autoregressive(), digits(), s, 64, nets.pixel_bits, lr=3e-3, steps=200, optimizer="adam"
        ),
    },
    "kan": {
        "adamax": lambda s: _classes(nets.kan(), data.formula(), s, 64, square, lr=0.02, optimizer="adamax"),
    },
    "operator": {
        "adam": lambda s: _classes(
            nets.Operator(), data.integrals(), s, 128, square, lr=4e-3, optimizer="adam", schedule=cosine(300)
        ),
    },
    "routed": {
        "adamw": lambda s: _routed(s, lr=5e-3, optimizer="adamw", weight_decay=0.01),
    },
    "tokens": {
        "adamw": lambda s: _classes(
            nets.Tokens(),
            data.shells(),
            s,
            64,
            lr=4e-3,
            steps=220,
            optimizer="adamw",
            weight_decay=0.01,
            clip=1.0,
            schedule=linear(220, 20),
        ),
    },
    "detector": {
        "adam": lambda s: custom(
            nets.Detector(), data.scenes(), s, 48, nets.detected, lr=2e-3, steps=220, optimizer="adam"
        ),
    },
    "packed": {
        "adam": lambda s: _classes(
            sequences.Packed(), data.majorities(), s, 48, lr=3e-3, steps=160, optimizer="adam"
        ),
    },
    "listener": {
        "adam": lambda s: custom(
            sequences.Listener(),
            data.spoken(),
            s,
            48,
            sequences.heard,
            lr=5e-3,
            steps=200,
            optimizer="adam",
            clip=5.0,
        ),
    },
    "tied": {
        "adamw": lambda s: stream(
            sequences.Tied(),
            data.sentences,
            entropy,
            s,
            24,
            lr=5e-3,
            steps=180,
            optimizer="adamw",
            weight_decay=0.1,
            clip=1.0,
            schedule=cosine(180, 25),
            options={"betas": (0.9, 0.95)},
        ),
    },
    "towers": {
        "adam": lambda s: _classes(
            sequences.Towers(), data.visits(), s, 128, lr=5e-3, steps=250, optimizer="adam"
        ),
        "adagrad": lambda s: _classes(
            sequences.Towers(), data.visits(), s, 64, lr=0.05, steps=250, optimizer="adagrad"
        ),
    },
    "state_space": {
        "adamw": lambda s: _classes(
            sequences.StateSpace(),
            data.additions(),
            s,
            48,
            square,
            lr=8e-3,
            steps=220,
            optimizer="adamw",
            weight_decay=0.01,
            schedule=cosine(220, 10),
        ),
    },
    "graphs": {
        "adam": lambda s: _classes(
            sequences.Isomorphism(), data.families(), s, 64, lr=5e-3, steps=220, optimizer="adam"
        ),
        "sgd": lambda s: _classes(
            sequences.Isomorphism(),
            data.families(),
            s,
            48,
            lr=0.1,
            steps=220,
            optimizer="sgd",
            clip=2.0,
            schedule=linear(220, 20),
        ),
    },
    "process": {
        "adam": lambda s: _process(s, lr=3e-3, steps=300, optimizer="adam", clip=5.0, schedule=linear(300)),
    },
    "siamese": {
        "rmsprop": lambda s: stream(
            sequences.Siamese(),
            data.couples,
            sequences.margin,
            s,
            96,
            lr=1e-3,
            steps=250,
            optimizer="rmsprop",
        ),
    },
    "survival": {
        "adam": lambda s: custom(
            sequences.risk_net(), data.patients(), s, 128, sequences.cox, lr=2e-3, steps=200, optimizer="adam"
        ),
        "sgd": lambda s: custom(
            sequences.risk_net(),
            data.patients(),
            s,
            128,
            sequences.cox,
            lr=0.01,
            steps=200,
            optimizer="sgd",
            schedule=linear(200),
        ),
    },
    "ranker": {
        "adam": lambda s: _ranker(s, 32, lr=3e-3, steps=250, optimizer="adam", schedule=cosine(250)),
    },
}
NAMES = tuple(RUNS)
