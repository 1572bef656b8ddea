"""One table of every policy, with arguments that it takes and arguments that it refuses."""

from __future__ import annotations

from typing import Any, NamedTuple

import trimtab as tt


class Case(NamedTuple):
    """One policy class."""

    policy: type
    valid: tuple[dict[str, Any], ...]
    invalid: tuple[tuple[dict[str, Any], str], ...]  # arguments and what the error says


INF, NAN = float("inf"), float("nan")

CLIPS = (
    Case(
        tt.NormClip,
        valid=({"max_norm": 1.0}, {"max_norm": 0.25, "norm_type": INF}, {"max_norm": 3, "norm_type": 1}),
        invalid=(
            ({"max_norm": 0.0}, "finite number > 0"),
            ({"max_norm": -1.0}, r"max_norm=-1.0.*pass clip=None"),
            ({"max_norm": NAN}, "finite number > 0"),
            ({"max_norm": INF}, "finite number > 0"),
            ({"max_norm": 1.0, "norm_type": 0.0}, "expected p > 0"),
            ({"max_norm": 1.0, "norm_type": NAN}, "expected p > 0"),
        ),
    ),
)
DETECTORS = (
    Case(tt.NonFinite, valid=({},), invalid=()),
    Case(
        tt.Overflow,
        valid=({}, {"threshold": 1e3}),
        invalid=(
            ({"threshold": 0.0}, "finite number > 0"),
            ({"threshold": -1e6}, "finite number > 0"),
            ({"threshold": INF}, "NonFinite is always on"),
            ({"threshold": NAN}, "finite number > 0"),
        ),
    ),
)
REMEDIES = (
    Case(tt.Observe, valid=({},), invalid=()),
    Case(tt.Raise, valid=({},), invalid=()),
    Case(
        tt.Skip,
        valid=({}, {"budget": 0}, {"budget": 3}),
        invalid=(
            ({"budget": -1}, "whole number >= 0"),
            ({"budget": 2.5}, "whole number >= 0"),
            ({"budget": True}, "whole number >= 0"),
            ({"budget": None}, r"use Raise\(\)"),
        ),
    ),
)
POLICIES = CLIPS + DETECTORS + REMEDIES


def valid_policies() -> list[Any]:
    """Every policy built with every valid set of arguments."""
    return [case.policy(**arguments) for case in POLICIES for arguments in case.valid]
