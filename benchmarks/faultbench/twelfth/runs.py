"""The healthy runs of the twelfth suite: each network with the settings under which it trains well."""

from __future__ import annotations

from fourth.runs import cosine, linear
from fourth.sequences import margin
from models import elbo, entropy, square, to_itself
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table
from sixth.models import inflated, overlap
from third.models import apart, logistic, two_tasks

from twelfth import data, pictures, series
from twelfth import models as nets

_RMS = {"optimizer": "rmsprop"}

# name -> optimizer -> what builds the setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "soils": {
        "adam": of_table(
            nets.soil_net, data.soils, entropy, 64, lr=5e-3, steps=300, schedule=cosine(300), **ADAM
        ),
        "sgd": of_table(
            nets.soil_net, data.soils, entropy, 64, lr=0.08, steps=300, schedule=linear(300), **SGD
        ),
    },
    "alloys": {
        "adamw": of_table(
            nets.alloy_net,
            data.alloys,
            square,
            64,
            lr=0.02,
            steps=280,
            weight_decay=0.01,
            schedule=linear(280),
            **ADAMW,
        ),
        "sgd": of_table(
            nets.alloy_net, data.alloys, square, 64, lr=0.2, steps=280, schedule=cosine(280), **SGD
        ),
    },
    "donors": {
        "sgd": of_table(
            nets.donor_net, data.donors, entropy, 64, lr=0.06, steps=260, schedule=cosine(260), **SGD
        ),
        "adamw": of_table(
            nets.donor_net,
            data.donors,
            entropy,
            64,
            lr=4e-3,
            steps=260,
            weight_decay=0.05,
            schedule=linear(260),
            **ADAMW,
        ),
    },
    "genes": {
        "adam": of_table(
            nets.gene_net, data.genes, to_itself, 64, lr=0.01, steps=320, schedule=linear(320), **ADAM
        ),
        "sgd": of_table(
            nets.gene_net, data.genes, to_itself, 64, lr=0.3, steps=320, schedule=cosine(320, 20), **SGD
        ),
    },
    "drones": {
        "adam": of_table(
            nets.drone_net, data.drones, square, 64, lr=0.03, steps=300, schedule=linear(300), **ADAM
        ),
        "sgd": of_table(
            nets.drone_net, data.drones, square, 64, lr=0.2, steps=300, schedule=linear(300), **SGD
        ),
    },
    "knots": {
        "adam": of_table(
            nets.knot_net, pictures.knots, entropy, 48, lr=4e-3, steps=240, schedule=linear(240), **ADAM
        ),
        "sgd": of_table(
            nets.knot_net, pictures.knots, entropy, 48, lr=0.05, steps=240, schedule=cosine(240), **SGD
        ),
    },
    "stones": {
        "sgd": of_table(
            nets.stone_net,
            pictures.stones,
            entropy,
            32,
            lr=0.1,
            steps=170,
            weight_decay=5e-4,
            schedule=cosine(170, 8),
            **SGD,
        ),
        "adamw": of_table(
            nets.stone_net,
            pictures.stones,
            entropy,
            32,
            lr=8e-3,
            steps=170,
            weight_decay=0.02,
            schedule=cosine(170),
            **ADAMW,
        ),
    },
    "gauges": {
        "adam": of_table(
            nets.gauge_net, pictures.gauges, square, 48, lr=6e-3, steps=260, schedule=cosine(260), **ADAM
        ),
    },
    "lakes": {
        "adam": of_custom(
            nets.Lakes, pictures.lakes, overlap, 16, lr=8e-3, steps=160, schedule=linear(160), **ADAM
        ),
    },
    "stamps": {
        "adam": of_table(
            nets.Stamps, pictures.stamps, elbo, 64, lr=5e-3, steps=320, schedule=linear(320), **ADAM
        ),
    },
    "reviews": {
        "adam": of_table(
            nets.Reviews, series.reviews, entropy, 64, lr=0.015, steps=220, schedule=linear(220), **ADAM
        ),
        "rmsprop": of_table(
            nets.Reviews, series.reviews, entropy, 64, lr=8e-3, steps=240, schedule=cosine(240), **_RMS
        ),
    },
    "gestures": {
        "adam": of_table(
            nets.Gestures,
            series.gestures,
            entropy,
            48,
            lr=0.012,
            steps=200,
            clip=1.0,
            schedule=linear(200),
            **ADAM,
        ),
    },
    "rivers": {
        "adam": of_table(
            nets.Rivers, series.rivers, square, 48, lr=8e-3, steps=240, clip=2.0, schedule=cosine(240), **ADAM
        ),
    },
    "recipes": {
        "adamw": of_table(
            nets.Recipes,
            series.recipes,
            entropy,
            48,
            lr=6e-3,
            steps=220,
            weight_decay=0.02,
            schedule=linear(220, 20),
            **ADAMW,
        ),
    },
    "verses": {
        "adamw": of_table(
            nets.Verses,
            series.verses,
            entropy,
            16,
            lr=0.01,
            steps=200,
            weight_decay=0.05,
            clip=1.0,
            schedule=cosine(200, 25),
            **ADAMW,
        ),
    },
    "chants": {
        "adam": of_table(
            nets.Chants, series.chants, entropy, 32, lr=0.015, steps=240, schedule=linear(240), **ADAM
        ),
        "sgd": of_table(
            nets.Chants, series.chants, entropy, 32, lr=1.0, steps=300, clip=1.0, schedule=linear(300), **SGD
        ),
    },
    "papers": {
        "adam": of_table(
            nets.Papers,
            data.citations,
            entropy,
            300,
            lr=0.02,
            steps=70,
            weight_decay=1e-3,
            schedule=cosine(70),
            **ADAM,
        ),
        "sgd": of_table(
            nets.Papers,
            data.citations,
            entropy,
            300,
            lr=0.3,
            steps=70,
            weight_decay=1e-3,
            schedule=linear(70),
            **SGD,
        ),
    },
    "shops": {
        "adam": of_custom(
            nets.Shops,
            data.shops,
            logistic,
            128,
            lr=8e-3,
            steps=320,
            weight_decay=1e-4,
            schedule=linear(320),
            **ADAM,
        ),
    },
    "visits": {
        "adam": of_custom(
            nets.Visits, data.visits, inflated, 64, lr=6e-3, steps=280, schedule=linear(280), **ADAM
        ),
    },
    "ferries": {
        "adam": of_custom(
            nets.Ferries, data.ferries, two_tasks, 64, lr=0.01, steps=300, schedule=cosine(300), **ADAM
        ),
        "sgd": of_custom(
            nets.Ferries, data.ferries, two_tasks, 64, lr=0.25, steps=300, schedule=linear(300), **SGD
        ),
    },
    "rooms": {
        "adam": of_table(
            nets.Rooms, data.rooms, square, 64, lr=0.03, steps=320, schedule=linear(320), **ADAM
        ),
    },
    "clouds": {
        "adamw": of_table(
            nets.Clouds,
            data.clouds,
            entropy,
            48,
            lr=0.015,
            steps=360,
            weight_decay=0.01,
            schedule=cosine(360),
            **ADAMW,
        ),
    },
    "signatures": {
        "adam": of_custom(
            nets.Signatures, data.signatures, margin, 64, lr=8e-3, steps=280, schedule=linear(280), **ADAM
        ),
    },
    "voices": {
        "adam": of_custom(
            nets.Voices, data.voices, apart, 48, lr=0.012, steps=220, schedule=linear(220), **ADAM
        ),
    },
}
NAMES = tuple(RUNS)
