"""Mixed precision in one call: autocast, loss scale and guard."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.act.scaler import LossScaler
from trimtab.act.snapshots import Snapshots
from trimtab.decide import Clip, CoolDown, Detector, Remedy, Skip
from trimtab.guard import Guard
from trimtab.record import RunWriter
from trimtab.types import StepOutcome

LossFunction = Callable[[Any, Any], Tensor]

_DEFAULT_REMEDY = Skip()


@final
@dataclass(frozen=True, slots=True)
class ScaleStatistics:
    """How a loss scale has fared.

    Attributes:
        scale: The scale of the next step; 1.0 without one.
        num_overflows: Steps skipped because the scale was too large.
        num_steps: Steps made, skipped ones included.
    """

    scale: float
    num_overflows: int
    num_steps: int

    @property
    def overflow_rate(self) -> float:
        """Share of the steps that were skipped because the scale was too large; 0.0 before the first."""
        return self.num_overflows / max(self.num_steps, 1)


@final
class MixedPrecision:
    """Trains a model in float16 or bfloat16, one call per step.

    A step zeroes the gradients, runs the forward pass under `torch.autocast` on the device of the
    model, scales the loss, runs backward and gives the step to a `Guard`, which unscales before it
    measures, clips and decides. An overflow that is due to the scale skips the step without spending the
    remedy's budget; any other fault is the remedy's.

    Args:
        model: The model, with its parameters in float32; or `MasterWeights` of a half model.
        optimizer: Its optimizer.
        loss_fn: Called with what the model returned and the target, under autocast.
        dtype: `torch.float16` or `torch.bfloat16`.
        scaler: The loss scale. None is a new `LossScaler()` for float16, and none for bfloat16, whose range
            is that of float32. A `torch.amp.GradScaler(enabled=False)` does without.
        clip: As in `Guard`.
        detect: As in `Guard`.
        remedy: As in `Guard`.
        cooldown: As in `Guard`.
        snapshots: As in `Guard`. The loss scale goes back with a rewind by itself; to go on in a new
            process call `training.guard.resume()`.
        record: As in `Guard`.

    Raises:
        ValueError: `dtype` is neither half type; or as in `Guard`.
        TypeError: The loss function cannot be called; or as in `Guard`.

    Cost:
        That of `Guard`, and of the pass that unscales. Run on CPU; not on a GPU yet.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = MixedPrecision(
        ...     model, optimizer, torch.nn.functional.mse_loss, clip=NormClip(1.0), scaler=LossScaler(1024.0)
        ... )
        >>> training.step(torch.ones(8, 4), torch.ones(8, 1)).applied
        True
        >>> training.statistics()
        ScaleStatistics(scale=1024.0, num_overflows=0, num_steps=1)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction | None = None,
        *,
        dtype: torch.dtype = torch.float16,
        scaler: LossScaler | torch.amp.GradScaler | None = None,
        clip: Clip[Any] | None = None,
        detect: Sequence[Detector[Any]] = (),
        remedy: Remedy[Any] | None = _DEFAULT_REMEDY,
        cooldown: CoolDown | None = None,
        snapshots: Snapshots | None = None,
        record: RunWriter | str | os.PathLike[str] | None = None,
    ) -> None:
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"MixedPrecision(dtype={dtype}): expected torch.float16 or torch.bfloat16. To train in "
                "float32, use Guard alone."
            )
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"MixedPrecision(loss_fn={loss_fn!r}): expected a function of output and target.")
        if scaler is None and dtype is torch.float16:
            scaler = LossScaler()
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.dtype = dtype
        self.scaler = scaler
        self.guard = Guard(
            model,
            optimizer,
            clip=clip,
            detect=detect,
            remedy=remedy,
            cooldown=cooldown,
            snapshots=snapshots,
            scaler=scaler,
            record=record,
        )
        self._num_steps = 0
        self._num_overflows = 0

    def step(self, data: Any, target: Any, loss_fn: LossFunction | None = None) -> StepOutcome:
        """Make one step.

        Args:
            data: What the model is called with.
            target: What the loss function gets beside the model's output.
            loss_fn: Instead of the one given at first.

        Returns:
            What happened, with the loss before scaling.

        Raises:
            TypeError: There is no loss function.
            NonFiniteError: The remedy gave up on a faulty step.
        """
        loss_fn = self.loss_fn if loss_fn is None else loss_fn
        if loss_fn is None:
            raise TypeError(
                "MixedPrecision.step(data, target): expected a loss function here or in the constructor."
            )
        self.optimizer.zero_grad()
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.dtype):
            loss = loss_fn(self.model(data), target)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]
        self._num_steps += 1
        outcome = self.guard.step(loss)
        self._num_overflows += outcome.reason.startswith("loss scale")
        return outcome

    def statistics(self) -> ScaleStatistics:
        """The scale now, and how often it was too large.

        Cost:
            With torch's scaler one host read.
        """
        scale = 1.0 if self.scaler is None else self.scaler.get_scale()
        return ScaleStatistics(scale, self._num_overflows, self._num_steps)

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on besides model and optimizer, in plain containers."""
        return {
            "guard": self.guard.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "num_steps": self._num_steps,
            "num_overflows": self._num_overflows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: The state is of another kind of training than this.
        """
        if (self.scaler is None) != (state["scaler"] is None):
            given, own = ("with", "without") if self.scaler is None else ("without", "with")
            raise ValueError(f"the state was saved {given} a loss scale, and this training is {own} one.")
        self.guard.load_state_dict(state["guard"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self._num_steps, self._num_overflows = int(state["num_steps"]), int(state["num_overflows"])

    def close(self) -> None:
        """Close the guard. Safe to call twice."""
        self.guard.close()

    def __enter__(self) -> MixedPrecision:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
