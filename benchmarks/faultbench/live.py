"""What a guard would have told of sound runs while they went on: `live.py FOLDER [--part final]`."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from judge import load

import trimtab as tt
from trimtab.diagnose.live import Patience

# Verdicts at lengths that grow by a tenth, as a guard makes them; the first ones of a run ten times as long
FIRST, GROWTH, STRETCH = 20, 1.1, 10


def told(log: tt.RunLog) -> dict[str, int]:
    """Causes told at some time of a run, and in how many verdicts."""
    first, last = int(log.step[0]), int(log.step[-1])
    patience, length, found = Patience(), float(FIRST), Counter[str]()
    while length < last - first:
        part = log.select(first, first + round(length))
        found.update(f.cause.value for f in patience.sift(STRETCH * round(length), tt.diagnose(part)))
        length = max(length * GROWTH, length + 10)
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="final")
    arguments = parser.parse_args()
    runs = [run for run in load(arguments.folder, arguments.part) if run.kind != "faulty"]
    alarms = [(run, causes) for run in runs if (causes := told(run.log))]
    print(f"{len(alarms)} of {len(runs)} sound runs were told something at some time")
    for run, causes in alarms:
        print(run.name, causes)


if __name__ == "__main__":
    main()
