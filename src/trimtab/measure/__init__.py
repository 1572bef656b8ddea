"""Tensors in, facts out. Writes nothing; reads nothing to the host on a healthy step."""

from trimtab.measure.activation_probe import ActivationProbe as ActivationProbe
from trimtab.measure.census import Named as Named
from trimtab.measure.census import Suspects as Suspects
from trimtab.measure.census import census as census
from trimtab.measure.census import examine as examine
from trimtab.measure.effects import underflow_share as underflow_share
from trimtab.measure.effects import with_clipping as with_clipping
from trimtab.measure.gradient_flow import FlowReport as FlowReport
from trimtab.measure.gradient_flow import GradientFlow as GradientFlow
from trimtab.measure.gradient_stats import GradientStats as GradientStats
from trimtab.measure.inputs import as_closure as as_closure
from trimtab.measure.inputs import as_loss as as_loss
from trimtab.measure.inputs import as_number as as_number
from trimtab.measure.inputs import evaluate as evaluate
from trimtab.measure.inputs import needs_closure as needs_closure
from trimtab.measure.norms import step_stats as step_stats
from trimtab.measure.norms import tensor_norms as tensor_norms
from trimtab.measure.norms import total_norm as total_norm
from trimtab.measure.probe import StepProbe as StepProbe
from trimtab.measure.units import unit_dims as unit_dims
from trimtab.measure.units import units as units
from trimtab.measure.watched import Watched as Watched

__all__ = [
    "ActivationProbe",
    "FlowReport",
    "GradientFlow",
    "GradientStats",
    "Named",
    "StepProbe",
    "Suspects",
    "Watched",
    "as_closure",
    "as_loss",
    "as_number",
    "census",
    "evaluate",
    "examine",
    "needs_closure",
    "step_stats",
    "tensor_norms",
    "total_norm",
    "underflow_share",
    "unit_dims",
    "units",
    "with_clipping",
]
