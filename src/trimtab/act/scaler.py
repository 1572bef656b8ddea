"""A loss scaler that never writes a non-finite weight, and knows when the scale is not to blame."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, final, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from trimtab.act.optimizer import fused_inputs, gates_on_device
from trimtab.act.scaling_gradients import Unscaled, look, read, seen_share, share
from trimtab.act.scaling_rule import Gradients, Growth, ScaleRule, ScaleState
from trimtab.types import wide_dtype

logger = logging.getLogger(__name__)

# Underflow is looked at this often: two passes each time, 2 % of one on average
_LOOK_EVERY = 100

_HALVES = (torch.float16, torch.bfloat16)

# The keys that torch.amp.GradScaler saves; ours is beside them, and it ignores that one
_TORCH_KEYS = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_OWN_KEY = "trimtab"


@final
class LossScaler:
    """Scale the loss so that float16 gradients neither vanish nor overflow.

    Used in the loop exactly as `torch.amp.GradScaler` is, or given to a `Guard` as `scaler`. What it does
    beyond torch's:

    - The scale stays within [`floor`, `ceiling`]. Its inverse is always finite, and a step whose
      gradients are not finite never reaches the optimizer, however long it lasts.
    - `hysteresis` overflows are passed over before the scale is cut, and refilled by a growth.
    - The growth to a scale that overflowed before is held back: each time it overflows again the
      interval doubles, up to `max_wait` times, and it relaxes once a whole interval was survived.
    - Where more than `max_underflow` of the gradient is zero or subnormal in float16, the scale
      grows after an eighth of the interval. Zeros may be meant (dead units, unused rows of a table), so
      this stops when a growth has not lowered the share, until one does. It is never done where growth is
      held back.
    - It tells an overflow from a fault. Not to blame is the scale when the loss itself is not finite;
      at the floor; and once it was cut `max_jump`-fold below that of the last good step, because the
      gradients would have had to grow as much from one step to the next. Then it goes back to where it
      was in that step, stays there, and the outcome is `Gradients.BAD`. Before the first good step the
      search goes down to the floor. A fault that lasts for 32 steps makes it go on down once,
      so that gradients which really grew are not refused for ever.

    Args:
        init_scale: The first scale.
        growth_factor: What the scale grows by.
        backoff_factor: What it is cut by.
        growth_interval: Finite steps from an overflow or a growth to the next growth.
        floor: Smallest scale.
        ceiling: Largest scale.
        hysteresis: How many overflows it takes to cut the scale. From then on each one does, until it grows.
        max_wait: Longest interval, in growth intervals, that growth is held back near an overflow. 1 as in
            torch.
        max_jump: How much gradients are believed to grow between two steps. inf blames the scale down to
            the floor.
        max_underflow: Share of underflow above which the scale grows early, or None.

    Raises:
        ValueError: An argument is out of its range.
        TypeError: An argument is no number.

    Cost:
        One pass over the gradients to unscale and check them, one host read per step of each optimizer,
        as in torch without a fused optimizer; a fused one is queued before the read. None
        at all when a `Guard` reads for it. Every 100 steps two passes more, for underflow. The scale is
        a number of the host, so scaling reads nothing; a captured CUDA graph would keep the old one.
        Not run on a GPU yet.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), LossScaler(1024.0)
        >>> for x in (torch.ones(1, 2), torch.full((1, 2), 1e38)):
        ...     optimizer.zero_grad()
        ...     scaler.scale(model(x).sum()).backward()
        ...     _ = scaler.step(optimizer)
        ...     scaler.update()
        ...     scaler.outcome, scaler.get_scale()
        (<Gradients.FINITE: 'finite'>, 1024.0)
        (<Gradients.OVERFLOWED: 'overflowed'>, 512.0)

    References:
        Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740. Defaults of
        `torch.amp.GradScaler`; floor and hysteresis of Megatron-LM's `DynamicGradScaler`; ceiling of
        apex.amp; a window that doubles, in metaseq's `DynamicLossScaler`; the number of zeros, which
        Megatron-LM logs, as a signal. `max_wait`, `max_jump`, `max_underflow` and the 32 steps are our own.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        *,
        floor: float = 1.0,
        ceiling: float = 2.0**24,
        hysteresis: int = 1,
        max_wait: int = 16,
        max_jump: float = 32.0,
        max_underflow: float | None = 0.05,
    ) -> None:
        self._rule = ScaleRule(
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            growth_interval=growth_interval,
            floor=floor,
            ceiling=ceiling,
            hysteresis=hysteresis,
            max_wait=max_wait,
            max_jump=max_jump,
            max_underflow=max_underflow,
        )
        self._init_scale = init_scale
        self._state = self._rule.init(init_scale)
        self._losses: list[Tensor] = []  # of this step, to tell later whether they were finite
        self._turns: dict[Optimizer, Unscaled] = {}
        self.outcome: Gradients | None = None
        """What came of the gradients of the last step."""

    def __repr__(self) -> str:
        rule = ", ".join(f"{name}={value!r}" for name, value in asdict(self._rule).items())
        return f"LossScaler(init_scale={self._init_scale!r}, {rule})"

    @property
    def current_scale(self) -> float:
        """The scale of the next loss."""
        return self._state.now.scale

    def get_scale(self) -> float:
        """The scale of the next loss, as torch's scaler names it."""
        return self.current_scale

    def is_enabled(self) -> bool:
        """True. To train without scaling, use no scaler."""
        return True

    @overload
    def scale(self, outputs: Tensor) -> Tensor: ...

    @overload
    def scale(self, outputs: Iterable[Tensor]) -> Iterable[Tensor]: ...

    def scale(self, outputs: Tensor | Iterable[Tensor]) -> Tensor | Iterable[Tensor]:
        """Multiply a loss, or several, by the scale.

        Args:
            outputs: A tensor, or tensors in a list, a tuple or another iterable. Half ones are made float32
                first: times 65536 they would overflow.

        Returns:
            The same, multiplied.

        Raises:
            TypeError: Something else was given.
        """
        if isinstance(outputs, Tensor):
            self._losses.append(_worst(outputs.detach()))
            return (outputs.float() if outputs.dtype in _HALVES else outputs) * self.current_scale
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(output) for output in outputs)
        if isinstance(outputs, Iterable):
            return map(self.scale, outputs)
        raise TypeError(f"LossScaler.scale({outputs!r}): expected a tensor, or several in a list.")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer by the scale, once per step.

        Does nothing if that was done in this step already.

        Raises:
            RuntimeError: No loss was scaled in this step, no parameter has a gradient, or losses were
                scaled after the gradients had been unscaled: they would be a mixture of both.
            ValueError: A gradient is float16. What the scale saved would be lost again.
        """
        known = self._turns.get(optimizer)
        if known is not None and known.num_losses != len(self._losses):
            raise RuntimeError(
                "unscale_(optimizer) was called before, and losses were scaled since: their gradients may "
                "have been added to unscaled ones. Call it once, after the last backward() of the step."
            )
        if known is not None:
            return
        if not self._losses:
            raise RuntimeError(
                "no loss was scaled in this step. Call scaler.scale(loss).backward() instead of "
                "loss.backward()."
            )
        turn = Unscaled(optimizer, self.current_scale, num_losses=len(self._losses))
        if self._rule.max_underflow is not None and self._state.now.num_finite % _LOOK_EVERY == 0:
            turn.count_small()
        self._turns[optimizer] = turn

    @property
    def underflow(self) -> Tensor | None:
        """Share of gradient elements lost in this step, 0-dim on the device; None if not looked at.

        It is looked at every 100 steps. What a guard reads of it goes to `conclude`.
        """
        return share(tuple(self._turns.values()))

    def forget(self) -> None:
        """The gradients of this step were thrown away, and it is run again at the same scale."""
        self._losses, self._turns = [], {}

    def is_to_blame(self, *, loss: float | None) -> bool:
        """Whether gradients that are not finite may be so because of the scale.

        Args:
            loss: The loss of this step, not scaled; None if it is not known.

        Cost:
            No host read.
        """
        return self._rule.is_to_blame(self._state, loss=loss)

    def conclude(self, outcome: Gradients, *, underflow: float | None = None) -> None:
        """End a step: move the scale, and forget the losses and gradients.

        `update` does this in a loop without a guard.

        Args:
            outcome: What came of the gradients. A step that is refused for another reason, with finite
                gradients, is `FINITE` here.
            underflow: The share that was read, if it was looked at.
        """
        self._state = self._rule.after(outcome, self._state, underflow=underflow)
        self.forget()
        self.outcome = outcome

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients unless that was done, and step the optimizer if they are finite.

        Args:
            optimizer: The optimizer.
            args: Handed to its `step`.
            kwargs: Handed to its `step`.

        Returns:
            What `optimizer.step` returned, None if it was not called.

        Raises:
            RuntimeError: A closure was given, or the optimizer was stepped already since `update`; or as in
                `unscale_`.
        """
        if "closure" in kwargs or any(callable(argument) for argument in args):
            raise RuntimeError(
                "LossScaler.step() takes no closure: its gradients would have to be unscaled each time it is "
                "evaluated. Run forward and backward before the step."
            )
        if optimizer not in self._turns:
            self.unscale_(optimizer)
        turn = self._turns[optimizer]
        if turn.is_stepped:
            raise RuntimeError(
                "step(optimizer) was called already. Call update() once at the end of each step."
            )
        turn.is_stepped = True
        if gates_on_device(optimizer, turn.gradients):
            with fused_inputs(optimizer, refuse=turn.found):
                return optimizer.step(*args, **kwargs)
        look([turn])
        return None if turn.is_bad else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """End a step: move the scale by what came of the gradients.

        Args:
            new_scale: Take this scale instead, and search from there; a tensor is read.

        Raises:
            RuntimeError: No optimizer was unscaled or stepped since the last update.
            ValueError: `new_scale` is not between floor and ceiling.
        """
        if new_scale is not None:
            scale = self._rule.init(float(new_scale)).now.scale
            self._state = ScaleState(self._state.now._replace(scale=scale))
            self.forget()
            return
        if not self._turns:
            raise RuntimeError("update() came before step(optimizer) or unscale_(optimizer) in this step.")
        turns = tuple(self._turns.values())
        look([turn for turn in turns if turn.is_bad is None])
        if not any(turn.is_bad for turn in turns):
            self.conclude(Gradients.FINITE, underflow=seen_share(turns))
            return
        loss = self._known_loss()
        if self.is_to_blame(loss=loss):
            self.conclude(Gradients.OVERFLOWED)
            return
        if self.outcome is not Gradients.BAD:
            logger.warning(
                "the gradients are not finite and a loss scale of %g is not to blame: step skipped%s",
                self.current_scale,
                "; the loss is not finite either" if loss is not None and math.isnan(loss) else "",
            )
        self.conclude(Gradients.BAD)

    def state_dict(self) -> dict[str, Any]:
        """The state that torch's scaler saves, and under one more key our own; `weights_only=True` loads it.

        Of the settings the three that torch saves are in it.
        """
        now, good, num_faults = self._state
        numbers = (
            now.scale,
            self._rule.growth_factor,
            self._rule.backoff_factor,
            self._rule.growth_interval,
            now.num_finite,
        )
        own = {
            "now": now._asdict(),
            "good": None if good is None else good._asdict(),
            "num_faults": num_faults,
        }
        return {**dict(zip(_TORCH_KEYS, numbers, strict=True)), _OWN_KEY: own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a `LossScaler` or a `torch.amp.GradScaler` was saved.

        Growth factor, backoff factor and interval are those saved, as in torch; floor, ceiling and
        the rest are those of this scaler. A scale beyond floor or ceiling is taken to it, so that one
        which torch has let run down to 0 is alive again.

        Raises:
            ValueError: A key is missing, or a value is out of its range.
        """
        missing = [key for key in _TORCH_KEYS if key not in state]
        if missing:
            raise ValueError(
                f"state of a loss scaler without {', '.join(missing)}: expected what state_dict() of a "
                "LossScaler or of an enabled torch.amp.GradScaler returns."
            )
        scale, growth_factor, backoff_factor, growth_interval, num_finite = (state[k] for k in _TORCH_KEYS)
        if not 0 <= scale < math.inf:
            raise ValueError(f"state of a loss scaler with scale={scale!r}: expected a finite number >= 0.")
        rule = replace(
            self._rule,
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            growth_interval=growth_interval,
        )
        start = rule.init(min(max(scale, rule.floor), rule.ceiling)).now
        own = state.get(_OWN_KEY, {})
        now = _loaded(own.get("now", {}), start)._replace(scale=start.scale, num_finite=num_finite)
        good = None
        if own.get("good") is not None:
            good = _loaded(own["good"], start)
            good = good._replace(scale=min(max(good.scale, rule.floor), rule.ceiling))
        self._rule = rule
        self._state = ScaleState(now, good, own.get("num_faults", 0))
        self.outcome = None
        self.forget()

    def _known_loss(self) -> float | None:
        """0.0 if all losses of this step were finite, else nan; None where that cannot be known.

        With several ranks the loss of one says nothing about the others, whose scale must move alike.
        """
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            return None
        return 0.0 if all(map(math.isfinite, read(self._losses))) else math.nan


def _worst(loss: Tensor) -> Tensor:
    """A 0-dim tensor that is finite if all of the loss is."""
    if loss.numel() == 1 and not loss.is_complex():
        return loss.reshape(())
    return loss.abs().sum(dtype=wide_dtype(loss.device))


def _loaded(saved: Mapping[str, Any], start: Growth) -> Growth:
    """What was saved, where this version knows it."""
    return start._replace(**{name: value for name, value in saved.items() if name in Growth._fields})
