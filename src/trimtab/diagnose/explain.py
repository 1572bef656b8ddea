"""Which cause explains which symptom, and how clues become one finding per root cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trimtab.diagnose.clues import Clue
from trimtab.types import Finding, FindingCause, Severity

C = FindingCause

_DIVERGING = frozenset(
    {C.LOSS_EXPLOSION, C.SLOW_DIVERGENCE, C.LOSS_NAN, C.LOSS_SPIKE, C.OSCILLATION, C.EXPLODING_GRADIENTS}
    | {C.WEIGHT_GROWTH, C.NO_WARMUP}
)
_IDLE = frozenset({C.AT_CHANCE, C.PLATEAU, C.LABEL_TROUBLE, C.UNDERFITTING})
_SLOW = _IDLE | {C.LR_TOO_LOW, C.SECOND_MOMENT}
_BROKEN = frozenset({C.DEAD_UNITS, C.SATURATION, C.VANISHING_GRADIENTS, C.CLASS_COLLAPSE})
_ALL = _DIVERGING | _SLOW | _BROKEN

# From root causes to what they bring about. The order is that of preference: what is known for certain and
# nearest to the root comes first, a symptom of the loss last.
_EFFECTS: dict[FindingCause, frozenset[FindingCause]] = {
    C.CONSTANT_FEATURES: _ALL
    | {C.LR_TOO_HIGH, C.INPUT_SCALE, C.OVERFITTING, C.FP16_UNDERFLOW, C.BAD_INIT, C.SYMMETRIC_INIT},
    C.STALE_OPTIMIZER: _SLOW | {C.PARAMETER_NOT_IN_OPTIMIZER, C.OVERFITTING},
    C.PARAMETER_NOT_IN_OPTIMIZER: _SLOW,
    C.ZERO_GRAD_MISSING: _ALL | {C.LR_TOO_HIGH},
    C.GRADIENTS_ALTERED: _ALL | {C.LR_TOO_HIGH},
    C.LR_ZERO: _SLOW | {C.STEP_CHANGES_NOTHING, C.LR_DECAYED_TOO_EARLY, C.FP16_UNDERFLOW},
    C.SYMMETRIC_INIT: _ALL | {C.BAD_INIT, C.FP16_UNDERFLOW},
    C.SOFTMAX_BEFORE_CROSS_ENTROPY: _SLOW | {C.OVERFITTING, C.STEP_CHANGES_NOTHING},
    C.SIGMOID_BEFORE_BCE: _SLOW | {C.OVERFITTING},
    C.ACTIVATED_LOGITS: _SLOW
    | {C.STEP_CHANGES_NOTHING, C.DEAD_UNITS, C.CLASS_COLLAPSE, C.FP16_UNDERFLOW, C.VANISHING_GRADIENTS},
    C.STEP_CHANGES_NOTHING: _SLOW | {C.FP16_UNDERFLOW, C.LR_TOO_HIGH},
    C.LOSS_SCALE_COLLAPSE: _SLOW | {C.LOSS_NAN, C.STEP_CHANGES_NOTHING},
    C.DETACHED: _SLOW | {C.VANISHING_GRADIENTS, C.BAD_INIT},
    C.WRONG_MODE: _DIVERGING | _IDLE | {C.LR_TOO_HIGH, C.OVERFITTING},
    C.TINY_BATCH_BATCHNORM: _DIVERGING | _IDLE | {C.OVERFITTING, C.LR_TOO_HIGH},
    C.SUM_REDUCTION: _ALL | {C.LR_TOO_HIGH, C.CLIPPING_TOO_TIGHT},
    C.INPUT_SCALE: _ALL | {C.LR_TOO_HIGH, C.BAD_INIT, C.FP16_UNDERFLOW, C.CLIPPING_TOO_TIGHT},
    C.BAD_INIT: _ALL | {C.LR_TOO_HIGH, C.FP16_UNDERFLOW, C.CLIPPING_TOO_TIGHT},
    C.OVER_REGULARIZED: _SLOW | _BROKEN | {C.FP16_UNDERFLOW, C.SLOW_DIVERGENCE},
    C.ADAM_EPSILON: _SLOW,
    C.SECOND_MOMENT: _SLOW,
    C.CLIPPING_TOO_TIGHT: _SLOW,
    C.NO_WARMUP: frozenset({C.LR_TOO_HIGH, C.LOSS_SPIKE, C.OSCILLATION, C.DEAD_UNITS, C.PLATEAU}),
    C.LR_TOO_HIGH: _DIVERGING - {C.NO_WARMUP} | _IDLE | _BROKEN | {C.FP16_UNDERFLOW, C.OVERFITTING},
    C.LR_DECAYED_TOO_EARLY: _SLOW | {C.FP16_UNDERFLOW},
    C.DEAD_UNITS: _SLOW | {C.VANISHING_GRADIENTS, C.CLASS_COLLAPSE, C.STEP_CHANGES_NOTHING, C.FP16_UNDERFLOW},
    C.SATURATION: _SLOW | {C.VANISHING_GRADIENTS, C.CLASS_COLLAPSE, C.FP16_UNDERFLOW},
    C.VANISHING_GRADIENTS: _SLOW | {C.CLASS_COLLAPSE, C.STEP_CHANGES_NOTHING, C.FP16_UNDERFLOW},
    C.EXPLODING_GRADIENTS: _DIVERGING | _IDLE,
    C.FP16_UNDERFLOW: _SLOW,
    C.LR_TOO_LOW: _IDLE | {C.FP16_UNDERFLOW},
    C.CLASS_COLLAPSE: _IDLE | {C.OVERFITTING},
    C.LOSS_EXPLOSION: frozenset(
        {C.LOSS_NAN, C.LOSS_SPIKE, C.SLOW_DIVERGENCE, C.OSCILLATION, C.WEIGHT_GROWTH, C.CLASS_COLLAPSE}
    ),
    C.SLOW_DIVERGENCE: frozenset({C.LOSS_SPIKE, C.OSCILLATION, C.WEIGHT_GROWTH}),
    C.UPDATE_RATIO: _DIVERGING | _IDLE,
    C.FROZEN: _SLOW,
    C.LABEL_TROUBLE: _IDLE,
    C.AT_CHANCE: frozenset({C.UNDERFITTING, C.PLATEAU}),
    C.UNDERFITTING: frozenset({C.PLATEAU, C.LABEL_TROUBLE}),
}
# Whatever makes a run idle makes updates too small for their weights
EXPLAINS = {
    cause: (effects | ({C.FP16_UNDERFLOW} if effects & _IDLE else set())) - {cause}
    for cause, effects in _EFFECTS.items()
}
_RANK = {
    cause: rank for rank, cause in enumerate((*EXPLAINS, *(c for c in FindingCause if c not in EXPLAINS)))
}

# Each of these is worth telling in a run that hardly learns, even if there is no other sign
_OF_SLOW_RUNS = frozenset(
    {C.INPUT_SCALE, C.SATURATION, C.DEAD_UNITS, C.CLIPPING_TOO_TIGHT, C.ADAM_EPSILON, C.OVER_REGULARIZED}
    | {C.VANISHING_GRADIENTS, C.BAD_INIT, C.FP16_UNDERFLOW, C.SECOND_MOMENT}
    | {C.TINY_BATCH_BATCHNORM}
)

# What does harm only by keeping a run from learning: in one that has learned, it is a trait of the model
KEEPS_FROM_LEARNING = (
    (_OF_SLOW_RUNS | _SLOW) - {C.INPUT_SCALE, C.OVER_REGULARIZED, C.BAD_INIT, C.AT_CHANCE}
    | {C.DETACHED, C.CLASS_COLLAPSE, C.FROZEN, C.CONSTANT_FEATURES, C.GRADIENTS_ALTERED}
    | {C.SOFTMAX_BEFORE_CROSS_ENTROPY, C.SIGMOID_BEFORE_BCE, C.ACTIVATED_LOGITS, C.STEP_CHANGES_NOTHING}
)
# Of these, what is hardly meant: a floor under the loss however right the answers are, parts that nothing
# reaches, a BatchNorm over a few rows. Only a loss that is gone shows that it did no harm
NEVER_MEANT = frozenset(
    {C.SOFTMAX_BEFORE_CROSS_ENTROPY, C.SIGMOID_BEFORE_BCE, C.ACTIVATED_LOGITS, C.DETACHED}
    | {C.TINY_BATCH_BATCHNORM}
)

# What else comes to mind when nothing else was seen
_ALSO: dict[FindingCause, tuple[FindingCause, ...]] = {
    C.LOSS_EXPLOSION: (C.LR_TOO_HIGH, C.EXPLODING_GRADIENTS),
    C.SLOW_DIVERGENCE: (C.LR_TOO_HIGH, C.WEIGHT_GROWTH),
    C.LOSS_SPIKE: (C.LR_TOO_HIGH,),
    C.OSCILLATION: (C.LR_TOO_HIGH,),
    C.LR_TOO_HIGH: (C.LOSS_EXPLOSION, C.EXPLODING_GRADIENTS),
    C.EXPLODING_GRADIENTS: (C.LR_TOO_HIGH, C.BAD_INIT),
    C.LOSS_NAN: (C.LR_TOO_HIGH,),
    C.AT_CHANCE: (C.LR_TOO_LOW, C.LABEL_TROUBLE),
    C.PLATEAU: (C.LR_TOO_LOW, C.LABEL_TROUBLE),
    C.VANISHING_GRADIENTS: (C.BAD_INIT, C.SATURATION),
    C.DEAD_UNITS: (C.LR_TOO_HIGH, C.BAD_INIT),
    C.LR_TOO_LOW: (C.CLIPPING_TOO_TIGHT, C.VANISHING_GRADIENTS),
    C.OVERFITTING: (C.LABEL_TROUBLE,),
    C.NO_WARMUP: (C.LR_TOO_HIGH, C.BAD_INIT),
}
_MAX_RUNNERS_UP, _MAX_EVIDENCE = 3, 8
_ORDER = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}


def findings(clues: Iterable[Clue]) -> tuple[Finding, ...]:
    """One finding per root cause, the worst first.

    A clue that does not stand alone counts only if it explains, at first or second hand, one that does.

    Args:
        clues: What the rules saw.
    """
    clues = tuple(clues)
    everything = _strongest(clue for clue in clues if not clue.is_hint)
    if any(clue.is_hint for clue in clues):
        everything = [replace(c, stands_alone=True) if c.cause in _OF_SLOW_RUNS else c for c in everything]
    needed = {clue.cause for clue in everything if clue.stands_alone}
    counted = [c for c in everything if c.stands_alone or EXPLAINS.get(c.cause, frozenset()) & needed]
    counted.sort(key=lambda clue: (_RANK[clue.cause], -clue.confidence))
    explained: set[FindingCause] = set()
    found: list[Finding] = []
    for clue in counted:
        mine = EXPLAINS.get(clue.cause, frozenset())
        symptoms = [c for c in everything if c.cause in mine and c.cause not in explained]
        telling = [c for c in symptoms if c.stands_alone]
        if clue.cause in explained or not (clue.stands_alone or telling):
            continue
        others = [c.cause for c in counted if _competes(c, clue, telling)]
        explained |= {c.cause for c in symptoms}
        if not clue.stands_alone:
            explained |= set(others)
        found.append(_finding(clue, symptoms, others))
    found.sort(key=lambda f: (_ORDER[f.severity], -f.confidence))
    return tuple(found)


def _strongest(clues: Iterable[Clue]) -> list[Clue]:
    """One clue per cause: one that stands alone rather than not, then the surer one."""
    best: dict[FindingCause, Clue] = {}
    for clue in clues:
        known = best.get(clue.cause)
        if known is None or (clue.stands_alone, clue.confidence) > (known.stands_alone, known.confidence):
            best[clue.cause] = clue
    return list(best.values())


def _competes(other: Clue, clue: Clue, telling: Sequence[Clue]) -> bool:
    """Whether another cause would explain the same."""
    if other is clue or other.stands_alone:
        return False
    return bool(EXPLAINS.get(other.cause, frozenset()) & {c.cause for c in telling})


def _finding(clue: Clue, symptoms: Sequence[Clue], others: Sequence[FindingCause]) -> Finding:
    telling = sorted((c for c in symptoms if c.stands_alone), key=lambda c: -c.harm)
    head = telling[0] if telling else None
    summary, steps = clue.summary, clue.steps
    if head is not None and not clue.stands_alone:
        summary = f"{head.summary} {clue.summary}"
        steps = head.steps if steps == (0, 0) else steps
    worst = max([clue, *telling], key=lambda c: c.harm) if telling else clue
    if head is not None and not clue.stands_alone:
        worst = head
    evidence = [*clue.evidence, *(e for c in telling for e in c.evidence)]
    seen = tuple(dict.fromkeys(c.cause for c in (*telling, *symptoms)))
    runners_up = dict.fromkeys((*others, *_ALSO.get(clue.cause, ())))
    first = tuple(c for c in runners_up if c is not clue.cause and c not in seen)
    # a rival that was seen lowers the confidence
    confidence = clue.confidence * (0.85 if others else 1.0)
    return Finding(
        cause=clue.cause,
        severity=worst.severity,
        summary=summary,
        advice=clue.advice,
        evidence=tuple(evidence[:_MAX_EVIDENCE]),
        confidence=round(confidence, 3),
        steps=steps,
        layer=clue.layer,
        symptoms=seen,
        runners_up=first[:_MAX_RUNNERS_UP],
    )
