from __future__ import annotations

import dataclasses
import re

import numpy as np
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


@pytest.mark.parametrize(
    ("policy", "arguments", "error"),
    [
        (tt.QuantileClip, {"percentile": "95"}, TypeError),
        (tt.QuantileClip, {"percentile": True}, TypeError),
        (tt.QuantileClip, {"history": 10.5}, ValueError),
        (tt.QuantileClip, {"history": True, "min_history": 1}, ValueError),
        (tt.MeanClip, {"window": 2.5}, ValueError),
        (tt.MeanClip, {"window": "3"}, ValueError),
        (tt.ZScoreClip, {"warmup": 2.5}, ValueError),
        (tt.SpikeRule, {"z": "6"}, TypeError),
        (tt.SpikeRule, {"window": 200.5}, ValueError),
        (tt.SpikeRule, {"delay": 1.5}, ValueError),
        (tt.LossSpike, {"rule": 3.0}, TypeError),
        (tt.NormSpike, {"rule": None}, TypeError),
    ],
    ids=str,
)
def test_an_argument_of_the_wrong_kind_is_refused_by_name(policy, arguments, error):
    name, value = next(iter(arguments.items()))
    with pytest.raises(error, match=rf"{name}={re.escape(repr(value))}.*expected a"):
        policy(**arguments)


def test_a_float_of_numpy_is_a_number_and_its_repr_is_read_again():
    policy = tt.QuantileClip(np.float64(90.0), initial=np.float64(2.5))
    assert policy_from_repr(repr(policy)) == policy == tt.QuantileClip(90.0, initial=2.5)
    with pytest.raises(ValueError, match="is not a policy"):
        policy_from_repr("NormClip(np.float64(open('x')))")
