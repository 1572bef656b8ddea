"""The rule of updates and gradients that are lost to rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.idle_steps import trained_table
from trimtab.diagnose.statistics import FloatArray, middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS = 3
# Rounding eats a step when most elements stay bit by bit what they were although their gradient is not zero
_UNCHANGED = 0.5
_ZERO_GRADIENT = 0.8
# Of tables most rows are in no batch: biases must show it as well. So much is nothing a model does by itself
_MANY, _SILENT = 0.5, 0.9
# Single precision meets those steps by accident in one element of a thousand, unless it was rounded to them
_COARSE = 0.9
# of a weight, in one step: single precision resolves it, and the rate is to blame
_TINY_STEP = 1e-6


@final
@dataclass(frozen=True, slots=True)
class LostToRounding:
    """What it detects: weights with gradients that stay what they were; gradients that are mostly zero.

    Why it matters: in bfloat16 an update below 0.4 % of a weight is rounded away; in float16 gradients
    below 6e-8 are zero.

    Evidence used: the share of sampled weights that a step changed, and of gradient elements that are
    exactly zero, in the later half of the looks. Told only if the run learns too slowly or nothing, or if
    nine tenths of the gradients are zero, in biases as well. Gradients that were rounded to the coarse steps
    of float16 next to 0, multiples of 6e-8, are told by themselves.

    What to try: weights in float32, or a float32 copy of them (`MasterWeights`); a loss scale (`LossScaler`).

    Known false alarms: embeddings and dead ReLU units have many zero gradients when nothing is wrong: most
    layers must show it, and the biases.

    References: Micikevicius et al. 2018, arXiv:1710.03740; Zamirai et al. 2020, arXiv:2010.06192.
    """

    causes = (FindingCause.FP16_UNDERFLOW,)
    needs = Need.PARAMETERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        return _rounded(view)


def _rounded(view: View) -> tuple[Clue, ...]:
    changed, zeros = trained_table(view, "changed_share"), trained_table(view, "gradient_zero_share")
    rms = trained_table(view, "weight_rms")
    if len(changed) < _MIN_LOOKS or not changed.size:
        return ()
    alive = rms[-1] > 0
    late = slice(len(changed) // 2, None)
    still = float(np.median((1 - changed)[late][:, alive])) if alive.any() else 0.0
    silent = float(np.median(zeros[late][:, alive])) if alive.any() else 0.0
    rounded = _in_coarse_steps(view, late)
    if rounded:
        return rounded
    ratio = trained_table(view, "update_ratio")
    step = float(np.nanmedian(ratio[late][:, alive])) if ratio.size and alive.any() else 0.0
    is_tiny = 0 < step < _TINY_STEP  # in half precision what is changed at all is changed by more
    if still > _UNCHANGED and silent < 0.1 and not is_tiny:
        summary = (
            f"Rounding eats the updates: {still:.0%} of the sampled weights stay bit by bit what they were."
        )
        advice = (
            "Keep the weights in float32 (MasterWeights for bfloat16 models), or raise the learning rate."
        )
        evidence = Evidence("share of weights without a change", still, limit=_UNCHANGED)
        return (_clue(view, 0.85, summary, advice, evidence),)
    vectors = _zeros_of_vectors(view, zeros[late])
    if silent > _ZERO_GRADIENT and vectors > _MANY:
        summary = f"{silent:.0%} of the gradients' elements are exactly zero in most layers."
        advice = "If the gradients pass through float16, scale the loss (LossScaler) or use bfloat16."
        evidence = Evidence("share of gradient elements that are 0", silent, limit=_ZERO_GRADIENT)
        is_told = min(silent, vectors) > _SILENT
        return (replace(_clue(view, 0.6, summary, advice, evidence), stands_alone=is_told),)
    return ()


def _zeros_of_vectors(view: View, zeros: FloatArray) -> float:
    """How much of the gradients of biases and scales is 0: each row has a say in them, as in no table."""
    if view.signal("num_units") is None:  # a log of an earlier version
        return math.nan
    # a bias of each row of a table has two dimensions, and is a table
    return middle(zeros[:, np.isnan(trained_table(view, "num_units")[0])])


def _in_coarse_steps(view: View, late: slice) -> tuple[Clue, ...]:
    """Gradients that are multiples of the smallest number of float16, all that are not 0, in most layers."""
    if view.signal("gradient_subnormal_share") is None:  # a log of an earlier version
        return ()
    share = middle(trained_table(view, "gradient_subnormal_share")[late])
    if not share > _COARSE:
        return ()
    summary = (
        f"{share:.0%} of the gradients' elements other than 0 are a few times 6e-8, the smallest number of "
        "float16, and nothing in between: what is smaller was lost."
    )
    advice = "Scale the loss before backward (LossScaler), or use bfloat16."
    evidence = Evidence("share of gradients in the coarse steps of float16 next to 0", share, limit=_COARSE)
    return (replace(_clue(view, 0.9, summary, advice, evidence), stands_alone=True),)


def _clue(view: View, confidence: float, summary: str, advice: str, evidence: Evidence) -> Clue:
    cause = FindingCause.FP16_UNDERFLOW
    return Clue(cause, 0.5, confidence, summary, advice, (evidence,), view.span, stands_alone=False)
