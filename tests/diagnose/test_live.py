"""When a guard tells of what it sees in a run that goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.diagnose.live import Patience
from trimtab.types import Finding, FindingCause, Severity

C = FindingCause


def finding(cause, *symptoms):
    return Finding(cause, Severity.WARNING, "", "", (), confidence=0.9, symptoms=symptoms)


def first_told(cause, *symptoms, step=1000, tries=20):
    """Number of the verdict that is told first, if each one says the same."""
    patience = Patience()
    for number in range(1, tries):
        if patience.sift(step + number, (finding(cause, *symptoms),)):
            return number
    return None


@pytest.mark.parametrize(
    ("cause", "number"),
    [
        (C.PARAMETER_NOT_IN_OPTIMIZER, 1),
        (C.ZERO_GRAD_MISSING, 1),
        (C.LOSS_EXPLOSION, 1),
        (C.LR_TOO_HIGH, 2),
        (C.LR_TOO_LOW, 3),
        (C.SLOW_DIVERGENCE, 4),
        (C.NO_WARMUP, 8),
    ],
)
def test_what_may_pass_is_told_when_several_verdicts_say_it(cause, number):
    assert first_told(cause) == number


def test_what_a_run_does_not_come_back_from_is_told_at_once():
    assert first_told(C.LR_TOO_HIGH, C.LOSS_EXPLOSION, step=1) == 1


def test_a_run_that_has_only_begun_may_be_slow():
    assert first_told(C.LR_TOO_LOW, step=10) is None
    assert first_told(C.LR_TOO_LOW, C.VANISHING_GRADIENTS, step=10) == 2
    assert first_told(C.WRONG_MODE, step=10) == 1


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_verdicts_that_disagree_begin_anew(verdicts):
    patience, in_a_row = Patience(), 0
    for said in verdicts:
        told = patience.sift(1000, (finding(C.SLOW_DIVERGENCE),) if said else ())
        in_a_row = in_a_row + 1 if said else 0
        assert bool(told) == (in_a_row >= 4)
