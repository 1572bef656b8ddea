"""Clips: how much of the gradient a step may use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from trimtab.decide.checks import check_number
from trimtab.types import Layout, Needs, Scale, StepStats

# The constant of torch.nn.utils.clip_grad_norm_: equality with it matters more than a better one
EPS = 1e-6


@final
@dataclass(frozen=True, slots=True)
class NormClip:
    """Scale all gradients together so that their global norm is at most `max_norm`.

    The factor is `min(1, max_norm / (norm + 1e-6))`, the one `torch.nn.utils.clip_grad_norm_`
    uses. A NaN norm gives a NaN factor: refusing a step is a remedy's work, not a clip's.

    Args:
        max_norm: Largest global norm allowed, in the gradient's own unit. Finite and > 0.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: `max_norm` is not finite or not > 0, or `norm_type` is not > 0.

    Shape:
        Reads `stats.grad_norm`, 0-dim or one per group; returns factors in [0, 1] of the same shape,
        device and dtype.

    Cost:
        No host read, no collective, O(1) memory.

    Example:
        >>> stats = StepStats(loss=None, grad_norm=torch.tensor(4.0))
        >>> NormClip(max_norm=1.0).rescale(stats, None)[0].factor
        tensor(0.2500)

    References:
        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks",
        2013, arXiv:1211.5063.
    """

    needs: ClassVar[Needs] = Needs.NOTHING

    max_norm: float
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_number("NormClip", max_norm=self.max_norm, norm_type=self.norm_type)
        if not (math.isfinite(self.max_norm) and self.max_norm > 0):
            raise ValueError(
                f"NormClip(max_norm={self.max_norm}): expected a finite number > 0. "
                "To leave gradients alone, pass clip=None."
            )
        if not self.norm_type > 0:
            raise ValueError(
                f"NormClip(norm_type={self.norm_type}): expected p > 0, such as 1, 2 or float('inf')."
            )

    def init(self, layout: Layout) -> None:
        """No state."""
        del layout

    def rescale(self, stats: StepStats[Tensor], state: None) -> tuple[Scale, None]:
        """Factor for this step: one for all gradients."""
        return Scale((self.max_norm / (stats.grad_norm + EPS)).clamp(max=1.0)), state
