"""Gaps of losses, normalizers, masked and safe operations, elementary functions."""

from __future__ import annotations

from numerics.gaps import Gap

MATH_GAPS: list[Gap] = [
    Gap(
        group="Elementary functions",
        title="sigmoid: the gradient is exactly 0 from x = 17 in float32",
        inputs="x = torch.tensor(20.0, requires_grad=True)",
        torch="torch.sigmoid(x)",
        ours="numerics.sigmoid(x)",
        gradient_of="x",
        exact="exp(-20) / (1 + exp(-20)) ** 2",
        issue="pytorch#195681",
    ),
]
