"""Forecast of the global gradient norm from the gradients of a backward pass that have arrived so far."""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from trimtab.act.optimizer import SMALLEST_IN_KERNEL
from trimtab.types import wide_dtype

# The constant of torch.nn.utils.clip_grad_norm_
_EPS = 1e-6

# Measured with benchmarks/forecast_clipping.py: 5 to 15 passes forecast alike, and so do weights of the
# prior up to 0.003; from 0.01 on a spike is met too late
_NUM_KEPT = 9
_PRIOR_WEIGHT = 1e-3

# In squared bounds: no gradient may use more than half of what is left, so all together stay below it
_BUDGET = 2.0

# A gradient that has vanished says little of the others: none claims less than this part of the bound
_LEAST_CLAIM = 1 / 20


class PassStats(NamedTuple):
    """What one pass came to, on the device of the parameters.

    Attributes:
        norm: Global norm of the gradients before clipping, 0-dim.
        applied_norm: Global norm of what the optimizers were given, 0-dim.
        error: Distance of what they were given from exactly clipped gradients, over the norm of these,
            0-dim: 0 for a perfect forecast, nan if the norm is not finite.
        tensor_norms: Norm of each gradient, 0 where none arrived, shape (num_tensors,).
        is_refused: Which gradients arrived and were not applied, shape (num_tensors,).
    """

    norm: Tensor
    applied_norm: Tensor
    error: Tensor
    tensor_norms: Tensor
    is_refused: Tensor


class _Usual(NamedTuple):
    """What the last passes had in common.

    Each gradient's share of the squared norm (they add up to 1), the roots of the shares (scaled to add
    up to 1), by how much its log norm lies below the global one, and the global log norm, 0-dim.
    """

    shares: Tensor
    weights: Tensor
    depths: Tensor
    prior: Tensor


class _SoFar(NamedTuple):
    """A pass up to now, in 0-dim tensors.

    The sum of squared norms, the usual share of what is yet to come, the weighted sum of claimed log
    norms, their weight, and what is left of the budget.
    """

    squares: Tensor
    rest: Tensor
    claims: Tensor
    weight: Tensor
    left: Tensor


@final
class NormForecast:
    """Forecasts the global norm while gradients arrive one by one, and clips each by the forecast.

    A gradient of norm n, whose usual share of the squared global norm is q, claims a global norm of
    n / sqrt(q). The geometric mean of the claims, weighted by sqrt(q), speaks for the gradients that
    are yet to come; those that have arrived speak for themselves::

        forecast^2 = sum of squared norms so far + (usual share of the rest) * (mean claim)^2

    A spike of the whole network is thus met from its first gradient on, a gradient that spikes alone
    moves the mean by its own weight only, and the last factor of a pass is exact. The usual share is
    the median over the last 9 passes, at first the same for all. The median of their global norms enters
    the mean with a weight of 0.001 (in the first pass `max_norm` does). A pass whose norm is 0 or not
    finite is left out.

    No clipped norm may exceed half of what the pass has left of 2 `max_norm`^2, all squared. The
    applied norm is therefore below `sqrt(2) * max_norm` whatever arrives.

    Args:
        num_tensors: How many gradients a pass can have.
        max_norm: Bound on the global norm, finite and > 0.
        device: Where the gradients are.

    Attributes:
        norms: Of the last 9 passes, shape (9, num_tensors): nan before there were so many.
        num_kept: How many passes were ever kept, 0-dim integer. After writing either, call `learn()`.
        arrivals: Norm and factor of each gradient of this pass.

    Cost:
        Some 25 operations on 0-dim tensors for each gradient, no host read, memory for 9 norms of each.

    Example:
        >>> forecast = NormForecast(2, max_norm=1.0, device=torch.device("cpu"))
        >>> for _ in range(2):
        ...     factors = [forecast.arrive(i, torch.tensor(n).double()) for i, n in enumerate((3.0, 4.0))]
        ...     stats = forecast.end_pass()
        >>> [round(f.item(), 4) for f in factors], stats.norm.item()
        ([0.2, 0.2], 5.0)
    """

    _usual: _Usual
    _so_far: _SoFar
    arrivals: dict[int, tuple[Tensor, Tensor]]

    def __init__(self, num_tensors: int, *, max_norm: float, device: torch.device) -> None:
        self._max_norm = max_norm
        # a ring; 0 where a gradient did not arrive
        self.norms = torch.full((_NUM_KEPT, num_tensors), math.nan, dtype=wide_dtype(device), device=device)
        self.num_kept = torch.zeros((), dtype=torch.int64, device=device)
        self.learn()

    @torch.no_grad()
    def arrive(self, index: int, norm: Tensor) -> Tensor:
        """Take note of a gradient that has just arrived.

        Args:
            index: Which one.
            norm: Its norm, 0-dim, in the widest type of the device.

        Returns:
            Its factor, 0-dim. One that is nan, 0 or below `SMALLEST_IN_KERNEL` says that the gradient
            must not be applied: it, or one before it in this pass, is not finite or out of all bounds.
        """
        old = self._so_far
        least = math.log(self._max_norm) + math.log(_LEAST_CLAIM)
        share, own_weight, depth = (x.select(0, index) for x in self._usual[:3])
        claim = (norm.log() + depth).clamp(min=least)
        claims = old.claims.addcmul(own_weight, claim)
        weight = old.weight + own_weight
        squares = old.squares.addcmul(norm, norm)
        rest = (old.rest - share).clamp(min=0.0)  # rounding may leave it below
        forecast = squares.addcmul(rest, (2.0 * claims / weight).exp()).sqrt()
        size = norm / self._max_norm
        factor: Tensor = (self._max_norm / (forecast + _EPS)).clamp(max=1.0)
        factor = factor.minimum((old.left / 2).sqrt() / size)
        left = old.left - (factor * size).square()
        self._so_far = _SoFar(squares, rest, claims, weight, left)
        self.arrivals[index] = (norm, factor)
        return factor

    @torch.no_grad()
    def end_pass(self) -> PassStats:
        """Sum up the pass, learn from it, and begin the next."""
        absent = (self._so_far.squares.new_zeros(()), self._so_far.squares.new_ones(()))
        arrivals = [self.arrivals.get(index, absent) for index in range(self.norms.shape[1])]
        norms = torch.stack([norm for norm, _ in arrivals])
        factors = torch.stack([factor for _, factor in arrivals])
        norm = self._so_far.squares.sqrt()
        is_refused = factors.ge(SMALLEST_IN_KERNEL).logical_not()  # nan too
        applied = torch.where(is_refused, 0.0, factors * norms)
        exact = (self._max_norm / (norm + _EPS)).clamp(max=1.0) * norms
        size = torch.where(norm == 0, 1.0, torch.linalg.vector_norm(exact))
        here = torch.arange(_NUM_KEPT, device=norms.device) == self.num_kept % _NUM_KEPT
        is_good = norm.isfinite() & (norm > 0)
        self.norms = torch.where((here & is_good).unsqueeze(1), norms, self.norms)
        self.num_kept = self.num_kept + is_good
        self.learn()
        return PassStats(
            norm=norm,
            applied_norm=torch.linalg.vector_norm(applied),
            error=torch.linalg.vector_norm(applied - exact) / size,
            tensor_norms=norms,
            is_refused=is_refused,
        )

    @torch.no_grad()
    def learn(self) -> None:
        """See what the kept passes have in common, and begin a pass."""
        totals = torch.linalg.vector_norm(self.norms, dim=1)
        shares = (self.norms / totals.unsqueeze(1)).square().nanquantile(0.5, dim=0)
        # nan without a pass; 0 if no gradient is there in most of them
        sum_ = shares.sum()
        shares = torch.where(sum_ > 0, shares / sum_, 1 / len(shares))
        weights = shares.sqrt()
        prior = totals.nanquantile(0.5).log().nan_to_num(nan=math.log(self._max_norm))
        # an unknown share has no weight, but 0 x inf would be nan
        depths = -0.5 * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()
        self._usual = _Usual(shares, weights / weights.sum(), depths, prior)
        self.begin_pass()

    def begin_pass(self) -> None:
        """Begin a pass, and forget one that did not end."""
        prior = self._usual.prior
        one = torch.ones_like(prior)
        self.arrivals = {}
        self._so_far = _SoFar(0.0 * one, one, _PRIOR_WEIGHT * prior, _PRIOR_WEIGHT * one, _BUDGET * one)
