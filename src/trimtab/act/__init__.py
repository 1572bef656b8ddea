"""The only code that writes to a model or an optimizer."""

from trimtab.act.buffers import BufferMemory as BufferMemory
from trimtab.act.gradients import scale_grads_ as scale_grads_
from trimtab.act.optimizer import Rollback as Rollback
from trimtab.act.optimizer import clipped as clipped
from trimtab.act.optimizer import fused_inputs as fused_inputs
from trimtab.act.optimizer import gates_on_device as gates_on_device
from trimtab.act.optimizer import without_gradients as without_gradients

__all__ = [
    "BufferMemory",
    "Rollback",
    "clipped",
    "fused_inputs",
    "gates_on_device",
    "scale_grads_",
    "without_gradients",
]
