"""The only code that writes to a model or an optimizer."""

from trimtab.act import rng as rng
from trimtab.act.batches import Batches as Batches
from trimtab.act.buffers import BufferMemory as BufferMemory
from trimtab.act.examples import ExampleStats as ExampleStats
from trimtab.act.examples import clip_examples_ as clip_examples_
from trimtab.act.gradients import rescale_grads_ as rescale_grads_
from trimtab.act.gradients import scale_grads_ as scale_grads_
from trimtab.act.in_backward import BackwardOptimizer as BackwardOptimizer
from trimtab.act.master import MasterWeights as MasterWeights
from trimtab.act.mending import mend_ as mend_
from trimtab.act.optimizer import SMALLEST_IN_KERNEL as SMALLEST_IN_KERNEL
from trimtab.act.optimizer import Hidden as Hidden
from trimtab.act.optimizer import Rollback as Rollback
from trimtab.act.optimizer import check_unscaled as check_unscaled
from trimtab.act.optimizer import clipped as clipped
from trimtab.act.optimizer import fused_inputs as fused_inputs
from trimtab.act.optimizer import gates_on_device as gates_on_device
from trimtab.act.optimizer import hide_gradients_ as hide_gradients_
from trimtab.act.optimizer import is_fused as is_fused
from trimtab.act.optimizer import scaled_lr as scaled_lr
from trimtab.act.optimizer import show_gradients_ as show_gradients_
from trimtab.act.scaler import LossScaler as LossScaler
from trimtab.act.scaling_rule import Gradients as Gradients
from trimtab.act.scaling_torch import FollowedScaling as FollowedScaling
from trimtab.act.scaling_torch import Scaling as Scaling
from trimtab.act.scaling_torch import as_scaling as as_scaling
from trimtab.act.snapshots import Snapshots as Snapshots
from trimtab.act.training_state import Restored as Restored
from trimtab.act.training_state import Stateful as Stateful
from trimtab.act.updates import UpdateClip as UpdateClip

__all__ = [
    "ExampleStats",
    "clip_examples_",
    "SMALLEST_IN_KERNEL",
    "BackwardOptimizer",
    "Batches",
    "BufferMemory",
    "FollowedScaling",
    "Gradients",
    "Hidden",
    "LossScaler",
    "MasterWeights",
    "Restored",
    "Rollback",
    "Scaling",
    "Snapshots",
    "Stateful",
    "UpdateClip",
    "as_scaling",
    "check_unscaled",
    "clipped",
    "fused_inputs",
    "gates_on_device",
    "hide_gradients_",
    "is_fused",
    "mend_",
    "rescale_grads_",
    "rng",
    "scale_grads_",
    "scaled_lr",
    "show_gradients_",
]
