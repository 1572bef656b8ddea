"""The rule of spikes of the loss that last."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import MAD_TO_SIGMA, FloatArray
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

# On the log scale, against the median of the window before: eight deviations, twice as high, three steps in
# a row. One bad batch is no finding.
_Z, _RATIO, _IN_A_ROW, _WINDOW, _STRIDE, _MIN_STEPS = 8.0, math.log(2.0), 3, 50, 10, 60
_SIGMA_FLOOR = 0.05
# What they cost: at least so much of what was gained had to be learned again, for so much of the run
_MIN_LOST, _MIN_SHARE = 0.25, 0.05
_LR_JUMP = 1.5


@final
@dataclass(frozen=True, slots=True)
class LossSpike:
    """What it detects: stretches in which the loss is far above what it was before, and then recovers.

    Why it matters: each one undoes part of the training; they tend to become worse.

    Evidence used: the logarithm of the loss against median and median absolute deviation of the 50 steps
    before; at least three steps in a row; a quarter of the gain lost for at least 5 % of the run.

    What to try: a detector (`LossSpike`) with a remedy that skips or rewinds such steps; clipping by a
    quantile; a lower learning rate; for Adam a smaller beta2; look at the batches.

    Known false alarms: rises that follow a rise of the learning rate are left out. Data that change their
    nature within an epoch look like spikes.

    References: Chowdhery et al., "PaLM", 2022, arXiv:2204.02311, section 5.1.
    """

    causes = (FindingCause.LOSS_SPIKE,)
    needs = Need.LOSS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        course = view.loss
        if len(course) < _MIN_STEPS or not course.is_positive:
            return ()
        stretches = [s for s in _stretches(course.judged) if _came_back(course.judged, *s)]
        found = [s for s in stretches if not _follows_a_jump(view, s[0])]
        rows = [
            slice(a, b) for a, b in found if course.lost(float(np.median(course.values[a:b]))) > _MIN_LOST
        ]
        total = sum(r.stop - r.start for r in rows)
        if not rows or total < max(_IN_A_ROW, _MIN_SHARE * len(course)):
            return ()
        worst = max(float(course.values[r].max()) for r in rows)
        first, last = int(course.steps[rows[0].start]), int(course.steps[rows[-1].stop - 1])
        summary = (
            f"The loss spiked {len(rows)} time{'s' if len(rows) > 1 else ''} for {total} steps in all, up to "
            f"{worst:.4g}, and then recovered."
        )
        advice = (
            "Train with detect=[LossSpike()] and a remedy that rewinds, clip with QuantileClip, or lower the "
            f"learning rate. Look at the batches around step {first}."
        )
        evidence = (
            Evidence("spikes", len(rows)),
            Evidence("steps in spikes", total, "steps"),
            Evidence("highest loss", worst),
        )
        return (Clue(FindingCause.LOSS_SPIKE, 0.15, 0.8, summary, advice, evidence, (first, last)),)


def _stretches(judged: FloatArray) -> list[tuple[int, int]]:
    """First index and end of each stretch far above the window before it."""
    # one window for every ten steps: a median per step would take minutes for a million
    starts = np.arange(_WINDOW, len(judged), _STRIDE)
    windows = np.lib.stride_tricks.sliding_window_view(judged, _WINDOW)[starts - _WINDOW]
    middles = np.median(windows, axis=1)
    sigmas = MAD_TO_SIGMA * np.median(np.abs(windows - middles[:, None]), axis=1)
    bounds = middles + np.maximum(_Z * np.maximum(sigmas, _SIGMA_FLOOR), _RATIO)
    bound = np.concatenate([np.full(_WINDOW, np.inf), np.repeat(bounds, _STRIDE)[: len(judged) - _WINDOW]])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (judged > bound).astype(np.int8), [0]])))
    pairs = edges.reshape(-1, 2).tolist()
    return [(first, end) for first, end in pairs if end - first >= _IN_A_ROW and end < len(judged)]


def _came_back(judged: FloatArray, first: int, end: int) -> bool:
    """Whether most of a rise was gone after it: else the window only got used to another level."""
    before, high = np.median(judged[max(0, first - _WINDOW) : first]), np.median(judged[first:end])
    return bool(np.median(judged[end : end + _STRIDE]) - before < 0.5 * (high - before))


def _follows_a_jump(view: View, index: int) -> bool:
    """Whether the learning rate had just gone up."""
    lr = view.lr
    if not np.isfinite(lr).all():
        return False
    before = lr[max(0, index - 60) : max(index - 5, 1)]
    return bool(lr[max(0, index - 5) : index + 5].max() > _LR_JUMP * max(float(before.min()), 1e-300))
