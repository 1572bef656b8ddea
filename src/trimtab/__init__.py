"""trimtab: numerically safe PyTorch training. `trimtab.Guard` is where to start."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from trimtab._version import __version__ as __version__

if TYPE_CHECKING:
    from trimtab import act as act
    from trimtab import measure as measure
    from trimtab import numerics as numerics
    from trimtab import types as types
    from trimtab.act import BackwardOptimizer as BackwardOptimizer
    from trimtab.act import Batches as Batches
    from trimtab.act import LossScaler as LossScaler
    from trimtab.act import MasterWeights as MasterWeights
    from trimtab.act import Snapshots as Snapshots
    from trimtab.act import UpdateClip as UpdateClip
    from trimtab.checkpoint import save as save
    from trimtab.decide import AfterWarmup as AfterWarmup
    from trimtab.decide import ByGroup as ByGroup
    from trimtab.decide import ByName as ByName
    from trimtab.decide import CoolDown as CoolDown
    from trimtab.decide import EmaClip as EmaClip
    from trimtab.decide import Escalate as Escalate
    from trimtab.decide import EveryNth as EveryNth
    from trimtab.decide import First as First
    from trimtab.decide import Grouped as Grouped
    from trimtab.decide import LayerClip as LayerClip
    from trimtab.decide import LossAbove as LossAbove
    from trimtab.decide import LossSpike as LossSpike
    from trimtab.decide import MeanClip as MeanClip
    from trimtab.decide import NonFinite as NonFinite
    from trimtab.decide import NormAbove as NormAbove
    from trimtab.decide import NormClip as NormClip
    from trimtab.decide import NormSpike as NormSpike
    from trimtab.decide import Observe as Observe
    from trimtab.decide import Overflow as Overflow
    from trimtab.decide import PerPlace as PerPlace
    from trimtab.decide import QuantileClip as QuantileClip
    from trimtab.decide import Raise as Raise
    from trimtab.decide import ReplaceBad as ReplaceBad
    from trimtab.decide import RescaleBad as RescaleBad
    from trimtab.decide import Retry as Retry
    from trimtab.decide import Rewind as Rewind
    from trimtab.decide import Skip as Skip
    from trimtab.decide import SpikeRule as SpikeRule
    from trimtab.decide import SteadyClipping as SteadyClipping
    from trimtab.decide import TensorClip as TensorClip
    from trimtab.decide import Underflow as Underflow
    from trimtab.decide import UnitClip as UnitClip
    from trimtab.decide import ValueClip as ValueClip
    from trimtab.decide import When as When
    from trimtab.decide import ZeroBad as ZeroBad
    from trimtab.decide import ZScoreClip as ZScoreClip
    from trimtab.diagnose import ActivationMonitor as ActivationMonitor
    from trimtab.diagnose import Diagnose as Diagnose
    from trimtab.diagnose import TrainingDebugger as TrainingDebugger
    from trimtab.diagnose import TrainingHistory as TrainingHistory
    from trimtab.diagnose import TrainingStabilityMonitor as TrainingStabilityMonitor
    from trimtab.diagnose import certificate as certificate
    from trimtab.diagnose import check_initialization as check_initialization
    from trimtab.diagnose import clip_gradients as clip_gradients
    from trimtab.diagnose import detect_dead_neurons as detect_dead_neurons
    from trimtab.diagnose import diagnose as diagnose
    from trimtab.diagnose import load as load
    from trimtab.errors import CheckpointError as CheckpointError
    from trimtab.errors import EvidenceError as EvidenceError
    from trimtab.errors import MissingDependencyError as MissingDependencyError
    from trimtab.errors import NonFiniteError as NonFiniteError
    from trimtab.errors import NumericalWarning as NumericalWarning
    from trimtab.errors import RunLogError as RunLogError
    from trimtab.errors import SnapshotError as SnapshotError
    from trimtab.errors import TrimtabError as TrimtabError
    from trimtab.errors import TrimtabWarning as TrimtabWarning
    from trimtab.guard import Guard as Guard
    from trimtab.lint import LintFinding as LintFinding
    from trimtab.lint import lint as lint
    from trimtab.measure import GradientFlow as GradientFlow
    from trimtab.measure import GradientStats as GradientStats
    from trimtab.mixed_precision import MixedPrecision as MixedPrecision
    from trimtab.prepare import AnomalyDetection as AnomalyDetection
    from trimtab.prepare import BestCheckpoint as BestCheckpoint
    from trimtab.prepare import EarlyStopping as EarlyStopping
    from trimtab.prepare import LearningRateFinder as LearningRateFinder
    from trimtab.prepare import find_layer_lrs as find_layer_lrs
    from trimtab.prepare import find_lr as find_lr
    from trimtab.prepare import preflight as preflight
    from trimtab.record import RunLog as RunLog
    from trimtab.record import RunWriter as RunWriter
    from trimtab.record import read as read
    from trimtab.report import report as report
    from trimtab.retracing import retrace as retrace
    from trimtab.trace import trace as trace
    from trimtab.tracing import TraceFaults as TraceFaults
    from trimtab.types import Cause as Cause
    from trimtab.types import Evidence as Evidence
    from trimtab.types import Finding as Finding
    from trimtab.types import FindingCause as FindingCause
    from trimtab.types import Origin as Origin
    from trimtab.types import Severity as Severity
    from trimtab.types import StepOutcome as StepOutcome

__all__ = [
    "Guard",
    "StepOutcome",
    "NormClip",
    "ValueClip",
    "LayerClip",
    "UnitClip",
    "TensorClip",
    "QuantileClip",
    "MeanClip",
    "EmaClip",
    "ZScoreClip",
    "Grouped",
    "ByName",
    "ByGroup",
    "AfterWarmup",
    "First",
    "When",
    "NormAbove",
    "LossAbove",
    "EveryNth",
    "UpdateClip",
    "NonFinite",
    "Overflow",
    "LossSpike",
    "NormSpike",
    "SpikeRule",
    "SteadyClipping",
    "Underflow",
    "Observe",
    "Raise",
    "Skip",
    "ZeroBad",
    "ReplaceBad",
    "RescaleBad",
    "Rewind",
    "Retry",
    "PerPlace",
    "Escalate",
    "CoolDown",
    "Snapshots",
    "Batches",
    "save",
    "LossScaler",
    "MasterWeights",
    "MixedPrecision",
    "BackwardOptimizer",
    "RunLog",
    "RunWriter",
    "read",
    "report",
    "diagnose",
    "Diagnose",
    "Finding",
    "FindingCause",
    "Severity",
    "Evidence",
    "certificate",
    "load",
    "TrainingHistory",
    "TrainingDebugger",
    "TrainingStabilityMonitor",
    "ActivationMonitor",
    "GradientFlow",
    "GradientStats",
    "clip_gradients",
    "detect_dead_neurons",
    "check_initialization",
    "lint",
    "LintFinding",
    "preflight",
    "find_lr",
    "find_layer_lrs",
    "LearningRateFinder",
    "EarlyStopping",
    "BestCheckpoint",
    "AnomalyDetection",
    "trace",
    "TraceFaults",
    "retrace",
    "Origin",
    "Cause",
    "TrimtabError",
    "NonFiniteError",
    "RunLogError",
    "SnapshotError",
    "EvidenceError",
    "CheckpointError",
    "MissingDependencyError",
    "TrimtabWarning",
    "NumericalWarning",
    "act",
    "measure",
    "numerics",
    "types",
    "__version__",
]

# Where each name lives. They load on first use: `import trimtab` is to cost next to nothing.
_HOMES = {
    name: home
    for home, names in {
        "trimtab.act": "BackwardOptimizer Batches LossScaler MasterWeights Snapshots UpdateClip",
        "trimtab.checkpoint": "save",
        "trimtab.decide": (
            "AfterWarmup ByGroup ByName CoolDown EmaClip Escalate EveryNth First Grouped LayerClip "
            "LossAbove LossSpike MeanClip NonFinite NormAbove NormClip NormSpike Observe Overflow "
            "PerPlace QuantileClip Raise ReplaceBad RescaleBad Retry Rewind Skip SpikeRule "
            "SteadyClipping TensorClip Underflow UnitClip ValueClip When ZeroBad ZScoreClip"
        ),
        "trimtab.diagnose": (
            "ActivationMonitor Diagnose TrainingDebugger TrainingHistory TrainingStabilityMonitor "
            "certificate check_initialization clip_gradients detect_dead_neurons diagnose load"
        ),
        "trimtab.errors": (
            "CheckpointError EvidenceError MissingDependencyError NonFiniteError NumericalWarning "
            "RunLogError SnapshotError TrimtabError TrimtabWarning"
        ),
        "trimtab.guard": "Guard",
        "trimtab.lint": "LintFinding lint",
        "trimtab.measure": "GradientFlow GradientStats",
        "trimtab.mixed_precision": "MixedPrecision",
        "trimtab.prepare": (
            "AnomalyDetection BestCheckpoint EarlyStopping LearningRateFinder find_layer_lrs find_lr "
            "preflight"
        ),
        "trimtab.record": "RunLog RunWriter read",
        "trimtab.report": "report",
        "trimtab.retracing": "retrace",
        "trimtab.trace": "trace",
        "trimtab.tracing": "TraceFaults",
        "trimtab.types": "Cause Evidence Finding FindingCause Origin Severity StepOutcome",
    }.items()
    for name in names.split()
}
_PARTS = frozenset({"act", "measure", "numerics", "types"})


class _Package(ModuleType):
    """This package, in which `trace`, `diagnose` and `report` are the functions and not the packages."""

    def __setattr__(self, name: str, value: object) -> None:
        # whoever imports `trimtab.trace` has it bound here
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> object:
        if name in _PARTS:
            return import_module(f"trimtab.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
