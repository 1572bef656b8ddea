"""Adds recorded runs to the slice that tests judge: `golden.py LOG.pickle ... --into tests/golden`.

What is told of each today is written down beside it: read it before it is kept.
"""

from __future__ import annotations

import argparse
import json
import pickle
import zlib
from pathlib import Path

import numpy as np

import trimtab as tt

COLUMNS = ("step", "loss", "grad_norm", "lr", "clip_factor")


def arrays(name: str, log: tt.RunLog) -> dict[str, np.ndarray]:
    """A log as named arrays, in the number format in which signals are kept."""
    found = {f"{name}/{column}": np.asarray(getattr(log, column)) for column in COLUMNS}
    if "val_loss" in log.metrics:
        steps, values = log.metrics["val_loss"]
        found |= {f"{name}/val_steps": steps, f"{name}/val_loss": values}
    for signal, of in log.signals.items():
        found[f"{name}/signal/{signal}/axis"] = np.array(of.axis)
        found[f"{name}/signal/{signal}/steps"] = of.steps.astype(np.int32)
        found[f"{name}/signal/{signal}/values"] = of.values.astype(np.float32)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    expected = json.loads((arguments.into / "findings.json").read_text())
    with np.load(arguments.into / "runs.npz") as known:
        kept = {key: known[key] for key in known.files}
    for file in arguments.logs:
        log, _ = pickle.loads(zlib.decompress(file.read_bytes()))
        _, kind, architecture, optimizer, change, *_ = file.stem.split("+")
        name = f"{architecture}_{optimizer}" + ("" if kind == "healthy" else f"_{change}")
        kept |= arrays(name, log)
        expected[name] = [finding.cause.value for finding in tt.diagnose(log)]
        print(name, expected[name])
    np.savez_compressed(arguments.into / "runs.npz", **kept)
    (arguments.into / "findings.json").write_text(json.dumps(dict(sorted(expected.items())), indent=2) + "\n")


if __name__ == "__main__":
    main()
