"""The healthy runs of the fifth suite: each network with the settings under which it trains well."""

from __future__ import annotations

from collections.abc import Callable

from fourth.runs import cosine, custom, judged, linear, stream
from models import Setup, _classes, entropy, mlp, square
from torch import nn

from fifth import data
from fifth import models as nets

Build = Callable[[int], Setup]


def _spread(seed: int) -> Setup:
    split = data.spread()
    setup = custom(
        mlp((4, 48, 48, 2), nn.SiLU),
        split,
        seed,
        64,
        nets.likelihood,
        lr=0.015,
        steps=250,
        optimizer="adam",
        schedule=linear(250),
    )
    return judged(setup, nets.mean_error, split.val_x, split.val_y)


def _table(make: Callable[[], nn.Module], split: Callable[[], data.Split], loss, size: int, **more) -> Build:
    return lambda seed: _classes(make(), split(), seed, size, loss, **more)


def _custom(make: Callable[[], nn.Module], split: Callable[[], data.Split], loss, size: int, **more) -> Build:
    return lambda seed: custom(make(), split(), seed, size, loss, **more)


def _stream(make: Callable[[], nn.Module], draw: Callable, loss, size: int, **more) -> Build:
    return lambda seed: stream(make(), draw, loss, seed, size, **more)


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "arms": {
        "adam": _table(nets.arms, data.spirals, entropy, 64, lr=5e-3, steps=250, optimizer="adam"),
        "sgd": _table(
            nets.arms, data.spirals, entropy, 64, lr=0.1, steps=250, optimizer="sgd", schedule=cosine(250)
        ),
    },
    "waves": {
        "adam": _table(nets.wave_net, data.waves, entropy, 48, lr=4e-3, steps=180, optimizer="adam"),
        "sgd": _table(
            nets.wave_net,
            data.waves,
            entropy,
            48,
            lr=0.03,
            steps=180,
            optimizer="sgd",
            schedule=cosine(180, 10),
        ),
    },
    "tides": {
        "adam": _table(nets.Tide, data.tides, square, 48, lr=8e-3, steps=200, optimizer="adam", clip=1.0),
    },
    "both_ways": {
        "adamw": _table(
            nets.BothWays,
            data.between,
            entropy,
            32,
            lr=0.025,
            steps=170,
            optimizer="adamw",
            weight_decay=0.01,
            schedule=cosine(170, 10),
        ),
    },
    "labels": {
        "adam": _custom(
            lambda: mlp((16, 64, 6), nn.ReLU),
            data.labels,
            nets.each_label,
            64,
            lr=4e-3,
            steps=220,
            optimizer="adam",
        ),
    },
    "spread": {"adam": _spread},
    "taxonomy": {
        "sgd": _custom(
            lambda: mlp((14, 48, 16), nn.GELU, True),
            data.taxonomy,
            nets.two_levels,
            64,
            lr=0.03,
            steps=180,
            optimizer="sgd",
            weight_decay=1e-4,
        ),
    },
    "diffused": {
        "adam": _stream(
            nets.Noise, data.diffused, square, 128, lr=4e-3, steps=220, optimizer="adam", schedule=linear(220)
        ),
    },
    "skip_gram": {
        "adam": _stream(
            nets.SkipGram, data.contexts_of_words, nets.near, 192, lr=0.03, steps=220, optimizer="adam"
        ),
    },
    "claims": {
        "adam": _custom(
            lambda: mlp((8, 32, 32, 1), nn.Tanh),
            data.claims,
            nets.gamma,
            64,
            lr=5e-3,
            steps=220,
            optimizer="adam",
        ),
    },
    "hyper": {
        "adam": _table(nets.Hyper, data.contexts, square, 64, lr=5e-3, steps=220, optimizer="adam"),
    },
    "hazards": {
        "adamw": _custom(
            lambda: mlp((9, 40, 8), nn.SiLU),
            data.hazards,
            nets.survived,
            64,
            lr=5e-3,
            steps=200,
            optimizer="adamw",
            weight_decay=0.01,
        ),
    },
    "maxout": {
        "rmsprop": _custom(
            nets.maxout,
            data.outliers,
            nets.robust,
            64,
            lr=1e-3,
            steps=220,
            optimizer="rmsprop",
            schedule=linear(220),
        ),
    },
    "captions": {
        "adamw": _custom(
            nets.Pair,
            data.captions,
            nets.matched,
            128,
            lr=0.025,
            steps=200,
            optimizer="adamw",
            weight_decay=0.02,
            schedule=cosine(200, 15),
        ),
    },
    "reader": {
        "adam": _stream(
            nets.Reader, data.verses, entropy, 32, lr=0.01, steps=180, optimizer="adam", clip=1.0
        ),
    },
    "gated": {
        "adam": _table(nets.gated, data.engines, square, 64, lr=8e-3, steps=220, optimizer="adam"),
        "sgd": _table(
            nets.gated,
            data.engines,
            square,
            64,
            lr=0.1,
            steps=220,
            optimizer="sgd",
            clip=5.0,
            schedule=cosine(220),
        ),
    },
}
NAMES = tuple(RUNS)
