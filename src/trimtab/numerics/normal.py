"""The normal distribution function, its log, and gelu, into the far tails.

float32 and half precision are computed in float64 and rounded once: the tails need the digits, and these
functions cost more than a conversion. `gelu` on a CPU, which stands between any two layers, takes them in
float32 with the rounding error of its argument put back.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from trimtab.numerics._blocks import blockwise, is_untracked
from trimtab.numerics._exact import Elementwise, exact, floating
from trimtab.numerics._select import zero_up_to_

_ROOT_HALF = math.sqrt(0.5)
_ROOT_HALF_REST = -4.833646656726457e-17  # sqrt(1/2) minus the above
_ROOT_HALF_32 = 0.707106769084930419921875  # the float32 next to it
_SMALLEST = 15.0  # from minus this down gelu is 0 in float32
_NORMAL = -12.9  # down to there ndtr is a normal number in float32
_SPLIT = 134217729.0  # 2^27 + 1, Dekker's constant for float64


def ndtr(input: Tensor) -> Tensor:
    """Distribution function of the standard normal; `torch.special.ndtr` is 0 from x = -6 in float32.

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Cost:
        Computed in float64: 1.5 to 3 times torch's own (eager, CPU); no host read.

    Example:
        >>> numerics.ndtr(torch.tensor([-10.0, 0.0]))
        tensor([7.6199e-24, 5.0000e-01])
    """
    return _ndtr(floating(input, "ndtr"))


def log_ndtr(input: Tensor) -> Tensor:
    """Log of the distribution function of the standard normal.

    `torch.special.log_ndtr` has a gradient that is 6 times too large at x = -1e4 in float32 and 0 or NaN
    beyond, and no half precision.

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Cost:
        Computed in float64: 1.5 to 3 times torch's own (eager, CPU); no host read.

    Example:
        >>> x = torch.tensor(-1e4, requires_grad=True)
        >>> numerics.log_ndtr(x).backward(); x.grad
        tensor(10000.)

    References:
        Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1: the gradient for x < 0 is
        sqrt(2 / pi) / erfcx(-x / sqrt(2)).
    """
    return _log_ndtr(floating(input, "log_ndtr"))


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """`x * ndtr(x)`: right in the left tail, where `F.gelu` is 0 from x = -5.5 (float32), and at infinities.

    Args:
        input: Any real tensor.
        approximate: "none", or "tanh" for the form `x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x**3))`.

    Returns:
        Shape and type of `input`.

    Raises:
        ValueError: `approximate` is neither.

    Cost:
        Forward and backward 3 to 4 times `F.gelu` (eager, CPU, float32), 5 times in bfloat16; no host read.
        Parts with elements below -12.9, where a factor is subnormal, go over float64: 10 times `F.gelu`.

    Example:
        >>> numerics.gelu(torch.tensor([float("-inf"), -8.0, 1.0]))
        tensor([-0.0000e+00, -4.9768e-15,  8.4134e-01])
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu(approximate={approximate!r}): expected 'none' or 'tanh'.")
    x = floating(input, "gelu")
    return _gelu(x) if approximate == "none" else _gelu_tanh(x)


# From here on the asymptotic series of the Mills ratio to four terms is exact in float64
_FAR = 300.0


def _double(x: Tensor) -> Tensor:
    """float64 where the device has it."""
    return x if x.device.type == "mps" else x.double()


def _complement(x: Tensor) -> Tensor:
    """erfc(x / sqrt(2)) in float64; of a float64 with the rounding error of the quotient put back."""
    if x.dtype != torch.float64:
        return torch.erfc_(_double(x).mul(_ROOT_HALF))
    near = x.clamp(-40, 40)  # beyond, the result is 2 or 0
    high = near * _SPLIT - (near * _SPLIT - near)
    low = near - high
    root_high = _ROOT_HALF * _SPLIT - (_ROOT_HALF * _SPLIT - _ROOT_HALF)
    root_low = _ROOT_HALF - root_high
    z = near * _ROOT_HALF
    error = ((high * root_high - z) + high * root_low + low * root_high) + low * root_low
    error = error + near * _ROOT_HALF_REST
    result: Tensor = torch.erfc(z) - error * torch.exp(-z * z) * (2 / math.sqrt(math.pi))
    return result


def _density(x: Tensor) -> Tensor:
    """exp(-x^2 / 2) / sqrt(2 pi) in float64; of a float64 with the square taken in two parts."""
    factor = 1 / math.sqrt(2 * math.pi)
    if x.dtype != torch.float64:
        return _double(x).square().mul_(-0.5).exp_().mul_(factor)
    x = x.clamp(-64, 64)  # beyond, 0
    coarse = torch.round(x * 128) / 128
    rest = x - coarse
    bell = torch.exp(coarse * coarse * -0.5) * torch.exp(-rest * (coarse + 0.5 * rest))
    return bell * factor


def _ndtr_value(x: Tensor) -> Tensor:
    return _complement(-x).mul_(0.5).to(x.dtype)


def _log_ndtr_value(x: Tensor) -> Tensor:
    left = torch.special.log_ndtr(_double(x).clamp_max(0))
    return torch.where(x > 0, torch.log1p(-0.5 * _complement(x)), left).to(x.dtype)


def _log_ndtr_slope_value(x: Tensor) -> Tensor:
    wide = _double(x)
    left = math.sqrt(2 / math.pi) / torch.special.erfcx(wide.clamp_max(0) * -_ROOT_HALF)
    left = torch.where(wide < -1e8, -wide, left)  # also where erfcx is too small to divide by
    right = _density(x) / (0.5 * torch.erfc(wide.clamp_min(0) * -_ROOT_HALF))
    return torch.where(wide > 0, right, left).to(x.dtype)


def _log_ndtr_curvature(x: Tensor) -> Tensor:
    wide = _double(x)
    near = wide.clamp(-_FAR, _FAR)  # 0 from there on
    slope = _log_ndtr_slope(near)
    # The slope is -x - 1/x + 2/x^3 - 10/x^5 ..., and the sum of it and x cancels
    u = wide.clamp_max(-_FAR).pow(-2)
    far = ((50 * u - 6) * u + 1) * u - 1
    return torch.where(wide < -_FAR, far, -slope * (near + slope)).to(x.dtype)


_density_function: Elementwise = exact(
    lambda x: _density(x).to(x.dtype), lambda x: -x.clamp(-64, 64) * _density_function(x)
)
_ndtr: Elementwise = exact(_ndtr_value, lambda x: _density_function(x))
_log_ndtr_slope: Elementwise = exact(_log_ndtr_slope_value, _log_ndtr_curvature)
_log_ndtr: Elementwise = exact(_log_ndtr_value, lambda x: _log_ndtr_slope(x))


@blockwise
def _gelu_value(x: Tensor, out: Tensor | None) -> Tensor:
    # on a CPU to look at the smallest costs a pass; below it a factor is subnormal
    if _rounds_once(x) and not (x.numel() and x.amin() < _NORMAL):
        return _gelu_in_float32(x, out)
    result = _complement(-x).mul_(0.5).mul_(x).masked_fill_(x == -math.inf, -0.0).to(x.dtype)
    return result if out is None else out.copy_(result)


def _gelu_in_float32(x: Tensor, out: Tensor | None) -> Tensor:
    """Half of x * erfc(z + error), z = -x / sqrt(2), as erfc(z) * (1 - 2 z * error): right in its tail.

    The slope of log(erfc) at z > 0 is between -2z - 1 and -2z, of which one rounding error is seen.
    """
    finite = torch.clamp_min(x, -_SMALLEST, out=out)
    z = finite * -_ROOT_HALF_32
    error = torch.add(z, finite, alpha=_ROOT_HALF_32)  # with the sign turned
    error.add_(finite, alpha=_ROOT_HALF - _ROOT_HALF_32)
    error = zero_up_to_(0.0, error.mul_(z), z).add_(0.5)  # in the tail only; at inf it is no number
    return finite.mul_(error).mul_(z.erfc_())


@functools.cache
def _has_fma() -> bool:
    """Whether `torch.add` with a factor and `addcmul` round once, as CPU kernels do where the machine can."""
    x = torch.full((64,), 1 / 3)
    error = torch.add(x * -_ROOT_HALF_32, x, alpha=_ROOT_HALF_32)
    return bool(((error != 0) & (torch.addcmul(x * x, x, x, value=-1.0) != 0)).all())


def _rounds_once(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and is_untracked(x) and _has_fma()


def _gelu_slope_value(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e3, 1e3)  # beyond, the slope is 0 or 1
    if not _rounds_once(x):
        return _density(bounded).mul_(bounded).add_(_complement(-bounded), alpha=0.5).to(x.dtype)
    bell = bounded * bounded
    error = torch.addcmul(bell, bounded, bounded, value=-1.0)  # what rounding took from the square
    # x * exp(-(bell - error) / 2), where the last factor is 1 + error / 2
    bell.mul_(-0.5).exp_().mul_(bounded)
    bell.addcmul_(bell, error, value=0.5)
    # In the tail the share is the smaller by x^2, which is what the rounding of its argument costs it
    share = bounded.mul_(-_ROOT_HALF_32).erfc_()
    return share.add_(bell, alpha=math.sqrt(2 / math.pi)).mul_(0.5)


def _gelu_curvature(x: Tensor) -> Tensor:
    bounded = x.clamp(-1e3, 1e3)
    return (2 - bounded * bounded) * _density_function(bounded)


_gelu_slope: Elementwise = exact(_gelu_slope_value, _gelu_curvature)
_gelu: Elementwise = exact(_gelu_value, lambda x: _gelu_slope(x))

_CUBIC, _SCALE = 0.044715, 2 * math.sqrt(2 / math.pi)  # Hendrycks and Gimpel 2016


def _gelu_tanh(x: Tensor) -> Tensor:
    """Plain code: sigmoid in float64 does not cancel, and beyond +-100 nothing changes."""
    wide = _double(x)
    bounded = wide.clamp(-100, 100)
    gate = torch.sigmoid(_SCALE * (bounded + _CUBIC * bounded.pow(3)))
    return (wide.clamp_min(torch.finfo(x.dtype).min) * gate).to(x.dtype)
