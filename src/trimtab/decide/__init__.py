"""Policies: pure functions of (statistics, state). No model, no optimizer, no input or output."""

from trimtab.decide.clips import NormClip as NormClip
from trimtab.decide.detectors import NonFinite as NonFinite
from trimtab.decide.detectors import Overflow as Overflow
from trimtab.decide.protocols import Clip as Clip
from trimtab.decide.protocols import Detector as Detector
from trimtab.decide.protocols import Refusal as Refusal
from trimtab.decide.protocols import Remedy as Remedy
from trimtab.decide.rebuild import policy_from_repr as policy_from_repr
from trimtab.decide.remedies import Observe as Observe
from trimtab.decide.remedies import Raise as Raise
from trimtab.decide.remedies import Skip as Skip

__all__ = [
    "Clip",
    "Detector",
    "NonFinite",
    "NormClip",
    "Observe",
    "Overflow",
    "Raise",
    "Refusal",
    "Remedy",
    "Skip",
    "policy_from_repr",
]
