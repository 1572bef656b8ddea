"""The clip that learns a threshold for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from trimtab.decide.adaptive import tells_something
from trimtab.decide.checks import check_alpha, check_budget, check_factor, check_positive
from trimtab.types import Layout, Needs, Scale, StepStats, wide_dtype


class Levels(NamedTuple):
    """What is known of the norm of each tensor; tensors of shape (num_tensors,).

    Attributes:
        level: The usual norm, gamma in the paper; 0 before the first.
        num: How many norms have entered.
        num_above: Norms in a row, up to now, that were above the threshold.
        mean_log: Mean of their logarithms.
    """

    level: Tensor
    num: Tensor
    num_above: Tensor
    mean_log: Tensor


@final
@dataclass(frozen=True, slots=True)
class TensorClip:
    """Scale each gradient by itself to just above the usual norm of its tensor (AdaGC).

    During the first `warmup - 1` norms of a tensor its gradient is scaled by
    `min(1, max_norm / (global_norm + eps))`, and its level is the smallest norm left by that. Afterwards
    it is scaled by `min(1, factor * level / norm)`, and the level is a moving average of what is left:
    `level = alpha * level + (1 - alpha) * clipped_norm`.

    Three hazards of the published rule are mended. A norm of zero divides nothing and enters nothing,
    nor does any norm of a step whose global norm is not finite. A tensor that gets its first gradient late
    has a warm-up of its own. And since a clipped level grows by 0.1 % a step at most, a norm that has
    doubled for good is clipped for 700 steps, and one odd small norm in the warm-up is remembered for
    thousands: here so many norms in a row above the threshold are a new level, their geometric mean.

    Args:
        max_norm: Bound on the global norm during the warm-up; `lambda_abs` in the paper.
        factor: Threshold over level, more than 1; `lambda_rel`.
        alpha: Weight of the past in the level, in (0, 1); `beta`.
        warmup: The first norm, counted from 1, to which the level applies.
        rebaseline_steps: Norms in a row above the threshold that make a new level.
        eps: Added to the global norm in the warm-up.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range.

    Cost:
        O(num_tensors), no host read; memory for four numbers per tensor.

    Example:
        >>> clip = TensorClip(warmup=2, factor=1.5)
        >>> state = clip.init(Layout(torch.device("cpu"), names=("weight", "bias")))
        >>> for norms in ([0.6, 0.0], [0.6, 0.8], [9.0, 0.1]):
        ...     norms = torch.tensor(norms)
        ...     scale, state = clip.rescale(StepStats(None, norms.norm(), tensor_norms=norms), state)
        >>> scale.factor.float()
        tensor([0.1000, 1.0000])

    References:
        Wang et al., "AdaGC: Improving Training Stability for Large Language Model Pretraining", 2025,
        arXiv:2502.11034. The defaults are those of two independent implementations.
    """

    needs: ClassVar[Needs] = Needs.TENSORS

    max_norm: float = 1.0
    factor: float = 1.05
    alpha: float = 0.98
    warmup: int = 100
    rebaseline_steps: int = 50
    eps: float = 1e-8
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_positive("TensorClip", max_norm=self.max_norm, eps=self.eps, norm_type=self.norm_type)
        check_factor("TensorClip", self.factor)
        check_alpha("TensorClip", self.alpha)
        check_budget("TensorClip", self.warmup, name="warmup", least=1)
        check_budget("TensorClip", self.rebaseline_steps, name="rebaseline_steps", least=1)

    def init(self, layout: Layout) -> Levels:
        """Nothing known of any tensor."""
        zeros = torch.zeros(len(layout.names), dtype=wide_dtype(layout.device), device=layout.device)
        return Levels(zeros, zeros.long(), zeros.long(), zeros)

    def rescale(self, stats: StepStats[Tensor], state: Levels) -> tuple[Scale, Levels]:
        """One factor for each tensor."""
        assert isinstance(stats.tensor_norms, Tensor)  # `needs` asks for them
        norms = stats.tensor_norms.to(state.level.dtype)
        is_warm = state.num + 1 < max(self.warmup, 2)  # the first norm of all has no level to go by
        joint = self.max_norm / (stats.grad_norm + self.eps)
        own = self.factor * state.level / norms
        factor = torch.where(is_warm, joint, own).clamp(max=1.0)
        is_good = tells_something(norms) & stats.grad_norm.isfinite()
        new = self._entered(state, norms, factor * norms, is_warm)
        return Scale(factor), Levels(*(torch.where(is_good, n, s) for n, s in zip(new, state, strict=True)))

    def _entered(self, state: Levels, norms: Tensor, left: Tensor, is_warm: Tensor) -> Levels:
        """The levels with these norms in, of which clipping leaves so much."""
        smallest = torch.where(state.num == 0, left, state.level.minimum(left))
        level = torch.where(is_warm, smallest, state.level.lerp(left, 1 - self.alpha))
        is_above = is_warm.logical_not() & (norms > self.factor * state.level)
        num_above = (state.num_above + 1) * is_above
        mean_log = state.mean_log + (norms.log() - state.mean_log) / num_above.clamp(min=1)
        is_new_level = num_above >= self.rebaseline_steps
        return Levels(
            level=torch.where(is_new_level, mean_log.exp(), level),
            num=state.num + 1,
            num_above=torch.where(is_new_level, 0, num_above),
            mean_log=torch.where(is_above & is_new_level.logical_not(), mean_log, 0.0),
        )
