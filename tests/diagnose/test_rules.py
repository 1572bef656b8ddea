"""Every rule is a document, every cause has a rule, and the page of rules is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.diagnose import certificate
from trimtab.diagnose.rules import RULES
from trimtab.record import RunLog
from trimtab.types import FindingCause

DOCS = Path(__file__).parents[2] / "docs"
HEADINGS = (
    "What it detects",
    "Why it matters",
    "Evidence used",
    "What to try",
    "Known false alarms",
    "References",
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_rule_is_a_document_first(rule):
    document = type(rule).__doc__
    places = [document.find(f"{heading}:") for heading in HEADINGS]
    assert all(place >= 0 for place in places)
    assert places == sorted(places)


def test_every_cause_has_a_rule():
    told = {cause for rule in RULES for cause in rule.causes}
    assert told == set(FindingCause) - {FindingCause.NONFINITE_ACTIVATIONS}


def test_what_a_plain_curve_cannot_show_is_not_called_checked():
    plain = certificate(RunLog.from_arrays(loss=[1.0] * 100))
    assert "clipping_too_tight" in plain.unseen
    clipped = certificate(RunLog.from_arrays(loss=[1.0] * 100, clip_factor=[0.5] * 100))
    assert "clipping_too_tight" in clipped.checked
