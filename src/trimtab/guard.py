"""The guarded training step: measure -> decide -> act -> record. The only file that knows all stages."""

from __future__ import annotations

import logging
import os
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.decide import Clip, Detector, NonFinite, Refusal, Remedy, Skip, check_policies, pack, unpack
from trimtab.errors import NonFiniteError
from trimtab.record import RunHeader, RunWriter
from trimtab.stepping import Attachment, Step, Verdict, step_searching
from trimtab.types import Action, Decision, Fault, Kind, Place, StepOutcome, StepStats

logger = logging.getLogger(__name__)

# Which guard holds which optimizer: two would clip and count the same step twice
_GUARDED: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Guard]] = weakref.WeakKeyDictionary()

_DEFAULT_REMEDY = Skip()


class Guard:
    """Guards the steps of one optimizer: clips, finds faults, acts on them, keeps a record.

    Three ways of use: `step(loss)` after `backward()`; `step(closure)` in torch's own closure
    convention; `attach()` for loops that call `optimizer.step()` themselves.

    Args:
        model: The module whose parameters the optimizer updates; used for names, and to take back
            what a refused step did to buffers.
        optimizer: Any `torch.optim.Optimizer` over parameters of `model`.
        clip: How gradients are clipped, or None to leave them alone.
        detect: Detectors besides `NonFinite`, which is always on.
        remedy: What is done about a faulty step. None applies every step, and then nothing is read
            to the host and no fault is seen, except in the steps that a record asks for.
        record: Folder for the run log, a `RunWriter`, or None.

    Raises:
        ValueError: The optimizer has parameters that are not the model's, or the model has none.
        TypeError: A policy is none.
        RuntimeError: Another open guard holds this optimizer.
        RunLogError: The run log cannot be written.

    Cost:
        In a healthy step one pass over the gradients for the norm and, only if they are clipped,
        one to scale them (none with fused optimizers). Host reads per step: one, or none when
        `remedy` and `record` are both None.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> guard = Guard(model, optimizer, clip=NormClip(1.0))
        >>> loss = model(torch.tensor([[float("nan"), 1.0]])).sum()
        >>> loss.backward()
        >>> outcome = guard.step(loss)
        >>> outcome.applied, [culprit.name for culprit in outcome.culprits]
        (False, ['weight'])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        clip: Clip[Any] | None = None,
        detect: Sequence[Detector[Any]] = (),
        remedy: Remedy[Any] | None = _DEFAULT_REMEDY,
        record: RunWriter | str | os.PathLike[str] | None = None,
    ) -> None:
        if _GUARDED.get(optimizer, lambda: None)() is not None:
            raise RuntimeError(
                "another Guard holds this optimizer, and two would clip every step twice. Use that "
                "one, or call its close() first."
            )
        check_policies(clip, detect, remedy)
        self._watched = measure.Watched(model, optimizer)
        self._needs_closure = measure.needs_closure(optimizer)
        self.model = model
        self.optimizer = optimizer
        self.clip = clip
        self.detectors = (NonFinite(), *(d for d in detect if d != NonFinite()))
        self.remedy = remedy
        self.outcome: StepOutcome | None = None
        self._step = 0
        self._num_faulty = 0
        self._run_id = uuid.uuid4().hex
        self._clip_state = None if clip is None else clip.init(next(iter(self._watched.names)).device)
        self._detector_states = tuple(detector.init() for detector in self.detectors)
        self._remedy_state = None if remedy is None else remedy.init()
        if record is not None:
            record = record if isinstance(record, RunWriter) else RunWriter(os.fspath(record))
            record.check()  # a folder that cannot be written shows now, not after the first step
        self._writer = record
        self._layers: tuple[Tensor, ...] = ()  # in the order of the log's header, once that is written
        self._is_closed = False
        remembers = remedy is not None and remedy.refusal is not Refusal.NEVER
        self._buffers = act.BufferMemory(model) if remembers else None
        self._attachment: Attachment | None = None
        _GUARDED[optimizer] = weakref.ref(self)

    def step(self, loss: Tensor | float | Callable[[], Any]) -> StepOutcome:
        """Guard one step: clip, decide, then step the optimizer or not.

        Args:
            loss: The scalar loss after `backward()`; or a closure that zeroes the gradients, runs
                forward and backward and returns the loss, as `optimizer.step` takes it.

        Returns:
            What happened. A refused step leaves parameters, optimizer state and buffers
            bit-identical, and the gradients as backward left them.

        Raises:
            NonFiniteError: The remedy gave up on a faulty step.
            ValueError: The loss is not a real scalar.
            RuntimeError: No parameter has a gradient; the optimizer needs a closure; the guard is
                attached or closed.
        """
        self._check_open()
        act.check_unscaled(self.optimizer)
        if self._attachment is not None:
            raise RuntimeError(
                "this guard is attached to optimizer.step(). Call optimizer.step() as before, or "
                "detach() first."
            )
        closure = measure.as_closure(loss)
        if self._needs_closure:
            return step_searching(self, closure)
        step = self._measure(loss if closure is None else measure.evaluate(closure))
        if self._can_run_ahead(step):
            verdict = self._step_ahead(step)
        else:
            verdict = self._decide(step)
            if verdict.outcome.applied:
                with self._clipped(step, verdict.outcome):
                    self.optimizer.step()
        return self._conclude(step, verdict)

    def attach(self) -> Attachment:
        """Guard the caller's own `optimizer.step()` from now on.

        For loops and frameworks that must not be edited. Every step's outcome is in `guard.outcome`.
        The loss is known only if the caller steps with a closure.

        Returns:
            A handle with `detach()`, also a context manager.

        Raises:
            RuntimeError: The guard is attached already or closed, or the optimizer evaluates its
                closure several times in a step (LBFGS): use `guard.step(closure)`.

        Example:
            >>> model = torch.nn.Linear(2, 1)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            >>> guard = Guard(model, optimizer)
            >>> with guard.attach():
            ...     model(torch.full((1, 2), float("inf"))).sum().backward()
            ...     optimizer.step()
            >>> guard.outcome.action
            <Action.SKIP: 'skip'>
        """
        self._check_open()
        if self._attachment is not None:
            raise RuntimeError("this guard is attached already")
        if self._needs_closure:
            raise RuntimeError(
                f"{type(self.optimizer).__name__} evaluates its closure several times in one step, "
                "which step hooks cannot guard. Use guard.step(closure)."
            )
        self._attachment = Attachment(self)
        return self._attachment

    def inspect(self) -> tuple[Fault, ...]:
        """Look for NaN and Inf in parameters, buffers and optimizer state now.

        A step looks there only when its loss or gradients are bad. Worth a call after loading a
        checkpoint and before saving one.

        Cost:
            One pass over all of them and one host read.
        """
        return measure.examine([Fault(Kind.NAN, Place.PARAMETER)], self._watched.suspects(()), loss=None)

    def log(self, **metrics: float) -> None:
        """Write numbers of your own to the run log, at the step just made: `guard.log(val_loss=0.3)`.

        Raises:
            RuntimeError: The guard has no record.
        """
        if self._writer is None:
            raise RuntimeError("this guard keeps no record. Pass record='runs/name' to Guard.")
        self._open_log(self._writer)
        self._writer.log(max(self._step - 1, 0), **metrics)

    def close(self) -> None:
        """Remove all hooks, close the run log and release the optimizer. Safe to call twice."""
        self._is_closed = True
        if self._attachment is not None:
            self._attachment.detach()
        if self._buffers is not None:
            self._buffers.close()
        if self._writer is not None:
            self._writer.close()
        if _GUARDED.get(self.optimizer, lambda: None)() is self:
            del _GUARDED[self.optimizer]

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on, in plain containers (`weights_only=True` loads it)."""
        return {
            "version": 1,
            "step": self._step,
            "num_faulty": self._num_faulty,
            "run_id": self._run_id,
            "policies": self._policies(),
            "clip": pack(self._clip_state),
            "detect": [pack(state) for state in self._detector_states],
            "remedy": pack(self._remedy_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: later decisions are those of an uninterrupted run.

        Raises:
            RuntimeError: The run log of this guard is open already.
            ValueError: The state is of another version, or of other policies than this guard's.
        """
        if self._layers:
            raise RuntimeError(
                "load_state_dict came after the first recorded step. Load the state before it."
            )
        if state.get("version") != 1:
            raise ValueError(f"guard state of version {state.get('version')!r}: this release reads version 1")
        if state["policies"] != self._policies():
            raise ValueError(
                f"the state was saved by a guard with {state['policies']}, this one has {self._policies()}. "
                "Build the guard with the saved policies, or do not load the state, to start afresh."
            )
        self._step, self._num_faulty = int(state["step"]), int(state["num_faulty"])
        self._run_id = str(state["run_id"])
        self._clip_state = unpack(state["clip"], self._clip_state)
        self._remedy_state = unpack(state["remedy"], self._remedy_state)
        own = zip(state["detect"], self._detector_states, strict=True)
        self._detector_states = tuple(unpack(saved, like) for saved, like in own)

    def _measure(self, loss: Any) -> Step:
        parameters, gradients = self._watched.with_gradient()
        norm_type = 2.0 if self.clip is None else self.clip.norm_type
        stats = measure.step_stats(gradients, measure.as_loss(loss), norm_type=norm_type)
        if self.clip is None:
            return Step(parameters, gradients, stats, None, None)
        scale, clip_state = self.clip.rescale(stats, self._clip_state)
        return Step(parameters, gradients, replace(stats, clip_factor=scale.factor), scale, clip_state)

    def _decide(self, step: Step) -> Verdict:
        is_recorded = self._writer is not None and self._writer.wants(self._step)
        if self.remedy is None and not is_recorded:
            unread = replace(step.stats, tensor_norms=None)
            outcome = StepOutcome(self._step, unread, applied=True, action=Action.APPLY)
            return Verdict(outcome, step.clip_state, self._detector_states, None)
        wants_layers = self._writer is not None and self._writer.wants_layers(self._step)
        stats = (step.stats if wants_layers else replace(step.stats, tensor_norms=None)).read()
        suspected, detector_states = self._detect(stats)
        faults: tuple[Fault, ...] = ()
        if suspected:
            faults = measure.examine(suspected, self._watched.suspects(step.parameters), loss=stats.loss)
        if faults and self._writer is not None:
            stats = step.stats.read()  # of a faulty step the log wants every layer
        decision, remedy_state = Decision(Action.APPLY), self._remedy_state
        if self.remedy is not None:
            decision, remedy_state = self.remedy.decide(faults, stats, remedy_state)
        is_applied = decision.action is Action.APPLY
        clip_state = step.clip_state if is_applied else self._clip_state
        stats = stats if is_applied else replace(stats, clip_factor=None)
        outcome = StepOutcome(self._step, stats, is_applied, decision.action, faults, decision.reason)
        return Verdict(outcome, clip_state, detector_states, remedy_state)

    def _detect(self, stats: StepStats[float]) -> tuple[list[Fault], tuple[Any, ...]]:
        suspected: list[Fault] = []
        states = []
        for detector, state in zip(self.detectors, self._detector_states, strict=True):
            faults, new_state = detector.detect(stats, state)
            suspected += faults
            states.append(new_state)
        return suspected, tuple(states)

    def _can_run_ahead(self, step: Step) -> bool:
        """Whether the device alone can decide this step while the host still waits for the numbers."""
        return (
            self.remedy is not None
            and self.remedy.refusal is Refusal.ALWAYS
            and self.detectors == (NonFinite(),)
            and act.gates_on_device(self.optimizer, step.gradients)
        )

    def _step_ahead(self, step: Step) -> Verdict:
        refuse = ~step.stats.grad_norm.isfinite()
        if step.stats.loss is not None:
            refuse = refuse | ~step.stats.loss.isfinite().to(refuse.device)
        factor = None if step.scale is None else step.scale.factor
        if factor is not None:
            refuse = refuse | (factor < act.SMALLEST_IN_KERNEL)
        with act.fused_inputs(self.optimizer, factor=factor, refuse=refuse):
            self.optimizer.step()
        verdict = self._decide(step)
        if verdict.outcome.applied and verdict.outcome.clip_factor < act.SMALLEST_IN_KERNEL:
            with self._clipped(step, verdict.outcome):
                self.optimizer.step()  # the kernel was told to leave this one to the host
        return verdict

    def _clipped(self, step: Step, outcome: StepOutcome) -> AbstractContextManager[None]:
        """What must hold while the optimizer steps, so that it sees clipped gradients."""
        is_read = not isinstance(outcome.stats.grad_norm, Tensor)
        if step.scale is None or (is_read and outcome.clip_factor == 1.0):
            return nullcontext()  # a pass over all gradients saved
        known = outcome.clip_factor if is_read else None
        return act.clipped(self.optimizer, step.gradients, step.scale, known=known)

    def _conclude(self, step: Step, verdict: Verdict) -> StepOutcome:
        """Count a step that is over: states, buffers, log; raise if the remedy gave up."""
        outcome = self.outcome = verdict.outcome
        self._clip_state = verdict.clip_state
        self._detector_states = verdict.detector_states
        self._remedy_state = verdict.remedy_state
        if self._buffers is not None and outcome.applied:
            self._buffers.forget()
        elif self._buffers is not None:
            self._buffers.restore_()
        if outcome.faults:
            self._num_faulty += 1
            _log_fault(outcome, self._num_faulty)
        if self._writer is not None and (outcome.faults or self._writer.wants(self._step)):
            self._record(self._writer, step, verdict)
        self._step += 1
        if outcome.action is Action.RAISE:
            raise NonFiniteError(
                f"{outcome.describe()}\n  The model and the optimizer are as before this step; "
                "the gradients are left in place.",
                step=outcome.step,
                outcome=outcome,
            )
        return outcome

    def _record(self, writer: RunWriter, step: Step, verdict: Verdict) -> None:
        outcome = verdict.outcome
        self._open_log(writer)
        stats = outcome.stats.read()
        if stats.tensor_norms is not None:
            norms = self._watched.in_order(step.parameters, np.asarray(stats.tensor_norms), self._layers)
            outcome = replace(outcome, stats=replace(stats, tensor_norms=norms))
        lr = self.optimizer.param_groups[0]["lr"]
        # a tensor would have to be read from its device
        writer.append(outcome, lr=None if isinstance(lr, Tensor) else float(lr))

    def _open_log(self, writer: RunWriter) -> None:
        """Write the header before the first row: only then is it known whether the run is a resumed one."""
        if self._layers:
            return
        names = self._watched.names
        header = RunHeader.create(
            run_id=self._run_id,
            policies=self._policies(),
            layer_names=list(names.values()),
            layer_shapes=[tuple(p.shape) for p in names],
            layer_dtypes=[str(p.dtype) for p in names],
            first_step=self._step,
        )
        writer.open(header)
        self._layers = tuple(names)

    def _policies(self) -> dict[str, str]:
        return {"clip": repr(self.clip), "detect": repr(self.detectors), "remedy": repr(self.remedy)}

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this guard is closed. Make a new Guard for the optimizer.")


def _log_fault(outcome: StepOutcome, num_faulty: int) -> None:
    """Warn about the first five faulty steps, then about the 8th, 16th, 32nd ..."""
    if num_faulty <= 5 or num_faulty & (num_faulty - 1) == 0:
        logger.warning("%s (faulty step number %d)", outcome.describe(), num_faulty)
