"""How a function with a gradient formula of its own becomes a torch function.

Automatic differentiation is exact, but of a formula such as `y * (1 - y)` it is exactly wrong in
floating point. Here value and derivatives are separate formulas. Both kinds below work under double
backward, `torch.compile(fullgraph=True)` and `torch.func`, and compute half precision in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._blocks import _HALF, by_elements, is_large, is_untracked, parts
from trimtab.numerics._blocks import widened as widened
from trimtab.numerics._select import zero_at_zero, zero_at_zero_

# A function of as many tensors as its value takes
Elementwise = Callable[..., Tensor]


def real(x: Tensor, name: str) -> Tensor:
    """The tensor, if it is one, and real.

    Raises:
        TypeError: `x` is complex, or no tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}({x!r}): expected a tensor. Wrap a number in torch.tensor(...).")
    if x.is_complex():
        raise TypeError(f"{name}: expected a real tensor, got {x.dtype}. Pass x.real and x.imag apart.")
    return x


def floating(x: Tensor, name: str) -> Tensor:
    """Integers and booleans in the default type, as torch's own functions take them.

    Raises:
        TypeError: `x` is complex, or no tensor.
    """
    x = real(x, name)
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def written(function: Elementwise, x: Tensor, inplace: bool) -> Tensor:  # noqa: FBT001
    """The function, written into its argument on request: the gradient needs what was there before."""
    return x.copy_(function(x.clone())) if inplace else function(x)


def loss_type(*inputs: Tensor) -> torch.dtype:
    """Type of a loss: the common one, but float32 for half precision under autocast, as torch's losses."""
    dtype = inputs[0].dtype
    for other in inputs[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    if dtype in _HALF and torch.is_autocast_enabled(inputs[0].device.type):
        return torch.float32
    return dtype


def broadcast(*inputs: Tensor) -> tuple[Tensor, ...]:
    """`torch.broadcast_tensors`, with a type."""
    result: tuple[Tensor, ...] = torch.broadcast_tensors(*inputs)  # type: ignore[no-untyped-call]
    return result


def guarded_product(grad: Tensor, derivative: Tensor) -> Tensor:
    """`grad * derivative`, where an incoming gradient of 0 wins over an infinite or undefined derivative."""
    return _guarded_product(grad, derivative)


def exact(
    value: Callable[..., Tensor],
    *partials: Callable[..., Tensor],
    product: Callable[[Tensor, Tensor], Tensor] = torch.mul,
) -> Elementwise:
    """An element-wise function from its value and its partial derivatives.

    `value` may work in place on what it allocates; it is never differentiated. A partial derivative
    must be differentiable code: best another function made here, so that the second derivative is
    exact too.

    Args:
        value: The function, of float32 or float64 tensors of one shape.
        partials: Its derivative by each input, of the same inputs.
        product: `guarded_product` where a derivative may be infinite at a legal point.

    Returns:
        A function of as many tensors, which broadcast and promote as torch's do.

    Cost:
        Saves the inputs, as given; no host read.
    """

    def run(*inputs: Tensor) -> Tensor:
        # A conversion is a pass of its own; else the function knows itself whether parts save any
        if inputs[0].dtype in _HALF:
            return by_elements(value, *inputs)
        return value(*inputs).to(inputs[0].dtype)

    plain = _function(run, partials, product)
    with_rule = _with_batch_rule(_with_forward_mode(plain, partials, product))

    def call(*inputs: Tensor) -> Tensor:
        if len(inputs) > 1:
            inputs = _promoted(inputs)
            if any(x.shape != inputs[0].shape for x in inputs):
                inputs = broadcast(*inputs)
        if is_untracked(*inputs):  # a derivative in a part of a backward pass: skip what autograd costs
            return run(*inputs)
        # The compiler takes neither a forward-mode rule nor a batching rule; it needs none
        function: Any = plain if torch.compiler.is_compiling() else with_rule
        result: Tensor = function.apply(*inputs)
        return result

    return call


def _function(
    run: Elementwise, partials: tuple[Elementwise, ...], product: Callable[[Tensor, Tensor], Tensor]
) -> type[Function]:
    """The torch function, as the compiler takes it."""
    # It tells the two styles of forward apart by their number of named parameters
    forwards: tuple[Elementwise, ...] = (
        lambda x: run(x),
        lambda x, y: run(x, y),
        lambda x, y, z: run(x, y, z),
    )

    class Exact(Function):
        generate_vmap_rule = True
        forward = staticmethod(forwards[len(partials) - 1])

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return tuple(
                _flow(partial, product, grad, ctx.saved_tensors) if needed else None
                for partial, needed in zip(partials, ctx.needs_input_grad, strict=True)
            )

    return Exact


def _with_forward_mode(
    plain: Any, partials: tuple[Elementwise, ...], product: Callable[[Tensor, Tensor], Tensor]
) -> Any:
    class ExactForward(plain):  # type: ignore[misc]
        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
            inputs = [widened(x) for x in ctx.saved_tensors]
            terms = [
                product(widened(tangent), partial(*inputs)).to(tangent.dtype)
                for partial, tangent in zip(partials, tangents, strict=True)
                if tangent is not None
            ]
            return sum(terms[1:], terms[0])

    return ExactForward


def _flow(
    partial: Elementwise,
    product: Callable[[Tensor, Tensor], Tensor],
    grad: Tensor,
    inputs: tuple[Tensor, ...],
) -> Tensor:
    """What flows back through a partial derivative, in the type of what comes in."""
    if not is_large(grad, *inputs):
        return _product(partial, product, grad, inputs, None).to(grad.dtype)
    result = torch.empty_like(grad)
    for out, flow, *part in parts(result, grad, *inputs):
        done = _product(partial, product, flow, part, None if out.dtype in _HALF else out)
        if done is not out:
            out.copy_(done)
    return result


def _product(
    partial: Elementwise,
    product: Callable[[Tensor, Tensor], Tensor],
    grad: Tensor,
    inputs: Sequence[Tensor],
    out: Tensor | None,
) -> Tensor:
    """The product, in the memory of the derivative where nothing else needs that, or in `out`."""
    grad, *wide = map(widened, (grad, *inputs))
    derivative = partial(*wide)
    if any(derivative is x for x in wide) or not is_untracked(grad, derivative):
        return product(grad, derivative)
    if product is torch.mul:
        return torch.mul(derivative, grad, out=derivative if out is None else out)
    return zero_at_zero_(derivative.mul_(grad), grad, out=out)


def _promoted(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs in their common type; as in torch, a 0-dim tensor follows the others."""
    sized = [x for x in inputs if x.dim()] or list(inputs)
    dtype = sized[0].dtype
    for x in sized[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.to(dtype) for x in inputs)


def rowwise(plain: type[Function]) -> Callable[..., Any]:
    """`plain.apply`, with a batching rule: all leading dims are alike to a function along one dim.

    `plain` takes tensors first and then numbers, counts its dim from the end, and treats leading dims
    as independent rows.
    """
    with_rule = _with_batch_rule(plain)

    def call(*args: Any) -> Any:
        function: Any = plain if torch.compiler.is_compiling() else with_rule
        return function.apply(*args)

    return call


def _with_batch_rule(plain: type[Function]) -> Any:
    """`plain` with the batch dim as one more leading dim: a rule per operation would warn and be slow."""

    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        moved = [
            arg
            if not isinstance(arg, Tensor)
            else arg.expand(info.batch_size, *arg.shape)
            if dim is None
            else arg.movedim(dim, 0)
            for arg, dim in zip(args, in_dims, strict=True)
        ]
        result = with_rule.apply(*moved)
        return result, (0 if isinstance(result, Tensor) else (0,) * len(result))

    rule = {"vmap": staticmethod(vmap), "generate_vmap_rule": False}
    with_rule: Any = type(plain.__name__, (plain,), rule)
    return with_rule


def _without_poles(grad: Tensor, derivative: Tensor) -> Tensor:
    return derivative.masked_fill((grad == 0) & ~derivative.isfinite(), 0.0)


_guarded_product: Elementwise = exact(
    lambda grad, derivative: zero_at_zero(grad * derivative, grad),
    _without_poles,
    lambda grad, _: grad,
)
