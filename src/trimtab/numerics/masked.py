"""Reductions over the entries where a mask is True; what is masked may hold NaN or infinities.

A row without any entry gives what its docstring says and a gradient of 0, never NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.numerics._exact import floating, widened
from trimtab.numerics._rows import or_one
from trimtab.numerics.normalizers import Dims, log_softmax, logsumexp, one_dim, restored, softmax
from trimtab.numerics.norms import normalize, safe_norm


def masked_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax of the entries where `mask` is True, 0 elsewhere and in empty rows.

    Args:
        x: Logits; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim whose entries sum to 1.

    Returns:
        Shape of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Cost:
        `softmax` and one copy of the logits; no host read.

    Example:
        >>> mask = torch.tensor([[True, False], [False, False]])
        >>> numerics.masked_softmax(torch.tensor([[1.0, float("nan")]]).repeat(2, 1), mask)
        tensor([[1., 0.],
                [0., 0.]])
    """
    return softmax(_hidden(x, mask, "masked_softmax", -torch.inf), dim)


def masked_log_softmax(x: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Log of `masked_softmax`: -inf where masked.

    Args:
        x: Logits; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim whose entries' exponentials sum to 1.

    Returns:
        Shape of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_log_softmax(torch.zeros(3), torch.tensor([True, True, False]))
        tensor([-0.6931, -0.6931,    -inf])
    """
    return log_softmax(_hidden(x, mask, "masked_log_softmax", -torch.inf), dim)


def masked_logsumexp(x: Tensor, mask: Tensor, dim: Dims = -1, *, keepdim: bool = False) -> Tensor:
    """`logsumexp` of the entries where `mask` is True; -inf for an empty row.

    Args:
        x: Logs; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim to sum over, or several.
        keepdim: Keep it with size 1.

    Returns:
        Type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_logsumexp(torch.zeros(2), torch.tensor([False, False]))
        tensor(-inf)
    """
    return logsumexp(_hidden(x, mask, "masked_logsumexp", -torch.inf), dim, keepdim)


def masked_mean(
    x: Tensor, mask: Tensor, dim: Dims = -1, *, keepdim: bool = False, fill: float = 0.0
) -> Tensor:
    """Mean of the entries where `mask` is True.

    Args:
        x: Values; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim to average over, or several.
        keepdim: Keep it with size 1.
        fill: Value of an empty row.

    Returns:
        Type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, float("nan")]])
        >>> numerics.masked_mean(x, torch.tensor([[True, True, False]]))
        tensor([1.5000])
    """
    rows = _rows(x, mask, dim, "masked_mean")
    mean = (rows.values.sum(-1) / or_one(rows.num)).masked_fill(rows.num == 0, fill)
    return rows.reduced(mean, keepdim=keepdim)


def masked_var(
    x: Tensor,
    mask: Tensor,
    dim: Dims = -1,
    *,
    correction: int = 1,
    keepdim: bool = False,
    fill: float = 0.0,
) -> Tensor:
    """Variance of the entries where `mask` is True, in two passes.

    Args:
        x: Values; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim to reduce, or several.
        correction: 1 for the sample's variance, 0 for the population's.
        keepdim: Keep the dim with size 1.
        fill: Value of a row with at most `correction` entries.

    Returns:
        Type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_var(torch.tensor([1.0, 3.0, 100.0]), torch.tensor([True, True, False]))
        tensor(2.)
    """
    rows = _rows(x, mask, dim, "masked_var")
    freedom = rows.num - correction
    variance = rows.deviations().square().sum(-1) / freedom.clamp_min(1)
    return rows.reduced(variance.masked_fill(freedom <= 0, fill), keepdim=keepdim)


def masked_std(
    x: Tensor,
    mask: Tensor,
    dim: Dims = -1,
    *,
    correction: int = 1,
    keepdim: bool = False,
    fill: float = 0.0,
) -> Tensor:
    """Standard deviation of the entries where `mask` is True; gradient 0 where it is 0.

    Args:
        x: Values; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim to reduce, or several.
        correction: 1 for the sample's deviation, 0 for the population's.
        keepdim: Keep the dim with size 1.
        fill: Value of a row with at most `correction` entries.

    Returns:
        Type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_std(torch.tensor([3.0, 7.0]), torch.tensor([False, False]))
        tensor(0.)
    """
    rows = _rows(x, mask, dim, "masked_std")
    freedom = rows.num - correction
    deviation = safe_norm(rows.deviations(), dim=-1) * freedom.clamp_min(1).rsqrt()
    return rows.reduced(deviation.masked_fill(freedom <= 0, fill), keepdim=keepdim)


def masked_normalize(x: Tensor, mask: Tensor, p: float = 2.0, dim: Dims = 1) -> Tensor:
    """`normalize` of the entries where `mask` is True, 0 elsewhere and in empty rows.

    Args:
        x: Vectors along `dim`; the masked entries may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        p: Order of the norm, >= 0.
        dim: Dim of the vectors, or several; 1 by default, as in `normalize`.

    Returns:
        Shape and type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_normalize(torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([[0.6000, 0.8000, 0.0000]])
    """
    return normalize(_hidden(x, mask, "masked_normalize", 0.0), p, dim)


def masked_standardize(x: Tensor, mask: Tensor, dim: Dims = -1, *, correction: int = 1) -> Tensor:
    """`standardize` of the entries where `mask` is True, 0 elsewhere and in constant rows.

    Args:
        x: Values; the masked ones may be NaN.
        mask: Boolean, broadcast against `x`; True takes part.
        dim: Dim of the rows, or several.
        correction: 1 for the sample's deviation, 0 for the population's.

    Returns:
        Shape and type of `x`.

    Raises:
        TypeError: `mask` is not boolean.

    Example:
        >>> numerics.masked_standardize(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        tensor([-0.7071,  0.7071,  0.0000])
    """
    rows = _rows(x, mask, dim, "masked_standardize")
    scale = (rows.num - correction).clamp_min(0).sqrt().unsqueeze(-1)
    result = normalize(rows.deviations(), dim=-1) * scale
    return restored(result, mask.expand(rows.shape), dim).to(rows.dtype)


def _hidden(x: Tensor, mask: Tensor, name: str, value: float) -> Tensor:
    """`x` with a constant where masked, which also stops the gradient there."""
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{name}(mask of {mask.dtype}): expected torch.bool, True for entries that take part. "
            "Convert with mask != 0."
        )
    return floating(x, name).masked_fill(~mask, value)


class _Rows(NamedTuple):
    """What is reduced, as the last dim: values, 0 where masked, the mask, and how many take part."""

    values: Tensor
    mask: Tensor
    num: Tensor
    kept: list[int]
    shape: torch.Size
    dtype: torch.dtype

    def reduced(self, result: Tensor, *, keepdim: bool) -> Tensor:
        """The result of each row, in the shape and type asked for."""
        result = result.to(self.dtype)
        return result.reshape(self.kept) if keepdim else result

    def deviations(self) -> Tensor:
        """Deviations from the mean, 0 where masked; exactly 0 if all entries of a row are equal."""
        values, mask = self.values, self.mask
        if not values.shape[-1]:
            return values
        # Any entry of the row as origin, without a gradient: a shift changes nothing
        first = mask.to(torch.uint8).argmax(-1, keepdim=True)
        shifted = (values - values.detach().gather(-1, first)).masked_fill(~mask, 0.0)
        mean = shifted.sum(-1, keepdim=True) / or_one(self.num).unsqueeze(-1)
        return (shifted - mean).masked_fill(~mask, 0.0)


def _rows(x: Tensor, mask: Tensor, dim: Dims, name: str) -> _Rows:
    hidden = _hidden(x, mask, name, 0.0)
    values, kept = one_dim(widened(hidden), dim)
    rows_mask, _ = one_dim(mask.expand_as(hidden), dim)
    return _Rows(values, rows_mask, rows_mask.sum(-1).to(values.dtype), kept, hidden.shape, hidden.dtype)
