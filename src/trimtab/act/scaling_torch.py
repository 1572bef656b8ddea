"""What a guard needs of a loss scaler, and torch's own scaler seen that way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.act.optimizer import check_unscaled
from trimtab.act.scaler import LossScaler
from trimtab.act.scaling_rule import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Gradients,
    Growth,
    ScaleRule,
    ScaleState,
)


class Scaling(Protocol):
    """A loss scale that is told what came of each step.

    In each step: `scale`, backward, `unscale_`; if the gradients are not finite `is_to_blame`; `conclude`.
    """

    @property
    def current_scale(self) -> float | Tensor:
        """The scale of the next loss: a number, or a 0-dim tensor where reading it would cost."""
        ...

    @property
    def underflow(self) -> Tensor | None:
        """Share of gradient elements lost in this step, 0-dim on the device; None if not looked at."""
        ...

    def scale(self, outputs: Tensor) -> Tensor:
        """Multiply a loss by the scale."""
        ...

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the scale, unless that was done in this step already. No host read."""
        ...

    def forget(self) -> None:
        """The gradients of this step were thrown away, and it is run again at the same scale."""
        ...

    def is_to_blame(self, *, loss: float | None) -> bool:
        """Whether gradients that are not finite may be so because of the scale.

        Args:
            loss: The loss of this step, not scaled; None if it is not known.
        """
        ...

    def conclude(self, outcome: Gradients, *, underflow: float | None = None) -> None:
        """End a step: move the scale.

        Args:
            outcome: What came of the gradients, not of the step.
            underflow: What `underflow` was, if it was read.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that later scales depend on, in plain containers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        ...


def as_scaling(scaler: object) -> Scaling | None:
    """A loss scaler as a guard uses it.

    Args:
        scaler: Ours, or torch's or a subclass of that.

    Returns:
        Ours as it is; for torch's a view of it, through which it keeps its own rule of growth and
        backoff but stops halving when the scale is not to blame (see `LossScaler`, with its floor of 1 and
        its `max_jump`). None for one with `enabled=False`, which scales nothing.

    Raises:
        TypeError: It is neither.

    Example:
        >>> from trimtab.act.scaling_torch import as_scaling
        >>> as_scaling(torch.amp.GradScaler("cpu", init_scale=8.0)).current_scale
        8.0
        >>> as_scaling(torch.amp.GradScaler("cpu", enabled=False)) is None
        True
    """
    if isinstance(scaler, LossScaler):
        return scaler
    if isinstance(scaler, torch.amp.GradScaler):
        return _TorchScaling(scaler) if scaler.is_enabled() else None
    shown = scaler.__name__ if isinstance(scaler, type) else repr(scaler)
    raise TypeError(f"scaler={shown}: expected a LossScaler() or a torch.amp.GradScaler(), or None.")


class _TorchScaling:
    """torch's scaler, whose `step` is never called.

    Besides public methods it relies on `_per_optimizer_states`, to know whether the caller has unscaled,
    and on `_get_scale_async`, for the scale without a read. The scale moves by the `found_inf` that
    `unscale_` recorded, and is read only in steps whose gradients are not finite.
    """

    underflow = None  # its rule does not look at it

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler
        self._floor = min(1.0, max(scaler.get_scale(), SMALLEST_SCALE))
        self._has_good = False
        self._num_overflows = 0  # since the last good step: the scale then need not be read in each
        self._good_scale: float | None = None  # scale of the last good step, once it had to be worked out
        self._num_faults = 0

    @property
    def current_scale(self) -> float | Tensor:
        scale = self._scaler._get_scale_async()
        return self._scaler.get_scale() if scale is None else scale

    def scale(self, outputs: Tensor) -> Tensor:
        return self._scaler.scale(outputs)

    def unscale_(self, optimizer: Optimizer) -> None:
        known = self._scaler._per_optimizer_states.get(id(optimizer))
        if known is None or known["stage"].name != "UNSCALED":
            self._scaler.unscale_(optimizer)

    def forget(self) -> None:
        self._scaler.update(self._scaler.get_scale())

    def is_to_blame(self, *, loss: float | None) -> bool:
        return self._rule().is_to_blame(self._state(), loss=loss)

    def conclude(self, outcome: Gradients, *, underflow: float | None = None) -> None:
        del underflow
        if outcome is Gradients.BAD:
            self._put_back()
            return
        self._scaler.update()
        if outcome is Gradients.OVERFLOWED:
            self._num_overflows += 1
        else:
            self._has_good, self._num_overflows, self._good_scale, self._num_faults = True, 0, None, 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "scaler": self._scaler.state_dict(),
            "has_good": self._has_good,
            "num_overflows": self._num_overflows,
            "good_scale": self._good_scale,
            "num_faults": self._num_faults,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._scaler.load_state_dict(state["scaler"])
        self._has_good, self._num_overflows = state["has_good"], state["num_overflows"]
        self._good_scale, self._num_faults = state["good_scale"], state["num_faults"]

    def _rule(self) -> ScaleRule:
        return ScaleRule(
            growth_factor=self._scaler.get_growth_factor(),
            backoff_factor=self._scaler.get_backoff_factor(),
            growth_interval=self._scaler.get_growth_interval(),
            floor=self._floor,
            ceiling=LARGEST_SCALE,
        )

    def _state(self) -> ScaleState:
        """Where our rule would be. One host read."""
        scale = self._scaler.get_scale()
        good = self._good_scale
        if good is None and self._has_good:
            good = scale / self._scaler.get_backoff_factor() ** self._num_overflows
        return ScaleState(Growth(scale), None if good is None else Growth(good), self._num_faults)

    def _put_back(self) -> None:
        """After a fault: the scale stays, or goes back to that of the last good step."""
        before = self._state()
        after = self._rule().after(Gradients.BAD, before)
        if after.num_faults:
            self._good_scale = None if before.good is None else before.good.scale
        self._num_faults = after.num_faults
        # with a scale given, update() does not look at found_inf and forgets it
        self._scaler.update(after.now.scale)


class FollowedScaling(_TorchScaling):
    """A scaler that its owner steps and updates, looked at by a guard that leaves it alone.

    Args:
        scaler: torch's, enabled. It must have unscaled the gradients before the guard looks at them.
    """

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        super().__init__(scaler)
        self.scaler = scaler

    def unscale_(self, optimizer: Optimizer) -> None:
        """See that it was done.

        Raises:
            RuntimeError: It was left to a fused kernel.
        """
        check_unscaled(optimizer)

    def forget(self) -> None:
        """The scale is its owner's."""

    def conclude(self, outcome: Gradients, *, underflow: float | None = None) -> None:
        """Remember what its owner's rule makes of the step: it halves the scale whatever the reason."""
        del underflow
        if outcome is Gradients.FINITE:
            self._has_good, self._num_overflows, self._num_faults = True, 0, 0
            return
        if outcome is Gradients.BAD:
            self._num_faults = self._rule().after(outcome, self._state()).num_faults
        self._num_overflows += 1
