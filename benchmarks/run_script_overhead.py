"""A whole training script under `trimtab run` against the same under `python`, in turn, in fresh processes.

The second row is the time of the training loop alone, as the script measures it: what a long run pays.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5

SCRIPT = """
import sys, time
import torch
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
width, num_steps = int(sys.argv[1]), int(sys.argv[2])
layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, dropout=0.0)
model = nn.Sequential(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(width, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step in range(num_steps + 3):
    if step == 3:
        start = time.perf_counter()
    x = torch.randn(8, 64, width)
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
print(time.perf_counter() - start)
"""


def seconds(argv: list[str], folder: Path) -> tuple[float, float]:
    """Of the whole process, and of its training loop."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *argv], cwd=folder, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, float(done.stdout)


def measure(width: int, num_steps: int, folder: Path) -> None:
    """Print the rows of one size."""
    words = ["script.py", str(width), str(num_steps)]
    plain, run = words, ["-m", "trimtab", "run", "--record", "log", *words]
    pairs = []
    for number in range(ROUNDS):
        order = (run, plain) if number % 2 else (plain, run)
        took = {tuple(argv): seconds(argv, folder) for argv in order}
        pairs.append((took[tuple(run)], took[tuple(plain)]))
    for index, what in enumerate(("whole script", "training loop")):
        ours, peer = ([pair[side][index] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
        per_step = (statistics.median(ours) - statistics.median(peer)) / num_steps * 1e3
        title = f"{what}, width {width}, {num_steps} steps"
        seconds_of = f"{statistics.median(ours):>8.2f} s {statistics.median(peer):>8.2f} s"
        print(f"{title:<42} {seconds_of} {ratio:>7.3f}   {per_step:+.3f} ms/step")


def main() -> None:
    """Print the table."""
    print(f"{'':<42} {'run':>10} {'python':>10} {'ratio':>7}   difference")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(SCRIPT)
        for width, num_steps in ((64, 150), (256, 25)):
            measure(width, num_steps, folder)


if __name__ == "__main__":
    main()
