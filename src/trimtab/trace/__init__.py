"""Replays one step and names the operation where the first bad value was born.

The function `trimtab.trace` has the name of this package and hides it as an attribute of `trimtab`;
`from trimtab.trace import ...` finds the package all the same.
"""

from trimtab.trace.headroom import Headroom as Headroom
from trimtab.trace.headroom import Level as Level
from trimtab.trace.headroom import headroom as headroom
from trimtab.trace.outside import loss_origin as loss_origin
from trimtab.trace.outside import optimizer_origin as optimizer_origin
from trimtab.trace.replay import tensors_in as tensors_in
from trimtab.trace.tracing import replay_module as replay_module
from trimtab.trace.tracing import trace as trace

__all__ = [
    "Headroom",
    "Level",
    "headroom",
    "loss_origin",
    "optimizer_origin",
    "replay_module",
    "tensors_in",
    "trace",
]
