"""softmax, log_softmax and logsumexp: exact where one entry dominates, defined where a row is empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import Elementwise, exact, floating, loss_type, rowwise, widened
from trimtab.numerics._rows import argmax, or_one, shifted_exp
from trimtab.numerics._select import zero_at_zero

Dims = int | Sequence[int]


def softmax(
    input: Tensor,
    dim: int | None = -1,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Softmax along a dim, with a gradient that is right where one entry takes nearly all.

    A row of -inf gives zeros with gradient 0; +inf shares the mass with other +inf. torch gives NaN in
    both cases, and a gradient of exactly 0 for an entry whose probability rounds to 1.

    Args:
        input: Logits. -inf masks an entry.
        dim: The dim whose entries sum to 1. None is torch's old choice: 1 of a tensor of two dims or of four
            and more, otherwise 0.
        _stacklevel: Of no effect: here nothing warns of `dim=None`.
        dtype: Type to compute in and return. Half precision computes in float32 anyway.
        temperature: Divides the logits, after their maximum is taken off; >= 0. 0 is the limit: equal
            shares among the maxima, gradient 0. A tensor is broadcast, must be > 0, and gets a gradient,
            to which classes of -inf add nothing.

    Returns:
        Shape of `input`; its type, or float32 for half precision under autocast.

    Raises:
        ValueError: `temperature` is negative.

    Cost:
        Forward and backward 2 times `torch.softmax` in float32, 4 times in bfloat16 (eager, CPU); no host
        read.

    Example:
        >>> numerics.softmax(torch.tensor([[0.0, float("inf")], [float("-inf")] * 2]))
        tensor([[0., 1.],
                [0., 0.]])
    """
    x = prepared(input, "softmax", dtype)
    return _over_classes(_softmax, x, dim, temperature).to(loss_type(x))


def log_softmax(
    input: Tensor,
    dim: int | None = -1,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Log of `softmax`, whose largest entry is as accurate as the others.

    torch gives exactly 0, with gradient 0, when the others together are below half an ULP of 1. Here it
    is `-log1p(sum of the others)`. A row of -inf stays -inf with gradient 0.

    Args:
        input: Logits. -inf masks an entry.
        dim: The dim whose entries' exponentials sum to 1; None as in `softmax`.
        _stacklevel: Of no effect.
        dtype: As in `softmax`.
        temperature: As in `softmax`.

    Returns:
        Shape of `input`; its type, or float32 for half precision under autocast.

    Raises:
        ValueError: `temperature` is negative.

    Cost:
        Forward and backward 3 times `torch.log_softmax` in float32, 5 times in bfloat16 (eager, CPU); no
        host read.

    Example:
        >>> numerics.log_softmax(torch.tensor([0.0, -20.0]))
        tensor([-2.0612e-09, -2.0000e+01])

    References:
        Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions",
        IMA Journal of Numerical Analysis 41, 2021.
    """
    x = prepared(input, "log_softmax", dtype)
    return _over_classes(lambda *args: _log_softmax(*args)[0], x, dim, temperature).to(loss_type(x))


def logsumexp(
    input: Tensor,
    dim: Dims = -1,
    keepdim: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
) -> Tensor:
    """`log(sum(exp(x)))`, which does not drop what is small next to a maximum of 0.

    A row of -inf gives -inf with gradient 0 (torch: NaN gradient).

    Args:
        input: Logs to add up.
        dim: One dim or several.
        keepdim: Keep reduced dims with size 1.

    Returns:
        Type of `input`, or float32 for half precision under autocast.

    Cost:
        Forward and backward about as `torch.logsumexp`; no host read.

    Example:
        >>> numerics.logsumexp(torch.tensor([0.0, -20.0]))
        tensor(2.0612e-09)
    """
    x = prepared(input, "logsumexp")
    flat, kept_shape = one_dim(x, dim)
    if not flat.shape[-1]:  # a sum of nothing
        flat = flat.sum(-1, keepdim=True) - torch.inf
    result: Tensor = _logsumexp(widened(flat), -1).to(loss_type(x))
    return result.reshape(kept_shape) if keepdim else result


def prepared(x: Tensor, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A real floating tensor, of a type that was asked for."""
    x = floating(x, name)
    return x if dtype is None else x.to(dtype)


def from_end(x: Tensor, dim: int) -> int:
    """The dim counted from the end, so that it stays right when leading dims are added."""
    if not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        raise IndexError(f"dim={dim}: expected a dim of a tensor of shape {tuple(x.shape)}.")
    return dim if dim < 0 else dim - max(x.dim(), 1)


def dims_of(x: Tensor, dim: Dims) -> list[int]:
    """One dim or several, counted from the front and sorted.

    Raises:
        IndexError: There is no such dim.
        ValueError: A dim is given twice.
    """
    dims = sorted(from_end(x, d) + x.dim() for d in ([dim] if isinstance(dim, int) else dim))
    if len(set(dims)) < len(dims):
        raise ValueError(f"dim={dim}: expected each dim of a tensor of shape {tuple(x.shape)} once.")
    return dims


def one_dim(x: Tensor, dim: Dims) -> tuple[Tensor, list[int]]:
    """`x` with the given dims joined as its last, and the shape that keeps them as 1."""
    if not x.dim():
        return x.reshape(1), []
    dims = dims_of(x, dim)
    kept = [1 if d in dims else n for d, n in enumerate(x.shape)]
    if len(dims) == 1:
        return x.movedim(dims[0], -1), kept
    moved = x.movedim(dims, list(range(-len(dims), 0)))
    return moved.flatten(-len(dims)), kept


def restored(flat: Tensor, x: Tensor, dim: Dims) -> Tensor:
    """`one_dim` undone."""
    if not x.dim():
        return flat.reshape(())
    dims = dims_of(x, dim)
    if len(dims) == 1:
        return flat.movedim(-1, dims[0])
    split = flat.reshape(*flat.shape[:-1], *(x.shape[d] for d in dims))
    return split.movedim(list(range(-len(dims), 0)), dims)


def _over_classes(
    function: Callable[..., Tensor], x: Tensor, dim: int | None, temperature: float | Tensor
) -> Tensor:
    """A normalizer of logits; a scalar is a row of one class."""
    if dim is None:
        dim = 0 if x.dim() in (0, 1, 3) else 1
    end = from_end(x, dim)
    if not x.numel():
        return x
    row = widened(x) if x.dim() else widened(x).reshape(1)
    result = function(_cooled(row, end, temperature), end)
    return result if x.dim() else result.reshape(())


def _cooled(x: Tensor, dim: int, temperature: float | Tensor) -> Tensor:
    """Logits over a temperature, shifted first so that a small one cannot overflow."""
    if not isinstance(temperature, Tensor):
        if temperature == 1.0:
            return x
        if not temperature >= 0:
            raise ValueError(f"temperature={temperature}: expected a number >= 0. 0 is the limit, one-hot.")
    largest = x.detach().amax(dim, keepdim=True)
    shifted = x - largest.masked_fill(largest.isinf(), 0.0)
    if isinstance(temperature, Tensor):
        # The slope of -inf / t is infinite, and 0 times that is no number
        is_infinite = shifted.isinf()
        cooled = shifted.masked_fill(is_infinite, 0.0) / temperature.to(x.dtype)
        return torch.where(is_infinite, shifted, cooled)
    if temperature == 0:
        is_top = x.detach() == largest
        return x.masked_fill(is_top, 0.0).masked_fill(~is_top, -torch.inf)
    return shifted / temperature


class _Softmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        terms = shifted_exp(x, x.amax(dim, keepdim=True))
        return terms.div_(or_one(terms.sum(dim, keepdim=True)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return softmax_gradient(ctx.saved_tensors[0], grad, ctx.dim), None


def softmax_gradient(share: Tensor, grad: Tensor, dim: int) -> Tensor:
    """Gradient of a softmax from its output: p_k * (g_k - sum(p * g)).

    The incoming gradient is shifted first so that the largest share's is 0: that changes nothing, and
    its own gradient does not cancel.
    """
    result: Tensor = _softmax_gradient(share, grad, dim)
    return result


class _SoftmaxGradient(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(share: Tensor, grad: Tensor, dim: int) -> Tensor:
        top = argmax(share, dim)
        terms = (grad - grad.gather(dim, top)).mul_(share)
        return terms.addcmul_(share, terms.sum(dim, keepdim=True), value=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[2]
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> Any:
        share, grad = ctx.saved_tensors
        mean = (share * grad).sum(ctx.dim, keepdim=True)
        weight = (share * second).sum(ctx.dim, keepdim=True)
        to_share = second * (grad - mean) - grad * weight
        return to_share, softmax_gradient(share, second, ctx.dim), None


class _LogSoftmax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        top, rest = top_and_rest(x, dim)
        return log_shares(x, top, rest, dim), top

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.dim = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
        if grad is None:
            return None, None
        return _log_softmax_gradient(*ctx.saved_tensors, grad, ctx.dim), None


class _LogSoftmaxGradient(Function):
    """g - p * sum(g), but at a p > 1/2 it is g * (1 - p) - p * (sum of the other g)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logs: Tensor, top: Tensor, grad: Tensor, dim: int) -> Tensor:
        top_log, top_grad = logs.gather(dim, top), grad.gather(dim, top)
        top_share = torch.exp(top_log)
        others = grad.scatter(dim, top, 0.0)
        rest = others.sum(dim, keepdim=True)
        total = rest + top_grad
        result = logs.exp().mul_(total).sub_(others).neg_()
        confident = -(top_grad * torch.expm1(top_log) + top_share * rest)
        top_result = torch.where(top_share > 0.5, confident, top_grad - top_share * total)
        return result.scatter_(dim, top, top_result).masked_fill_(top_log == -torch.inf, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dim = inputs[3]
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> Any:
        logs, grad = ctx.saved_tensors
        share = logs.exp()
        weighted = share * second
        to_logs = -weighted * grad.sum(ctx.dim, keepdim=True)
        return to_logs, None, second - weighted.sum(ctx.dim, keepdim=True), None


def log_shares(x: Tensor, top: Tensor, rest: Tensor, dim: int) -> Tensor:
    """Log of softmax, from what `top_and_rest` gives."""
    largest = x.gather(dim, top)
    # A row whose maximum is infinite: +inf itself is log 1, below it -inf
    logs = x - largest.masked_fill(largest == -torch.inf, 0.0)
    # inf - inf is 0 here, and in a row with NaN the sum of the rest is NaN
    logs.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return logs.sub_(rest.log1p())


def terms_top_and_rest(x: Tensor, top: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Exponentials of a row with 0 at its largest, the largest one, and the sum of the others."""
    terms = shifted_exp(x, x.gather(dim, top))
    top_term = terms.gather(dim, top)
    rest = terms.scatter_(dim, top, 0.0).sum(dim, keepdim=True)
    return terms, top_term, rest


def top_and_rest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Index of the largest entry of each row, and the sum of the other terms relative to its own."""
    top = argmax(x, dim)
    _, top_term, rest = terms_top_and_rest(x, top, dim)
    return top, rest / or_one(top_term)


def shares_top_and_rest(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax, and `top_and_rest`, from the same exponentials."""
    top = argmax(x, dim)
    terms, top_term, rest = terms_top_and_rest(x, top, dim)
    shares = terms.scatter_(dim, top, top_term).div_(or_one(rest + top_term))
    return shares, top, rest / or_one(top_term)


class _LogSumExp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        top, rest = top_and_rest(x, dim)
        return (x.gather(dim, top) + rest.log1p()).squeeze(dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.unsqueeze(ctx.dim) * _softmax(ctx.saved_tensors[0], ctx.dim), None


# A probability times a log: 0 * -inf is 0, in the gradient by the probability too
times_log: Elementwise = exact(
    lambda share, log: zero_at_zero(share * log, share),
    lambda share, log: log.masked_fill((share == 0) & log.isinf(), 0.0),
    lambda share, _: share,
)

_softmax = rowwise(_Softmax)
_softmax_gradient = rowwise(_SoftmaxGradient)
_log_softmax = rowwise(_LogSoftmax)
_log_softmax_gradient = rowwise(_LogSoftmaxGradient)
_logsumexp = rowwise(_LogSumExp)
