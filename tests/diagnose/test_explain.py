"""One finding per root cause."""

from __future__ import annotations

import inspect

import pytest

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.explain import EXPLAINS, findings
from trimtab.diagnose.rules import RULES
from trimtab.types import FindingCause, Severity

C = FindingCause


def clue(cause, *, alone=True, harm=0.6, confidence=0.9):
    return Clue(cause, harm, confidence, f"{cause.value} was seen.", "Mend it.", stands_alone=alone)


def test_symptoms_are_merged_into_their_cause():
    found = findings(
        [
            clue(C.LOSS_NAN),
            clue(C.LOSS_EXPLOSION),
            clue(C.DEAD_UNITS, alone=False),
            clue(C.LR_TOO_HIGH, alone=False),
        ]
    )
    assert [f.cause for f in found] == [C.LR_TOO_HIGH]
    assert set(found[0].symptoms) == {C.LOSS_NAN, C.LOSS_EXPLOSION, C.DEAD_UNITS}
    assert "loss_nan was seen" in found[0].summary or "loss_explosion was seen" in found[0].summary


def test_a_possible_cause_alone_says_nothing():
    for cause in (C.LR_TOO_HIGH, C.INPUT_SCALE, C.DEAD_UNITS, C.SUM_REDUCTION, C.CLIPPING_TOO_TIGHT):
        assert findings([clue(cause, alone=False)]) == ()
    assert findings([]) == ()


def test_rivals_become_runners_up_and_cost_confidence():
    sure = findings([clue(C.LOSS_EXPLOSION), clue(C.SUM_REDUCTION, alone=False)])[0]
    rivals = findings(
        [clue(C.LOSS_EXPLOSION), clue(C.SUM_REDUCTION, alone=False), clue(C.INPUT_SCALE, alone=False)]
    )
    assert [f.cause for f in rivals] == [C.SUM_REDUCTION]
    assert rivals[0].runners_up[0] is C.INPUT_SCALE
    assert rivals[0].confidence < sure.confidence


def test_independent_faults_are_both_told_the_worst_first():
    found = findings([clue(C.OVERFITTING, harm=0.2), clue(C.DETACHED, harm=0.9)])
    assert [f.cause for f in found] == [C.DETACHED, C.OVERFITTING]
    assert [f.severity for f in found] == [Severity.CRITICAL, Severity.WARNING]


def test_no_cause_explains_itself():
    assert all(cause not in effects for cause, effects in EXPLAINS.items())


def test_every_cause_has_a_rule():
    # the monitor of activations tells of NaN and Inf: no log holds them
    assert {cause for rule in RULES for cause in rule.causes} == set(FindingCause) - {C.NONFINITE_ACTIVATIONS}


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_a_rule_is_a_document_first(rule):
    text = inspect.getdoc(type(rule))
    for heading in (
        *("What it detects:", "Why it matters:", "Evidence used:", "What to try:"),
        *("Known false alarms:", "References:"),
    ):
        assert heading in text, heading
    assert repr(rule) == f"{type(rule).__name__}()"


def test_causes_are_their_names():
    assert C.LR_TOO_HIGH == "lr_too_high"
    assert f"{C.LR_TOO_HIGH}" == "lr_too_high"
