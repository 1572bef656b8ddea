"""Run-log append, 300 layers x 10 statistics every step: the median must stay within 100 us.

The run log and a JSONL writer write the same steps, taking turns in one process.

    python benchmarks/run_log_append.py [NUM_STEPS]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from trimtab.record import RunHeader, RunWriter
from trimtab.types import Action, StepOutcome, StepStats

NUM_LAYERS, NUM_STATISTICS = 300, 10
BUDGET_US = 100.0
TURN_STEPS = 100


def main() -> int:
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    rng = np.random.default_rng(0)
    layers = rng.lognormal(size=(50, NUM_STATISTICS, NUM_LAYERS))
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        header = RunHeader.create(
            layer_names=[f"block.{i}.weight" for i in range(NUM_LAYERS)],
            statistics=[f"statistic_{i}" for i in range(NUM_STATISTICS)],
        )
        with RunWriter(Path(folder, "run")) as writer, Path(folder, "run.jsonl").open("w") as lines:
            writer.open(header)
            for step in range(num_steps):
                values = layers[step % len(layers)]
                stats = StepStats(loss=1.5, grad_norm=2.5, clip_factor=0.4, tensor_norms=values)
                outcome = StepOutcome(step=step, stats=stats, applied=True, action=Action.APPLY)
                if step // TURN_STEPS % 2 == 0:
                    start = time.perf_counter()
                    writer.append(outcome, lr=0.1)
                    ours.append(time.perf_counter() - start)
                else:
                    start = time.perf_counter()
                    row = {"step": step, "time": time.time(), "loss": 1.5, "grad_norm": 2.5, "lr": 0.1}
                    lines.write(json.dumps(row | {"layers": values.tolist()}) + "\n")
                    lines.flush()
                    theirs.append(time.perf_counter() - start)
    median, other = np.median(ours) * 1e6, np.median(theirs) * 1e6
    print(f"run log  median {median:8.1f} us   p99 {np.percentile(ours, 99) * 1e6:8.1f} us")
    print(f"JSONL    median {other:8.1f} us   p99 {np.percentile(theirs, 99) * 1e6:8.1f} us")
    print(f"JSONL / run log {other / median:.1f}x; budget {BUDGET_US:.0f} us: ", end="")
    print("ok" if median <= BUDGET_US else "MISSED")
    return int(median > BUDGET_US)


if __name__ == "__main__":
    sys.exit(main())
