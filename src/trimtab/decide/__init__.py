"""Policies: pure functions of (statistics, state). No model, no optimizer, no input or output."""

from trimtab.decide.adaptive import EmaClip as EmaClip
from trimtab.decide.adaptive import MeanClip as MeanClip
from trimtab.decide.adaptive import QuantileClip as QuantileClip
from trimtab.decide.adaptive import ZScoreClip as ZScoreClip
from trimtab.decide.checks import check_policies as check_policies
from trimtab.decide.checks import parts as parts
from trimtab.decide.clips import NormClip as NormClip
from trimtab.decide.cooldown import CoolDown as CoolDown
from trimtab.decide.detectors import NonFinite as NonFinite
from trimtab.decide.detectors import Overflow as Overflow
from trimtab.decide.elementwise import ValueClip as ValueClip
from trimtab.decide.grouping import ByGroup as ByGroup
from trimtab.decide.grouping import ByName as ByName
from trimtab.decide.grouping import Grouped as Grouped
from trimtab.decide.ladder import Escalate as Escalate
from trimtab.decide.ladder import PerPlace as PerPlace
from trimtab.decide.ladder import Retry as Retry
from trimtab.decide.ladder import Rewind as Rewind
from trimtab.decide.ladder import Rewinds as Rewinds
from trimtab.decide.ladder import severity as severity
from trimtab.decide.layers import LayerClip as LayerClip
from trimtab.decide.mending import ReplaceBad as ReplaceBad
from trimtab.decide.mending import RescaleBad as RescaleBad
from trimtab.decide.mending import ZeroBad as ZeroBad
from trimtab.decide.protocols import Clip as Clip
from trimtab.decide.protocols import Detector as Detector
from trimtab.decide.protocols import Refusal as Refusal
from trimtab.decide.protocols import Remedy as Remedy
from trimtab.decide.rebuild import policy_from_repr as policy_from_repr
from trimtab.decide.remedies import Observe as Observe
from trimtab.decide.remedies import Raise as Raise
from trimtab.decide.remedies import Skip as Skip
from trimtab.decide.spikes import LossSpike as LossSpike
from trimtab.decide.spikes import NormSpike as NormSpike
from trimtab.decide.spikes import SpikeRule as SpikeRule
from trimtab.decide.state import pack as pack
from trimtab.decide.state import unpack as unpack
from trimtab.decide.tensors import TensorClip as TensorClip
from trimtab.decide.units import UnitClip as UnitClip
from trimtab.decide.watch import SteadyClipping as SteadyClipping
from trimtab.decide.watch import Underflow as Underflow
from trimtab.decide.wrappers import AfterWarmup as AfterWarmup
from trimtab.decide.wrappers import Condition as Condition
from trimtab.decide.wrappers import EveryNth as EveryNth
from trimtab.decide.wrappers import First as First
from trimtab.decide.wrappers import LossAbove as LossAbove
from trimtab.decide.wrappers import NormAbove as NormAbove
from trimtab.decide.wrappers import When as When

__all__ = [
    "AfterWarmup",
    "ByGroup",
    "ByName",
    "Clip",
    "Condition",
    "CoolDown",
    "Detector",
    "EmaClip",
    "Escalate",
    "EveryNth",
    "First",
    "Grouped",
    "LayerClip",
    "LossAbove",
    "LossSpike",
    "MeanClip",
    "NonFinite",
    "NormAbove",
    "NormClip",
    "NormSpike",
    "Observe",
    "Overflow",
    "PerPlace",
    "QuantileClip",
    "Raise",
    "Refusal",
    "Remedy",
    "ReplaceBad",
    "RescaleBad",
    "Retry",
    "Rewind",
    "Rewinds",
    "Skip",
    "SpikeRule",
    "SteadyClipping",
    "TensorClip",
    "Underflow",
    "UnitClip",
    "ValueClip",
    "When",
    "ZScoreClip",
    "ZeroBad",
    "check_policies",
    "pack",
    "parts",
    "policy_from_repr",
    "severity",
    "unpack",
]
