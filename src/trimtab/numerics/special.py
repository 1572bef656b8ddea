"""Differences that cancel, and the derivatives of the log-gamma function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimtab.numerics._exact import Elementwise, exact, floating, guarded_product
from trimtab.numerics.normal import _double

_NUM_TERMS = {torch.float32: 8, torch.float64: 17}
# From here on two terms of the asymptotic series of trigamma are exact in float64
_LARGE = 1e8


def expm1_minus_x(x: Tensor) -> Tensor:
    """`exp(x) - 1 - x`, to the last digits where it is about `x^2 / 2`.

    Args:
        x: Any real tensor.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.expm1_minus_x(torch.tensor([1e-5, 1.0]))
        tensor([5.0000e-11, 7.1828e-01])
    """
    return _expm1_minus_x(floating(x, "expm1_minus_x"))


def _expm1_minus_x_value(x: Tensor) -> Tensor:
    small = x.clamp(-1, 1)
    num = _NUM_TERMS[x.dtype] + 1
    near = torch.full_like(x, 1 / math.factorial(num + 2))
    for n in range(num + 1, 1, -1):  # Horner's rule for 1/2! + x/3! + x^2/4! ...
        near.mul_(small).add_(1 / math.factorial(n))
    # A bound on x for x = inf, where expm1 is infinite already
    return torch.where(x.abs() < 1, near.mul_(small.square_()), torch.expm1(x) - x.clamp_max(1e3))


_expm1_minus_x: Elementwise = exact(_expm1_minus_x_value, torch.expm1)


def log1p_minus_x(x: Tensor) -> Tensor:
    """`log(1 + x) - x`, to the last digits where it is about `-x^2 / 2`.

    -inf at -1, NaN below.

    Args:
        x: Values >= -1.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.log1p_minus_x(torch.tensor([1e-5, 1.0]))
        tensor([-5.0000e-11, -3.0685e-01])
    """
    return _log1p_minus_x(floating(x, "log1p_minus_x"))


def _log1p_minus_x_value(x: Tensor) -> Tensor:
    # log1p(x) = 2 atanh(r) with r = x / (2 + x), and 2 r - x = -x r
    small = x.clamp(-0.5, 1)
    r = small / (small + 2)
    square = r.square()
    num = _NUM_TERMS[x.dtype]
    series = torch.full_like(x, 1 / (2 * num + 3))
    for n in range(num, 0, -1):  # 1/3 + r^2/5 + r^4/7 ...
        series.mul_(square).add_(1 / (2 * n + 1))
    near = series.mul_(square).mul_(2).sub_(small).mul_(r)
    far = torch.log1p(x.clamp_max(torch.finfo(x.dtype).max)) - x
    return torch.where((x > -0.5) & (x < 1), near, far)


def _log1p_minus_x_slope(x: Tensor) -> Tensor:
    bounded = x.clamp_max(torch.finfo(x.dtype).max)  # inf / inf is no number
    return -bounded / (1 + bounded)


_log1p_minus_x: Elementwise = exact(_log1p_minus_x_value, _log1p_minus_x_slope, product=guarded_product)


def sqrt1pm1(x: Tensor) -> Tensor:
    """`sqrt(1 + x) - 1`, to the last digits for small x.

    Args:
        x: Values >= -1; NaN below.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.sqrt1pm1(torch.tensor([1e-10, 3.0]))
        tensor([5.0000e-11, 1.0000e+00])
    """
    return _sqrt1pm1(floating(x, "sqrt1pm1"))


def _sqrt1pm1_value(x: Tensor) -> Tensor:
    return torch.where(x == math.inf, x, x / (torch.sqrt(1 + x) + 1))


_sqrt1pm1: Elementwise = exact(_sqrt1pm1_value, lambda x: 0.5 * torch.rsqrt(1 + x), product=guarded_product)


def digamma(input: Tensor) -> Tensor:
    """`torch.digamma` with the gradient `trigamma`, for which torch keeps 9 digits in float64.

    Args:
        input: Any real tensor; NaN at negative integers.

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.digamma(torch.tensor(1.0))
        tensor(-0.5772)
    """
    return _digamma(floating(input, "digamma"))


def trigamma(x: Tensor) -> Tensor:
    """Second derivative of the log-gamma function; `torch.polygamma(1, x)` has 9 digits in float64.

    Args:
        x: Any real tensor; infinite at 0 and negative integers.

    Returns:
        Shape and type of `x`.

    Cost:
        Computed in float64, several times as long as torch's; no host read.

    Example:
        >>> numerics.trigamma(torch.tensor(1.0, dtype=torch.float64)).item()  # pi^2 / 6
        1.64493406684822...

    References:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 6.4.7 (reflection), 6.4.10 (the
        Hurwitz zeta function), 6.4.12 (large arguments).
    """
    return _trigamma(floating(x, "trigamma"))


def _trigamma_value(x: Tensor) -> Tensor:
    wide = _double(x)
    positive = torch.where(wide > 0, wide, 1 - wide)
    zeta = torch.special.zeta(torch.full_like(positive, 2.0), positive.clamp_max(_LARGE))
    value = torch.where(positive > _LARGE, (1 + 0.5 / positive) / positive, zeta)
    sine = torch.sin(math.pi * (wide - wide.round()))
    return torch.where(wide > 0, value, (math.pi / sine).square() - value).to(x.dtype)


def _trigamma_slope(x: Tensor) -> Tensor:
    return torch.polygamma(2, x.clamp_max(torch.finfo(x.dtype).max))  # NaN at infinity


_trigamma: Elementwise = exact(_trigamma_value, _trigamma_slope)
_digamma: Elementwise = exact(torch.digamma, lambda x: _trigamma(x))
