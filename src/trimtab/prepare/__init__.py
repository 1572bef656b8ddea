"""Before step 0: the pre-flight check and the learning-rate finder; and what ends a run well."""

from trimtab.prepare.anomalies import Anomaly as Anomaly
from trimtab.prepare.anomalies import AnomalyDetection as AnomalyDetection
from trimtab.prepare.best import BestCheckpoint as BestCheckpoint
from trimtab.prepare.best import SavedCheckpoint as SavedCheckpoint
from trimtab.prepare.calling import WrongLossError as WrongLossError
from trimtab.prepare.checks import Check as Check
from trimtab.prepare.checks import CheckVerdict as CheckVerdict
from trimtab.prepare.checks import Number as Number
from trimtab.prepare.checks import Preflight as Preflight
from trimtab.prepare.finder import LayerRate as LayerRate
from trimtab.prepare.finder import LearningRateFinder as LearningRateFinder
from trimtab.prepare.finder import find_layer_lrs as find_layer_lrs
from trimtab.prepare.finder import find_lr as find_lr
from trimtab.prepare.preflight import preflight as preflight
from trimtab.prepare.range_test import Interval as Interval
from trimtab.prepare.range_test import Method as Method
from trimtab.prepare.range_test import RangeTest as RangeTest
from trimtab.prepare.range_test import read_sweeps as read_sweeps
from trimtab.prepare.setups import arguments_of as arguments_of
from trimtab.prepare.setups import facts_of as facts_of
from trimtab.prepare.stopping import EarlyStopping as EarlyStopping
from trimtab.prepare.stopping import Goal as Goal

__all__ = [
    "Anomaly",
    "AnomalyDetection",
    "BestCheckpoint",
    "Check",
    "CheckVerdict",
    "EarlyStopping",
    "Goal",
    "Interval",
    "LayerRate",
    "LearningRateFinder",
    "Method",
    "Number",
    "Preflight",
    "RangeTest",
    "SavedCheckpoint",
    "WrongLossError",
    "arguments_of",
    "facts_of",
    "find_layer_lrs",
    "find_lr",
    "preflight",
    "read_sweeps",
]
