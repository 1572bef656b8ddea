"""Inverse circular and hyperbolic functions: torch's values, with gradients that do not cancel."""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.numerics._exact import Elementwise, exact, floating, guarded_product, widened


def asin(input: Tensor) -> Tensor:
    """Arcsine; near 1 the gradient of torch's `rsqrt(1 - x * x)` is hundreds of ULP off.

    Args:
        input: Values in [-1, 1]; outside NaN.

    Returns:
        Shape and type of `input`. The gradient at the ends is infinite: see `safe_asin`.

    Example:
        >>> numerics.asin(torch.tensor(0.5))
        tensor(0.5236)
    """
    return _asin(floating(input, "asin"))


def acos(input: Tensor) -> Tensor:
    """Arccosine with the gradient of `asin`, negative.

    Args:
        input: Values in [-1, 1]; outside NaN.

    Returns:
        Shape and type of `input`. The gradient at the ends is infinite: see `safe_acos`.

    Example:
        >>> numerics.acos(torch.tensor(0.5))
        tensor(1.0472)
    """
    return _acos(floating(input, "acos"))


def atanh(input: Tensor) -> Tensor:
    """Inverse hyperbolic tangent with the gradient `1 / ((1 - x) * (1 + x))`.

    Args:
        input: Values in [-1, 1].

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.atanh(torch.tensor(0.5))
        tensor(0.5493)
    """
    return _atanh(floating(input, "atanh"))


def asinh(input: Tensor) -> Tensor:
    """Inverse hyperbolic sine; torch's gradient is 0 where x * x overflows (260 in float16).

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Example:
        >>> x = torch.tensor(1e20, requires_grad=True)
        >>> numerics.asinh(x).backward(); x.grad
        tensor(1.0000e-20)
    """
    return _asinh(floating(input, "asinh"))


def acosh(input: Tensor) -> Tensor:
    """Inverse hyperbolic cosine with the gradient `1 / (sqrt(x - 1) * sqrt(x + 1))`.

    Args:
        input: Values >= 1.

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.acosh(torch.tensor(2.0))
        tensor(1.3170)
    """
    return _acosh(floating(input, "acosh"))


# Each slope with a slope of its own, which plain code makes NaN at the ends and at infinities
_asin_slope: Elementwise = exact(
    lambda x: torch.rsqrt((1 - x) * (1 + x)), lambda x: x * _asin_slope(x) ** 3, product=guarded_product
)
_atanh_slope: Elementwise = exact(
    lambda x: 1 / ((1 - x) * (1 + x)), lambda x: 2 * x * _atanh_slope(x) ** 2, product=guarded_product
)
_acosh_slope: Elementwise = exact(
    lambda x: 1 / (torch.sqrt(x - 1) * torch.sqrt(x + 1)),
    lambda x: -_bounded(x) * _acosh_slope(x) * _acosh_slope(x) ** 2,
    product=guarded_product,
)
_asinh_slope: Elementwise = exact(
    lambda x: 1 / torch.hypot(x, torch.ones_like(x)),
    lambda x: -_bounded(x) * _asinh_slope(x) * _asinh_slope(x) ** 2,
)


def _bounded(x: Tensor) -> Tensor:
    return x.clamp(-torch.finfo(x.dtype).max, torch.finfo(x.dtype).max)


_asin: Elementwise = exact(torch.asin, lambda x: _asin_slope(x), product=guarded_product)
_acos: Elementwise = exact(torch.acos, lambda x: -_asin_slope(x), product=guarded_product)
_atanh: Elementwise = exact(torch.atanh, lambda x: _atanh_slope(x), product=guarded_product)
_asinh: Elementwise = exact(torch.asinh, lambda x: _asinh_slope(x))
_acosh: Elementwise = exact(torch.acosh, lambda x: _acosh_slope(x), product=guarded_product)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """`torch.hypot` with gradient 0 at the origin, where torch's is NaN.

    Args:
        input: One leg.
        other: The other.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> numerics.hypot(x, torch.zeros(1)).backward(); x.grad
        tensor([0.])
    """
    return _hypot(floating(input, "hypot"), floating(other, "hypot"))


def _over_radius(x: Tensor, y: Tensor) -> Tensor:
    """X / hypot(x, y), and 0 at the origin."""
    radius = _hypot(x, y)
    return x / radius.masked_fill(radius == 0, 1.0)


_hypot: Elementwise = exact(torch.hypot, _over_radius, lambda x, y: _over_radius(y, x))


def atan2(input: Tensor, other: Tensor) -> Tensor:
    """`torch.atan2` whose gradient is right at radii of 1e-30 and 1e30, where torch's is 0.

    At the origin the gradient is 0.

    Args:
        input: Ordinate.
        other: Abscissa.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> y = torch.tensor(1e-30, requires_grad=True)
        >>> numerics.atan2(y, torch.tensor(1e-30)).backward(); y.grad
        tensor(5.0000e+29)
    """
    return _atan2(floating(input, "atan2"), floating(other, "atan2"))


def _atan2_slope(y: Tensor, x: Tensor) -> Tensor:
    radius = _hypot(y, x)
    radius = radius.masked_fill(radius == 0, 1.0)  # the numerator is 0 there
    return x / radius / radius


_atan2: Elementwise = exact(torch.atan2, _atan2_slope, lambda y, x: -_atan2_slope(x, y))


def safe_acos(x: Tensor) -> Tensor:
    """Arccosine for arguments that rounding may have carried over the end, with a bounded gradient.

    The argument is clamped to [-1, 1]. The gradient is the true one, but its size is at most
    `1 / sqrt(2 * eps)` (2896 in float32), which it also keeps beyond the ends: an angle between
    almost equal vectors can still be pushed apart. float16 and bfloat16 use float32's eps.

    Args:
        x: Cosines.

    Returns:
        Angles in [0, pi], shape and type of `x`.

    Example:
        >>> x = torch.tensor(1.0000001, requires_grad=True)
        >>> numerics.safe_acos(x).backward(); x.grad
        tensor(-2048.)
    """
    return _safe_acos(floating(x, "safe_acos"))


def safe_asin(x: Tensor) -> Tensor:
    """Arcsine with the conventions of `safe_acos`.

    Args:
        x: Sines.

    Returns:
        Angles in [-pi / 2, pi / 2], shape and type of `x`.

    Example:
        >>> numerics.safe_asin(torch.tensor([0.5, 1.1]))
        tensor([0.5236, 1.5708])
    """
    return _safe_asin(floating(x, "safe_asin"))


def _bounded_slope(x: Tensor) -> Tensor:
    inside = (1 - x.clamp(-1, 1)) * (1 + x.clamp(-1, 1))
    return torch.rsqrt(inside.clamp_min(2 * torch.finfo(widened(x).dtype).eps))


_safe_asin: Elementwise = exact(lambda x: x.clamp(-1, 1).asin_(), _bounded_slope)
_safe_acos: Elementwise = exact(lambda x: x.clamp(-1, 1).acos_(), lambda x: -_bounded_slope(x))
