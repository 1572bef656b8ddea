"""Numbers by which a row of data is known again."""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_NUMBERS, _BIT = 4096, 41


def fingerprints(rows: Tensor) -> Tensor:
    """One 64-bit number for each row; see `RowMemory`.

    Args:
        rows: Whole numbers, shape (rows, columns).
    """
    numbers = torch.arange(1, rows.shape[1] + 1, dtype=torch.int64, device=rows.device)
    # multiples of 2**64 over the golden ratio are spread evenly; overflow is meant
    weights = (numbers * -7046029254386353131).bitwise_xor(numbers << 29) | 1
    return (rows.to(torch.int64) * weights).sum(1)


def fingerprints_of(samples: Tensor) -> Tensor:
    """One 64-bit number for each sample, of its first 4096 numbers.

    Args:
        samples: Shape (samples, ...), whole numbers or floating ones.
    """
    flat = samples.reshape(len(samples), -1)[:, :_MAX_NUMBERS]
    return fingerprints(flat.float().contiguous().view(torch.int32) if flat.is_floating_point() else flat)


def are_judged(prints: Tensor) -> Tensor:
    """Which samples are to be predicted and never learned: whatever comes again is in the same half.

    Args:
        prints: Of each sample, as `fingerprints_of` gives them.
    """
    # a bit from the middle of the fingerprint: the low ones hang on few of the numbers
    return ((prints >> _BIT) & 1).bool()
