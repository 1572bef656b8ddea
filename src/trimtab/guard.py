"""The guarded training step: measure -> decide -> act -> record. The only file that knows all stages."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab import act, measure
from trimtab.accumulation import Accumulation
from trimtab.attachment import Attachment, step_searching
from trimtab.concluding import conclude_step, pass_over
from trimtab.decide import (
    Clip,
    CoolDown,
    Detector,
    NonFinite,
    Refusal,
    Remedy,
    Retry,
    Skip,
    check_policies,
    parts,
)
from trimtab.record import RunWriter
from trimtab.recording import Recording
from trimtab.resuming import guard_state, load_guard_state_, take_over_
from trimtab.retrying import Rerun
from trimtab.rewinding import Rewinding
from trimtab.stepping import (
    Dropped,
    States,
    can_run_ahead,
    decide_step,
    measure_step,
    step_ahead,
    while_stepping,
)
from trimtab.tracing import TraceFaults, Tracing
from trimtab.types import Fault, Finding, Kind, Monitor, Needs, Place, StepOutcome

# Which guard holds which optimizer: two would clip and count the same step twice
_GUARDED: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Guard]] = weakref.WeakKeyDictionary()

_DEFAULT_REMEDY = Skip()
_DEFAULT_TRACE = TraceFaults()


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
        cooldown: How the learning rate is lowered for a while after a rewind or a `SteadyClipping`; or None.
        snapshots: Where a `Rewind` goes back to, or None.
        scaler: The loss scale of float16 training, ours or torch's. The loss is scaled by the caller,
            `scaler.scale(loss).backward()`; the guard does the rest, `update()` too.
        reference: A closure that zeroes the gradients and runs forward and backward on a batch known to
            be good, and returns the loss: lets `Retry` tell bad data from a bad state.
        record: Folder for the run log, a `RunWriter`, or None.
        trace: How failed steps are traced to the operation where their bad values were born; None does not.
            Needs a remedy or a record: without them no fault is seen.
        diagnose: What looks at the run while it goes on, such as `Diagnose()`, or None.

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
        cooldown: CoolDown | None = None,
        snapshots: act.Snapshots | None = None,
        scaler: act.LossScaler | torch.amp.GradScaler | None = None,
        reference: Callable[[], Any] | None = None,
        record: RunWriter | str | os.PathLike[str] | None = None,
        trace: TraceFaults | None = _DEFAULT_TRACE,
        diagnose: Monitor | None = None,
    ) -> None:
        if _GUARDED.get(optimizer, lambda: None)() is not None:
            raise RuntimeError(
                "another Guard holds this optimizer, and two would clip every step twice. Use that "
                "one, or call its close() first."
            )
        check_policies(clip, detect, remedy, snapshots=snapshots, cooldown=cooldown, reference=reference)
        self._watched = measure.Watched(model, optimizer)
        self._needs_closure = measure.needs_closure(optimizer)
        self.model = model
        self.optimizer = optimizer
        self.clip = clip
        self.detectors = (NonFinite(), *(d for d in detect if d != NonFinite()))
        self.remedy = remedy
        self.cooldown = cooldown
        self.reference = reference
        self.outcome: StepOutcome | None = None
        self._step = self._num_faulty = 0
        self._run_id = uuid.uuid4().hex
        self._states = States(
            None if clip is None else clip.init(self._watched.layout()),
            tuple(detector.init() for detector in self.detectors),
            None if remedy is None else remedy.init(),
        )
        self._looks_at_underflow = any(Needs.UNDERFLOW in d.needs for d in self.detectors)
        self._may_retry = any(isinstance(part, Retry) for part in parts(remedy))
        self._scaling = None if scaler is None else act.as_scaling(scaler)
        self._recording = None if record is None else Recording(record, self._watched, optimizer)
        self._is_closed = False
        refuses = self._scaling is not None or (remedy is not None and remedy.refusal is not Refusal.NEVER)
        self._buffers = act.BufferMemory(model) if refuses else None
        self._rewinding = None if snapshots is None else Rewinding(self, snapshots)
        folder = None if self._recording is None else self._recording.writer.file.parent / "faults"
        can_see = remedy is not None or record is not None
        self._tracing = None if trace is None or not can_see else Tracing(trace, self, folder)
        self._attachment: Attachment | None = None
        self._watch = None if diagnose is None else diagnose.watch(model, optimizer)
        _GUARDED[optimizer] = weakref.ref(self)

    def step(
        self, loss: Tensor | float | Accumulation | Callable[[], Any], *, batch: Any = None
    ) -> StepOutcome:
        """Guard one step: clip, decide, then step the optimizer or not.

        Args:
            loss: The scalar loss after `backward()`, not multiplied by a loss scale; or a closure that
                zeroes the gradients, runs forward and backward and returns the loss, as `optimizer.step`
                takes it; or what `accumulate` returned.
            batch: The batch, to be kept with the evidence if the step fails.

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
        if self._attachment is not None:
            raise RuntimeError(
                "this guard is attached to optimizer.step(). Call optimizer.step() as before, or "
                "detach() first."
            )
        closure = measure.as_closure(loss)
        if self._tracing is not None:
            self._tracing.begin(closure, loss=loss, batch=batch)
        if isinstance(loss, Accumulation):
            mean = loss.finish()
            return pass_over(self) if mean is None else self._step_once(mean, None, dropped=loss.dropped)
        if closure is not None and self._rewinding is not None:
            self._rewinding.take_if_due()
        if self._needs_closure:
            return step_searching(self, closure)
        if closure is None:
            return self._step_once(loss, None)
        again = Rerun(self, closure) if self._may_retry else None
        return self._step_once(measure.evaluate(closure), again)

    def _step_once(self, loss: Any, again: Rerun | None, *, dropped: Dropped | None = None) -> StepOutcome:
        if self._watch is not None:
            self._watch.before_update(loss)
        self._unscale_()
        step = measure_step(self, loss, dropped=dropped)
        if can_run_ahead(self, step):
            decided = step_ahead(self, step)
        else:
            decided = decide_step(self, step, again)
            if decided.outcome.applied:
                with while_stepping(self, decided):
                    self.optimizer.step()
        return conclude_step(self, decided)

    def accumulate(self) -> Accumulation:
        """Begin a step made of several micro-batches, of which a bad one is to be left out alone.

        Returns:
            What takes the micro-batches, by `backward(loss, weight=1.0)`, and is then given to `step`.
        """
        self._check_open()
        return Accumulation(self)

    def attach(self, *, loss: Callable[[], Tensor | None] | None = None) -> Attachment:
        """Guard the caller's own `optimizer.step()` from now on.

        For loops and frameworks that must not be edited. Every step's outcome is in `guard.outcome`.

        Args:
            loss: Tells the scalar loss of the step about to be made, or None. Without it the loss is known
                only if the caller steps with a closure. Of several ranks each records its own, and none
                decides by it.

        Returns:
            A handle with `detach()`, also a context manager.

        Raises:
            RuntimeError: The guard is attached already or closed.

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
        self._attachment = Attachment(self, loss)
        return self._attachment

    @property
    def num_steps(self) -> int:
        """Steps made so far, faulty ones too; a rewind takes it back."""
        return self._step

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the run, as far as `diagnose` saw; () without it."""
        return () if self._watch is None else self._watch.findings

    def resume(self) -> int:
        """Go on where an earlier process left off, with everything built as it was then.

        Returns:
            Number of steps made when the newest whole snapshot was taken; 0 if there is none.

        Raises:
            RuntimeError: The guard has no snapshots with a folder, or has made a step already.
            SnapshotError: All snapshots are damaged, or of another model, optimizer, clip, ...
        """
        if self._rewinding is None or self._rewinding.snapshots.folder is None:
            raise RuntimeError("resume() needs snapshots=Snapshots(folder=...) in this Guard.")
        restored = self._rewinding.resume_()
        if restored is not None:
            take_over_(self, restored.policies)
            self._step = restored.step + 1
        return self._step

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
        if self._recording is None:
            raise RuntimeError("this guard keeps no record. Pass record='runs/name' to Guard.")
        self._opened(self._recording).writer.log(max(self._step - 1, 0), **metrics)

    def close(self) -> None:
        """Remove all hooks, close the run log and release the optimizer. Safe to call twice."""
        self._is_closed = True
        if _GUARDED.get(self.optimizer, lambda: None)() is self:
            del _GUARDED[self.optimizer]
        with ExitStack() as last:  # all of it, also if a snapshot could not be written
            if self._recording is not None:
                last.callback(self._recording.writer.close)
            if self._rewinding is not None:
                last.callback(self._rewinding.close)
            for part in (self._buffers, self._tracing, self._watch):
                if part is not None:
                    last.callback(part.close)
            if self._attachment is not None:
                last.callback(self._attachment.detach)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """All that later decisions depend on, in plain containers (`weights_only=True` loads it)."""
        return guard_state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken: later decisions are those of an uninterrupted run.

        Raises:
            RuntimeError: The run log of this guard is open already.
            ValueError: The state is of another version, of other policies than this guard's, or of other
                parameters; nothing was changed.
        """
        load_guard_state_(self, state)

    def _reads_now(self) -> bool:
        """Whether this step must be known on the host."""
        is_recorded = self._recording is not None and self._recording.writer.wants(self._step)
        return is_recorded or self.remedy is not None or self._scaling is not None

    def _can_rewind(self) -> bool:
        return self._rewinding is not None and self._rewinding.can_rewind()

    def _lr_factor(self) -> float:
        return 1.0 if self.cooldown is None else self.cooldown.factor_of(self._states.cooling)

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self._scaling is None else self._scaling.scale(loss)

    def _unscale_(self) -> None:
        """Bring the gradients back to their own size, if a loss scale enlarged them."""
        if self._scaling is None:
            act.check_unscaled(self.optimizer)
        else:
            self._scaling.unscale_(self.optimizer)

    def _take_back_buffers(self) -> None:
        if self._buffers is not None:
            self._buffers.restore_()

    def _opened(self, recording: Recording) -> Recording:
        recording.open(run_id=self._run_id, policies=self._policies(), first_step=self._step)
        return recording

    def _policies(self) -> dict[str, str]:
        policies: dict[str, object] = {"clip": self.clip, "detect": self.detectors, "remedy": self.remedy}
        if self.cooldown is not None:
            policies["cooldown"] = self.cooldown
        return {role: repr(policy) for role, policy in policies.items()}

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("this guard is closed. Make a new Guard for the optimizer.")
