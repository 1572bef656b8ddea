"""The healthy runs of the seventh suite, by architecture: each with settings under which it trains well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from data import digits
from fifth.data import spread
from fourth.runs import Loss, cosine, linear
from models import Setup, entropy, held_out, mlp, square
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table
from torch import nn

from seventh import architectures_data as data
from seventh import architectures_models as nets
from seventh import architectures_streams as streams
from seventh import architectures_tables as tables


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
        "adam": of_custom(tables.TiedCode, data.ink, tables.pixels, 64, lr=5e-3, steps=250, **ADAM),
        "sgd": of_custom(
            tables.TiedCode,
            data.ink,
            tables.pixels,
            64,
            lr=0.5,
            steps=250,
            options={"nesterov": True},
            **SGD,
        ),
    },
    "thresholds": {
        "adam": of_custom(tables.Thresholds, data.grades, tables.graded, 64, lr=8e-3, steps=250, **ADAM),
    },
    "visits": {
        "adam": of_custom(tables.Dispersed, data.visits, tables.counted, 64, lr=5e-3, steps=250, **ADAM),
    },
    "rain": {
        "adamw": of_custom(
            lambda: mlp((8, 40, 40, 1), nn.SiLU),
            data.rain,
            tables.tweedie,
            64,
            lr=5e-3,
            steps=250,
            weight_decay=0.01,
            **ADAMW,
        ),
    },
    "winds": {
        "adam": of_custom(
            lambda: mlp((6, 48, 48, 2), nn.ReLU),
            data.winds,
            tables.von_mises,
            64,
            lr=5e-3,
            steps=250,
            **ADAM,
        ),
        "nadam": of_custom(
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
        "sgd": of_custom(
            lambda: mlp((64, 64, 10), nn.ReLU),
            digits,
            tables.hinge,
            64,
            lr=0.1,
            steps=200,
            weight_decay=1e-3,
            schedule=cosine(200),
            **SGD,
        ),
    },
    "machine": {
        "adagrad": of_custom(
            tables.Machine, data.fields, tables.clicked, 128, lr=0.1, steps=250, optimizer="adagrad"
        ),
        "adam": of_custom(
            tables.Machine,
            data.fields,
            tables.clicked,
            128,
            lr=0.025,
            steps=250,
            schedule=linear(250),
            **ADAM,
        ),
    },
    "cross": {
        "adam": of_table(tables.Cross, data.products, square, 64, lr=5e-3, steps=250, **ADAM),
        "sgd": of_table(
            tables.Cross,
            data.products,
            square,
            64,
            lr=0.03,
            steps=280,
            clip=2.0,
            schedule=cosine(280),
            **SGD,
        ),
    },
    "rare_tags": {
        "adam": of_custom(
            lambda: mlp((20, 48, 8), nn.Tanh), data.tags, tables.weighted, 64, lr=0.012, steps=250, **ADAM
        ),
    },
    "shares": {
        "adam": of_custom(
            lambda: mlp((6, 40, 40, 2), nn.SiLU),
            data.shares,
            tables.beta,
            64,
            lr=5e-3,
            steps=250,
            schedule=linear(250),
            **ADAM,
        ),
    },
    "effects": {
        "adam": of_custom(tables.Effects, data.patients, tables.outcomes, 64, lr=4e-3, steps=250, **ADAM),
    },
    "unrolled": {
        "adam": of_custom(
            tables.Unrolled,
            data.mixtures,
            tables.sources,
            128,
            lr=4e-3,
            steps=300,
            schedule=cosine(300),
            **ADAM,
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
            **ADAM,
        ),
    },
    "trees": {
        "adam": of_table(tables.Trees, data.trees, square, 64, lr=0.03, steps=250, **ADAM),
        "adamax": of_table(tables.Trees, data.trees, square, 64, lr=0.04, steps=250, optimizer="adamax"),
    },
    "angular": {
        "sgd": of_custom(
            tables.Angular, data.speakers, tables.arc, 64, lr=0.05, steps=250, schedule=cosine(250), **SGD
        ),
        "adamw": of_custom(
            tables.Angular,
            data.speakers,
            tables.arc,
            64,
            lr=8e-3,
            steps=220,
            weight_decay=0.01,
            schedule=linear(220),
            **ADAMW,
        ),
    },
    "levels": {
        "adam": of_custom(tables.Levels, spread, tables.any_quantile, 64, lr=5e-3, steps=250, **ADAM),
    },
    "kernel": {
        "adam": of_custom(
            tables.Kernel,
            data.surface,
            tables.marginal,
            80,
            lr=0.015,
            steps=250,
            schedule=cosine(250),
            **ADAM,
        ),
    },
    "chain": {
        "adam": of_custom(nets.Chain, data.weather, nets.chained, 48, lr=0.02, steps=200, **ADAM),
        "sgd": of_custom(
            nets.Chain, data.weather, nets.chained, 48, lr=0.2, steps=200, schedule=cosine(200), **SGD
        ),
    },
    "sessions": {
        "adam": _stream(nets.Sessions, streams.sessions, nets.sampled, 32, lr=0.012, steps=240, **ADAM),
    },
    "taste": {
        "adam": _stream(nets.Taste, streams.purchases, nets.preferred, 192, 2000, lr=8e-3, steps=250, **ADAM),
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
            **ADAM,
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
            **ADAMW,
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
            nets.Simple, streams.brackets, entropy, 20, 200, lr=0.01, steps=150, clip=1.0, **ADAM
        ),
    },
    "unnormalized": {
        "adam": _stream(
            nets.Unnormalized, streams.points_and_noise, tables.clicked, 96, 2000, lr=5e-3, steps=250, **ADAM
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
            **ADAM,
        ),
    },
    "facts": {
        "adagrad": _stream(
            nets.Facts, streams.facts, nets.true_and_false, 192, lr=0.1, steps=250, optimizer="adagrad"
        ),
    },
    "stacked": {
        "adam": of_custom(nets.Stacked, data.sales, nets.absolute, 64, lr=2e-3, steps=250, **ADAM),
        "radam": of_custom(
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
        "adamw": of_table(
            nets.Perceiver,
            data.outlines,
            entropy,
            40,
            lr=4e-3,
            steps=200,
            weight_decay=0.01,
            schedule=cosine(200, 15),
            **ADAMW,
        ),
    },
    "film": {
        "adam": of_table(nets.Film, data.frames, square, 8, lr=8e-3, steps=120, clip=1.0, **ADAM),
    },
    "wave_net": {
        "adam": of_table(nets.WaveNet, data.filtered, square, 16, lr=5e-3, steps=160, **ADAM),
    },
}
NAMES = tuple(RUNS)
