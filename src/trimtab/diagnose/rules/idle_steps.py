"""The rule of steps that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.stuck import explains_little, is_slow
from trimtab.diagnose.rules.underfitting import is_outdone
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
_MIN_CONSTANT_STEPS, _FROM_THE_START = 20, 0.9
# A size in single precision shows changes from here on
_VISIBLE = 1e-5
# Updates are undone when they do not last in most of the weights
_MOST = 0.8
# So much of a step is taken back before the next one, in two pairs of steps at least
_TAKEN_BACK, _MIN_PAIRS = 0.5, 2


@final
@dataclass(frozen=True, slots=True)
class IdleSteps:
    """What it detects: optimizer steps after which the weights are bit by bit what they were.

    Why it matters: the run goes on and learns nothing.

    Evidence used: samples of the weights before and after the step, in all looks with a learning rate
    above zero, and what of a step is left when the next one comes; without those signals a loss that is bit
    by bit the same for 20 steps and more.

    What to try: look at what the optimizer holds, and at what writes to the weights after the step or to
    the gradients before it.

    Known false alarms: steps that a guard refused on purpose are left out.

    References: Jiang et al., TrainCheck, OSDI 2025 (the invariant that a step changes its parameters).
    """

    causes = (FindingCause.STEP_CHANGES_NOTHING, FindingCause.PLATEAU)
    needs = Need.NOTHING

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        constant = _constant_loss(view)
        if Need.PARAMETERS not in view.has:
            return constant
        return _idle(view) or _undone(view) or _taken_back(view) or _nothing_to_learn(view) or constant


def trained_table(view: View, name: str) -> np.ndarray:
    """Rows of looks, columns of trained parameters."""
    signal, own, has = view.signal(name), view.signal("in_optimizer"), view.signal("has_gradient")
    assert signal is not None
    assert own is not None
    assert has is not None
    columns = np.all(own.values == 1, axis=0) & np.all(has.values == 1, axis=0)
    lr = view.column("optimizer", "lr")
    rows = ~(lr == 0) if len(lr) == len(signal.steps) else np.ones(len(signal.steps), dtype=bool)
    applied = dict(zip(view.log.step.tolist(), view.log.applied.tolist(), strict=True))
    rows &= np.array([applied.get(int(step), True) for step in signal.steps])
    return np.asarray(signal.values[rows][:, columns], dtype=np.float64)


def _idle(view: View) -> tuple[Clue, ...]:
    changed, gradient = trained_table(view, "changed_share"), trained_table(view, "gradient_rms")
    if (
        len(changed) < _MIN_LOOKS
        or not changed.size
        or np.any(changed[1:] > 0)
        or not np.any(gradient[1:] > 0)
    ):
        return ()
    summary = "The optimizer's steps change nothing: all sampled weights are bit by bit what they were."
    advice = (
        "Look at what the optimizer holds, at its learning rate in each "
        "group, and at what writes to the weights or "
        "zeroes the gradients between backward() and step()."
    )
    evidence = (
        Evidence("looks without any change", len(changed)),
        Evidence("median size of the gradients", float(np.nanmedian(gradient))),
    )
    return (Clue(FindingCause.STEP_CHANGES_NOTHING, 1.0, 0.95, summary, advice, evidence, view.span),)


def _undone(view: View) -> tuple[Clue, ...]:
    """Weights that a step changes, and that are what they were at the next look all the same."""
    size, changed = trained_table(view, "weight_rms"), trained_table(view, "changed_share")
    ratio = middle(trained_table(view, "update_ratio"))
    if ratio < _VISIBLE:
        return ()  # of steps so small the sizes would not show a thing
    if len(size) < _MIN_LOOKS + 1 or not size.size or not np.any(changed > 0):
        return ()
    alive = (size[0] > 0) & np.any(changed > 0, axis=0)  # what no step changes is another matter
    still = np.all(size[1:] == size[1], axis=0)[alive]
    if not len(still) or float(still.mean()) <= _MOST:
        return ()
    share = float(still.mean())
    summary = (
        f"The updates are undone: {share:.0%} of the weights are at each look what they were at the first."
    )
    advice = (
        "Look at what writes to the weights between steps: a checkpoint loaded inside the loop, a rounding "
        "to bfloat16, a copy that is trained in place of the model."
    )
    evidence = (
        Evidence("share of the weights that never moved", share, limit=_MOST),
        Evidence("looks", len(size)),
    )
    return (Clue(FindingCause.STEP_CHANGES_NOTHING, 1.0, 0.9, summary, advice, evidence, view.span),)


def _nothing_to_learn(view: View) -> tuple[Clue, ...]:
    """A loss that is exactly 0 from the first step to the last, and sends no gradients."""
    gradient, values = trained_table(view, "gradient_rms"), view.loss.values
    if len(gradient) < _MIN_LOOKS or np.any(values != 0) or not np.all(gradient == 0):
        return ()
    summary = (
        "The loss is exactly 0 in every step and its gradients are as well: nothing can be learned from it."
    )
    advice = (
        "Look at how the loss is made: a cross-entropy over one class, a mask that leaves nothing, an output "
        "compared with itself."
    )
    evidence = (Evidence("steps with a loss of exactly 0", len(values), "steps"),)
    return (Clue(FindingCause.STEP_CHANGES_NOTHING, 1.0, 0.9, summary, advice, evidence, view.span),)


def _taken_back(view: View) -> tuple[Clue, ...]:
    """Steps that were mostly taken back before the next one, where two in a row were looked at."""
    shares = trained_table(view, "undone_share") if view.signal("undone_share") is not None else np.zeros(0)
    shares = shares[np.isfinite(shares).any(axis=1)] if shares.size else shares
    if len(shares) < _MIN_PAIRS:
        return ()
    share = float(np.median(np.nanmedian(shares, axis=1)))
    if not share > _TAKEN_BACK:
        return ()
    summary = f"Something takes back {share:.0%} of each step before the next one."
    advice = (
        "Look at what writes to the weights outside of the optimizer: an average of the weights that is "
        "copied into the model, a clamp, a checkpoint loaded inside the loop."
    )
    evidence = (
        Evidence("share of a step that is gone before the next", share, limit=_TAKEN_BACK),
        Evidence("pairs of steps looked at", len(shares)),
    )
    # sharpness-aware steps go back and forth too, and learn
    told = explains_little(view) or is_outdone(view) or is_slow(view.loss)
    clue = Clue(
        FindingCause.STEP_CHANGES_NOTHING, 0.9, 0.8, summary, advice, evidence, view.span, stands_alone=told
    )
    return (clue,)


def _constant_loss(view: View) -> tuple[Clue, ...]:
    values = view.loss.values
    if (
        len(values) < _MIN_CONSTANT_STEPS
        or np.any(values[-_MIN_CONSTANT_STEPS:] != values[-1])
        or values[-1] == 0
    ):
        return ()
    same = int((values == values[-1])[::-1].argmin()) or len(values)
    if same < max(_MIN_CONSTANT_STEPS, len(values) // 2):
        return ()
    steps = (view.span[1] - same, view.span[1])
    evidence = (Evidence("steps with the same loss", same, "steps", _MIN_CONSTANT_STEPS),)
    summary = f"The loss is bit by bit the same ({values[-1]:.6g}) for the last {same} steps."
    advice = "The updates do not reach the model, or its output no longer depends on weights and data."
    # a run that learned at first and then stands still was broken by something else
    cause = (
        FindingCause.STEP_CHANGES_NOTHING if same >= _FROM_THE_START * len(values) else FindingCause.PLATEAU
    )
    return (Clue(cause, 0.9, 0.7, summary, advice, evidence, steps),)
