"""Sound runs of the thirteenth suite on pictures, signals, sets and graphs."""

from __future__ import annotations

from collections.abc import Callable

from fourth.runs import cosine, linear
from models import entropy, square, to_itself
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table

from thirteenth import shapes_data as data
from thirteenth import shapes_nets as nets

_RMS = {"optimizer": "rmsprop"}
_NADAM = {"optimizer": "nadam"}
_ADAGRAD = {"optimizer": "adagrad"}


def _stairs(*at: int) -> Callable[[int], float]:
    """The rate falls to a fifth at each of some steps."""
    return lambda k: 0.2 ** sum(k >= step for step in at)


# name -> optimizer -> what builds the setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "glyphs": {
        "sgd": of_table(
            nets.glyph_net,
            data.glyphs,
            entropy,
            48,
            lr=0.1,
            steps=200,
            weight_decay=5e-4,
            schedule=cosine(200, 10),
            **SGD,
        ),
        "adamw": of_table(
            nets.glyph_net,
            data.glyphs,
            entropy,
            48,
            lr=8e-3,
            steps=200,
            weight_decay=0.02,
            schedule=linear(200),
            **ADAMW,
        ),
    },
    "horizons": {
        "adam": of_table(
            nets.horizon_net, data.horizons, square, 48, lr=5e-3, steps=260, schedule=cosine(260), **ADAM
        ),
        "sgd": of_table(
            nets.horizon_net, data.horizons, square, 48, lr=0.05, steps=280, schedule=linear(280, 10), **SGD
        ),
    },
    "defects": {
        "adam": of_table(
            nets.defect_net, data.defects, entropy, 32, lr=0.01, steps=240, schedule=linear(240), **ADAM
        ),
        "sgd": of_table(
            nets.defect_net,
            data.defects,
            entropy,
            32,
            lr=0.06,
            steps=250,
            weight_decay=1e-4,
            schedule=_stairs(150, 210),
            **SGD,
        ),
    },
    "cells": {
        "adamw": of_table(
            nets.Cells,
            data.cells,
            nets.by_pixel,
            16,
            lr=0.01,
            steps=160,
            weight_decay=0.01,
            schedule=cosine(160),
            **ADAMW,
        ),
    },
    "haze": {
        "adam": of_table(
            nets.Clearer, data.haze, square, 16, lr=6e-3, steps=220, schedule=cosine(220), **ADAM
        ),
        "rmsprop": of_table(
            nets.Clearer, data.haze, square, 16, lr=1.5e-3, steps=220, schedule=linear(220), **_RMS
        ),
    },
    "bearings": {
        "sgd": of_table(
            nets.bearing_net, data.bearings, entropy, 64, lr=0.06, steps=220, schedule=linear(220), **SGD
        ),
        "nadam": of_table(
            nets.bearing_net, data.bearings, entropy, 64, lr=5e-3, steps=200, schedule=cosine(200), **_NADAM
        ),
    },
    "moons": {
        "adam": of_table(
            nets.moon_net, data.moons, to_itself, 48, lr=0.016, steps=280, schedule=linear(280), **ADAM
        ),
    },
    "meters": {
        "adam": of_table(
            nets.Meters, data.meters, square, 64, lr=0.01, steps=300, schedule=linear(300), **ADAM
        ),
    },
    "compounds": {
        "adam": of_table(
            nets.Compounds, data.compounds, square, 64, lr=8e-3, steps=320, schedule=cosine(320), **ADAM
        ),
        "adagrad": of_table(
            nets.Compounds, data.compounds, square, 64, lr=0.025, steps=320, schedule=linear(320), **_ADAGRAD
        ),
    },
    "swarms": {
        "rmsprop": of_table(
            nets.Swarms, data.swarms, square, 64, lr=3e-3, steps=300, schedule=linear(300), **_RMS
        ),
        "adamw": of_table(
            nets.Swarms,
            data.swarms,
            square,
            64,
            lr=0.012,
            steps=300,
            weight_decay=0.01,
            clip=1.0,
            schedule=cosine(300, 15),
            **ADAMW,
        ),
    },
    "views": {
        "adam": of_custom(
            nets.Views, data.views, nets.same_rock, 48, lr=5e-3, steps=280, schedule=linear(280), **ADAM
        ),
    },
    "fields": {
        "adamw": of_table(
            nets.Fields,
            data.fields,
            entropy,
            48,
            lr=8e-3,
            steps=210,
            weight_decay=0.05,
            clip=1.0,
            schedule=cosine(210, 20),
            **ADAMW,
        ),
    },
}
