"""Element-wise functions against mpmath: error in ULP of value and gradient on adversarial inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
from mpmath import mp, mpf
from torch import Tensor

from trimtab import numerics

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_BITS = {torch.float64: 53, torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
_MIN_EXPONENT = {torch.float64: -1074, torch.float32: -149, torch.bfloat16: -133, torch.float16: -24}


def real_line(dtype: torch.dtype, num_points: int) -> Tensor:
    """Numbers of every size and sign: zeros, subnormals, thresholds, the largest, and between."""
    info = torch.finfo(dtype)
    generator = torch.Generator().manual_seed(0)
    low, high = math.log2(info.smallest_normal) - 5, math.log2(info.max) - 1e-3
    sizes = [
        torch.linspace(low, high, num_points // 4, dtype=torch.float64).exp2(),
        torch.linspace(-12, 10, num_points // 2, dtype=torch.float64).exp2(),
        torch.rand(num_points // 4, generator=generator, dtype=torch.float64) * 30,
    ]
    special = torch.tensor(
        [0.0, info.smallest_normal, info.tiny / 4, info.max, 0.5, 1.0, math.log(2), 20.5, 88.5, 5e-8],
        dtype=torch.float64,
    )
    positive = torch.cat([*sizes, special])
    return torch.cat([positive, -positive]).to(dtype).unique()


def unit_interval(dtype: torch.dtype, num_points: int) -> Tensor:
    """Numbers in [0, 1], dense towards both ends and around one half."""
    line = real_line(dtype, num_points).double().abs()
    inside = line[line <= 1]
    near = torch.cat([inside, 1 - inside, 0.5 + inside / 4, 0.5 - inside / 4])
    return near.to(dtype).unique()


Mp = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A function with its exact value and derivative.

    Attributes:
        ours: The function.
        value: The same in mpmath.
        derivative: Its derivative in mpmath.
        points: Inputs of a type, given about how many.
        torch: torch's own way, to compare.
        value_ulp: Largest error allowed, float32 and float64.
        gradient_ulp: The same of the gradient.
    """

    name: str
    ours: Callable[[Tensor], Tensor]
    torch: Callable[[Tensor], Tensor]
    value: Mp
    derivative: Mp
    points: Callable[[torch.dtype, int], Tensor] = real_line
    value_ulp: float = 4.0
    gradient_ulp: float = 16.0

    def __repr__(self) -> str:
        return self.name


def _within(low: float, high: float) -> Callable[[torch.dtype, int], Tensor]:
    def points(dtype: torch.dtype, num_points: int) -> Tensor:
        line = torch.cat([real_line(dtype, num_points), unit_interval(dtype, num_points // 2)])
        edges = line.double()
        for center in (low, high):
            if math.isfinite(center):
                edges = torch.cat([edges, center + line.double().abs(), center - line.double().abs()])
        edges = edges.to(dtype).unique()
        return edges[(edges.double() >= low) & (edges.double() <= high)]

    return points


def _sig(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _phi(x: Any) -> Any:
    return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _big_phi(x: Any) -> Any:
    if abs(x) > 1e4:  # 0 or 1 to more digits than any type has
        return mpf(x > 0)
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def _log_big_phi(x: Any) -> Any:
    if x > 0:
        return mpf(0) if x > 1e4 else mpmath.log1p(-mpmath.erfc(x / mpmath.sqrt(2)) / 2)
    if x < -1e4:  # the asymptotic series, exact to 1e-20 here
        return -x * x / 2 - mpmath.log(-x) - mpmath.log(2 * mpmath.pi) / 2 - 1 / (x * x)
    return mpmath.log(_big_phi(x))


def _mills(x: Any) -> Any:
    """phi / Phi."""
    if x < -1e4:
        return -x / (1 - 1 / x**2 + 3 / x**4)
    return _phi(x) / _big_phi(x)


def _sech2(x: Any) -> Any:
    return 1 / mpmath.cosh(x) ** 2


def _gate(x: Any) -> Any:
    """tanh(softplus(x)), without what cancels."""
    if x > 50:
        return mpf(1)
    n = mpmath.exp(x) * (mpmath.exp(x) + 2)
    return n / (n + 2)


INF = math.inf
sqrt, log1p, expm1, exp, log = mpmath.sqrt, mpmath.log1p, mpmath.expm1, mpmath.exp, mpmath.log

CASES = [
    Case("sigmoid", numerics.sigmoid, torch.sigmoid, _sig, lambda x: _sig(x) * _sig(-x)),
    Case("tanh", numerics.tanh, torch.tanh, mpmath.tanh, _sech2),
    Case("expm1", numerics.expm1, torch.expm1, expm1, exp),
    Case(
        "log1mexp",
        numerics.log1mexp,
        lambda x: torch.log1p(-torch.exp(x)),
        lambda x: log(-expm1(x)) if x > -100 else log1p(-exp(x)),
        lambda x: exp(x) / expm1(x),
        _within(-INF, -0.0),
    ),
    Case(
        "log_cosh",
        numerics.log_cosh,
        lambda x: torch.cosh(x).log(),
        lambda x: (
            abs(x) + log1p(exp(-2 * abs(x))) - log(2) if abs(x) > 1 else log1p(2 * mpmath.sinh(x / 2) ** 2)
        ),
        mpmath.tanh,
    ),
    Case("softplus", numerics.softplus, torch.nn.functional.softplus, lambda x: log1p(exp(x)), _sig),
    Case(
        "softplus_inverse",
        numerics.softplus_inverse,
        lambda y: torch.expm1(y).log(),
        lambda y: log(expm1(y)) if y < 100 else y + log1p(-exp(-y)),
        lambda y: -1 / expm1(-y),
        _within(0.0, INF),
    ),
    Case(
        "logit",
        numerics.logit,
        torch.logit,
        lambda p: log(p / (1 - p)),
        lambda p: 1 / (p * (1 - p)),
        unit_interval,
    ),
    Case(
        "silu",
        numerics.silu,
        torch.nn.functional.silu,
        lambda x: x * _sig(x),
        lambda x: _sig(x) * (1 + x * _sig(-x)),
        gradient_ulp=INF,  # has a root, near which no fixed number of ULP can be kept
    ),
    Case(
        "mish",
        numerics.mish,
        torch.nn.functional.mish,
        lambda x: x * _gate(x),
        lambda x: _gate(x) + x * (1 - _gate(x)) * (1 + _gate(x)) * _sig(x),
        gradient_ulp=INF,  # as silu
    ),
    Case(
        "expm1_minus_x",
        numerics.expm1_minus_x,
        lambda x: torch.expm1(x) - x,
        # 60 digits are not enough for the difference at 1e-300
        lambda x: expm1(x) - x if abs(x) > 1e-10 else x**2 / 2 * (1 + x / 3 + x**2 / 12),
        expm1,
    ),
    Case(
        "log1p_minus_x",
        numerics.log1p_minus_x,
        lambda x: torch.log1p(x) - x,
        lambda x: log1p(x) - x if abs(x) > 1e-10 else -(x**2) / 2 * (1 - 2 * x / 3 + x**2 / 2),
        lambda x: -x / (1 + x),
        _within(-1.0, INF),
    ),
    Case(
        "sqrt1pm1",
        numerics.sqrt1pm1,
        lambda x: torch.sqrt(1 + x) - 1,
        lambda x: x / (sqrt(1 + x) + 1),
        lambda x: 1 / (2 * sqrt(1 + x)),
        _within(-1.0, INF),
    ),
    Case("ndtr", numerics.ndtr, torch.special.ndtr, _big_phi, _phi),
    Case("log_ndtr", numerics.log_ndtr, torch.special.log_ndtr, _log_big_phi, _mills),
    Case(
        "gelu",
        numerics.gelu,
        torch.nn.functional.gelu,
        lambda x: x * _big_phi(x),
        lambda x: _big_phi(x) + x * _phi(x),
        value_ulp=40.0,  # x times a subnormal: below 1e-306 in float64
        gradient_ulp=INF,  # as silu
    ),
    Case(
        "asin",
        numerics.asin,
        torch.asin,
        mpmath.asin,
        lambda x: 1 / sqrt((1 - x) * (1 + x)),
        _within(-1.0, 1.0),
    ),
    Case(
        "acos",
        numerics.acos,
        torch.acos,
        mpmath.acos,
        lambda x: -1 / sqrt((1 - x) * (1 + x)),
        _within(-1.0, 1.0),
    ),
    Case(
        "atanh",
        numerics.atanh,
        torch.atanh,
        mpmath.atanh,
        lambda x: 1 / ((1 - x) * (1 + x)),
        _within(-1.0, 1.0),
    ),
    Case("asinh", numerics.asinh, torch.asinh, mpmath.asinh, lambda x: 1 / sqrt(x * x + 1)),
    Case(
        "acosh",
        numerics.acosh,
        torch.acosh,
        mpmath.acosh,
        lambda x: 1 / (sqrt(x - 1) * sqrt(x + 1)),
        _within(1.0, INF),
    ),
    Case(
        "bernoulli_entropy",
        numerics.bernoulli_entropy,
        lambda x: torch.distributions.Bernoulli(logits=x).entropy(),
        lambda x: log1p(exp(-abs(x))) + abs(x) * _sig(-abs(x)),
        lambda x: -x * _sig(x) * _sig(-x),
    ),
    Case(
        "bce_with_logits, target 0",
        lambda x: numerics.bce_with_logits(x, torch.zeros_like(x), reduction="none"),
        lambda x: torch.nn.functional.binary_cross_entropy_with_logits(
            x, torch.zeros_like(x), reduction="none"
        ),
        lambda x: log1p(exp(x)),
        _sig,
    ),
    Case(
        "bce_with_logits, target 1",
        lambda x: numerics.bce_with_logits(x, torch.ones_like(x), reduction="none"),
        lambda x: torch.nn.functional.binary_cross_entropy_with_logits(
            x, torch.ones_like(x), reduction="none"
        ),
        lambda x: log1p(exp(-x)),
        lambda x: -_sig(-x),
    ),
    Case(
        "safe_sqrt",
        numerics.safe_sqrt,
        lambda x: torch.where(x > 0, x.sqrt(), 0.0),
        lambda x: sqrt(x) if x > 0 else mpf(0),
        lambda x: 1 / (2 * sqrt(x)) if x > 0 else mpf(0),
    ),
    Case(
        "safe_log",
        numerics.safe_log,
        lambda x: torch.where(x > 0, x.log(), 0.0),
        lambda x: log(x) if x > 0 else mpf(0),
        lambda x: 1 / x if x > 0 else mpf(0),
    ),
    Case(
        "safe_rsqrt",
        numerics.safe_rsqrt,
        lambda x: torch.where(x > 0, x.rsqrt(), 0.0),
        lambda x: 1 / sqrt(x) if x > 0 else mpf(0),
        lambda x: -1 / (2 * x * sqrt(x)) if x > 0 else mpf(0),
    ),
]


def ulp_errors(values: Sequence[float], exact: Sequence[Any], dtype: torch.dtype) -> list[float]:
    """Errors in units of the type's spacing at the exact result; infinite for a wrong NaN or Inf."""
    largest = torch.finfo(dtype).max
    bits, low = _BITS[dtype], _MIN_EXPONENT[dtype]
    # From here on a number rounds to infinity
    overflow = mpf(largest) + mpf(2) ** (mpmath.frexp(mpf(largest))[1] - bits - 1)
    errors = []
    for value, wanted in zip(values, exact, strict=True):
        if not mpmath.isfinite(wanted) or abs(wanted) >= overflow:
            sign = 1 if wanted > 0 else -1
            errors.append(0.0 if value == sign * math.inf else math.inf)
            continue
        if not math.isfinite(value):
            # Rounding the last step up to infinity is one ULP
            near = math.isinf(value) and abs(wanted) > largest * (1 - 2.0 ** (3 - bits))
            errors.append(1.0 if near and (value > 0) == (wanted > 0) else math.inf)
            continue
        exponent = mpmath.frexp(wanted)[1] - bits if wanted else low
        errors.append(float(abs(mpf(value) - wanted) / mpf(2) ** max(exponent, low)))
    return errors


def _exact(function: Mp, points: Sequence[float]) -> list[Any]:
    results = []
    inside = sorted(points)[len(points) // 2]
    with mp.workdps(60):
        for x in points:
            try:
                results.append(function(mpf(x)))
            except ZeroDivisionError:  # a pole: the sign is that of the value nearby, inside
                nearby = function(mpf(x) + (inside > x or -1) * mpf(10) ** -30)
                results.append(mpmath.inf if nearby > 0 else -mpmath.inf)
            except ValueError:  # log(0)
                results.append(-mpmath.inf)
    return results


@dataclass(frozen=True, slots=True)
class Measured:
    """Worst errors in ULP, and where."""

    value: float
    value_at: float
    gradient: float
    gradient_at: float


def measure(
    case: Case, function: Callable[[Tensor], Tensor], dtype: torch.dtype, num_points: int
) -> Measured:
    """Worst errors of a function on the case's inputs."""
    x = case.points(dtype, num_points).requires_grad_()
    y = function(x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    points = x.detach().double().tolist()
    values = ulp_errors(y.detach().double().tolist(), _exact(case.value, points), dtype)
    gradients = ulp_errors(gradient.double().tolist(), _exact(case.derivative, points), dtype)
    worst_value, worst_gradient = values.index(max(values)), gradients.index(max(gradients))
    return Measured(
        values[worst_value], points[worst_value], gradients[worst_gradient], points[worst_gradient]
    )
