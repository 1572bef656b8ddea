"""Counts of how often each unit of a layer was active or driven to its bounds, over a window of steps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Where |phi'(z)| falls below 5 % of its maximum: tanh |z| > 2.18, sigmoid |z| > 4.36
SATURATED_FROM = {"tanh": 2.18, "sigmoid": 4.36}
_SILENT = ("relu",)
# Dead or stuck is what was so in all (95 %) of at least so many rows
MIN_ROWS = 1024
_STUCK_SHARE = 0.95
_MAX_ROWS = 2048
_OF_MODULE = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU6: "relu"}


def rows_of(output: Tensor, module: nn.Module) -> Tensor:
    """An output as rows by units, at most 2048 rows or so."""
    is_channels_first = (output.dim() >= 3 and hasattr(module, "kernel_size")) or isinstance(
        module, nn.modules.batchnorm._BatchNorm
    )
    if is_channels_first and output.dim() >= 3:
        output = output.movedim(1, -1)
    rows = output.reshape(-1, output.shape[-1]) if output.dim() > 1 else output.reshape(-1, 1)
    stride = max(1, rows.shape[0] // _MAX_ROWS)
    return rows[:: stride + (stride > 1 and stride % 2 == 0)]


def kind_of(module: nn.Module) -> str | None:
    """What an activation module computes, for those that can go silent or saturate."""
    return _OF_MODULE.get(type(module))


def kind_between(before: Tensor, after: Tensor) -> str | None:
    """Which activation turns one sample of numbers into another, found by trying.

    Under autocast the two may have different number formats; the coarser one sets the tolerance.
    """
    if not after.is_floating_point():
        return None
    coarsest = max(torch.finfo(before.dtype).eps, torch.finfo(after.dtype).eps)
    before, after = before.float(), after.float()
    tried = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    for kind, function in tried.items():
        if torch.allclose(function(before), after, rtol=max(1e-3, 2 * coarsest), atol=1e-5):
            return kind
    return None


@dataclass
class UnitCounts:
    """Counts for the units of one layer, on its device.

    Attributes:
        num_rows: Rows counted since the last verdict.
        counts: Shape (5, num_units): active rows; rows beyond +2.18, -2.18, +4.36, -4.36.
        kind: The activation that follows, once it is known.
        steps: Number of steps counted.
    """

    num_rows: int = 0
    counts: Tensor | None = None
    kind: str | None = None
    steps: int = 0
    learned: Tensor | None = field(default=None)

    def add(self, rows: Tensor) -> None:
        """Count the rows of one pre-activation."""
        low, high = SATURATED_FROM["tanh"], SATURATED_FROM["sigmoid"]
        tests = (rows > 0, rows > low, rows < -low, rows > high, rows < -high)
        new = torch.stack([test.sum(0) for test in tests]).float()
        if self.counts is None or self.counts.shape != new.shape:
            self.counts, self.num_rows, self.steps, self.learned = new, 0, 0, None
        else:
            self.counts += new
        self.num_rows += rows.shape[0]
        self.steps += 1

    def learn(self, gradient: Tensor | None) -> None:
        """Note which units' incoming weights had a gradient in this step."""
        if gradient is None or self.counts is None or gradient.layout is not torch.strided:
            return
        if gradient.shape[0] != self.counts.shape[1]:
            return
        some = (gradient.detach().reshape(len(gradient), -1) != 0).any(1)
        self.learned = some if self.learned is None else self.learned | some

    def is_due(self) -> bool:
        """Whether enough was counted for a verdict."""
        enough = self.num_rows >= MIN_ROWS or (self.num_rows >= MIN_ROWS // 4 and self.steps >= 8)
        return enough and self.steps >= 2

    def verdict(self) -> tuple[Tensor, Tensor]:
        """Shares of dead and of stuck units, as 0-dim tensors; begins a new window."""
        assert self.counts is not None
        counts, rows = self.counts, self.num_rows
        nothing = torch.full((), float("nan"), device=counts.device)
        dead = stuck = nothing
        if self.learned is not None and self.kind in (None, *_SILENT):
            dead = ((counts[0] == 0) & ~self.learned).float().mean()
        if self.kind in SATURATED_FROM:
            up, down = (counts[1], counts[2]) if self.kind == "tanh" else (counts[3], counts[4])
            stuck = (torch.maximum(up, down) >= _STUCK_SHARE * rows).float().mean()
        self.counts, self.num_rows, self.steps, self.learned = None, 0, 0, None
        return dead, stuck
