"""Reading a run log of 1,000,000 steps and writing its report: within 10 s and 1 GiB.

The log has 300 layers every 100 steps, bursts of clipping and some faulty steps. It is measured in a
child process of its own, so that its peak memory is not mixed with the making of the log.

    python benchmarks/report_of_a_million_steps.py [NUM_STEPS] [NUM_FAULTY_STEPS]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.record import RunHeader, RunWriter, read, schema
from trimtab.report import report

NUM_LAYERS, LAYERS_EVERY = 300, 100
BUDGET_SEC, BUDGET_BYTES = 10.0, 2**30


def rows(num_steps: int, faulty: set[int]) -> Iterator[tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(0.0, 0.4, num_steps))
    norms[num_steps // 2 : num_steps // 2 + 100] *= 50.0
    noise = rng.normal(0.0, 0.05, num_steps)
    for step in range(num_steps):
        norm, bad = float(norms[step]), step in faulty
        loss = "nan" if bad else 3.0 * (step + 10) ** -0.2 + float(noise[step])
        factor = min(1.0, 1.0 / norm)
        score = 0.7 if bad else 1.0 - 0.1 * (1.0 - factor)
        action = "skip" if bad else "apply"
        yield step, 1.7e9 + 0.1 * step, loss, norm, factor, 1e-3, score, int(not bad), action


def make_log(folder: Path, num_steps: int, num_faulty: int) -> None:
    rng = np.random.default_rng(1)
    faulty = sorted(rng.choice(num_steps, num_faulty, replace=False).tolist())
    with RunWriter(folder) as writer:
        writer.open(RunHeader.create(layer_names=[f"blocks.{i}.weight" for i in range(NUM_LAYERS)]))
        db = writer._connection()
        db.execute("BEGIN")
        db.executemany(schema.INSERT_STEP, rows(num_steps, set(faulty)))
        vectors = rng.lognormal(size=(100, NUM_LAYERS)).astype(np.float32)
        blobs = (
            (i + 1, vectors[i // LAYERS_EVERY % 100].tobytes()) for i in range(0, num_steps, LAYERS_EVERY)
        )
        db.executemany(schema.INSERT_LAYERS, blobs)
        culprits = [{"name": "loss", "place": "loss", "shape": [], "num_nan": 1, "num_inf": 0}]
        culprits[0] |= {"num_overflow": 0, "first_bad_index": [], "largest": "nan"}
        key = db.execute(schema.INSERT_CULPRITS, (json.dumps(culprits),)).lastrowid
        faults = ((s + 1, s, "NaN", "loss", "skip", "", None, key) for s in faulty)
        db.executemany(schema.INSERT_FAULT, faults)
        db.execute("COMMIT")


def measure(folder: Path) -> None:
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start, start_cpu = time.perf_counter(), time.process_time()
    log = read(folder)
    middle = time.perf_counter()
    page = report(log, folder / "report.html")
    end, end_cpu = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = {"read": middle - start, "report": end - middle, "cpu": end_cpu - start_cpu}
    print(json.dumps(facts | {"peak": peak, "base": base, "size": page.stat().st_size}))


def main() -> int:
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    num_faulty = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    with tempfile.TemporaryDirectory() as folder:
        make_log(Path(folder), num_steps, num_faulty)
        command = [sys.executable, __file__, "--measure", folder]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    total = answer["read"] + answer["report"]  # on a busy machine the clock also counts the others
    peak, base, size = (answer[name] / 2**20 for name in ("peak", "base", "size"))
    print(f"{num_steps:,} steps, {num_faulty:,} of them faulty; page {size:.1f} MiB")
    print(f"read {answer['read']:.2f} s + report {answer['report']:.2f} s = {total:.2f} s", end=" ")
    print(f"by the clock, {answer['cpu']:.2f} s of processor time (budget {BUDGET_SEC:.0f} s)")
    print(f"peak memory {peak:.0f} MiB, {base:.0f} MiB of it after the imports", end=" ")
    print(f"(budget {BUDGET_BYTES / 2**20:.0f} MiB)")
    ok = answer["cpu"] <= BUDGET_SEC and answer["peak"] <= BUDGET_BYTES
    print("ok" if ok else "MISSED")
    return int(not ok)


if __name__ == "__main__":
    if "--measure" in sys.argv:
        measure(Path(sys.argv[2]))
        sys.exit(0)
    sys.exit(main())
