from __future__ import annotations

import dataclasses

import pytest
from cases import POLICIES, valid_policies

import trimtab as tt
from trimtab.decide import policy_from_repr


@pytest.mark.parametrize("policy", valid_policies(), ids=repr)
def test_policy_is_frozen_slotted_and_rebuilt_from_its_repr(policy):
    assert dataclasses.is_dataclass(policy)
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        policy.max_norm = 2.0
    assert not hasattr(policy, "__dict__")
    assert policy_from_repr(repr(policy)) == policy
    assert policy_from_repr(repr((policy, None))) == (policy, None)


@pytest.mark.parametrize(
    ("policy", "arguments", "message"),
    [(case.policy, arguments, message) for case in POLICIES for arguments, message in case.invalid],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_wrong_arguments_are_refused_with_what_to_do(policy, arguments, message):
    with pytest.raises(ValueError, match=message):
        policy(**arguments)


@pytest.mark.parametrize("case", POLICIES, ids=lambda case: case.policy.__name__)
def test_no_policy_has_a_boolean_field(case):
    assert not [f.name for f in dataclasses.fields(case.policy) if f.type in (bool, "bool")]


@pytest.mark.parametrize(
    "text", ["__import__('os')", "NormClip", "Guard()", "NormClip(max_norm=", "x + 1", "NormClip(**{})"]
)
def test_text_that_is_no_policy_is_refused_and_never_evaluated(text):
    with pytest.raises((ValueError, TypeError)):
        policy_from_repr(text)


@pytest.mark.parametrize("arguments", [{"max_norm": "1"}, {"max_norm": True}, {"max_norm": None}], ids=str)
def test_what_is_no_number_is_refused_by_name(arguments):
    with pytest.raises(TypeError, match=r"NormClip\(max_norm=.*expected a number"):
        tt.NormClip(**arguments)
