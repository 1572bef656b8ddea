"""How gradients flow back through the layers of a model, while a context is open."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trimtab.measure.activation_probe import ActivationProbe


@dataclass(frozen=True, slots=True)
class FlowReport:
    """Layers by the size of their weights' gradient.

    Attributes:
        dead_layers: Layers whose gradient is below the lower bound, or a million times below the middle one.
        exploding_layers: Layers whose gradient is above the upper bound.
        healthy_layers: All others.
        gradient_norm_ratio: Norm of the first layer's gradient over that of the last, in the order of the
            forward pass; nan if either has none.
        gradient_norms: Layer to the norm of its gradients.
        backward_gain: Size of the activation gradient at the first layer over that at the last.
    """

    dead_layers: tuple[str, ...]
    exploding_layers: tuple[str, ...]
    healthy_layers: tuple[str, ...]
    gradient_norm_ratio: float
    gradient_norms: dict[str, float]
    backward_gain: float

    def suggestions(self) -> tuple[str, ...]:
        """What to try, in words; () for a healthy flow."""
        told = []
        if self.dead_layers:
            told.append(
                f"No gradient reaches {', '.join(self.dead_layers[:3])}: look for dead or saturated units, a "
                "detach(), weights of zero; use ReLU or GELU, normalization and residual connections."
            )
        if self.exploding_layers:
            told.append(
                f"The gradients of {', '.join(self.exploding_layers[:3])} are very large: clip them, lower "
                "the learning rate, initialize smaller."
            )
        return tuple(told)


class GradientFlow:
    """Watches forward and backward passes of a model while it is open; use it as a context manager.

    Args:
        model: The model.
        dead_below: Norms below this are dead.
        exploding_above: Norms above this are exploding.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> with GradientFlow(model) as flow:
        ...     model(torch.randn(16, 4)).square().mean().backward()
        ...     report = flow.analyze()
        >>> report.healthy_layers
        ('0', '2')
    """

    def __init__(self, model: nn.Module, *, dead_below: float = 1e-8, exploding_above: float = 100.0) -> None:
        self._model, self._low, self._high = model, dead_below, exploding_above
        self._probe = ActivationProbe(model)

    def __enter__(self) -> GradientFlow:
        self._probe.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._probe.close()

    @torch.no_grad()
    def analyze(self) -> FlowReport:
        """Sort the layers by their gradients. Call it after backward.

        Raises:
            RuntimeError: No layer was seen in a forward pass with gradients.

        Cost:
            One norm per parameter and two host reads.
        """
        found = self._probe.take() if self._probe.is_open else {}
        if "forward_rms" not in found:
            raise RuntimeError(
                "GradientFlow saw no forward pass: open it as a context manager around forward and backward."
            )
        order, backward = found["backward_rms"]
        norms = _norms(self._model, order)
        # relative as well: what is tiny in absolute terms may be the scale of this loss
        middle = float(np.median(list(norms.values()))) if norms else 0.0
        low = min(self._low, middle) if middle > 0 else self._low
        dead = tuple(n for n, g in norms.items() if g < max(low, 1e-6 * middle))
        exploding = tuple(n for n, g in norms.items() if not g <= self._high)
        seen = backward[np.isfinite(backward)]
        ends = list(norms.values())
        return FlowReport(
            dead_layers=dead,
            exploding_layers=exploding,
            healthy_layers=tuple(n for n in norms if n not in dead and n not in exploding),
            gradient_norm_ratio=ends[0] / ends[-1] if ends and ends[-1] else float("nan"),
            gradient_norms=norms,
            backward_gain=float(seen[0] / seen[-1]) if len(seen) and seen[-1] else float("nan"),
        )


def _norms(model: nn.Module, order: tuple[str, ...]) -> dict[str, float]:
    """Norm of each layer's gradients together, in the order of the forward pass."""
    modules = dict(model.named_modules())
    names, norms = [], []
    for name in order:
        wanted = [p for p in modules[name].parameters(recurse=False) if p.requires_grad]
        if wanted:
            parts = [p.grad.norm().double() for p in wanted if p.grad is not None]
            names.append(name)
            norms.append(torch.stack(parts).norm() if parts else torch.zeros((), dtype=torch.float64))
    values = torch.stack([n.cpu() for n in norms]).tolist() if norms else []
    return dict(zip(names, values, strict=True))
