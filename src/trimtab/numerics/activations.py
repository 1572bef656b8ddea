"""Activations that are `x` times a gate, right in the far left tail; gelu is in `normal`."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.numerics._blocks import blockwise
from trimtab.numerics._exact import Elementwise, exact, floating, written
from trimtab.numerics.elementary import _TAIL, _slope, _tanh, _times_sigmoid, _times_sigmoid_
from trimtab.numerics.normal import _double


def silu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - the signature is torch's
    """`x * sigmoid(x)`: 0 at -inf and right in the far left tail, where torch gives NaN and 0.

    Args:
        input: Any real tensor.
        inplace: Write the result into `input` as well; no memory is saved by that.

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.silu(torch.tensor([float("-inf"), -95.0, 1.0]))
        tensor([-0.0000e+00, -5.2450e-40,  7.3106e-01])
    """
    return written(_silu, floating(input, "silu"), inplace)


@blockwise
def _silu_value(x: Tensor, out: Tensor | None) -> Tensor:
    # The tail is x * sigmoid(-tail) * exp(x + tail), and no factor is subnormal before the product is
    tail = _TAIL[x.dtype]
    finite = torch.clamp_min(x, -2 * tail, out=out)  # 0 from there on, and 0 times -inf is no number
    inside = finite.clamp_min(-tail)
    result = _times_sigmoid(finite, inside)
    return finite.sub_(inside).nan_to_num_(0.0).exp_().mul_(result)  # inf - inf: no tail


def _silu_slope_value(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e4, 1e4)  # beyond, the slope is 0 or 1
    return _times_sigmoid_(_times_sigmoid(bounded, bounded, -1).add_(1), bounded)


def _silu_curvature(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e4, 1e4)
    return _slope(bounded) * (2 - bounded * _tanh(bounded / 2))


_silu_slope: Elementwise = exact(_silu_slope_value, _silu_curvature)
_silu: Elementwise = exact(_silu_value, lambda x: _silu_slope(x))


def mish(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - the signature is torch's
    """`x * tanh(softplus(x))`: 0 at -inf and right in the left tail, where `F.mish` gives NaN and 0.

    Args:
        input: Any real tensor.
        inplace: Write the result into `input` as well; no memory is saved by that.

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.mish(torch.tensor([float("-inf"), -95.0, 1.0]))
        tensor([-0.0000e+00, -5.2450e-40,  8.6510e-01])

    References:
        Misra, "Mish: a self regularized non-monotonic activation function", 2019, arXiv:1908.08681.
    """
    return written(_mish, floating(input, "mish"), inplace)


def _mish_value(x: Tensor) -> Tensor:
    # tanh(softplus(x)) = n / (n + 2) with n = e^2 + 2e and e = exp(x), by exp(-|x|) on both sides
    finite = x.clamp_min(torch.finfo(x.dtype).min)
    small = torch.exp(-x.abs())
    # Half of the factor at a time: a subnormal one would be multiplied by x
    root = torch.exp(x.clamp_max(0) / 2)
    left = (small + 2) / ((small + 2) * small + 2)
    right = (2 * small + 1) / ((small + 1) * 2 * small + 1)
    return torch.where(x > 0, right, left) * root * finite * root


def _mish_slope_value(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e4, 1e4)  # beyond, the slope is 0 or 1
    small = torch.exp(-bounded.abs())
    low = (small + 2) * small + 2
    left = ((small + 2) * low + bounded * 4 * (small + 1)) * small / low.square()
    high = (small + 1) * 2 * small + 1
    right = ((2 * small + 1) * high + bounded * 4 * (small + 1) * small.square()) / high.square()
    return torch.where(x > 0, right, left)


def _mish_curvature(x: Tensor) -> Tensor:
    bounded = _double(x).clamp(-700, 170)  # the fourth power of e stays finite
    e = torch.exp(bounded)
    n, first, second = e * (e + 2) + 2, 2 * e * (e + 1), 2 * e * (2 * e + 1)
    slope = 2 * first / n.square()
    curvature = 2 * slope + bounded * (2 * second - 4 * first.square() / n) / n.square()
    return curvature.masked_fill(x.isinf(), 0.0).to(x.dtype)


_mish_slope: Elementwise = exact(_mish_slope_value, _mish_curvature)
_mish: Elementwise = exact(_mish_value, lambda x: _mish_slope(x))
