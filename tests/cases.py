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
NORM = tt.NormClip(1.0)

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
    Case(
        tt.QuantileClip,
        valid=({}, {"percentile": 10.0, "history": 20, "min_history": 20, "initial": 1.0, "norm_type": INF}),
        invalid=(
            ({"percentile": 0.0}, r"in \(0, 100\]"),
            ({"percentile": 101.0}, r"in \(0, 100\]"),
            ({"history": 5}, "1 <= min_history <= history"),
            ({"min_history": 0}, "1 <= min_history <= history"),
            ({"initial": 0.0}, "initial=0.0.*finite number > 0"),
        ),
    ),
    Case(
        tt.MeanClip,
        valid=({}, {"factor": 1.5, "window": 1, "initial": 3.0}),
        invalid=(
            ({"factor": 1.0}, "finite number > 1"),
            ({"window": 0}, "whole number >= 1"),
            ({"initial": INF}, "finite number > 0"),
        ),
    ),
    Case(
        tt.EmaClip,
        valid=({}, {"alpha": 0.5, "factor": 3.0, "min_threshold": 1.0}),
        invalid=(
            ({"alpha": 1.0}, r"in \(0, 1\)"),
            ({"factor": 1.0}, "finite number > 1"),
            ({"min_threshold": 0.0}, "finite number > 0"),
        ),
    ),
    Case(
        tt.ZScoreClip,
        valid=({}, {"mode": "mean", "max_norm": None}, {"mode": "percentile", "z": 3.0, "warmup": 1}),
        invalid=(
            ({"z": 0.0}, "finite number > 0"),
            ({"alpha": 0.0}, r"in \(0, 1\)"),
            ({"warmup": 0}, "warmup=0.*whole number >= 1"),
            ({"rebaseline_steps": 0}, "rebaseline_steps=0.*whole number >= 1"),
            ({"mode": "median"}, "'adaptive', 'mean', 'percentile'"),
            ({"max_norm": -1.0}, "max_norm=-1.0.*finite number > 0"),
        ),
    ),
    Case(
        tt.ValueClip,
        valid=(
            {},
            {"max_value": 0.5, "min_value": -0.1},
            {"max_value": INF, "min_value": -1.0, "norm_type": 1.0},
        ),
        invalid=(
            ({"max_value": 0.0}, "finite number > 0"),
            ({"max_value": INF}, "finite number > 0"),
            ({"max_value": 1.0, "min_value": 0.5}, "min_value <= 0"),
            ({"max_value": 0.0, "min_value": 0.0}, "not equal"),
            ({"max_value": INF, "min_value": -INF}, "not both infinite"),
            ({"norm_type": 0.0}, "norm_type=0.0"),
        ),
    ),
    Case(
        tt.LayerClip,
        valid=(
            {"thresholds": {"*weight": 0.5, "*bias": 0.1}},
            {"thresholds": {}, "default": 1.0, "norm_type": INF},
        ),
        invalid=(
            ({"thresholds": {}}, "at least one pattern"),
            ({"thresholds": {"weight": 0.0}}, r"thresholds\['weight'\]=0.0.*finite number > 0"),
            ({"thresholds": {"": 1.0}}, "a name, a prefix or a glob"),
            ({"thresholds": {"weight": 1.0}, "default": -1.0}, "default=-1.0"),
        ),
    ),
    Case(
        tt.UnitClip,
        valid=({}, {"max_ratio": 0.1, "eps": 1e-2, "exclude": ("*bias",), "norm_type": 1.0}),
        invalid=(
            ({"max_ratio": 0.0}, "max_ratio=0.0"),
            ({"eps": 0.0}, "eps=0.0.*finite number > 0"),
            ({"exclude": ("",)}, "a name, a prefix or a glob"),
        ),
    ),
    Case(
        tt.TensorClip,
        valid=(
            {},
            {
                "max_norm": 0.5,
                "factor": 2.0,
                "alpha": 0.9,
                "warmup": 1,
                "rebaseline_steps": 1,
                "norm_type": INF,
            },
        ),
        invalid=(
            ({"max_norm": INF}, "finite number > 0"),
            ({"factor": 1.0}, "finite number > 1"),
            ({"alpha": 1.0}, r"in \(0, 1\)"),
            ({"warmup": 0}, "warmup=0.*whole number >= 1"),
            ({"rebaseline_steps": 0}, "rebaseline_steps=0.*whole number >= 1"),
            ({"eps": 0.0}, "eps=0.0"),
        ),
    ),
    Case(
        tt.Grouped,
        valid=(
            {"rule": tt.QuantileClip()},
            {"rule": NORM, "by": "module"},
            {"rule": tt.EmaClip(), "by": "group"},
        ),
        invalid=(
            ({"rule": NORM, "by": "layer"}, "'tensor', 'module', 'group'"),
            ({"rule": tt.ValueClip()}, "judges the norm alone"),
        ),
    ),
    Case(
        tt.ByName,
        valid=(
            {"rules": {"*weight": NORM, "*bias": None}},
            {"rules": {"*bias": tt.ValueClip()}, "rest": tt.UnitClip()},
        ),
        invalid=(
            ({"rules": {}}, "clips by pattern"),
            ({"rules": {".": NORM}}, "a name, a prefix or a glob"),
            ({"rules": {"bias": NORM}, "rest": tt.NormClip(1.0, norm_type=1.0)}, "same norm_type"),
        ),
    ),
    Case(
        tt.decide.ByGroup,
        valid=({"rules": (NORM,)}, {"rules": (tt.ValueClip(0.5, min_value=-0.1),), "rest": tt.UnitClip()}),
        invalid=(
            ({"rules": ()}, "one clip for each parameter group"),
            ({"rules": NORM}, r"Grouped\(rule, by='group'\)"),
            ({"rules": (NORM, tt.NormClip(1.0, norm_type=1.0))}, "same norm_type"),
        ),
    ),
    Case(
        tt.AfterWarmup,
        valid=({"clip": tt.QuantileClip(), "steps": 5}, {"clip": NORM, "steps": 1, "before": tt.ValueClip()}),
        invalid=(
            ({"clip": NORM, "steps": 0}, "whole number >= 1"),
            ({"clip": NORM, "steps": 1, "before": tt.NormClip(1.0, norm_type=1.0)}, "same norm_type"),
        ),
    ),
    Case(
        tt.First,
        valid=({"clip": NORM, "steps": 5}, {"clip": NORM, "steps": 1, "then": tt.TensorClip()}),
        invalid=(
            ({"clip": NORM, "steps": 2.5}, "whole number >= 1"),
            ({"clip": NORM, "steps": 1, "then": tt.NormClip(1.0, norm_type=1.0)}, "same norm_type"),
        ),
    ),
    Case(
        tt.When,
        valid=(
            {"clip": NORM, "condition": tt.NormAbove(2.0)},
            {"clip": tt.UnitClip(), "condition": tt.LossAbove(-1.0)},
            {"clip": tt.ValueClip(), "condition": tt.EveryNth(2)},
        ),
        invalid=(),
    ),
)
CONDITIONS = (
    Case(tt.NormAbove, valid=({"threshold": 2.0},), invalid=(({"threshold": 0.0}, "finite number > 0"),)),
    Case(tt.LossAbove, valid=({"threshold": -1.0},), invalid=(({"threshold": NAN}, "finite number"),)),
    Case(tt.EveryNth, valid=({"steps": 2},), invalid=(({"steps": 0}, "whole number >= 1"),)),
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
SPIKE_RULE = Case(
    tt.SpikeRule,
    valid=({}, {"z": 3.0, "ratio": 1.5, "window": 10, "min_history": 2, "delay": 0, "rebaseline_steps": 20}),
    invalid=(
        ({"z": 0.0}, "finite number > 0"),
        ({"ratio": 1.0}, "finite number > 1"),
        ({"min_history": 1}, "2 <= min_history <= window"),
        ({"window": 10}, "2 <= min_history <= window"),
        ({"delay": -1}, "whole number >= 0"),
        ({"persistence": 0}, "1 <= persistence < rebaseline_steps"),
        ({"persistence": 8}, "1 <= persistence < rebaseline_steps"),
    ),
)
SPIKES = tuple(
    Case(detector, valid=({}, {"rule": tt.SpikeRule(z=3.0)}), invalid=())
    for detector in (tt.LossSpike, tt.NormSpike)
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
BUDGET = (({"budget": -1}, "whole number >= 0"), ({"budget": True}, "whole number >= 0"))
MENDING = (
    Case(
        tt.ZeroBad,
        valid=({}, {"scope": "tensors", "budget": 3}),
        invalid=(*BUDGET, ({"scope": "all"}, "'elements' or 'tensors'")),
    ),
    Case(
        tt.ReplaceBad,
        valid=({}, {"nan": -1.0, "inf": 100.0, "overflow": 0.0, "budget": 0}),
        invalid=(
            *BUDGET,
            ({"nan": NAN}, "nan=nan.*finite number"),
            ({"inf": INF}, "inf=inf.*finite number >= 0"),
            ({"overflow": -1.0}, "overflow=-1.0.*finite number >= 0"),
        ),
    ),
    Case(tt.RescaleBad, valid=({}, {"budget": 2}), invalid=BUDGET),
)
LADDERS = (
    Case(
        tt.Rewind,
        valid=({}, {"snapshots": 2, "skip_batches": 0, "budget": 1, "calm_steps": 5}),
        invalid=(
            ({"budget": 0}, "budget=0.*whole number >= 1"),
            ({"snapshots": 0}, "snapshots=0.*whole number >= 1"),
            ({"skip_batches": -1}, "skip_batches=-1.*whole number >= 0"),
            ({"calm_steps": 0}, "calm_steps=0.*whole number >= 1"),
        ),
    ),
    Case(tt.Retry, valid=({}, {"then": tt.Raise()}), invalid=()),
    Case(
        tt.PerPlace,
        valid=({}, {"gradient": tt.ZeroBad(), "parameter": tt.ReplaceBad(), "loss": tt.Observe()}),
        invalid=(),
    ),
    Case(
        tt.Escalate,
        valid=({}, {"rungs": (tt.RescaleBad(1), tt.Skip(2), tt.Retry()), "calm_steps": 3}),
        invalid=(
            ({"rungs": ()}, "a tuple of remedies"),
            ({"rungs": tt.Skip()}, "a tuple of remedies"),
            ({"calm_steps": 0}, "calm_steps=0.*whole number >= 1"),
        ),
    ),
    Case(
        tt.CoolDown,
        valid=({}, {"factor": 0.5, "steps": 1}),
        invalid=(({"factor": 1.0}, r"in \(0, 1\)"), ({"steps": 0}, "steps=0.*whole number >= 1")),
    ),
)
WATCHES = (
    Case(
        tt.SteadyClipping,
        valid=({}, {"share": 1.0, "window": 5, "factor": 1.0}),
        invalid=(
            ({"share": 0.0}, r"share=0.0.*in \(0, 1\]"),
            ({"factor": 1.5}, r"factor=1.5.*in \(0, 1\]"),
            ({"window": 0}, "window=0.*whole number >= 1"),
        ),
    ),
    Case(tt.Underflow, valid=({}, {"rise": 0.2}), invalid=(({"rise": 1.0}, r"in \(0, 1\)"),)),
)
POLICIES = (*CLIPS, *CONDITIONS, *DETECTORS, SPIKE_RULE, *SPIKES, *WATCHES, *REMEDIES, *MENDING, *LADDERS)


def valid_policies() -> list[Any]:
    """Every policy built with every valid set of arguments."""
    return [case.policy(**arguments) for case in POLICIES for arguments in case.valid]
