"""Elementary functions whose gradients, and tails, are right to the last digits.

Values that torch computes well come from torch. Where torch loses digits is in `docs/numerics.md`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trimtab.numerics._blocks import blockwise
from trimtab.numerics._exact import Elementwise, exact, floating, guarded_product, widened

_LN2 = math.log(2.0)
# From here on softplus is the identity in every type
_LINEAR = 80.0
# Below minus this sigmoid is exp(x) in the type, and still normal
_TAIL = {torch.float32: 80.0, torch.float64: 600.0}
# From here on sigmoid is 1 in every type
_ONE = 40.0
# ln 2 in two parts, the first of them in the type
_LN2_PARTS = {
    torch.float32: (0.693147182464599609375, -1.904654299957767878e-09),
    torch.float64: (_LN2, 2.3190468138462995584e-17),
}


def sigmoid(input: Tensor) -> Tensor:
    """The logistic function, in both tails.

    Its gradient is the product of the function at x and at -x. torch's `y * (1 - y)` is exactly 0 from
    x = 17 (float32) or 6.25 (bfloat16), and its value is 0 below x = -88, where the true one is not.

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Cost:
        Forward and backward 2 times `torch.sigmoid` in eager code on a CPU; no host read.

    Example:
        >>> x = torch.tensor(30.0, requires_grad=True)
        >>> numerics.sigmoid(x).backward(); x.grad
        tensor(9.3576e-14)
    """
    return _sigmoid(floating(input, "sigmoid"))


def _times_sigmoid(factor: Tensor, x: Tensor, sign: int = 1) -> Tensor:
    """Factor * sigmoid(sign * x) by the kernel of softplus' gradient: exp(x) / (1 + exp(x)) in one pass.

    It underflows gradually where torch's sigmoid is 0. Above the threshold the share is 1 in every type.
    """
    result: Tensor = torch.ops.aten.softplus_backward(factor, x, sign, _ONE)
    return result


def _times_sigmoid_(factor: Tensor, x: Tensor, sign: int = 1) -> Tensor:
    """The same in the memory of `factor`."""
    torch.ops.aten.softplus_backward.grad_input(factor, x, sign, _ONE, grad_input=factor)
    return factor


def _sigmoid_value(x: Tensor) -> Tensor:
    return _times_sigmoid(x.new_ones(()).expand_as(x), x)


def _slope_value(x: Tensor) -> Tensor:
    """sigmoid(x) * sigmoid(-x)."""
    return _times_sigmoid_(_sigmoid_value(x), x, -1)


def _sech2_value(x: Tensor) -> Tensor:
    return _slope_value(2 * x).mul_(4)


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent with the gradient `sech(x)^2`.

    torch's gradient `1 - y * y` is exactly 0 from x = 9 (float32) or 3.5 (bfloat16).

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Cost:
        Forward and backward 2 times `torch.tanh` in eager code on a CPU; no host read.

    Example:
        >>> x = torch.tensor(20.0, requires_grad=True)
        >>> numerics.tanh(x).backward(); x.grad
        tensor(1.6993e-17)
    """
    return _tanh(floating(input, "tanh"))


_sigmoid: Elementwise = exact(_sigmoid_value, lambda x: _slope(x))
_slope: Elementwise = exact(_slope_value, lambda x: -_slope(x) * _tanh(x / 2))
_tanh: Elementwise = exact(torch.tanh, lambda x: _sech2(x))
_sech2: Elementwise = exact(_sech2_value, lambda x: -2 * _sech2(x) * _tanh(x))


def expm1(input: Tensor) -> Tensor:
    """`exp(x) - 1` with the gradient `exp(x)`; torch's `y + 1` is exactly 0 below x = -17 (float32).

    Args:
        input: Any real tensor.

    Returns:
        Shape and type of `input`.

    Example:
        >>> x = torch.tensor(-50.0, requires_grad=True)
        >>> numerics.expm1(x).backward(); x.grad
        tensor(1.9287e-22)
    """
    return _expm1(floating(input, "expm1"))


_expm1: Elementwise = exact(torch.expm1, torch.exp)


def log1mexp(x: Tensor) -> Tensor:
    """`log(1 - exp(x))` for x <= 0: the log of the complement of a probability given as a log.

    -inf at 0, with gradient -inf (0 when nothing flows back); NaN above 0.

    Args:
        x: Logs of probabilities.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.log1mexp(torch.tensor([-1e-30, -50.0]))
        tensor([-6.9078e+01, -1.9287e-22])

    References:
        Maechler, "Accurately computing `log(1 - exp(-|a|))`", 2012: the switch at ln 2.
    """
    return _log1mexp(floating(x, "log1mexp"))


@blockwise
def _log1mexp_value(x: Tensor, out: Tensor | None) -> Tensor:
    # Above -ln 2 it is log(-expm1(x)), below log1p(-exp(x)): each stops at its value of the switch, for
    # choosing by a mask costs more than either
    near = torch.expm1(x, out=out).mul_(-2).clamp_max_(1).log_()
    return near.add_(torch.exp(x).clamp_max_(0.5).neg_().log1p_())


_log1mexp: Elementwise = exact(_log1mexp_value, lambda x: _log1mexp_slope(x), product=guarded_product)
_log1mexp_slope: Elementwise = exact(
    lambda x: torch.exp(x) / torch.expm1(-x.abs()),
    lambda x: _log1mexp_slope(x) * (1 - _log1mexp_slope(x)),
    product=guarded_product,
)


def logsubexp(a: Tensor, b: Tensor) -> Tensor:
    """`log(exp(a) - exp(b))` for a >= b, without leaving the log scale.

    -inf with gradient 0 where a = b (both may be -inf); NaN where a < b, or both are +inf.

    Args:
        a: The larger log.
        b: The smaller log.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> numerics.logsubexp(torch.tensor([1000.0, 0.0]), torch.tensor([999.0, 0.0]))
        tensor([999.5413,     -inf])
    """
    return _logsubexp(floating(a, "logsubexp"), floating(b, "logsubexp"))


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """A - b, and 0 where both are the same infinity."""
    return torch.where(a == b, 0.0, a - b)


def _logsubexp_value(a: Tensor, b: Tensor) -> Tensor:
    result = a + _log1mexp_value(b - a)
    return torch.where((a == b) & (a != math.inf), -math.inf, result)


def _logsubexp_slope(a: Tensor, b: Tensor) -> Tensor:
    equal = a == b
    gap = torch.where(equal, 1.0, a - b)
    return torch.where(equal, 0.0, -1 / torch.expm1(-gap))


def _logsubexp_slope_b(a: Tensor, b: Tensor) -> Tensor:
    equal = a == b
    gap = torch.where(equal, 1.0, a - b)
    return torch.where(equal, 0.0, torch.exp(-gap) / torch.expm1(-gap))


_logsubexp: Elementwise = exact(_logsubexp_value, _logsubexp_slope, _logsubexp_slope_b)


def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """`torch.logaddexp` with finite gradients: sigmoid(a - b), and one half at equal infinities.

    Args:
        input: A log.
        other: Another.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> a = torch.tensor(float("-inf"), requires_grad=True)
        >>> numerics.logaddexp(a, a.detach()).backward(); a.grad
        tensor(0.5000)
    """
    return _logaddexp(floating(input, "logaddexp"), floating(other, "logaddexp"))


_logaddexp: Elementwise = exact(
    torch.logaddexp,
    lambda a, b: _sigmoid(_difference(a, b)),
    lambda a, b: _sigmoid(_difference(b, a)),
)


def log_cosh(x: Tensor) -> Tensor:
    """`log(cosh(x))`, the smooth absolute value, without overflow and without losing small x.

    Args:
        x: Any real tensor.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.log_cosh(torch.tensor([1e-4, 1000.0]))
        tensor([5.0000e-09, 9.9931e+02])
    """
    return _log_cosh(floating(x, "log_cosh"))


@blockwise
def _log_cosh_value(x: Tensor, out: Tensor | None) -> Tensor:
    size = torch.abs(x)
    near = torch.sinh(size.clamp_max(2) / 2).square_().mul_(2).log1p_()
    far = torch.mul(size, -2).exp_().log1p_().add_(size - _LN2)
    return torch.where(size < 1, near, far, out=out)


_log_cosh: Elementwise = exact(_log_cosh_value, lambda x: _tanh(x))


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * x)) / beta`, without a threshold.

    `F.softplus` switches to the identity at beta * x = 20, which costs float64 half of its digits. In other
    types it is right, but for its second derivative, which is 0 from 17 on (float32).

    Args:
        input: Any real tensor.
        beta: Sharpness, > 0.
        threshold: Of no effect: the function is right on both sides of it.

    Returns:
        Shape and type of `input`.

    Raises:
        ValueError: `beta` is not > 0.

    Example:
        >>> x = torch.tensor(21.0, dtype=torch.float64)
        >>> (numerics.softplus(x) - x).item()
        7.58255...e-10
    """
    del threshold
    if not beta > 0:
        raise ValueError(f"softplus(beta={beta}): expected a number > 0. Large values approach relu.")
    x = floating(input, "softplus")
    return _softplus(x) if beta == 1 else (_softplus(widened(x) * beta) / beta).to(x.dtype)


_softplus: Elementwise = exact(
    lambda x: -F.logsigmoid(-x) if x.dtype == torch.float64 else F.softplus(x), lambda x: _sigmoid(x)
)


def softplus_inverse(y: Tensor) -> Tensor:
    """The x with softplus(x) = y: to start a positive parameter at a chosen value.

    Args:
        y: Values > 0. 0 gives -inf, negative ones NaN.

    Returns:
        Shape and type of `y`.

    Example:
        >>> numerics.softplus_inverse(torch.tensor([1e-6, 100.0]))
        tensor([-13.8155, 100.0000])
    """
    return _softplus_inverse(floating(y, "softplus_inverse"))


@blockwise
def _softplus_inverse_value(y: Tensor, out: Tensor | None) -> Tensor:
    # log(expm1(y)) for small y; else log1p(exp(y) - 2), as 2 expm1(y - ln 2) with ln 2 in two parts, which
    # is y itself from some point on. Each stops at its value of the switch, as in log1mexp
    high, low = _LN2_PARTS[y.dtype]
    result = torch.clamp_max(y, _LINEAR, out=out)
    result.sub_(high).sub_(low).expm1_().mul_(2).clamp_min_(-0.5).log1p_()
    result.add_(torch.expm1(y).mul_(2).clamp_max_(1).log_())
    return result.add_((y - _LINEAR).clamp_min_(0))


_softplus_inverse: Elementwise = exact(
    _softplus_inverse_value, lambda y: _softplus_inverse_slope(y), product=guarded_product
)
# 1 / (1 - exp(-y)), whose own slope is -exp(-y) / (1 - exp(-y))^2
_softplus_inverse_slope: Elementwise = exact(
    lambda y: y.abs().neg_().expm1_().reciprocal_().neg_(),
    lambda y: -torch.exp(-y) * _softplus_inverse_slope(y).square(),
)


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """`log(p / (1 - p))`, accurate at one half too, where `torch.logit` loses four bits.

    Args:
        input: Probabilities. 0 and 1 give infinities; outside of [0, 1] NaN.
        eps: Clamp `p` to [eps, 1 - eps] first, as torch does.

    Returns:
        Shape and type of `input`.

    Example:
        >>> numerics.logit(torch.tensor([0.5, 0.75]))
        tensor([0.0000, 1.0986])
    """
    p = floating(input, "logit")
    return _logit(p if eps is None else p.clamp(eps, 1 - eps))


@blockwise
def _logit_value(p: Tensor, out: Tensor | None) -> Tensor:
    # Above 1/4 log1p((2p - 1) / (1 - p)), below log(p / (1 - p)). Each stops at its value of the switch, as
    # in log1mexp: three times 1/4 over 3/4 is the 1 whose log adds nothing
    near = torch.clamp_min(p, 0.25, out=out)
    rest = torch.rsub(near, 0.5, alpha=0.5)
    near.sub_(0.5).div_(rest).log1p_()
    far = p.clamp_max(0.25)
    return near.add_(far.div_(torch.sub(1, far, out=rest)).mul_(3).log_())


_logit: Elementwise = exact(_logit_value, lambda p: _logit_slope(p), product=guarded_product)
# 1 / (p * (1 - p)) by the kernel of torch's own gradient, in one pass
_logit_slope: Elementwise = exact(
    lambda p: torch.ops.aten.logit_backward(p.new_ones(()).expand_as(p), p),
    lambda p: (2 * p - 1) * _logit_slope(p).square(),
)
