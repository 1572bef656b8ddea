"""The clip with a threshold for each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from trimtab.decide.checks import check_positive
from trimtab.decide.clips import EPS
from trimtab.decide.patterns import assigned, check_patterns
from trimtab.types import Layout, Needs, Scale, StepStats, wide_dtype


@final
@dataclass(frozen=True, slots=True)
class LayerClip:
    """Scale each gradient by itself so that its own norm is at most the threshold of its layer.

    The factor is that of `torch.nn.utils.clip_grad_norm_` called for that one parameter. Thresholds
    are found by name: a key is the exact name of a parameter, a prefix that ends at a dot ("encoder"
    and "encoder." match "encoder.0.weight", not "encoders.weight"), or a glob in which `*` stands for
    anything, dots included. The most specific wins: an exact name, then the one with the most
    characters that are no wildcards; of two as long, the prefix.

    To clip the joint norm of a part of the model, use `ByName`.

    Args:
        thresholds: Largest norm of each gradient, by pattern. Finite and > 0.
        default: Largest norm of each gradient that no pattern matches; None leaves those alone.
        norm_type: p of the p-norm, in (0, inf].

    Raises:
        ValueError: An argument is out of its range. When a guard is made: a pattern decides about no
            parameter, or two match one as closely; the message names close matches.

    Cost:
        O(num_tensors), no host read.

    Example:
        >>> clip = LayerClip({"encoder": 0.5, "*.bias": 0.1}, default=1.0)
        >>> layout = Layout(torch.device("cpu"), names=("encoder.weight", "head.weight", "head.bias"))
        >>> stats = StepStats(None, torch.tensor(3.0), tensor_norms=torch.tensor([2.0, 2.0, 1.0]))
        >>> clip.rescale(stats, clip.init(layout))[0].factor.float()
        tensor([0.2500, 0.5000, 0.1000])
    """

    needs: ClassVar[Needs] = Needs.TENSORS

    thresholds: Mapping[str, float]
    default: float | None = None
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.thresholds, Mapping):
            raise TypeError(
                f"LayerClip(thresholds={self.thresholds!r}): expected thresholds by pattern, such as "
                "{'encoder': 0.8}. For one global norm use NormClip."
            )
        check_patterns("LayerClip(thresholds", self.thresholds)
        for pattern, threshold in self.thresholds.items():
            check_positive("LayerClip", **{f"thresholds[{pattern!r}]": threshold})
        if self.default is not None:
            check_positive("LayerClip", default=self.default)
        elif not self.thresholds:
            raise ValueError("LayerClip(thresholds={}): expected at least one pattern, or a default.")
        check_positive("LayerClip", norm_type=self.norm_type)
        # a copy: what the caller does to theirs must not change a policy
        object.__setattr__(self, "thresholds", dict(self.thresholds))

    def init(self, layout: Layout) -> Tensor:
        """The threshold of each tensor, infinite for none.

        Raises:
            ValueError: A pattern decides about no parameter, or two match one as closely.
        """
        rest = math.inf if self.default is None else self.default
        patterns = assigned("LayerClip", tuple(self.thresholds), layout.names)
        values = [rest if p is None else self.thresholds[p] for p in patterns]
        return torch.tensor(values, dtype=wide_dtype(layout.device), device=layout.device)

    def rescale(self, stats: StepStats[Tensor], state: Tensor) -> tuple[Scale, Tensor]:
        """One factor for each tensor."""
        assert isinstance(stats.tensor_norms, Tensor)  # `needs` asks for them
        return Scale((state / (stats.tensor_norms + EPS)).clamp(max=1.0)), state
