"""Sampling from a softmax: Gumbel noise with its whole tail, and a softmax that survives tau = 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trimtab.numerics._exact import floating, loss_type, rowwise, widened
from trimtab.numerics.normalizers import softmax


def gumbel_noise(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard Gumbel noise `-log(-log1p(-u))`, u uniform with a resolution of 2^-63 at 0.

    The usual float32 exponential is never below 6e-8, so that torch's noise ends at 16.6 and an event of
    probability below 6e-8 never wins; this ends at 43.7.

    Args:
        shape: Shape of the result.
        dtype: float32 or float64.
        device: Device of the result.
        generator: Source of random numbers; torch's own if None.

    Returns:
        Finite samples.

    Example:
        >>> numerics.gumbel_noise((2, 3)).shape
        torch.Size([2, 3])
    """
    bits = torch.randint(2**63 - 1, tuple(shape), device=device, generator=generator)
    # In (0, 1): half a step from 0, and the largest number below 1
    uniform = ((bits.to(dtype) + 0.5) * 2.0**-63).clamp_max_(1 - torch.finfo(dtype).eps / 2)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
    eps: float = 1e-10,
    dim: int = -1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`F.gumbel_softmax` for any dim and any temperature down to 0, with masked classes.

    The sum of logits and noise is shifted by its maximum before it is divided by `tau`, in float32 at
    least: a small `tau` gives a one-hot sample, where torch's float16 gives NaN.

    Args:
        logits: Logits; -inf masks a class. A row of -inf gives 0.
        tau: Temperature, >= 0. 0 is the limit: one-hot, gradient 0. A tensor must be > 0 and gets a gradient.
        hard: Return exactly one-hot samples with the gradient of the soft ones.
        eps: Of no effect, as in torch.
        dim: Dim of the classes.
        generator: Source of random numbers; torch's own if None.

    Returns:
        Shape of `logits`; its type, or float32 for half precision under autocast.

    Raises:
        ValueError: `tau` is negative.

    Cost:
        `softmax`, and one int64 and one float tensor of noise; no host read.

    Example:
        >>> numerics.gumbel_softmax(torch.tensor([50.0, 0.0]), tau=1e-30, hard=True)
        tensor([1., 0.])

    References:
        Jang, Gu and Poole, "Categorical reparameterization with Gumbel-softmax", 2017, arXiv:1611.01144.
    """
    del eps
    if not isinstance(tau, Tensor) and not tau >= 0:
        raise ValueError(f"gumbel_softmax(tau={tau}): expected a number >= 0. 0 is the limit, one-hot.")
    x = widened(floating(logits, "gumbel_softmax"))
    if not x.numel():
        return x.to(loss_type(floating(logits, "gumbel_softmax")))
    noise = gumbel_noise(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    largest = x.detach().amax(dim, keepdim=True)
    shifted = x - largest.masked_fill(largest.isinf(), 0.0)  # logits of 1e4 would round the noise away
    soft = softmax(shifted + noise, dim, temperature=tau)
    if hard:
        soft = _one_hot(soft, dim)
    return soft.to(loss_type(floating(logits, "gumbel_softmax")))


class _StraightThrough(Function):
    """Value of one tensor, gradient of the other: `hard + (soft - soft.detach())` would round."""

    generate_vmap_rule = True

    @staticmethod
    def forward(soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


_straight_through = rowwise(_StraightThrough)


def _one_hot(soft: Tensor, dim: int) -> Tensor:
    """One-hot at the largest share, 0 in an empty row."""
    shares = soft.detach()
    largest, top = shares.max(dim, keepdim=True)
    hard = torch.zeros_like(shares).scatter(dim, top, (largest > 0).to(shares.dtype))
    result: Tensor = _straight_through(soft, hard)
    return result
