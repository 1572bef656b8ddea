"""How gradients flow back through the layers of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trimtab.measure.activation_probe import ActivationProbe, FloatArray


@dataclass(frozen=True, slots=True)
class FlowReport:
    """Layers by the size of their weights' gradient.

    Attributes:
        dead_layers: Layers whose gradient is below the lower bound, or a million times below the middle one.
        exploding_layers: Layers whose gradient is above the upper bound, or not finite.
        healthy_layers: All others.
        gradient_norm_ratio: Norm of the first layer's gradient over that of the last, in the order of the
            forward pass; nan if either has none, or no forward pass was seen.
        gradient_norms: Layer to the norm of its gradients; in the order of the forward pass if one was seen.
        backward_gain: Size of the activation gradient at the first layer over that at the last; nan if no
            forward pass was seen.
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
        lost = [layer for layer in self.exploding_layers if not math.isfinite(self.gradient_norms[layer])]
        large = [layer for layer in self.exploding_layers if layer not in lost]
        if lost:
            told.append(
                f"The gradients of {', '.join(lost[:3])} are not finite: find the operation with "
                "trimtab.trace(model, closure), and leave such a step out, as trimtab.Guard does."
            )
        if large:
            told.append(
                f"The gradients of {', '.join(large[:3])} are very large: clip them, lower the learning "
                "rate, initialize smaller."
            )
        return tuple(told)


class GradientFlow:
    """Sorts the layers of a model by their gradients, after backward.

    One call of `analyze` is enough. What needs the forward pass, the order of the layers and the gradients
    of the activations, is there as well if that was watched: between `open` and `close`, or in a context.

    Args:
        model: The model.
        dead_below: Norms below this are dead.
        exploding_above: Norms above this are exploding.

    Raises:
        ValueError: The bounds are not 0 <= `dead_below` < `exploding_above`.
        TypeError: `model` is no torch model.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> model(torch.randn(16, 4)).square().mean().backward()
        >>> GradientFlow(model).analyze().healthy_layers
        ('0', '2')
        >>> with GradientFlow(model) as flow:
        ...     model(torch.randn(16, 4)).square().mean().backward()
        >>> report = flow.analyze()
        >>> report.gradient_norm_ratio > 0, report.backward_gain > 0
        (True, True)
    """

    def __init__(self, model: nn.Module, *, dead_below: float = 1e-8, exploding_above: float = 100.0) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"GradientFlow got {type(model).__name__}: expected a torch.nn.Module.")
        if not 0 <= dead_below < exploding_above:
            raise ValueError(
                f"GradientFlow(dead_below={dead_below}, exploding_above={exploding_above}): expected "
                "0 <= dead_below < exploding_above."
            )
        self._model, self._low, self._high = model, dead_below, exploding_above
        self._probe = ActivationProbe(model)
        self._seen: tuple[tuple[str, ...], FloatArray] | None = None

    def __enter__(self) -> GradientFlow:
        self.open()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:  # of half a pass nothing can be told
            self._probe.close()
        self.close()

    def open(self) -> None:
        """Begin to watch forward and backward passes."""
        self._seen = None
        self._probe.open()

    def close(self) -> None:
        """Remove the hooks; what was seen of the last pass is kept for `analyze`."""
        try:
            self._look()
        finally:
            self._probe.close()

    def _look(self) -> None:
        """Layers in the order of the forward pass, and the size of the gradients of their activations."""
        is_there = self._probe.is_open and next(self._model.parameters(), None) is not None
        found = self._probe.take() if is_there else {}
        self._seen = found.get("backward_rms", self._seen)

    @torch.no_grad()
    def analyze(self) -> FlowReport:
        """Sort the layers by their gradients. Call it after backward, before zero_grad.

        Raises:
            RuntimeError: No parameter has a gradient.

        Cost:
            One norm per parameter and a host read; a second one while a forward pass is watched.
        """
        if all(p.grad is None for p in self._model.parameters()):
            raise RuntimeError(
                "GradientFlow.analyze(): no parameter has a gradient. Call it after loss.backward() and "
                "before optimizer.zero_grad()."
            )
        self._look()
        if self._seen is None:
            norms = _norms(self._model, tuple(name for name, _ in self._model.named_modules()))
            ends, seen = [], []
        else:
            norms = _norms(self._model, self._seen[0])
            ends, seen = list(norms.values()), [float(x) for x in self._seen[1] if math.isfinite(x)]
        # relative as well: what is tiny in absolute terms may be the scale of this loss
        sizes = [norm for norm in norms.values() if math.isfinite(norm)]
        middle = float(np.median(sizes)) if sizes else 0.0
        low = min(self._low, middle) if middle > 0 else self._low
        dead = tuple(n for n, g in norms.items() if g < max(low, 1e-6 * middle))
        exploding = tuple(n for n, g in norms.items() if not g <= self._high)
        return FlowReport(
            dead_layers=dead,
            exploding_layers=exploding,
            healthy_layers=tuple(n for n in norms if n not in dead and n not in exploding),
            gradient_norm_ratio=ends[0] / ends[-1] if ends and ends[-1] else float("nan"),
            gradient_norms=norms,
            backward_gain=seen[0] / seen[-1] if seen and seen[-1] else float("nan"),
        )


def _norms(model: nn.Module, order: tuple[str, ...]) -> dict[str, float]:
    """Norm of each layer's gradients together, in the order given."""
    modules = dict(model.named_modules())
    names, norms = [], []
    for name in order:
        wanted = [p for p in modules[name].parameters(recurse=False) if p.requires_grad]
        if wanted:
            parts = [p.grad.norm().double() for p in wanted if p.grad is not None]
            names.append(name)
            norms.append(torch.stack(parts).norm() if parts else torch.zeros((), dtype=torch.float64))
    values = torch.stack([n.to(norms[0].device) for n in norms]).tolist() if norms else []  # the one read
    return dict(zip(names, values, strict=True))
