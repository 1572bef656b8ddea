"""Roots of a quadratic, right to the last digits for any coefficients."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from trimtab.numerics._exact import broadcast, floating
from trimtab.numerics.error_free import scale_by_power, two_product, two_sum, wide


def quadratic_roots(
    a: Tensor | float,
    b: Tensor | float,
    c: Tensor | float,
    *,
    nonreal: Literal["nan", "complex"] = "nan",
) -> tuple[Tensor, Tensor]:
    """Solve `a x^2 + b x + c = 0` elementwise, without overflow and without cancellation.

    The discriminant is taken exactly to about twice the precision and scaled by powers of two; the root
    that would lose digits comes from the product of the roots. Where `a` is 0 the equation is linear
    and both results hold its one root; where `a` and `b` are 0 both are NaN.

    At a double root the square root has no finite derivative: both gradients are then that of the
    roots' mean, so that the sum and the product of the roots still have the right gradient.

    Args:
        a: Coefficients of the square; the three broadcast, and may be numbers (all of them: float64).
        b: Coefficients of x.
        c: Constants.
        nonreal: What stands for a pair that is not real: "nan", or "complex" for complex results.

    Returns:
        The smaller and the larger root; a complex pair with the negative imaginary part first.

    Raises:
        ValueError: `nonreal` is neither of the two.

    Shape:
        That of `a`, `b` and `c` broadcast.

    Cost:
        About 60 elementwise operations, no host read. float16 and bfloat16 are computed in float32.
        Twice differentiable.

    Example:
        >>> from trimtab.numerics import quadratic_roots
        >>> a, b, c = torch.tensor([[1.0, -1e8, 1.0], [1e20, 1e20, -1e20], [0.0, 2.0, 1.0]]).T
        >>> for roots in zip(*quadratic_roots(a, b, c), strict=True):
        ...     print(*(f"{root.item():.4g}" for root in roots))
        1e-08 1e+08
        -1.618 0.618
        -0.5 -0.5

    References:
        Kahan, "On the cost of floating-point computation without extra-precise arithmetic", 2004;
        Goualard, "The ins and outs of solving quadratic equations with floating-point arithmetic", 2023.
    """
    if nonreal not in ("nan", "complex"):
        raise ValueError(f"quadratic_roots(nonreal={nonreal!r}): expected 'nan' or 'complex'.")
    like = next((v for v in (a, b, c) if isinstance(v, Tensor)), torch.zeros((), dtype=torch.float64))
    like = floating(like, "quadratic_roots")
    a, b, c = broadcast(
        *(
            floating(v, "quadratic_roots") if isinstance(v, Tensor) else like.new_full((), v)
            for v in (a, b, c)
        )
    )
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), c.dtype)
    a, b, c = (wide(v.to(dtype)) for v in (a, b, c))
    low, high, root, is_real = _Roots.apply(a, b, c)  # type: ignore[no-untyped-call]
    if nonreal == "nan":
        nan = torch.full_like(low, math.nan)
        return torch.where(is_real, low, nan).to(dtype), torch.where(is_real, high, nan).to(dtype)
    two_a = torch.where(is_real, torch.ones_like(a), 2 * a.abs())
    imaginary = torch.where(is_real, torch.zeros_like(root), root / two_a)
    return torch.complex(low, -imaginary), torch.complex(high, imaginary)


class _Roots(torch.autograd.Function):
    """Real parts of both roots, sqrt(abs(b^2 - 4ac)), and whether the roots are real."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (a_m, a_e), (b_m, b_e), (c_m, c_e) = (torch.frexp(v) for v in (a, b, c))
        # b = b_s 2^s and 4ac = (a_s c_m) 2^(2s), neither larger than 4; a term that is 0 has no say in s
        never = torch.full_like(a_e, -(1 << 12))
        has_product = (a != 0) & (c != 0)
        s = torch.maximum(
            torch.where(b != 0, b_e, never), torch.where(has_product, (a_e + c_e + 1) >> 1, never)
        )
        s = torch.where((b != 0) | has_product, s, torch.zeros_like(s))
        b_s = scale_by_power(b_m, (b_e - s).clamp_max(4))
        a_s = scale_by_power(a_m, (a_e + c_e - 2 * s + 2).clamp_max(4))
        square, square_error = two_product(b_s, b_s)
        product, product_error = two_product(a_s, c_m)
        difference, difference_error = two_sum(square, -product)
        discriminant = difference + (difference_error + (square_error - product_error))
        root = discriminant.abs().sqrt()
        is_real = ~(discriminant < 0)
        q = -0.5 * (b_s + torch.where(b_s < 0, -root, root))
        # far root q / a, near root c / q; q is 0 only where b and the discriminant are
        one = torch.ones_like(q)
        far = scale_by_power(q / torch.where(a == 0, one, a_m), s - a_e)
        near = scale_by_power(c_m / torch.where(q == 0, one, q), c_e - s)
        near = torch.where(q == 0, torch.zeros_like(near), near)
        middle = scale_by_power(-0.5 * b_s / torch.where(a == 0, one, a_m), s - a_e)
        linear = -scale_by_power(c_m / torch.where(b == 0, one, b_m), c_e - b_e)
        linear = torch.where(b == 0, torch.full_like(linear, math.nan), linear)
        low = torch.where(is_real, torch.minimum(far, near), middle)
        high = torch.where(is_real, torch.maximum(far, near), middle)
        low, high = torch.where(a == 0, linear, low), torch.where(a == 0, linear, high)
        return low, high, scale_by_power(root, s), is_real

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs, *output)
        ctx.mark_non_differentiable(output[3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c, low, high, root, is_real = ctx.saved_tensors
        g_low, g_high, g_root = grads[:3]
        is_linear = a == 0
        is_smooth = is_linear | (is_real & (root > 0))
        # implicit differentiation: x^2 da + x db + dc + (2ax + b) dx = 0, and 2ax + b = -+root
        one = torch.ones_like(root)
        slope = torch.where(is_linear, b, torch.where(is_smooth, torch.sign(a) * root, one))
        w_high = torch.where(is_smooth, -g_high / slope, torch.zeros_like(g_high))
        w_low = torch.where(
            is_smooth, -g_low / torch.where(is_linear, slope, -slope), torch.zeros_like(g_low)
        )
        # not real, or double: the mean -b / 2a
        two_a = torch.where(is_smooth, one, 2 * a)
        mean = torch.where(is_smooth, torch.zeros_like(g_low), (g_low + g_high) / two_a)
        # the square root's own gradient: root d(root) = +-(b db - 2a dc - 2c da)
        safe_root = torch.where(root > 0, root, one)
        w_root = torch.where(is_real, g_root, -g_root) / safe_root
        w_root = torch.where(root > 0, w_root, torch.zeros_like(w_root))
        g_a = w_low * low * low + w_high * high * high - mean * 2 * low - 2 * c * w_root
        return g_a, w_low * low + w_high * high - mean + b * w_root, w_low + w_high - 2 * a * w_root


stable_quadratic = quadratic_roots
