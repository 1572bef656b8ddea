"""The healthy runs of the sixth suite: each network with the settings under which it trains well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fourth.runs import Loss, cosine, custom, judged, linear
from models import Setup, entropy, held_out, square
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table
from torch import nn

from sixth import data
from sixth import models as nets


def _stream(
    make: Callable[[], nn.Module],
    draw: Callable[..., data.Pairs],
    loss: Loss,
    size: int,
    number: int = 400,
    **more: Any,
) -> Build:
    """Batches drawn without end, and so many held-out rows that are always the same."""

    def build(seed: int) -> Setup:
        check = held_out(loss, *next(draw(number, 10**6, held_out=True)))
        return Setup(make(), draw(size, seed), loss, check, batch_size=size, seed=seed, **more)

    return build


def _waiting(seed: int, **more: Any) -> Setup:
    split = data.arrivals()
    setup = custom(nets.Waiting(), split, seed, 48, nets.waited, **more)
    return judged(setup, nets.wait_error, split.val_x, split.val_y)


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "turned": {
        "adam": of_table(nets.turn_net, data.turned_digits, entropy, 48, lr=4e-3, steps=250, **ADAM),
        "sgd": of_table(
            nets.turn_net, data.turned_digits, entropy, 48, lr=0.1, steps=250, schedule=cosine(250), **SGD
        ),
    },
    "upscale": {
        "adam": of_custom(
            nets.upscaler,
            data.patches,
            nets.charbonnier,
            32,
            lr=0.012,
            steps=250,
            schedule=linear(250),
            **ADAM,
        ),
    },
    "field": {
        "adam": of_table(nets.Field, data.photograph, square, 256, lr=0.03, steps=300, **ADAM),
    },
    "prototypes": {
        "adam": _stream(nets.Prototypes, data.episodes, nets.told_apart, 3, 60, lr=2e-3, steps=200, **ADAM),
    },
    "sums": {
        "adam": of_custom(nets.Adder, data.sums, nets.summed_up, 48, lr=8e-3, steps=250, **ADAM),
    },
    "dates": {
        "adam": _stream(
            nets.Translator,
            data.dates,
            nets.written,
            32,
            lr=6e-3,
            steps=220,
            schedule=linear(220, 20),
            **ADAM,
        ),
    },
    "churn": {
        "adamw": of_table(
            nets.churn_net, data.churn, entropy, 64, lr=0.01, steps=250, weight_decay=0.02, **ADAMW
        ),
        "sgd": of_table(
            nets.churn_net, data.churn, entropy, 64, lr=0.1, steps=250, schedule=cosine(250), **SGD
        ),
    },
    "prices": {
        "adam": of_table(nets.price_net, data.prices, square, 64, lr=8e-3, steps=250, **ADAM),
        "sgd": of_table(
            nets.price_net, data.prices, square, 64, lr=0.06, steps=250, schedule=cosine(250), **SGD
        ),
    },
    "rentals": {
        "adam": of_custom(nets.Counts, data.rentals, nets.inflated, 64, lr=8e-3, steps=250, **ADAM),
    },
    "bearings": {
        "nadam": of_custom(
            nets.Direction,
            data.bearings,
            nets.turned_off,
            64,
            lr=5e-3,
            steps=250,
            schedule=linear(250),
            optimizer="nadam",
        ),
    },
    "cells": {
        "adam": of_custom(nets.Segmenter, data.cells, nets.overlap, 16, lr=4e-3, steps=200, **ADAM),
    },
    "molecules": {
        "adam": of_table(
            nets.Messages,
            data.molecules,
            square,
            48,
            lr=4e-3,
            steps=220,
            clip=2.0,
            schedule=linear(220),
            **ADAM,
        ),
    },
    "steering": {
        "adam": _stream(
            nets.Policy,
            data.starts,
            nets.cost,
            64,
            lr=0.01,
            steps=200,
            clip=1.0,
            schedule=linear(200),
            **ADAM,
        ),
    },
    "twins": {
        "adamw": _stream(
            nets.Twins, data.views, nets.redundancy, 128, lr=3e-3, steps=250, weight_decay=0.01, **ADAMW
        ),
    },
    "arrivals": {
        "adam": lambda s: _waiting(s, lr=0.01, steps=220, clip=1.0, schedule=cosine(220), **ADAM),
    },
    "springs": {
        "adam": of_table(
            nets.Energy, data.springs, square, 64, lr=0.01, steps=300, schedule=cosine(300), **ADAM
        ),
    },
    "slides": {
        "adam": of_table(nets.Pooling, data.slides, entropy, 64, lr=5e-3, steps=250, **ADAM),
        "sgd": of_table(
            nets.Pooling,
            data.slides,
            entropy,
            64,
            lr=0.1,
            steps=300,
            clip=1.0,
            schedule=cosine(300, 10),
            **SGD,
        ),
    },
    "origins": {
        "adamw": of_table(
            nets.Filters, data.origins, entropy, 48, lr=4e-3, steps=200, weight_decay=0.05, **ADAMW
        ),
    },
    "vitals": {
        "adam": of_custom(nets.Gates, data.vitals, nets.three_tasks, 64, lr=5e-3, steps=250, **ADAM),
    },
    "tumors": {
        "adam": of_table(
            nets.tumor_net, data.tumors, square, 32, lr=3e-3, steps=250, schedule=linear(250), **ADAM
        ),
        "sgd": of_table(
            nets.tumor_net, data.tumors, square, 32, lr=0.05, steps=250, schedule=cosine(250), **SGD
        ),
    },
}
NAMES = tuple(RUNS)
