"""Trains all runs of the suite and keeps their logs in a folder: `generate.py FOLDER [--suite NAME] [--part NAME]`."""

from __future__ import annotations

import argparse
import functools
import importlib
import pickle
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import faults
import negatives
import torch
import train
from models import RUNS, TEST, TUNING, Setup

NUM_SEEDS = 5
# Of each operator so many architectures of each part
NUM_ARCHITECTURES = 2
# Suites that came after the known one, each in a folder with a plan of its own
LATER = (
    *("unseen", "third", "fourth", "fifth", "sixth", "seventh"),
    *("eighth", "ninth", "tenth", "eleventh", "twelfth", "thirteenth"),
)


def plan() -> Iterator[tuple[str, Callable[[], Setup]]]:
    """Name of each run, and what builds it, one seed after the other. Seeds of the parts do not overlap."""
    for number in range(NUM_SEEDS):
        for part, architectures, first in (("tuning", TUNING, number), ("test", TEST, 1000 + number)):
            for name in architectures:
                for optimizer, build in RUNS[name].items():
                    yield f"{part}/healthy/{name}/{optimizer}/-/0/{first}", (lambda b=build, s=first: b(s))
        yield from _negatives(number)
        for part, architectures, first in (("tuning", TUNING, 100), ("test", TEST, 1100)):
            yield from _faulty(part, architectures, first + number)


def _negatives(number: int) -> Iterator[tuple[str, Callable[[], Setup]]]:
    for change, (apply, architectures) in negatives.CHANGES.items():
        for name in architectures:
            seed = number + (200 if name in TUNING else 1200)
            part = "tuning" if name in TUNING else "test"
            for optimizer, build in RUNS[name].items():

                def make(b=build, a=apply, s=seed) -> Setup:
                    setup = b(s)
                    a(setup)
                    return setup

                yield f"{part}/negative/{name}/{optimizer}/{change}/0/{seed}", make
    for name, build in negatives.MADE.items():
        for part, seed in (("tuning", 300 + number), ("test", 1300 + number)):
            yield f"{part}/negative/{name}/-/{name}/0/{seed}", (lambda b=build, s=seed: b(s))


@functools.cache
def _example(name: str, optimizer: str) -> Setup:
    return RUNS[name][optimizer](0)


def _faulty(
    part: str, architectures: tuple[str, ...], seed: int
) -> Iterator[tuple[str, Callable[[], Setup]]]:
    pairs = [(name, optimizer) for name in architectures for optimizer in RUNS[name]]
    for fault in faults.FAULTS:
        # a fixed choice per operator, so that all architectures get their share
        offset = zlib.crc32(fault.name.encode()) % len(pairs)
        fitting = [p for p in pairs[offset:] + pairs[:offset] if fault.fits(_example(*p))]
        chosen: list[tuple[str, str]] = []
        for pair in fitting:
            if len(chosen) < NUM_ARCHITECTURES and pair[0] not in [c for c, _ in chosen]:
                chosen.append(pair)
        for name, optimizer in chosen:
            for severity in fault.severities:

                def make(n=name, o=optimizer, f=fault, v=severity) -> Setup:
                    setup = RUNS[n][o](seed)
                    f.apply(setup, v)
                    return setup

                yield f"{part}/faulty/{name}/{optimizer}/{fault.name}/{severity:g}/{seed}", make


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", choices=("known", *LATER), default="known")
    parser.add_argument("--part", default="", help="only runs whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, done = time.time(), 0
    is_later = arguments.suite in LATER
    runs = importlib.import_module(f"{arguments.suite}.plan").plan if is_later else plan
    for name, make in runs():
        file = arguments.folder / (name.replace("/", "+") + ".pickle")
        if arguments.part not in name or file.exists():
            continue
        torch.manual_seed(int(name.rpartition("/")[2]))
        log, value = train.run(make())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(zlib.compress(pickle.dumps((log, value)), 1))
        done += 1
        if done % 50 == 0:
            print(f"{done} runs, {time.time() - start:.0f} s, at {name}", flush=True)


if __name__ == "__main__":
    main()
