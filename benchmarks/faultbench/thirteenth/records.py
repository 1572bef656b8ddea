"""The healthy runs of the thirteenth suite's records: each network with settings under which it trains well."""

from __future__ import annotations

from fourth.runs import cosine, linear
from models import entropy, square
from settings import ADAM, ADAMW, SGD, Build, of_custom, of_table

from thirteenth import records_data as data
from thirteenth import records_nets as nets

_RMS, _NADAM = {"optimizer": "rmsprop"}, {"optimizer": "nadam"}
_ADAGRAD = {"optimizer": "adagrad"}

# name -> optimizer -> what builds the setup of a seed
RUNS: dict[str, dict[str, Build]] = {
    "crops": {
        "sgd": of_table(
            nets.crop_net,
            data.crops,
            entropy,
            64,
            lr=0.08,
            steps=260,
            weight_decay=5e-4,
            schedule=cosine(260),
            **SGD,
        ),
        "adamw": of_table(
            nets.crop_net,
            data.crops,
            entropy,
            64,
            lr=8e-3,
            steps=260,
            weight_decay=0.02,
            schedule=linear(260),
            **ADAMW,
        ),
    },
    "kilns": {
        "adam": of_table(
            nets.kiln_net, data.kilns, square, 64, lr=0.025, steps=320, schedule=cosine(320), **ADAM
        ),
        "nadam": of_table(
            nets.kiln_net, data.kilns, square, 64, lr=0.025, steps=320, schedule=linear(320), **_NADAM
        ),
    },
    "comets": {
        "adamw": of_table(
            nets.comet_net,
            data.comets,
            entropy,
            64,
            lr=0.012,
            steps=260,
            weight_decay=0.05,
            schedule=cosine(260, 15),
            **ADAMW,
        ),
        "sgd": of_table(
            nets.comet_net,
            data.comets,
            entropy,
            64,
            lr=0.08,
            steps=260,
            clip=2.0,
            schedule=linear(260),
            **SGD,
        ),
    },
    "joints": {
        "adam": of_table(
            nets.joint_net, data.joints, square, 64, lr=0.012, steps=320, schedule=linear(320), **ADAM
        ),
        "rmsprop": of_table(
            nets.joint_net, data.joints, square, 64, lr=5e-3, steps=320, schedule=cosine(320), **_RMS
        ),
    },
    "parcels": {
        "adam": of_custom(
            nets.Parcels, data.parcels, square, 96, lr=0.02, steps=320, schedule=linear(320), **ADAM
        ),
        "adagrad": of_custom(nets.Parcels, data.parcels, square, 96, lr=0.08, steps=320, **_ADAGRAD),
    },
    "vineyards": {
        "adamw": of_custom(
            nets.Vineyards,
            data.vineyards,
            nets.harvest,
            64,
            lr=8e-3,
            steps=280,
            weight_decay=0.02,
            schedule=cosine(280),
            **ADAMW,
        ),
        "sgd": of_custom(
            nets.Vineyards, data.vineyards, nets.harvest, 64, lr=0.06, steps=280, schedule=linear(280), **SGD
        ),
    },
    "depots": {
        "adam": of_custom(
            nets.depot_net,
            data.depots,
            nets.weighted_actions,
            96,
            lr=6e-3,
            steps=300,
            schedule=linear(300),
            **ADAM,
        ),
    },
    "presses": {
        "adam": of_table(
            nets.Presses,
            data.presses,
            entropy,
            48,
            lr=0.02,
            steps=240,
            clip=1.0,
            schedule=cosine(240),
            **ADAM,
        ),
        "rmsprop": of_table(
            nets.Presses,
            data.presses,
            entropy,
            48,
            lr=0.01,
            steps=240,
            clip=1.0,
            schedule=linear(240),
            **_RMS,
        ),
    },
    "tanks": {
        "adam": of_table(
            nets.Tanks, data.tanks, square, 48, lr=0.015, steps=220, clip=2.0, schedule=linear(220), **ADAM
        ),
    },
    "queries": {
        "adamw": of_table(
            nets.Queries,
            data.queries,
            entropy,
            64,
            lr=6e-3,
            steps=160,
            weight_decay=0.02,
            schedule=linear(160, 20),
            **ADAMW,
        ),
    },
    "dialect": {
        "adamw": of_table(
            nets.Dialect,
            data.dialect,
            entropy,
            16,
            lr=0.01,
            steps=160,
            weight_decay=0.05,
            clip=1.0,
            schedule=cosine(160, 16),
            **ADAMW,
        ),
    },
    "playlists": {
        "adam": of_table(
            nets.Playlists, data.playlists, entropy, 96, lr=0.01, steps=300, schedule=linear(300), **ADAM
        ),
        "adagrad": of_table(nets.Playlists, data.playlists, entropy, 96, lr=0.08, steps=300, **_ADAGRAD),
    },
    "kiosks": {
        "adam": of_table(
            nets.kiosk_net, data.kiosks, square, 64, lr=6e-3, steps=280, schedule=cosine(280), **ADAM
        ),
        "sgd": of_table(
            nets.kiosk_net, data.kiosks, square, 64, lr=0.1, steps=280, schedule=linear(280), **SGD
        ),
    },
}
NAMES = tuple(RUNS)
