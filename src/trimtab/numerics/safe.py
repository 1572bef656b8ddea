"""Operations with a legal value and a legal gradient outside of their domain.

The rule for all: outside the domain the value is `fill` and the gradient 0, inside nothing is changed (no
eps is added anywhere), and NaN stays NaN. Both branches are safe: the usual `torch.where(x > 0, x.sqrt(),
0)` has a NaN gradient at 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimtab.numerics._exact import Elementwise, exact, floating, guarded_product
from trimtab.numerics._select import zero_at_zero, zero_up_to


def safe_sqrt(x: Tensor, fill: float = 0.0) -> Tensor:
    """Square root for x > 0, `fill` with gradient 0 elsewhere.

    Args:
        x: Any real tensor.
        fill: Value for x <= 0.

    Returns:
        Shape and type of `x`.

    Example:
        >>> x = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
        >>> numerics.safe_sqrt(x).sum().backward(); x.grad
        tensor([0.2500, 0.0000, 0.0000])
    """
    x = floating(x, "safe_sqrt")
    return _filled(_sqrt(x), x <= 0, fill)


def safe_rsqrt(x: Tensor, fill: float = 0.0) -> Tensor:
    """`1 / sqrt(x)` for x > 0, `fill` with gradient 0 elsewhere.

    Args:
        x: Any real tensor.
        fill: Value for x <= 0.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.safe_rsqrt(torch.tensor([4.0, 0.0]))
        tensor([0.5000, 0.0000])
    """
    x = floating(x, "safe_rsqrt")
    return _filled(_rsqrt(x), x <= 0, fill)


def safe_log(x: Tensor, fill: float = 0.0) -> Tensor:
    """Natural log for x > 0, `fill` with gradient 0 elsewhere.

    Args:
        x: Any real tensor.
        fill: Value for x <= 0. For a log-likelihood -inf may be the honest one.

    Returns:
        Shape and type of `x`.

    Example:
        >>> numerics.safe_log(torch.tensor([1.0, 0.0, -1.0]), fill=-100.0)
        tensor([   0., -100., -100.])
    """
    x = floating(x, "safe_log")
    return _filled(_log(x), x <= 0, fill)


def safe_div(a: Tensor, b: Tensor | float, fill: float = 0.0) -> Tensor:
    """`a / b`, and `fill` with gradient 0 where b is 0, whatever a is.

    Args:
        a: Numerator.
        b: Denominator.
        fill: Value where `b` is 0.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> numerics.safe_div(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 4.0]))
        tensor([0.0000, 0.2500])
    """
    a, b = _tensors(a, b, "safe_div")
    return _filled(_div(a, b), b == 0, fill)


def safe_pow(x: Tensor, exponent: Tensor | float, fill: float = 0.0) -> Tensor:
    """`x ** exponent` where it is a finite real function, `fill` with gradient 0 elsewhere.

    Outside the domain are a negative base with a broken exponent and 0 with a negative one. At 0 the
    gradient is 0 where the true one is infinite (exponents in (0, 1)), and so is the gradient by the
    exponent of a base <= 0.

    Args:
        x: Base.
        exponent: Exponent.
        fill: Value outside the domain.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> x = torch.tensor([4.0, 0.0, -4.0], requires_grad=True)
        >>> y = numerics.safe_pow(x, 0.5); y.sum().backward(); y, x.grad
        (tensor([2., 0., 0.], grad_fn=<...>), tensor([0.2500, 0.0000, 0.0000]))
    """
    x, exponent = _tensors(x, exponent, "safe_pow")
    outside = _outside_pow(x, exponent)
    return _filled(_pow(x, exponent), outside, fill)


def xlogy(input: Tensor | float, other: Tensor | float) -> Tensor:
    """`x * log(y)`, 0 where x is 0, with a gradient of 0 there too (`torch.xlogy`: NaN at (0, 0)).

    Args:
        input: Factor x; one of the two may be a number.
        other: Argument y of the log.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> y = torch.tensor(0.0, requires_grad=True)
        >>> numerics.xlogy(torch.tensor(0.0), y).backward(); y.grad
        tensor(0.)
    """
    return _xlogy(*_tensors(input, other, "xlogy"))


def xlog1py(input: Tensor | float, other: Tensor | float) -> Tensor:
    """`x * log1p(y)`, 0 where x is 0, with a gradient of 0 there too.

    Args:
        input: Factor x; one of the two may be a number.
        other: Argument y of the log, minus 1.

    Returns:
        Broadcast shape, common type.

    Example:
        >>> numerics.xlog1py(torch.tensor(0.0), torch.tensor(-1.0))
        tensor(0.)
    """
    return _xlog1py(*_tensors(input, other, "xlog1py"))


def _tensors(a: Tensor | float, b: Tensor | float, name: str) -> tuple[Tensor, Tensor]:
    """Both as tensors, a number in the type of the other."""
    if not isinstance(a, Tensor):
        b = floating(b, name)  # type: ignore[arg-type] # a number is refused there
        return torch.full((), a, dtype=b.dtype, device=b.device), b
    a = floating(a, name)
    if not isinstance(b, Tensor):
        return a, torch.full((), b, dtype=a.dtype, device=a.device)
    return a, floating(b, name)


def _filled(value: Tensor, outside: Tensor, fill: float) -> Tensor:
    """The functions below are 0 outside; another value costs one more pass."""
    return value if fill == 0 else value.masked_fill(outside, fill)


def _outside_pow(x: Tensor, exponent: Tensor) -> Tensor:
    is_broken = exponent != exponent.round()
    return ((x < 0) & is_broken) | ((x == 0) & (exponent < 0))


def _pow_value(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).masked_fill_(_outside_pow(x, exponent), 0.0)


def _pow_by_exponent(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.where(x > 0, _pow(x, exponent), 0.0) * _log(x)


# Each is 0 outside its domain, and so is each derivative, being made of them
_sqrt: Elementwise = exact(lambda x: zero_up_to(0.0, x.sqrt(), x), lambda x: 0.5 * _rsqrt(x))
_rsqrt: Elementwise = exact(
    lambda x: zero_up_to(0.0, x.rsqrt(), x), lambda x: -0.5 * _rsqrt(x) * _positive_inverse(x)
)
_log: Elementwise = exact(lambda x: zero_up_to(0.0, x.log(), x), lambda x: _positive_inverse(x))
_positive_inverse: Elementwise = exact(
    lambda x: zero_up_to(0.0, x.reciprocal(), x), lambda x: -_positive_inverse(x).square()
)
_inverse: Elementwise = exact(lambda b: zero_at_zero(b.reciprocal(), b), lambda b: -_inverse(b).square())
_div: Elementwise = exact(
    lambda a, b: zero_at_zero(a / b, b),
    lambda _, b: _inverse(b),
    lambda a, b: -_div(_div(a, b), b),
)
_pow: Elementwise = exact(
    _pow_value,
    lambda x, exponent: exponent * _pow(x, exponent - 1),
    _pow_by_exponent,
)
_xlogy: Elementwise = exact(
    torch.xlogy,
    lambda _, y: y.log(),
    lambda x, y: _div(x, y),
    product=guarded_product,
)
_xlog1py: Elementwise = exact(
    torch.special.xlog1py,
    lambda _, y: y.log1p(),
    lambda x, y: _div(x, 1 + y),
    product=guarded_product,
)
