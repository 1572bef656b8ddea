from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
from cases import POLICIES, valid_policies

import trimtab as tt
from trimtab import running
from trimtab.decide.rebuild import CLIPS, DETECTORS, REMEDIES

READ = {
    **dict.fromkeys(CLIPS, running.clip_from_text),
    **dict.fromkeys(DETECTORS, running.detector_from_text),
    **dict.fromkeys(REMEDIES, running.remedy_from_text),
}
OF_A_ROLE = [policy for policy in valid_policies() if type(policy) in READ]


def short_names():
    return {usage.partition(":")[0] for _, usages in running.describe() for usage in usages}


def test_every_clip_detector_and_remedy_has_a_role():
    roles = {case.policy for case in POLICIES} & READ.keys()
    assert roles == READ.keys()
    assert len(short_names()) == len(READ)


@pytest.mark.parametrize("policy", OF_A_ROLE, ids=repr)
def test_every_policy_can_be_written_as_in_python(policy):
    assert READ[type(policy)](repr(policy)) == policy


def is_scalar(value):
    return not (is_dataclass(value) or isinstance(value, (tuple, dict)))


@pytest.mark.parametrize("policy", OF_A_ROLE, ids=repr)
def test_what_is_made_of_single_values_can_be_written_in_short(policy):
    own = policy.rule if isinstance(policy, (tt.LossSpike, tt.NormSpike)) else policy
    values = {field.name: getattr(own, field.name) for field in fields(own)}
    if not all(map(is_scalar, values.values())):
        return  # made of others: the test above has it
    (name,) = {n for n in short_names() if n.replace("-", "") == full_name(policy)}
    by_name = ",".join(f"{key}={value}" for key, value in values.items()).replace("=None", "=none")
    assert READ[type(policy)](f"{name}:{by_name}" if values else name) == policy
    by_place = ",".join(map(str, values.values())).replace("None", "none")
    assert READ[type(policy)](f"{name}:{by_place}") == policy


def full_name(policy):
    return type(policy).__name__.removesuffix("Clip").lower()


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (running.clip_from_text, "norm", "'norm' needs max_norm. It takes max_norm, norm_type=2."),
        (running.clip_from_text, "norm:1,2,3", "too many values"),
        (running.clip_from_text, "norm:1,max_norm=2", "too many values"),
        (running.clip_from_text, "norm:norm_type=2,1", "a value without a name after 'norm_type='"),
        (running.clip_from_text, "norm:1,size=2", "'norm' takes no 'size'. It takes max_norm"),
        (running.clip_from_text, "norm:nan", "expected a finite number > 0"),
        (running.clip_from_text, "layer:1.0", r"made of more than one value. Write it as in Python"),
        (running.clip_from_text, "after-warmup:steps=5", r"'AfterWarmup\(...\)'"),
        (running.clip_from_text, "Skip(3)", "that is no clip. Allowed are NormClip"),
        (running.clip_from_text, "NormClip(print(1))", "is not a policy of this version"),
        (running.clip_from_text, "", "there is no clip ''"),
        (running.detector_from_text, "none", "there is no detector 'none'"),
        (running.detector_from_text, "loss-spike:rule=1", "'loss-spike' takes no 'rule'. It takes z=6"),
        (running.remedy_from_text, "cool-down", "there is no remedy 'cool-down'. Allowed are observe"),
        (running.snapshots_from_text, "also=3", "expected whole numbers for every, keep"),
        (running.snapshots_from_text, "often", "expected whole numbers"),
        (running.cooldown_from_text, "0.5,steps=0", "expected a whole number >= 1"),
    ],
)
def test_errors_say_what_is_allowed(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text)


def test_values_are_numbers_none_or_words():
    assert running.clip_from_text("norm:1e3,norm-type=inf") == tt.NormClip(1e3, norm_type=float("inf"))
    assert type(running.clip_from_text("norm:1").max_norm) is int
    assert running.clip_from_text("none") is None
    assert running.remedy_from_text("none") is None


def test_a_remedy_that_rewinds_gets_snapshots():
    assert running.policies_from_text().snapshots is None
    assert running.policies_from_text().remedy == tt.Skip()
    for text in ("rewind", "Escalate((Skip(1), Rewind()))"):
        assert running.policies_from_text(remedy=text).snapshots().every == 100
    assert running.policies_from_text(remedy="rewind", snapshots="5,keep=1").snapshots().every == 5
