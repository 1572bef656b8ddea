"""The parameters of one optimizer by name, and everything around them in which a bad number may sit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.measure.census import Suspects, census
from trimtab.measure.norms import step_stats
from trimtab.measure.units import unit_dims, units, units_and_norms
from trimtab.types import Each, Layout, Needs, Place, Rescaling, Scale, StepStats


class Watched:
    """A model and one of its optimizers, as far as measuring needs to know them.

    Args:
        model: The module whose parameters the optimizer updates.
        optimizer: The optimizer.

    Raises:
        ValueError: The model has no parameters, or the optimizer has some that are not the model's.

    Example:
        >>> model = torch.nn.Linear(1, 1)
        >>> list(Watched(model, torch.optim.SGD(model.parameters(), lr=1.0)).names.values())
        ['weight', 'bias']
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self.names = _names(model, optimizer)
        self._layout: Layout | None = None
        # A mask of -inf is meant: buffers that are bad from the start are nobody's fault
        odd = census(self._named_buffers(), Place.BUFFER)
        self._odd_buffers = frozenset(culprit.name for culprit in odd)

    def with_gradient(self) -> tuple[list[Tensor], list[Tensor]]:
        """The optimizer's parameters that have a gradient now, and the gradients.

        Raises:
            RuntimeError: None has.
        """
        parameters = [p for g in self._optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not parameters:
            raise RuntimeError(
                "no parameter of the optimizer has a gradient. Call loss.backward() before guard.step(loss), "
                "and zero_grad() before the forward pass, not between backward() and the step."
            )
        return parameters, [p.grad for p in parameters if p.grad is not None]

    def refresh(self) -> None:
        """Get to know the parameters that the optimizer was given since."""
        if sum(len(group["params"]) for group in self._optimizer.param_groups) != len(self.names):
            self.names = _names(self._model, self._optimizer)

    def has_outgrown_layout(self) -> bool:
        """Whether the optimizer was given more parameters since policies were told the layout."""
        self.refresh()
        return self._layout is not None and len(self._layout.names) != len(self.names)

    def layout(self) -> Layout:
        """The optimizer's parameters as policies may know them."""
        if self._layout is None or self.has_outgrown_layout():
            self._layout = self._make_layout()
        return self._layout

    def _make_layout(self) -> Layout:
        dims = unit_dims(self._model)
        group_of = {p: i for i, g in enumerate(self._optimizer.param_groups) for p in g["params"]}
        return Layout(
            device=next(iter(self.names)).device,
            names=tuple(self.names.values()),
            shapes=tuple(tuple(p.shape) for p in self.names),
            unit_dims=tuple(dims.get(p, 0) if p.dim() > 1 else None for p in self.names),
            groups=tuple(group_of[p] for p in self.names),
        )

    def step_stats(
        self, needs: Needs, gradients: Sequence[Tensor], loss: Tensor | None, norm_type: float
    ) -> StepStats[Tensor]:
        """Measure one step for a clip with these needs.

        Args:
            needs: What the clip wants measured.
            gradients: All gradients of the optimizer's parameters.
            loss: The loss, or None.
            norm_type: p of the norms.

        Returns:
            The statistics; with the norms of units, if those are wanted and p is 2: then the gradients' norms
            are made of them.

        Cost:
            That of `step_stats`, or of `units`.
        """
        if Needs.UNITS not in needs or norm_type != 2:
            return step_stats(gradients, loss, norm_type=norm_type)
        found, norms = units_and_norms(list(self.names), self.layout().unit_dims)
        return replace(step_stats(gradients, loss, norms=norms), units=found)

    def seen_by(
        self, needs: Needs, stats: StepStats[Tensor], parameters: Sequence[Tensor]
    ) -> StepStats[Tensor]:
        """The statistics as a clip with these needs is shown them: in the layout's order.

        Args:
            needs: What the clip wants measured.
            stats: Statistics of the gradients of `parameters`.
            parameters: Those with a gradient.

        Cost:
            See `units`, if those are wanted; otherwise nothing unless gradients are missing. No host read.
        """
        norms = stats.tensor_norms
        if Needs.UNITS in needs and stats.units is None:
            everything = list(self.names)
            stats = replace(stats, units=units(everything, self.layout().unit_dims))
        if len(parameters) == len(self.names) or not isinstance(norms, Tensor):
            return stats
        known = dict(zip(parameters, norms.unbind(), strict=True))
        zero = norms.new_zeros(())
        return replace(stats, tensor_norms=torch.stack([known.get(p, zero) for p in self.names]))

    def picked(self, rescaling: Rescaling, parameters: Sequence[Tensor]) -> Rescaling:
        """A decision in the layout's order, as one for the gradients of these parameters."""
        if len(parameters) == len(self.names):
            return rescaling
        wanted = set(parameters)
        match rescaling:
            case Each(parts=parts):
                return Each(tuple(d for d, p in zip(parts, self.names, strict=True) if p in wanted))
            case Scale(factor=factor) if factor.dim() > 0:
                kept = [f for f, p in zip(factor.unbind(), self.names, strict=True) if p in wanted]
                return Scale(torch.stack(kept))
        return rescaling

    def has_gradient(self) -> bool:
        """Whether any of the optimizer's parameters has a gradient now."""
        return any(p.grad is not None for g in self._optimizer.param_groups for p in g["params"])

    def suspects(self, parameters: Sequence[Tensor]) -> Suspects:
        """All that a census of a bad step looks at, with the gradients of these parameters."""
        self.refresh()
        return Suspects(
            gradients=[(self.names[p], p.grad) for p in parameters if p.grad is not None],
            parameters=[(_plain(n), p) for n, p in self._model.named_parameters()],
            buffers=[(n, b) for n, b in self._named_buffers() if n not in self._odd_buffers],
            optimizer_state=self._named_state(),
        )

    def _named_state(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{self.names.get(parameter, '?')}.{key}", value)
            for parameter, state in self._optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        ]

    def _named_buffers(self) -> list[tuple[str, Tensor]]:
        return [(_plain(name), buffer) for name, buffer in self._model.named_buffers()]

    def in_order(
        self, parameters: Sequence[Tensor], norms: NDArray[np.float64], layers: Sequence[Tensor]
    ) -> NDArray[np.float64]:
        """Norms of the gradients of `parameters` as one entry per layer, -1 for no gradient.

        Args:
            parameters: Those with a gradient.
            norms: Their gradients' norms.
            layers: The order wanted. Parameters that are not in it are left out.
        """
        if len(parameters) == len(layers) and all(p is q for p, q in zip(parameters, layers, strict=True)):
            return norms
        position = {p: index for index, p in enumerate(layers)}
        ordered = np.full(len(layers), -1.0)
        for parameter, norm in zip(parameters, norms, strict=True):
            if parameter in position:
                ordered[position[parameter]] = norm
        return ordered


def _names(model: nn.Module, optimizer: Optimizer) -> dict[Tensor, str]:
    """Names of the optimizer's parameters, in the optimizer's order."""
    known: dict[Tensor, str] = {p: _plain(name) for name, p in model.named_parameters()}
    if not known:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to guard.")
    own = [p for group in optimizer.param_groups for p in group["params"]]
    foreign = [tuple(p.shape) for p in own if p not in known]
    if foreign:
        raise ValueError(
            f"{len(foreign)} of the optimizer's {len(own)} parameters are not the model's (first of shape "
            f"{foreign[0]}). Was the model built anew after the optimizer was made? If the optimizer trains "
            "several modules, pass nn.ModuleList([...]) of them all as model."
        )
    return {p: known[p] for p in own}


def _plain(name: str) -> str:
    """A name as users know it: without the prefix of the wrapper that torch.compile adds."""
    return name.replace("_orig_mod.", "")
