"""The rule of signals that shrink or grow from layer to layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.course import MIN_STEPS
from trimtab.diagnose.statistics import FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.record import Signal
from trimtab.types import Evidence, FindingCause

# From one end of the network to the other; healthy ones of 20 and more layers stay within a factor of 100
_BACKWARD, _FORWARD = 1e4, 1e3
_MIN_LAYERS, _MIN_FIT = 3, 0.5
# The first looks: what an initialization did; the later ones: what is still so
_NUM_LOOKS = 3
# An output, in the units of a logit or of a standardized target
_LARGE_OUTPUT = 20.0
# Of the size of the input, in the middle over the inner layers
_WEAK = 0.05
# Share of a layer's output that comes from the differences between rows
_LOST = 1e-5
# An untrained model guesses; a first loss so many times ln K is that of one that is wrong, and sure of it
_FAR, _SHRUNK = 4.0, 5.0
# A squared error within a half of the outputs' own square; a fifth of the run until a quarter of it is left
_ALIKE, _SHRUNK_LOSS, _LONG_WAY = 1.5, 4.0, 0.2
# of outputs that are three times as large as a standardized target, or logits of a model that should guess
_DROWNING, _SURE = 3.0, 5.0
# Outputs of which less than this share depends on the inputs, a twentieth of the run and fifteen steps long
_SEES, _BLIND_SHARE, _BLIND_STEPS = 1e-3, 0.05, 15
# A first loss within so much of that of the best constant answer is that of an output that begins well
_AS_CONSTANT = 1.15


@final
@dataclass(frozen=True, slots=True)
class SignalFlow:
    """What it detects: activations or their gradients that change by orders of magnitude over the layers.

    Why it matters: layers at one end get no usable gradient, or saturate, or explode.

    Evidence used: the size of each layer's output and of the gradient that comes back to it, in the first
    looks, in the order of the forward pass: a line through their logarithms. Gradients of activations, not
    of weights: those depend on the width. Told only if the run has trouble that this explains; layers that
    make next to nothing of their input, or the same of all inputs, by themselves.

    What to try: the initialization for the activation (He for ReLU, Glorot for tanh), normalization
    layers, residual connections, a gain of 1 per layer.

    Known false alarms: branches that start at zero (residual, low-rank) have no gradient at first, and are
    left out by looking at the third look as well.

    References: Glorot and Bengio 2010; He et al. 2015, arXiv:1502.01852; Schoenholz et al. 2017,
    arXiv:1611.01232.
    """

    causes = (FindingCause.VANISHING_GRADIENTS, FindingCause.EXPLODING_GRADIENTS, FindingCause.BAD_INIT)
    needs = Need.LAYERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        forward, backward = view.signal("forward_rms"), view.signal("backward_rms")
        found: list[Clue] = []
        if backward is not None and len(backward.steps):
            found += _gradients(backward.axis, backward.values.astype(np.float64))
        if forward is not None and len(forward.steps):
            is_explained = any(clue.cause is FindingCause.VANISHING_GRADIENTS for clue in found)
            found += _initialization(view, forward, is_explained=is_explained)
        return tuple(found)


def _gradients(names: tuple[str, ...], values: FloatArray) -> list[Clue]:
    gain, fit = _gain(_usual(values))
    late, late_fit = _gain(_usual(values[-_NUM_LOOKS:]))
    if min(fit, late_fit) < _MIN_FIT or min(abs(gain), abs(late)) < math.log(_BACKWARD) or gain * late < 0:
        return []
    # names run in the order of the forward pass: the gradient comes back from the last to the first
    is_vanishing = gain > 0
    ratio = math.exp(abs(gain))
    verb = "shrinks" if is_vanishing else "grows"
    summary = f"On its way back through {len(names)} layers the gradient {verb} by a factor of {ratio:.1e}."
    advice = (
        "Use ReLU or GELU instead of sigmoid or tanh, normalization "
        "layers or residual connections, and initialize "
        "after He or Glorot."
        if is_vanishing
        else (
            "Initialize with a smaller gain (He for ReLU, Glorot for "
            "tanh), normalize, and clip the gradients."
        )
    )
    cause = FindingCause.VANISHING_GRADIENTS if is_vanishing else FindingCause.EXPLODING_GRADIENTS
    evidence = (
        Evidence("factor over all layers", ratio, limit=_BACKWARD),
        Evidence("factor per layer", math.exp(abs(gain) / max(len(names) - 1, 1))),
    )
    layer = names[0]
    return [Clue(cause, 0.6, 0.85, summary, advice, evidence, layer=layer, stands_alone=False)]


def _initialization(view: View, forward: Signal, *, is_explained: bool) -> list[Clue]:
    names, first = forward.axis, forward.values[0].astype(np.float64)
    gain, fit = _gain(first)
    out = view.column("output", "rms")
    output = float(out[0]) if len(out) else float("nan")
    largest = view.column("input", "rms")
    entering = float(largest[0]) if len(largest) and np.isfinite(largest[0]) else 1.0
    is_steep = abs(gain) > math.log(_FORWARD) and fit > _MIN_FIT and not (gain > 0 and _begins_well(view))
    is_wild = output > _LARGE_OUTPUT * max(1.0, entering)
    is_thin = not is_explained and _is_weak(first, entering)
    is_weak = is_thin or (not is_explained and _is_lost(view, first))
    is_thrown = output > _LARGE_OUTPUT and _had_to_shrink(out)
    is_thrown = is_thrown or (output > _SURE and _starts_far_from_chance(view))
    is_thrown = is_thrown or _drowns_targets(view, out) or _is_blind_for_long(view)
    is_told = is_thrown or (
        not view.loss_is_gone and (is_thin or (is_weak and _is_lost_to_the_end(view, first)))
    )
    if not (is_steep or is_wild or is_weak or is_thrown):
        return []
    low, high = float(np.nanmin(first)), float(np.nanmax(first))
    summary = f"At the first step the outputs of the layers range from {low:.2g} to {high:.2g}."
    advice = (
        "Initialize after He (ReLU) or Glorot (tanh), so that each layer "
        "keeps the size of its input, and the last "
        "layer small; or normalize."
    )
    evidence = (
        Evidence("smallest output of a layer", low),
        Evidence("largest output of a layer", high),
        Evidence("size of the model's output", output, limit=_LARGE_OUTPUT),
    )
    layer = names[int(np.nanargmax(np.abs(np.log(np.maximum(first, 1e-300)))))]
    return [
        Clue(FindingCause.BAD_INIT, 0.6, 0.8, summary, advice, evidence, (0, 0), layer, stands_alone=is_told)
    ]


def _begins_well(view: View) -> bool:
    """Whether the first loss is that of the best constant answer, as with a bias set to what is frequent."""
    error, baseline = (view.column("target", name)[:_NUM_LOOKS] for name in ("error", "baseline"))
    return len(error) == len(baseline) == _NUM_LOOKS and bool(error.sum() < _AS_CONSTANT * baseline.sum())


def _is_weak(first: FloatArray, entering: float) -> bool:
    """Whether the layers, the last one aside, make next to nothing of their input."""
    inner = first[np.isfinite(first)][:-1]
    inner = inner[inner > 0]  # branches that start at zero are fine
    return len(inner) >= 2 and float(np.median(inner)) < _WEAK * min(entering, 1.0)


def _is_lost(view: View, first: FloatArray) -> bool:
    """Whether some layer's output hardly depends on the input, though the input differs from row to row."""
    spread, same = view.signal("batch_spread"), view.column("input", "same_rows")
    if spread is None or not len(same) or same[0] != 0:
        return False
    inner = _inner(spread, first)
    seen = inner[np.isfinite(inner)]
    return len(seen) >= 2 and float(seen.min()) < _LOST


def _is_lost_to_the_end(view: View, first: FloatArray) -> bool:
    """Whether it is lost in the last layer before the output as well: side branches may see no difference."""
    spread = view.signal("batch_spread")
    if spread is None:
        return False
    inner = _inner(spread, first)
    return len(inner) > 0 and bool(inner[-1] < _LOST)


def _inner(spread: Signal, first: FloatArray) -> FloatArray:
    """Shares of the layers' outputs that depend on the input; not of the last one, whose bias says more."""
    return np.asarray(spread.values[0][:-1][first[:-1] > 0])


def _is_blind_for_long(view: View) -> bool:
    """Whether the outputs did not depend on the inputs for a good part of a run that then learned."""
    spread, output, same = (
        view.column("output", "batch_spread"),
        view.signal("output"),
        view.column("input", "same_rows"),
    )
    if output is None or len(spread) < _NUM_LOOKS or (len(same) and same[0] == 1):
        return False
    seeing = np.flatnonzero(spread > _SEES)
    if not len(seeing) or not math.isfinite(view.chance) or len(view.loss) < MIN_STEPS:
        return False
    lost = int(output.steps[seeing[0]]) - view.span[0]
    is_flat = view.loss.level(int(len(view.loss.blocks) * _BLIND_SHARE)) > 0.9 * view.chance
    # a head that starts at zero sees nothing in its first steps, and that is fine
    return lost >= max(_BLIND_SHARE * (view.span[1] - view.span[0]), _BLIND_STEPS) and is_flat


def _had_to_shrink(out: FloatArray) -> bool:
    """Whether the output ended at a fifth of its first size or less."""
    seen = out[np.isfinite(out)]
    return len(seen) >= 3 and float(seen[0]) > _SHRUNK * float(np.median(seen[-3:]))


def _starts_far_from_chance(view: View) -> bool:
    """Whether the first loss, a cross-entropy, is many times that of guessing."""
    return len(view.loss) > 0 and float(view.loss.values[0]) > _FAR * view.chance


def _drowns_targets(view: View, out: FloatArray) -> bool:
    """Whether the first outputs were far larger than what they should be, and shrinking them took long.

    A squared error is then the mean square of the outputs, give or take what the targets add to it.
    """
    course, losses = view.loss, view.at_looks[:_NUM_LOOKS]
    if len(out) < _NUM_LOOKS or not course.is_positive or not np.isfinite(losses).all():
        return False
    with np.errstate(divide="ignore", over="ignore"):
        apart = np.abs(np.log(out[:_NUM_LOOKS] ** 2 / losses))
    if not apart.max() < math.log(_ALIKE) or out[0] < _DROWNING or math.isfinite(view.chance):
        return False
    edges = course.blocks.edges[:-1]
    levels = np.array([course.level(block) for block in range(len(edges))])
    high = np.flatnonzero(levels > np.median(losses) / _SHRUNK_LOSS)
    return len(high) > 0 and (int(high[-1]) + 1) / len(edges) > _LONG_WAY


def _usual(values: FloatArray) -> FloatArray:
    """Median of the looks, layer by layer; nan where there was none."""
    rows = values[: max(_NUM_LOOKS, 1)]
    usual = np.full(values.shape[1], np.nan)
    for column in range(values.shape[1]):
        seen = rows[:, column][np.isfinite(rows[:, column])]
        usual[column] = np.median(seen) if len(seen) else np.nan
    return usual


def _gain(sizes: FloatArray) -> tuple[float, float]:
    """Logarithm of the factor from the first to the last layer by a straight line, and its R squared."""
    rows = np.flatnonzero(np.isfinite(sizes) & (sizes > 0))
    if len(rows) < _MIN_LAYERS:
        return 0.0, 0.0
    logs = np.log(sizes[rows])
    slope, offset = np.polyfit(rows, logs, 1)
    rest = logs - (slope * rows + offset)
    total = float(((logs - logs.mean()) ** 2).sum())
    fit = 1 - float((rest**2).sum()) / total if total > 0 else 0.0
    return float(slope * (rows[-1] - rows[0])), fit
