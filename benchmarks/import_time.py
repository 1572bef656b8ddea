"""`import trimtab` on top of `import torch`, in fresh processes. Budget: <= 0.15 s."""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = """
import time, torch, numpy
start = time.perf_counter()
import trimtab
print(time.perf_counter() - start)
"""


def main() -> None:
    """Print the median of seven imports."""
    times = [
        float(subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout)
        for _ in range(7)
    ]
    print(f"import trimtab after import torch: median {statistics.median(times):.3f} s   <= 0.15 s")


if __name__ == "__main__":
    main()
