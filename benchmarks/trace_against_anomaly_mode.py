"""Who names the origin? The tracer, anomaly mode, forward hooks and a naive dispatch mode on every case.

python trace_against_anomaly_mode.py [NAME]     one row per case with the name in it, then the sums
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trace"))

from _trace_peers import PEERS, Answer, Peer, trimtab_trace
from case_files import Case, controls, failures

FIELDS = ("line", "module", "phase", "cause")


def judge(case: Case, answer: Answer | None) -> dict[str, bool | None]:
    """Which fields are right; None: the case does not ask."""
    said = answer or Answer()
    asks_line = case.meta.get("line_scored", True)
    return {
        "line": said.line == case.line if asks_line else None,
        "module": said.module in case.accepted("module") if case.meta["module"] is not None else None,
        "phase": said.phase in case.accepted("phase"),
        "cause": said.cause in case.accepted("cause"),
    }


def mark(right: dict[str, bool | None]) -> str:
    """LMPC for line, module, phase and cause; a dot where wrong, a space where not asked."""
    return "".join(" " if ok is None else f[0].upper() if ok else "." for f, ok in right.items())


def alarms(case: Case, peer: Peer) -> bool:
    """Whether any step of a healthy run is blamed."""
    run = case.run()
    return any(peer(case, run, step) is not None for step in range(len(run.batches)))


def table(cases: list[Case], healthy: list[Case], peers: dict[str, Peer]) -> None:
    print(f"{'case':<46}" + "".join(f"{name:>16}" for name in peers))
    right: dict[str, Counter[str]] = {name: Counter() for name in peers}
    asked: Counter[str] = Counter()
    for case in cases:
        row = f"{case.name:<46}"
        for name, peer in peers.items():
            verdict = judge(case, peer(case, case.run_until_failure(), case.step))
            right[name].update(f for f, ok in verdict.items() if ok)
            row += f"{mark(verdict):>16}"
        asked.update(f for f, ok in verdict.items() if ok is not None)
        print(row)
    false: Counter[str] = Counter()
    for case in healthy:
        blamed = {name: alarms(case, peer) for name, peer in peers.items()}
        false.update(name for name, wrong in blamed.items() if wrong)
        print(
            f"{case.name:<46}" + "".join(f"{'false alarm' if b else 'silent':>16}" for b in blamed.values())
        )
    print()
    for field in FIELDS:
        cells = "".join(f"{f'{right[name][field]}/{asked[field]}':>16}" for name in peers)
        print(f"{'right ' + field:<46}{cells}")
    print(f"{'false alarms':<46}" + "".join(f"{f'{false[name]}/{len(healthy)}':>16}" for name in peers))


def main(pattern: str = "") -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    import trimtab

    peers = dict(PEERS)
    if hasattr(trimtab, "trace"):
        peers = {"trimtab": trimtab_trace, **peers}
    print(f"Origin of the first bad value; L line, M module, P phase, C cause. torch {torch.__version__}\n")
    table([c for c in failures() if pattern in c.name], [c for c in controls() if pattern in c.name], peers)


if __name__ == "__main__":
    main(*sys.argv[1:2])
