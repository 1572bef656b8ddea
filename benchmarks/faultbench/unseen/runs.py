"""The healthy runs of the held-out suite: each network with the settings under which it trains well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from data import Split, digits, graph, shuffled, table
from models import Setup, _classes, _language, held_out, square
from torch import nn

from unseen import models as nets
from unseen.data import (
    counts,
    interior,
    inverse,
    labels,
    moons,
    noisy_digits,
    ratings,
    shapes,
    sorting,
    tagged_lines,
    views,
    waves,
)
from unseen.walk import Actor, Corridor, advantage, distance


def _warm(k: int) -> float:
    return min(1.0, (k + 1) / 40)


def _custom(model: nn.Module, split: Split, seed: int, size: int, loss: Any, **more: Any) -> Setup:
    """Like `_classes`, but the operators that know squares and classes only are kept away."""
    check = held_out(loss, split.val_x, split.val_y)
    return Setup(model, shuffled(split, size, seed), loss, check, batch_size=size, seed=seed, **more)


def _log_density(model: nn.Module, split: Split, seed: int, size: int, loss: Any, **more: Any) -> Setup:
    """A negative log-density may be negative: its exponential is what the run is judged by."""
    setup = _custom(model, split, seed, size, loss, **more)
    setup.judged = lambda m: math.exp(min(setup.val(m), 50.0))
    return setup


def _sorter(seed: int, **more: Any) -> Setup:
    check = held_out(nets.teacher_forced, *next(sorting(200, 10**6)))
    return Setup(
        nets.Sorter(), sorting(32, seed), nets.teacher_forced, check, batch_size=32, seed=seed, **more
    )


def _contrast(seed: int, **more: Any) -> Setup:
    check = held_out(nets.contrast, *nets.digit_views())
    return Setup(nets.Encoder(), views(64, seed), nets.contrast, check, seed=seed, **more)


def _beam(seed: int, **more: Any) -> Setup:
    batches = interior(32, seed)
    return Setup(nets.Beam(), batches, nets.residual, nets.solution_error, batch_size=32, seed=seed, **more)


def _actor(seed: int, **more: Any) -> Setup:
    model = Actor()
    batches = iter(Corridor(model, seed))
    return Setup(model, batches, advantage, distance, seed=seed, metric="distance", **more)


def _cosine(steps: int) -> Callable[[int], float]:
    return lambda k: _warm(k) * 0.5 * (1 + math.cos(math.pi * k / steps))


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Callable[[int], Setup]]] = {
    "selu": {
        "sgd": lambda s: _classes(nets.selu(), table("wine"), s, 32, lr=0.005, steps=200, optimizer="sgd"),
        "nadam": lambda s: _classes(nets.selu(), table("wine"), s, 32, lr=1e-3, steps=200, optimizer="nadam"),
    },
    "mixer": {
        "adamw": lambda s: _classes(
            nets.Mixer(),
            digits(),
            s,
            48,
            lr=3e-3,
            steps=220,
            optimizer="adamw",
            weight_decay=0.05,
            schedule=_cosine(220),
        ),
        "lion": lambda s: _classes(
            nets.Mixer(),
            digits(),
            s,
            48,
            lr=1e-3,
            steps=220,
            optimizer="lion",
            weight_decay=0.1,
            schedule=_warm,
        ),
    },
    "pointnet": {
        "adam": lambda s: _classes(nets.PointNet(), shapes(), s, 32, lr=2e-3, steps=250, optimizer="adam"),
        "sgd": lambda s: _classes(nets.PointNet(), shapes(), s, 32, lr=0.02, steps=250, optimizer="sgd"),
    },
    "tcn": {
        "sgd": lambda s: _language(nets.Dilated(), s, lr=0.1, steps=240, clip=1.0, optimizer="sgd"),
        "adam": lambda s: _language(nets.Dilated(), s, lr=4e-3, steps=240, optimizer="adam"),
    },
    "retention": {
        "adamw": lambda s: _language(
            nets.Retention(),
            s,
            lr=4e-3,
            steps=220,
            clip=1.0,
            optimizer="adamw",
            weight_decay=0.1,
            schedule=_warm,
        ),
    },
    "tagger": {
        "adam": lambda s: _classes(
            nets.Tagger(), tagged_lines(), s, 32, lr=1e-2, steps=220, optimizer="adam"
        ),
    },
    "flow": {
        "adam": lambda s: _log_density(
            nets.Coupling(), moons(), s, 64, nets.density, lr=3e-3, clip=10.0, optimizer="adam"
        ),
    },
    "quantile": {
        "adamax": lambda s: _custom(
            nets.quantiles(), table("diabetes"), s, 32, nets.pinball, lr=4e-3, optimizer="adamax"
        ),
    },
    "contrast": {
        "adam": lambda s: _contrast(s, lr=1e-3, steps=250, optimizer="adam"),
        "sgd": lambda s: _contrast(s, lr=0.05, steps=250, optimizer="sgd"),
    },
    "gat": {
        "adam": lambda s: _classes(
            nets.GraphAttention(), graph()[1], s, 300, lr=5e-3, steps=120, weight_decay=5e-4, optimizer="adam"
        ),
    },
    "siren": {
        "adam": lambda s: _classes(
            nets.siren(), waves(), s, 64, square, lr=1e-3, steps=400, optimizer="adam"
        ),
    },
    "highway": {
        "adagrad": lambda s: _classes(
            nets.highway(), digits(), s, 64, lr=0.02, steps=250, optimizer="adagrad"
        ),
        "sgd": lambda s: _classes(nets.highway(), digits(), s, 64, lr=0.02, steps=250, optimizer="sgd"),
    },
    "depthwise": {
        "sgd": lambda s: _classes(
            nets.depthwise(),
            digits(),
            s,
            48,
            lr=0.05,
            steps=200,
            optimizer="sgd",
            options={"nesterov": True},
            weight_decay=1e-4,
        ),
        "radam": lambda s: _classes(nets.depthwise(), digits(), s, 48, lr=1e-2, steps=200, optimizer="radam"),
    },
    "unet": {
        "adam": lambda s: _classes(
            nets.Skips(), noisy_digits(), s, 32, square, lr=3e-3, steps=200, optimizer="adam"
        ),
        "sgd": lambda s: _classes(
            nets.Skips(), noisy_digits(), s, 32, square, lr=0.05, steps=200, optimizer="sgd"
        ),
    },
    "postnorm": {
        "adam": lambda s: _language(
            nets.PostNorm(),
            s,
            lr=3e-3,
            steps=220,
            optimizer="adam",
            schedule=_warm,
            options={"betas": (0.9, 0.98)},
        ),
    },
    "sorter": {
        "adam": lambda s: _sorter(s, lr=5e-3, steps=220, clip=1.0, optimizer="adam"),
        "rmsprop": lambda s: _sorter(s, lr=3e-3, steps=220, clip=1.0, optimizer="rmsprop"),
    },
    "mixture": {
        "adam": lambda s: _log_density(
            nets.Mixture(), inverse(), s, 64, nets.mixture, lr=5e-3, optimizer="adam"
        ),
    },
    "poisson": {
        "adamw": lambda s: _custom(
            nets.rates(), counts(), s, 64, nets.poisson, lr=3e-3, optimizer="adamw", weight_decay=0.01
        ),
        "sgd": lambda s: _custom(nets.rates(), counts(), s, 64, nets.poisson, lr=0.01, optimizer="sgd"),
    },
    "factors": {
        "adagrad": lambda s: _classes(
            nets.Factors(), ratings(), s, 128, square, lr=0.15, steps=400, optimizer="adagrad"
        ),
    },
    "beam": {
        "adam": lambda s: _beam(s, lr=3e-3, steps=400, optimizer="adam"),
    },
    "actor": {
        "adam": lambda s: _actor(s, lr=5e-3, steps=250, optimizer="adam"),
    },
    "labeler": {
        "adam": lambda s: _custom(
            nets.labeler(), labels(), s, 64, nets.many_labels, lr=2e-3, optimizer="adam"
        ),
    },
}

# Of each kind of network and of data one here and one there; the second part is looked at once, at the end
DEVELOPMENT = (
    "selu",
    "mixer",
    "pointnet",
    "tcn",
    "retention",
    "tagger",
    "flow",
    "quantile",
    "contrast",
    "gat",
    "siren",
)
FINAL = (
    "highway",
    "depthwise",
    "unet",
    "postnorm",
    "sorter",
    "mixture",
    "poisson",
    "factors",
    "beam",
    "actor",
    "labeler",
)
