"""The rules, one per file. A new one comes with its document and with a golden run in which it fires."""

from __future__ import annotations

from trimtab.diagnose.clues import Rule
from trimtab.diagnose.rules.adam_epsilon import AdamEpsilon
from trimtab.diagnose.rules.chained_layers import ChainedLayers
from trimtab.diagnose.rules.divergence import Divergence
from trimtab.diagnose.rules.dropout import Dropout
from trimtab.diagnose.rules.frozen_parts import FrozenParts
from trimtab.diagnose.rules.gradient_norms import GradientNorms
from trimtab.diagnose.rules.high_learning_rate import HighLearningRate
from trimtab.diagnose.rules.idle_steps import IdleSteps
from trimtab.diagnose.rules.inputs import Inputs
from trimtab.diagnose.rules.leak import Leak
from trimtab.diagnose.rules.learning_rate_schedule import LearningRateSchedule
from trimtab.diagnose.rules.loss_function import LossFunction
from trimtab.diagnose.rules.loss_scale import LossScale
from trimtab.diagnose.rules.loss_spike import LossSpike
from trimtab.diagnose.rules.lost_progress import LostProgress
from trimtab.diagnose.rules.lost_to_rounding import LostToRounding
from trimtab.diagnose.rules.low_learning_rate import LowLearningRate
from trimtab.diagnose.rules.modes import Modes
from trimtab.diagnose.rules.nonfinite_loss import NonFiniteLoss
from trimtab.diagnose.rules.oscillation import Oscillation
from trimtab.diagnose.rules.outputs import Outputs
from trimtab.diagnose.rules.overfitting import Overfitting
from trimtab.diagnose.rules.second_moment import SecondMoment
from trimtab.diagnose.rules.signal_flow import SignalFlow
from trimtab.diagnose.rules.silent_units import SilentUnits
from trimtab.diagnose.rules.stale_gradients import StaleGradients
from trimtab.diagnose.rules.stuck import Stuck
from trimtab.diagnose.rules.symmetric_units import SymmetricUnits
from trimtab.diagnose.rules.tight_clipping import TightClipping
from trimtab.diagnose.rules.underfitting import Underfitting
from trimtab.diagnose.rules.update_ratios import UpdateRatios
from trimtab.diagnose.rules.warm_up import WarmUp
from trimtab.diagnose.rules.weight_size import WeightSize
from trimtab.diagnose.rules.wiring import Wiring

RULES: tuple[Rule, ...] = (
    # the course of the loss
    NonFiniteLoss(),
    Divergence(),
    LossSpike(),
    Stuck(),
    Oscillation(),
    Overfitting(),
    Underfitting(),
    # the step
    HighLearningRate(),
    LowLearningRate(),
    LearningRateSchedule(),
    TightClipping(),
    WeightSize(),
    Dropout(),
    AdamEpsilon(),
    SecondMoment(),
    WarmUp(),
    UpdateRatios(),
    # the flow through the layers
    GradientNorms(),
    SignalFlow(),
    SilentUnits(),
    SymmetricUnits(),
    ChainedLayers(),
    # the loop
    IdleSteps(),
    LostProgress(),
    Wiring(),
    FrozenParts(),
    StaleGradients(),
    Modes(),
    LossFunction(),
    # the data and the number format
    Inputs(),
    Leak(),
    Outputs(),
    LostToRounding(),
    LossScale(),
)
