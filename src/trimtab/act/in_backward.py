"""Clipping when each parameter is stepped within `backward()`, before the global norm can be known."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from trimtab.act.forecast import NormForecast, PassStats
from trimtab.act.gradients import scale_grads_
from trimtab.act.optimizer import SMALLEST_IN_KERNEL, fused_inputs, is_fused
from trimtab.errors import NonFiniteError
from trimtab.types import Action, Fault, Kind, Place, Scale, StepOutcome, StepStats, wide_dtype

MakeOptimizer: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]

# On the CPU a wider type means a wider copy: of so many elements at a time
_BLOCK = 1 << 20

_SAVED = frozenset({"optimizers", "norms", "num_kept", "num_refused", "bad_norms", "num_passes"})


class _Hook:
    """Steps one parameter as soon as its gradient is there."""

    def __init__(self, owner: BackwardOptimizer, index: int) -> None:
        # torch does not let the garbage collector see a parameter's hooks: a cycle would never be freed
        self.owner = weakref.ref(owner)
        self.index = index

    def __call__(self, parameter: Tensor) -> None:
        owner = self.owner()
        if owner is not None:
            owner._arrive(self.index, parameter)


@final
class BackwardOptimizer(Optimizer):
    """Steps every parameter within `backward()`, frees its gradient at once, and still clips.

    Only one gradient at a time is in memory. The global norm that clipping needs is then known too
    late, so that each gradient is clipped by a forecast of it (`NormForecast`): the applied norm is
    below `sqrt(2) * max_norm`, always, and `last_forecast_error` tells how far the pass was from exact
    clipping. In the first pass, which knows no usual shares, it is farther off.

    Every `backward()` is a step, so gradients cannot be accumulated over several. `step()` has nothing
    left to do, but this is an `Optimizer`, so that loops and every learning-rate scheduler of torch
    work as they are; `param_groups` are those of all optimizers.

    A gradient that is not finite is not applied: its parameter and moments stay bit-identical, and so do
    those of all that arrive after it in the same pass. What was stepped before it in that pass cannot be
    taken back. `num_refused` counts, and `check()` names.

    Frozen parameters are left alone, and tied ones are stepped once. What is unfrozen, or moved to
    another device, later needs a new `BackwardOptimizer`. Keep a reference to it, as to any optimizer: its
    hooks go with it, or with `close()`. Not for gradients multiplied by a loss scale,
    DistributedDataParallel (which averages after this has stepped), sharded parameters, models on several
    devices, or reentrant activation checkpoints that hold the last layer (each counts as a pass) or
    share a parameter (an error).

    Args:
        model: The model, on its device.
        make_optimizer: Called once for each parameter that requires a gradient, with a list of it.
        max_norm: Bound on the global norm. Finite and > 0.

    Raises:
        ValueError: An argument cannot be used; no hook is left behind.
        RuntimeError: Another `BackwardOptimizer` is at work on these parameters.

    Cost:
        One pass over each gradient for its norm, some 25 operations on 0-dim tensors, and one optimizer
        call. With a fused optimizer, clipping and refusal happen inside its kernel, and from the second
        pass on the host reads nothing. Other optimizers have the host wait for each factor, which costs
        nothing on the CPU and a synchronisation per parameter elsewhere. Has not run on a GPU yet.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> with BackwardOptimizer(model, lambda p: torch.optim.SGD(p, lr=0.1), max_norm=1.0) as optimizer:
        ...     for _ in range(2):
        ...         (100 * model(torch.ones(2))).sum().backward()
        >>> model.weight.grad is None, optimizer.last_norm.item() > 100
        (True, True)
        >>> round(optimizer.last_applied_norm.item(), 4)
        1.0

    References:
        "How to save memory by fusing the optimizer step into the backward pass", PyTorch tutorials. That
        clipping is impossible there: torchtune#1934, torchtitan#990. The forecast is ours; its error
        is measured in `benchmarks/forecast_clipping.py`.
    """

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_norm: float = 1.0) -> None:
        if not (math.isfinite(max_norm) and max_norm > 0):
            raise ValueError(f"BackwardOptimizer(max_norm={max_norm}): expected a finite number > 0.")
        parameters = _trainable(model)
        self.optimizers = {name: _made(make_optimizer, name, p) for name, p in parameters.items()}
        super().__init__(list(parameters.values()), dict(next(iter(self.optimizers.values())).defaults))
        self._join_groups()
        device = next(iter(parameters.values())).device
        self._max_norm = max_norm
        self._forecast = NormForecast(len(parameters), max_norm=max_norm, device=device)
        self._names, self._steppers = tuple(self.optimizers), tuple(self.optimizers.values())
        self._has_stepped = [False] * len(parameters)
        self._pass: weakref.ref[Callable[[], None]] | None = None
        self.num_passes = 0
        nothing = torch.full((), math.nan, dtype=wide_dtype(device), device=device)
        zeros = torch.zeros(len(parameters), dtype=nothing.dtype, device=device)
        self._last = PassStats(nothing, nothing, nothing, zeros, zeros.bool())
        self._num_refused, self._bad_norms = torch.zeros_like(nothing, dtype=torch.int64), zeros
        handles: list[RemovableHandle] = [
            p.register_post_accumulate_grad_hook(_Hook(self, index))  # type: ignore[no-untyped-call]
            for index, p in enumerate(parameters.values())
        ]
        self._finalizer = weakref.finalize(self, _remove, handles)

    @property
    def last_norm(self) -> Tensor:
        """Global norm of the gradients of the last pass before clipping, 0-dim; nan before the first."""
        return self._last.norm

    @property
    def last_applied_norm(self) -> Tensor:
        """Global norm of what was applied in the last pass, 0-dim: below `sqrt(2) * max_norm`."""
        return self._last.applied_norm

    @property
    def last_forecast_error(self) -> Tensor:
        """Distance from exact clipping in the last pass, 0-dim: see `PassStats.error`."""
        return self._last.error

    @property
    def num_refused(self) -> Tensor:
        """How many gradients were not applied, in all passes, 0-dim."""
        return self._num_refused

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do nothing: `backward()` has stepped. Loops and schedulers call this as ever.

        Args:
            closure: Called if given; the `backward()` in it is the step.

        Returns:
            What the closure returned.

        Raises:
            RuntimeError: After `close()`, when nobody steps the parameters any more.
        """
        if not self._finalizer.alive:
            raise RuntimeError(
                "this BackwardOptimizer is closed: backward() no longer steps. Make a new one."
            )
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def check(self) -> None:
        """See that all gradients since the last check were applied.

        Raises:
            NonFiniteError: Some were not; the message names those that were at fault.

        Cost:
            One device-to-host copy of a number for each parameter.
        """
        norms = self._bad_norms.tolist()
        bad = {name: norm for name, norm in zip(self.optimizers, norms, strict=True) if norm != 0}
        if not bad:
            return
        self._bad_norms = torch.zeros_like(self._bad_norms)
        raise _refusal(bad, self.num_passes - 1, self._last)

    def close(self) -> None:
        """Remove the hooks; the optimizers keep their state. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> BackwardOptimizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """The state of all optimizers by parameter name, and of the forecast, in plain containers."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "norms": self._forecast.norms.clone(),
            "num_kept": self._forecast.num_kept.clone(),
            "num_refused": self._num_refused.clone(),
            "bad_norms": self._bad_norms.clone(),
            "num_passes": self.num_passes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state: later decisions are those of the uninterrupted run.

        Raises:
            ValueError: It belongs to other parameters; nothing was changed.
        """
        missing = sorted(_SAVED - state_dict.keys())
        if missing:
            raise ValueError(f"this is no state of a BackwardOptimizer: {', '.join(missing)} missing.")
        saved = state_dict["optimizers"]
        if list(saved) != list(self.optimizers):
            odd = sorted(saved.keys() ^ self.optimizers.keys()) or list(saved)
            raise ValueError(
                f"BackwardOptimizer.load_state_dict(): expected the {len(self.optimizers)} parameters of "
                f"this model in their order, got {len(saved)}; not in both or out of order: {odd[:3]}."
            )
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved[name])
        self._join_groups()  # loading made new ones
        forecast = self._forecast
        forecast.norms = state_dict["norms"].to(forecast.norms, copy=True)
        forecast.num_kept = state_dict["num_kept"].to(forecast.num_kept, copy=True)
        forecast.learn()
        self._num_refused = state_dict["num_refused"].to(self._num_refused, copy=True)
        self._bad_norms = state_dict["bad_norms"].to(self._bad_norms, copy=True)
        self.num_passes = state_dict["num_passes"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Not possible: parameters are taken from the model when this is made.

        Raises:
            RuntimeError: Always, once this is made.
        """
        if hasattr(self, "_finalizer"):
            raise RuntimeError("a BackwardOptimizer takes its parameters from the model: make a new one.")
        super().add_param_group(param_group)

    def _join_groups(self) -> None:
        self.param_groups = [group for o in self.optimizers.values() for group in o.param_groups]

    @torch.no_grad()
    def _arrive(self, index: int, parameter: Tensor) -> None:
        """Step a parameter whose gradient has just been accumulated."""
        if self._pass is None or self._pass() is None:
            self._begin_pass()
        if index in self._forecast.arrivals:
            raise RuntimeError(
                f"{self._names[index]} got a gradient twice in one backward pass, and was stepped after the "
                "first. Use torch.utils.checkpoint with use_reentrant=False."
            )
        gradient = parameter.grad
        assert gradient is not None  # that is when autograd calls the hook
        factor = self._forecast.arrive(index, _gradient_norm(gradient))
        self._step(index, gradient, factor)
        parameter.grad = None

    def _step(self, index: int, gradient: Tensor, factor: Tensor) -> None:
        """Step one parameter by its clipped gradient, or leave it and its state alone."""
        optimizer = self._steppers[index]
        fused = is_fused(optimizer)
        # a fused kernel that makes its state while it refuses leaves it uninitialised: look first
        if not (fused and self._has_stepped[index]):
            known = float(factor)
            if not known >= SMALLEST_IN_KERNEL:
                return
            if not fused and known < 1.0:
                scale_grads_([gradient], Scale(factor))
        self._has_stepped[index] = True
        if not fused:
            optimizer.step()
            return
        with fused_inputs(optimizer, factor=factor, refuse=factor.ge(SMALLEST_IN_KERNEL).logical_not()):
            optimizer.step()

    def _begin_pass(self) -> None:
        """At the first gradient of a pass: have autograd call at its end."""
        self._forecast.begin_pass()
        current = functools.partial(self._end_pass)
        torch.autograd.Variable._execution_engine.queue_callback(current)
        # autograd alone keeps it, so that a pass that fails takes it along
        self._pass = weakref.ref(current)

    def _end_pass(self) -> None:
        self._pass = None
        self.num_passes += 1
        self._last = self._forecast.end_pass()
        refused, norms = self._last.is_refused, self._last.tensor_norms
        self._num_refused = self._num_refused + refused.sum()
        # a finite norm may have been refused for one before it
        is_bad = refused & norms.lt(self._max_norm / SMALLEST_IN_KERNEL).logical_not()
        self._bad_norms = torch.where(is_bad, norms, self._bad_norms)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters to step, each once, by name."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "BackwardOptimizer(DistributedDataParallel): it would step before gradients are averaged. "
            "Use trimtab.Guard and a common optimizer."
        )
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("BackwardOptimizer(model): no parameter of this model requires a gradient.")
    for name, parameter in found.items():
        if hasattr(parameter, "full_tensor"):
            raise ValueError(f"BackwardOptimizer(model): {name} is sharded, and its norm is only a part.")
        if parameter.grad is not None:
            raise ValueError(f"BackwardOptimizer(model): {name} has a gradient already. Call zero_grad().")
        hooks = getattr(parameter, "_post_accumulate_grad_hooks", None) or {}
        if any(isinstance(hook, _Hook) for hook in hooks.values()):
            raise RuntimeError(f"{name} is stepped by another BackwardOptimizer: close() that one first.")
    devices = {str(p.device) for p in found.values()}
    if len(devices) > 1:
        raise ValueError(f"BackwardOptimizer(model): expected one device, got {sorted(devices)}.")
    return found


def _made(make_optimizer: MakeOptimizer, name: str, parameter: nn.Parameter) -> Optimizer:
    """The optimizer of one parameter."""
    optimizer = make_optimizer([parameter])
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if len(given) != 1 or given[0] is not parameter:
        raise ValueError(f"make_optimizer([{name}]): expected an optimizer of that parameter alone.")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("BackwardOptimizer cannot run LBFGS, which evaluates the loss within its step.")
    return optimizer


def _gradient_norm(gradient: Tensor) -> Tensor:
    """Norm of one gradient, 0-dim, in the widest type of its device."""
    values = gradient if gradient.layout is torch.strided else gradient.coalesce().values()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    parts: tuple[Tensor, ...] = (values,)
    if values.device.type == "cpu" and values.numel() > _BLOCK:
        parts = torch.split(values, max(1, _BLOCK * len(values) // values.numel()))
    norms = [torch.linalg.vector_norm(part, dtype=wide_dtype(values.device)) for part in parts]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _refusal(bad: dict[str, float], step: int, last: PassStats) -> NonFiniteError:
    """The error that names gradients and what their norms were."""
    shown = [f"{name} ({norm:g})" for name, norm in bad.items()]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    reason = (
        f"gradients with these norms were not applied: {', '.join(shown[:5])}{more}. Parameters stepped "
        "before them in the same backward pass cannot be taken back."
    )
    kinds = [
        kind
        for kind, is_it in ((Kind.NAN, math.isnan), (Kind.INF, math.isinf))
        if any(map(is_it, bad.values()))
    ]
    faults = tuple(Fault(kind, Place.GRADIENT) for kind in kinds or [Kind.OVERFLOW])
    stats = StepStats(loss=None, grad_norm=last.norm)
    outcome = StepOutcome(step, stats, applied=False, action=Action.RAISE, faults=faults, reason=reason)
    return NonFiniteError(reason, step=step, outcome=outcome)


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
