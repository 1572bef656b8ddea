"""The frozen values that cross from one stage to the next. They hold facts; they do nothing."""

from trimtab.types.decisions import Action as Action
from trimtab.types.decisions import Back as Back
from trimtab.types.decisions import Clamp as Clamp
from trimtab.types.decisions import Decision as Decision
from trimtab.types.decisions import Each as Each
from trimtab.types.decisions import Layout as Layout
from trimtab.types.decisions import Mend as Mend
from trimtab.types.decisions import Needs as Needs
from trimtab.types.decisions import Replace as Replace
from trimtab.types.decisions import RescaleTensors as RescaleTensors
from trimtab.types.decisions import Rescaling as Rescaling
from trimtab.types.decisions import Scale as Scale
from trimtab.types.decisions import ZeroTensors as ZeroTensors
from trimtab.types.faults import OF_THE_STEP as OF_THE_STEP
from trimtab.types.faults import Blame as Blame
from trimtab.types.faults import Culprit as Culprit
from trimtab.types.faults import Fault as Fault
from trimtab.types.faults import Kind as Kind
from trimtab.types.faults import Place as Place
from trimtab.types.faults import Verdict as Verdict
from trimtab.types.findings import Evidence as Evidence
from trimtab.types.findings import Finding as Finding
from trimtab.types.findings import FindingCause as FindingCause
from trimtab.types.findings import Severity as Severity
from trimtab.types.monitor import Monitor as Monitor
from trimtab.types.monitor import Watch as Watch
from trimtab.types.monitor import WriteSignals as WriteSignals
from trimtab.types.origin import Cause as Cause
from trimtab.types.origin import Origin as Origin
from trimtab.types.origin import Phase as Phase
from trimtab.types.step import CLIPPING_WEIGHT as CLIPPING_WEIGHT
from trimtab.types.step import STABILITY_WEIGHTS as STABILITY_WEIGHTS
from trimtab.types.step import StepOutcome as StepOutcome
from trimtab.types.step import StepStats as StepStats
from trimtab.types.step import Units as Units
from trimtab.types.step import wide_dtype as wide_dtype

__all__ = [
    "CLIPPING_WEIGHT",
    "OF_THE_STEP",
    "STABILITY_WEIGHTS",
    "Action",
    "Back",
    "Blame",
    "Cause",
    "Clamp",
    "Culprit",
    "Decision",
    "Each",
    "Evidence",
    "Fault",
    "Finding",
    "FindingCause",
    "Kind",
    "Layout",
    "Mend",
    "Monitor",
    "Needs",
    "Origin",
    "Phase",
    "Place",
    "Replace",
    "RescaleTensors",
    "Rescaling",
    "Scale",
    "Severity",
    "StepOutcome",
    "StepStats",
    "Units",
    "Verdict",
    "Watch",
    "WriteSignals",
    "ZeroTensors",
    "wide_dtype",
]
