"""The healthy runs of the seventh suite, by architecture: each with settings under which it trains well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data import digits
from fifth.data import spread
from fourth.runs import Loss, cosine, custom, linear
from models import Setup, _classes, entropy, held_out, mlp, square
from torch import nn

from seventh import architectures_data as data
from seventh import architectures_models as nets
from seventh import architectures_streams as streams
from seventh import architectures_tables as tables

Build = Callable[[int], Setup]
_ADAM: dict[str, Any] = {"optimizer": "adam"}
_SGD: dict[str, Any] = {"optimizer": "sgd"}
_ADAMW: dict[str, Any] = {"optimizer": "adamw"}


def _table(
    make: Callable[[], nn.Module], split: Callable[[], data.Split], loss: Loss, size: int, **more: Any
) -> Build:
    return lambda seed: _classes(make(), split(), seed, size, loss, **more)


def _custom(
    make: Callable[[], nn.Module], split: Callable[[], data.Split], loss: Loss, size: int, **more: Any
) -> Build:
    return lambda seed: custom(make(), split(), seed, size, loss, **more)


def _stream(
    make: Callable[[], nn.Module],
    draw: Callable[..., data.Pairs],
    loss: Loss,
    size: int,
    number: int = 400,
    check: Loss | None = None,
    **more: Any,
) -> Build:
    """Batches drawn without end, and so many held-out rows that are always the same."""

    def build(seed: int) -> Setup:
        val = held_out(check or loss, *next(draw(number, 10**6)))
        return Setup(make(), draw(size, seed), loss, val, batch_size=size, seed=seed, **more)

    return build


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "tied_code": {
        "adam": _custom(tables.TiedCode, data.ink, tables.pixels, 64, lr=5e-3, steps=250, **_ADAM),
        "sgd": _custom(
            tables.TiedCode,
            data.ink,
            tables.pixels,
            64,
            lr=0.5,
            steps=250,
            options={"nesterov": True},
            **_SGD,
        ),
    },
    "thresholds": {
        "adam": _custom(tables.Thresholds, data.grades, tables.graded, 64, lr=8e-3, steps=250, **_ADAM),
    },
    "visits": {
        "adam": _custom(tables.Dispersed, data.visits, tables.counted, 64, lr=5e-3, steps=250, **_ADAM),
    },
    "rain": {
        "adamw": _custom(
            lambda: mlp((8, 40, 40, 1), nn.SiLU),
            data.rain,
            tables.tweedie,
            64,
            lr=5e-3,
            steps=250,
            weight_decay=0.01,
            **_ADAMW,
        ),
    },
    "winds": {
        "adam": _custom(
            lambda: mlp((6, 48, 48, 2), nn.ReLU),
            data.winds,
            tables.von_mises,
            64,
            lr=5e-3,
            steps=250,
            **_ADAM,
        ),
        "nadam": _custom(
            lambda: mlp((6, 48, 48, 2), nn.ReLU),
            data.winds,
            tables.von_mises,
            64,
            lr=6e-3,
            steps=220,
            schedule=linear(220),
            optimizer="nadam",
        ),
    },
    "hinge": {
        "sgd": _custom(
            lambda: mlp((64, 64, 10), nn.ReLU),
            digits,
            tables.hinge,
            64,
            lr=0.1,
            steps=200,
            weight_decay=1e-3,
            schedule=cosine(200),
            **_SGD,
        ),
    },
    "machine": {
        "adagrad": _custom(
            tables.Machine, data.fields, tables.clicked, 128, lr=0.1, steps=250, optimizer="adagrad"
        ),
        "adam": _custom(
            tables.Machine,
            data.fields,
            tables.clicked,
            128,
            lr=0.025,
            steps=250,
            schedule=linear(250),
            **_ADAM,
        ),
    },
    "cross": {
        "adam": _table(tables.Cross, data.products, square, 64, lr=5e-3, steps=250, **_ADAM),
        "sgd": _table(
            tables.Cross,
            data.products,
            square,
            64,
            lr=0.03,
            steps=280,
            clip=2.0,
            schedule=cosine(280),
            **_SGD,
        ),
    },
    "rare_tags": {
        "adam": _custom(
            lambda: mlp((20, 48, 8), nn.Tanh), data.tags, tables.weighted, 64, lr=0.012, steps=250, **_ADAM
        ),
    },
    "shares": {
        "adam": _custom(
            lambda: mlp((6, 40, 40, 2), nn.SiLU),
            data.shares,
            tables.beta,
            64,
            lr=5e-3,
            steps=250,
            schedule=linear(250),
            **_ADAM,
        ),
    },
    "effects": {
        "adam": _custom(tables.Effects, data.patients, tables.outcomes, 64, lr=4e-3, steps=250, **_ADAM),
    },
    "unrolled": {
        "adam": _custom(
            tables.Unrolled,
            data.mixtures,
            tables.sources,
            128,
            lr=4e-3,
            steps=300,
            schedule=cosine(300),
            **_ADAM,
        ),
    },
    "hashed": {
        "adam": _stream(
            tables.Hashed,
            streams.visitors,
            tables.clicked,
            192,
            2000,
            lr=6e-3,
            steps=250,
            schedule=linear(250),
            **_ADAM,
        ),
    },
    "trees": {
        "adam": _table(tables.Trees, data.trees, square, 64, lr=0.03, steps=250, **_ADAM),
        "adamax": _table(tables.Trees, data.trees, square, 64, lr=0.04, steps=250, optimizer="adamax"),
    },
    "angular": {
        "sgd": _custom(
            tables.Angular, data.speakers, tables.arc, 64, lr=0.05, steps=250, schedule=cosine(250), **_SGD
        ),
        "adamw": _custom(
            tables.Angular,
            data.speakers,
            tables.arc,
            64,
            lr=8e-3,
            steps=220,
            weight_decay=0.01,
            schedule=linear(220),
            **_ADAMW,
        ),
    },
    "levels": {
        "adam": _custom(tables.Levels, spread, tables.any_quantile, 64, lr=5e-3, steps=250, **_ADAM),
    },
    "kernel": {
        "adam": _custom(
            tables.Kernel,
            data.surface,
            tables.marginal,
            80,
            lr=0.015,
            steps=250,
            schedule=cosine(250),
            **_ADAM,
        ),
    },
    "chain": {
        "adam": _custom(nets.Chain, data.weather, nets.chained, 48, lr=0.02, steps=200, **_ADAM),
        "sgd": _custom(
            nets.Chain, data.weather, nets.chained, 48, lr=0.2, steps=200, schedule=cosine(200), **_SGD
        ),
    },
    "sessions": {
        "adam": _stream(nets.Sessions, streams.sessions, nets.sampled, 32, lr=0.012, steps=240, **_ADAM),
    },
    "taste": {
        "adam": _stream(
            nets.Taste, streams.purchases, nets.preferred, 192, 2000, lr=8e-3, steps=250, **_ADAM
        ),
    },
    "seller": {
        "adam": _stream(
            nets.Seller,
            streams.offers,
            nets.advantage,
            192,
            1000,
            check=nets.regret,
            lr=5e-3,
            steps=300,
            **_ADAM,
        ),
    },
    "lately": {
        "adamw": _stream(
            nets.Lately,
            streams.lately,
            entropy,
            32,
            lr=4e-3,
            steps=180,
            weight_decay=0.05,
            schedule=cosine(180, 15),
            **_ADAMW,
        ),
        "lion": _stream(
            nets.Lately,
            streams.lately,
            entropy,
            32,
            lr=1.5e-3,
            steps=180,
            schedule=cosine(180, 10),
            optimizer="lion",
        ),
    },
    "brackets": {
        "adam": _stream(
            nets.Simple, streams.brackets, entropy, 20, 200, lr=0.01, steps=150, clip=1.0, **_ADAM
        ),
    },
    "unnormalized": {
        "adam": _stream(
            nets.Unnormalized, streams.points_and_noise, tables.clicked, 96, 2000, lr=5e-3, steps=250, **_ADAM
        ),
    },
    "rings": {
        "adam": _stream(
            nets.generator,
            streams.rings,
            nets.discrepancy,
            128,
            600,
            lr=4e-3,
            steps=250,
            schedule=linear(250),
            **_ADAM,
        ),
    },
    "facts": {
        "adagrad": _stream(
            nets.Facts, streams.facts, nets.true_and_false, 192, lr=0.1, steps=250, optimizer="adagrad"
        ),
    },
    "stacked": {
        "adam": _custom(nets.Stacked, data.sales, nets.absolute, 64, lr=2e-3, steps=250, **_ADAM),
        "radam": _custom(
            nets.Stacked,
            data.sales,
            nets.absolute,
            64,
            lr=3e-3,
            steps=220,
            schedule=cosine(220),
            optimizer="radam",
        ),
    },
    "perceiver": {
        "adamw": _table(
            nets.Perceiver,
            data.outlines,
            entropy,
            40,
            lr=4e-3,
            steps=200,
            weight_decay=0.01,
            schedule=cosine(200, 15),
            **_ADAMW,
        ),
    },
    "film": {
        "adam": _table(nets.Film, data.frames, square, 8, lr=8e-3, steps=120, clip=1.0, **_ADAM),
    },
    "wave_net": {
        "adam": _table(nets.WaveNet, data.filtered, square, 16, lr=5e-3, steps=160, **_ADAM),
    },
}
NAMES = tuple(RUNS)
