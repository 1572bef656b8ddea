"""Matrices with known properties, for the tests of linear algebra."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonal(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, dtype=dtype, generator=generator)).Q


def with_singular_values(values: Tensor, seed: int = 0) -> Tensor:
    n = len(values)
    return (orthogonal(n, seed, values.dtype) * values) @ orthogonal(n, seed + 1, values.dtype)


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    basis = orthogonal(len(values), seed, values.dtype)
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def spread(n: int, condition: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Eigenvalues from 1 to the condition number, evenly on a logarithmic scale."""
    return torch.logspace(0, float(torch.tensor(condition).log10()), n, dtype=dtype)


def rbf(n: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Kernel matrix of the squared exponential: numerically of low rank."""
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    return (scale * torch.exp(-0.5 * (x[:, None] - x) ** 2 / 0.01)).to(dtype)
