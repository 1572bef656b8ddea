"""The healthy runs of the ninth suite: each network with the settings under which it trains well."""

from __future__ import annotations

from fourth.runs import cosine, linear
from models import Setup, entropy, held_out, square, to_itself
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table
from sixth.models import overlap
from third.models import apart, logistic, two_tasks

from ninth import data, series
from ninth import models as nets


def _crops(seed: int) -> Setup:
    check = held_out(nets.found, *next(series.crops(64, 10**6)))
    batches = series.crops(64, seed)
    more = {"schedule": cosine(250, 10), "batch_size": 64, "weight_decay": 0.01}
    return Setup(nets.Crops(), batches, nets.found, check, "adamw", 4e-3, 250, seed=seed, **more)


# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "loans": {
        "adam": of_table(
            nets.loan_net, data.loans, entropy, 64, lr=4e-3, steps=300, schedule=linear(300), **ADAM
        ),
        "sgd": of_table(
            nets.loan_net, data.loans, entropy, 64, lr=0.06, steps=300, schedule=cosine(300), **SGD
        ),
    },
    "heating": {
        "adamw": of_table(
            nets.heat_net, data.heating, square, 64, lr=6e-3, steps=300, weight_decay=0.01, **ADAMW
        ),
        "sgd": of_table(
            nets.heat_net, data.heating, square, 64, lr=0.04, steps=300, schedule=linear(300), **SGD
        ),
    },
    "pilot": {
        "adam": of_table(nets.pilot_net, data.pilot, entropy, 64, lr=6e-3, steps=300, **ADAM),
        "sgd": of_table(
            nets.pilot_net, data.pilot, entropy, 64, lr=0.15, steps=300, schedule=cosine(300), **SGD
        ),
    },
    "vintages": {
        "adam": of_table(
            nets.wine_net, data.vintages, entropy, 32, lr=6e-3, steps=150, schedule=linear(150), **ADAM
        ),
        "sgd": of_table(
            nets.wine_net, data.vintages, entropy, 32, lr=0.02, steps=150, schedule=linear(150), **SGD
        ),
    },
    "spectra": {
        "adam": of_table(
            nets.spectrum_net, data.spectra, to_itself, 64, lr=6e-3, steps=300, schedule=cosine(300), **ADAM
        ),
    },
    "arrows": {
        "sgd": of_table(
            nets.arrow_net,
            data.arrows,
            entropy,
            32,
            lr=0.2,
            steps=180,
            weight_decay=5e-4,
            schedule=cosine(180, 10),
            **SGD,
        ),
        "adamw": of_table(
            nets.arrow_net,
            data.arrows,
            entropy,
            32,
            lr=0.01,
            steps=180,
            weight_decay=0.02,
            schedule=linear(180),
            **ADAMW,
        ),
    },
    "bottles": {
        "adam": of_table(
            nets.bottle_net, data.bottles, square, 32, lr=8e-3, steps=250, schedule=cosine(250), **ADAM
        ),
    },
    "beats": {
        "adam": of_table(
            nets.beat_net, series.beats, entropy, 48, lr=0.01, steps=220, schedule=linear(220), **ADAM
        ),
        "sgd": of_table(
            nets.beat_net, series.beats, entropy, 48, lr=0.1, steps=220, schedule=cosine(220), **SGD
        ),
    },
    "loads": {
        "adam": of_table(
            nets.Loads, series.loads, square, 48, lr=8e-3, steps=250, clip=1.0, schedule=linear(250), **ADAM
        ),
    },
    "roads": {
        "adam": of_custom(
            nets.Roads, data.roads, overlap, 16, lr=5e-3, steps=160, schedule=linear(160), **ADAM
        ),
    },
    "surnames": {
        "adam": of_table(
            nets.Surnames,
            series.surnames,
            entropy,
            64,
            lr=0.02,
            steps=220,
            clip=2.0,
            schedule=linear(220),
            **ADAM,
        ),
        "rmsprop": of_table(
            nets.Surnames,
            series.surnames,
            entropy,
            64,
            lr=8e-3,
            steps=260,
            schedule=linear(260),
            optimizer="rmsprop",
        ),
    },
    "parts_of_speech": {
        "adamw": of_table(
            nets.tagger,
            series.parts_of_speech,
            entropy,
            32,
            lr=5e-3,
            steps=240,
            weight_decay=0.02,
            clip=1.0,
            schedule=linear(240, 20),
            **ADAMW,
        ),
    },
    "melodies": {
        "adamw": of_table(
            nets.composer,
            series.melodies,
            entropy,
            24,
            lr=5e-3,
            steps=260,
            weight_decay=0.05,
            clip=1.0,
            schedule=cosine(260, 20),
            options={"betas": (0.9, 0.98)},
            **ADAMW,
        ),
    },
    "films": {
        "adam": of_table(
            nets.Films, series.films, square, 128, lr=0.02, steps=300, schedule=linear(300), **ADAM
        ),
    },
    "adverts": {
        "adam": of_custom(
            nets.Adverts, data.adverts, logistic, 96, lr=8e-3, steps=300, schedule=linear(300), **ADAM
        ),
    },
    "icons": {
        "adam": of_custom(
            nets.Icons, data.icons, nets.evidence, 64, lr=4e-3, steps=300, schedule=linear(300), **ADAM
        ),
    },
    "engines": {
        "adam": of_custom(
            nets.Engines, data.engines, two_tasks, 64, lr=6e-3, steps=280, schedule=linear(280), **ADAM
        ),
        "sgd": of_custom(
            nets.Engines, data.engines, two_tasks, 64, lr=0.06, steps=280, schedule=cosine(280), **SGD
        ),
    },
    "climates": {
        "nadam": of_table(
            nets.Climates,
            data.climates,
            square,
            64,
            lr=0.02,
            steps=320,
            schedule=linear(320),
            optimizer="nadam",
        ),
    },
    "baskets": {
        "adam": of_table(
            nets.Baskets, data.baskets, square, 64, lr=0.01, steps=260, schedule=cosine(260), **ADAM
        ),
    },
    "writers": {
        "adam": of_custom(
            nets.Writers, data.writers, apart, 64, lr=4e-3, steps=220, schedule=linear(220), **ADAM
        ),
    },
    "villages": {
        "adam": of_table(
            nets.Villages,
            data.neighbors,
            entropy,
            260,
            lr=0.01,
            steps=150,
            weight_decay=1e-3,
            schedule=linear(150),
            **ADAM,
        ),
    },
    "crops": {"adamw": _crops},
}
NAMES = tuple(RUNS)
