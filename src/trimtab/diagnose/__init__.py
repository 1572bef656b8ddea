"""Diagnose: from a run log, what is wrong, where, how sure, and what to change. Nothing when nothing is."""

from trimtab.diagnose.activations import ActivationMonitor as ActivationMonitor
from trimtab.diagnose.activations import ActivationStats as ActivationStats
from trimtab.diagnose.certificate import Certificate as Certificate
from trimtab.diagnose.certificate import as_facts as as_facts
from trimtab.diagnose.certificate import certificate as certificate
from trimtab.diagnose.engine import clues as clues
from trimtab.diagnose.engine import diagnose as diagnose
from trimtab.diagnose.importing import from_rows as from_rows
from trimtab.diagnose.importing import load as load
from trimtab.diagnose.live import Diagnose as Diagnose
from trimtab.diagnose.rules import RULES as RULES
from trimtab.diagnose.stability import LossTrend as LossTrend
from trimtab.diagnose.stability import StabilityIssue as StabilityIssue
from trimtab.diagnose.stability import StabilityStatus as StabilityStatus
from trimtab.diagnose.stability import StabilitySummary as StabilitySummary
from trimtab.diagnose.stability import StabilityUpdate as StabilityUpdate
from trimtab.diagnose.stability import TrainingStabilityMonitor as TrainingStabilityMonitor
from trimtab.diagnose.toolkit import TrainingDebugger as TrainingDebugger
from trimtab.diagnose.toolkit import TrainingHistory as TrainingHistory
from trimtab.diagnose.toolkit import WeightScale as WeightScale
from trimtab.diagnose.toolkit import check_initialization as check_initialization
from trimtab.diagnose.toolkit import clip_gradients as clip_gradients
from trimtab.diagnose.toolkit import detect_dead_neurons as detect_dead_neurons

__all__ = [
    "RULES",
    "ActivationMonitor",
    "ActivationStats",
    "Certificate",
    "Diagnose",
    "LossTrend",
    "StabilityIssue",
    "StabilityStatus",
    "StabilitySummary",
    "StabilityUpdate",
    "TrainingDebugger",
    "TrainingHistory",
    "TrainingStabilityMonitor",
    "WeightScale",
    "as_facts",
    "certificate",
    "check_initialization",
    "clip_gradients",
    "clues",
    "detect_dead_neurons",
    "diagnose",
    "from_rows",
    "load",
]
