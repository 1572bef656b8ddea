"""Diagnoses the recorded runs and says how right that was: `judge.py FOLDER [--part test] [--list]`."""

from __future__ import annotations

import argparse
import math
import pickle
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import negatives
import numpy as np
from faults import FAULTS
from fourth import faults as fourth_faults
from naive import NAIVE
from ninth import faults as ninth_faults
from sixth import faults as sixth_faults
from third import faults as third_faults
from thirteenth import faults as thirteenth_faults
from twelfth import faults as twelfth_faults
from unseen import faults as unseen_faults

import trimtab as tt
from trimtab.diagnose.statistics import rank_test

# DeepCrime's kill rule: a rank test at 5 % and an effect of half a deviation
_MAX_P, _MIN_EFFECT, _MIN_SEEDS = 0.05, 0.5, 3

SUITES = {
    "known": FAULTS,
    "unseen": unseen_faults.FAULTS,
    "third": third_faults.FAULTS,
    "fourth": fourth_faults.FAULTS,
    "sixth": sixth_faults.FAULTS,
    "ninth": ninth_faults.FAULTS,
    "twelfth": twelfth_faults.FAULTS,
    "thirteenth": thirteenth_faults.FAULTS,
}
OPERATORS = {fault.name: fault for suite in SUITES.values() for fault in suite}


@dataclass
class Run:
    part: str
    kind: str
    architecture: str
    optimizer: str
    change: str
    severity: str
    seed: str
    log: tt.RunLog
    value: float
    found: tuple[tt.Finding, ...] = ()
    is_killed: bool = False
    cost: float = 1.0

    @property
    def group(self) -> tuple[str, ...]:
        return self.part, self.architecture, self.optimizer, self.change, self.severity

    @property
    def name(self) -> str:
        return "/".join(
            (self.part, self.kind, self.architecture, self.optimizer, self.change, self.severity, self.seed)
        )

    @property
    def causes(self) -> list[str]:
        """What was told, the worst first, then what else came to mind."""
        told = [f.cause.value for f in self.found]
        return told + [c.value for f in self.found for c in f.runners_up]


def load(folder: Path, part: str) -> list[Run]:
    runs = []
    for file in sorted(folder.glob("*.pickle")):
        *fields, rest = file.stem.split("+", 5)
        fields += rest.rsplit("+", 1)  # a severity such as 1e+06 has a sign of its own
        if part and fields[0] != part:
            continue
        try:
            log, value = pickle.loads(zlib.decompress(file.read_bytes()))
        except (EOFError, zlib.error):
            continue  # still being written
        known = negatives.CHANGES.get(fields[4])
        if known is not None and fields[2] not in known[1]:
            continue  # left over from another plan
        if fields[2] == "dqn":
            log.metrics.clear()  # how well it walks is no validation loss
        runs.append(Run(*fields, log=log, value=value))
    return runs


def mark_killed(runs: list[Run]) -> None:
    """Label the faulty runs whose fault measurably hurt, against the healthy runs of the same setup."""
    healthy: dict[tuple[str, str], list[float]] = defaultdict(list)
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if run.kind == "healthy":
            healthy[run.architecture, run.optimizer].append(_score(run.value))
        elif run.kind == "faulty":
            groups[run.group].append(run)
    for group in groups.values():
        good = np.array(healthy[group[0].architecture, group[0].optimizer])
        bad = np.array([_score(run.value) for run in group])
        if len(good) == 0:
            continue
        spread = max(math.sqrt((good.var() + bad.var()) / 2), 1e-9)
        effect = (bad.mean() - good.mean()) / spread
        if min(len(good), len(bad)) >= _MIN_SEEDS:
            killed = rank_test(good, bad) < _MAX_P and effect >= _MIN_EFFECT
        else:  # too few seeds for the test: beyond all healthy ones, and by a quarter at least
            killed = bad.min() > good.max() + max(math.log(1.25), 3 * good.std())
        for run in group:
            run.is_killed = bool(killed)
            run.cost = math.exp(min(float(bad.mean() - good.mean()), 20.0))


def _score(value: float) -> float:
    """On the log scale, with what is not finite as something very bad."""
    return math.log(min(max(value, 1e-6), 1e6)) if math.isfinite(value) else math.log(1e6)


def report(runs: list[Run], *, listing: bool) -> None:
    causes = {name: fault.causes for name, fault in OPERATORS.items()}
    sound = [r for r in runs if r.kind != "faulty"]
    killed = [r for r in runs if r.kind == "faulty" and r.is_killed]
    spared = [r for r in runs if r.kind == "faulty" and not r.is_killed]
    alarms = [r for r in sound if r.found]
    hits = [r for r in killed if r.found]
    first = [r for r in hits if r.found[0].cause.value in causes[r.change]]
    three = [r for r in hits if set(r.causes[:3]) & set(causes[r.change])]
    print(
        f"{len(sound)} healthy and hard-negative runs, {len(killed)} with a fault that hurt, {len(spared)} without harm"
    )
    print(f"  false-alarm runs {len(alarms)} of {len(sound)} = {len(alarms) / max(len(sound), 1):.2%}")
    print(
        f"  precision {len(hits) / max(len(hits) + len(alarms), 1):.3f}   recall {len(hits) / max(len(killed), 1):.3f}"
    )
    print(f"  cause@1 {len(first) / max(len(hits), 1):.3f}   cause@3 {len(three) / max(len(hits), 1):.3f}")
    print(
        f"  faults without harm that were told all the same: {sum(bool(r.found) for r in spared)} of {len(spared)}"
    )
    for name, operators in SUITES.items():
        part = [r for r in killed if r.change in {fault.name for fault in operators}]
        told = sum(bool(r.found) for r in part)
        print(f"  recall of the operators of the {name} suite: {told / max(len(part), 1):.3f} of {len(part)}")
    for low, high in ((1.0, 1.25), (1.25, 2.0), (2.0, math.inf)):
        part = [r for r in killed if low <= max(r.cost, 1.0) < high]
        told = sum(bool(r.found) for r in part)
        print(
            f"  recall where the score is {low:g} to {high:g} times the healthy: {told / max(len(part), 1):.3f} of {len(part)}"
        )
    by_fault: dict[str, list[Run]] = defaultdict(list)
    for run in killed:
        by_fault[run.change].append(run)
    print(f"\n{'fault':<20}{'hurt':>5}{'told':>6}{'first':>7}{'three':>7}   told as")
    for name, group in sorted(by_fault.items()):
        told = Counter(r.found[0].cause.value if r.found else "-" for r in group)
        print(
            f"{name:<20}{len(group):>5}{sum(bool(r.found) for r in group):>6}{sum(r in first for r in group):>7}"
            f"{sum(r in three for r in group):>7}   {dict(told.most_common(4))}"
        )
    per_finding(runs, causes)
    delays([r for r in hits if r in first])
    if listing:
        for run in alarms:
            print("ALARM", run.name, [str(f)[:150] for f in run.found])
        for run in killed:
            if not run.found:
                print(
                    f"MISS {run.name} value {run.value:.3g} loss {run.log.loss[0]:.3g} -> {run.log.loss[-1]:.3g}"
                )
            elif run not in first:
                print("OTHER", run.name, run.causes[:4])


def per_finding(runs: list[Run], causes: dict[str, tuple[str, ...]]) -> None:
    """Precision of each finding: told where it is true, against told where nothing of the kind was done."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for run in runs:
        for finding in run.found:
            true = run.kind == "faulty" and finding.cause.value in causes[run.change]
            (right if true else wrong)[finding.cause.value] += 1
    print(f"\n{'finding':<32}{'right':>6}{'wrong':>6}")
    for name in sorted(right | wrong):
        print(f"{name:<32}{right[name]:>6}{wrong[name]:>6}")


def delays(told: list[Run]) -> None:
    """After which share of the run, counted from where the fault began, a right cause was told first."""
    waited: list[float] = []
    for run in told:
        fault, severity = OPERATORS[run.change], float(run.severity)
        first, last = int(run.log.step[0]), int(run.log.step[-1])
        for share in np.arange(0.05, 1.01, 0.05):
            part = run.log.select(first, first + round(share * (last - first)))
            found = tt.diagnose(part)
            if found and found[0].cause.value in fault.causes:
                waited.append(max(0.0, float(share) - fault.begins(severity)))
                break
    if waited:
        late = np.quantile(waited, 0.9)
        print(f"\ndelay: told after {np.median(waited):.0%} of the run in the median, 90 % within {late:.0%}")


def peers(runs: list[Run]) -> None:
    sound = [r for r in runs if r.kind != "faulty"]
    killed = [r for r in runs if r.kind == "faulty" and r.is_killed]
    print(f"\n{'rule in common use':<24}{'alarms on sound runs':>22}{'told of faults that hurt':>26}")
    rules = {**NAIVE, "any of these": lambda log: any(rule(log) for rule in NAIVE.values())}
    for name, rule in rules.items():
        alarms, hits = sum(rule(r.log) for r in sound), sum(rule(r.log) for r in killed)
        print(
            f"{name:<24}{alarms:>10} ({alarms / max(len(sound), 1):>6.1%}){hits:>16} ({hits / max(len(killed), 1):>6.1%})"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", default="test", help="tuning, test, development or final; empty for all")
    parser.add_argument(
        "--seeds-from", type=int, default=0, help="only the runs of this round and later ones"
    )
    parser.add_argument("--list", action="store_true", help="name each run that came out wrong")
    parser.add_argument("--peers", action="store_true", help="the rules in common use as well")
    arguments = parser.parse_args()
    runs = load(arguments.folder, arguments.part)
    for run in runs:
        run.found = tt.diagnose(run.log)
    mark_killed(runs)
    runs = [run for run in runs if int(run.seed) % 100 >= arguments.seeds_from]
    report(runs, listing=arguments.list)
    if arguments.peers:
        peers(runs)


if __name__ == "__main__":
    main()
