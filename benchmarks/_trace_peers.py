"""What one has without a tracer: anomaly mode, forward hooks on every module, a naive dispatch mode.

Each peer does one step of a run and says where it thinks the first bad value was born.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from case_files import Case, Run
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Answer:
    """Where and why; None: does not say."""

    line: int | None = None
    module: str | None = None
    phase: str | None = None
    cause: str | None = None


Peer = Callable[[Case, Run, int], "Answer | None"]


def is_bad(values: Any) -> bool:
    tensors = [t for t in tree_leaves(values) if isinstance(t, torch.Tensor)]
    while any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
        tensors = [
            torch._C._functorch.get_unwrapped(t) if torch._C._functorch.is_functorch_wrapped_tensor(t) else t
            for t in tensors
        ]
    dense = [t.coalesce().values() if t.layout == torch.sparse_coo else t for t in tensors]
    return any((t.is_floating_point() or t.is_complex()) and not bool(torch.isfinite(t).all()) for t in dense)


def anomaly_mode(case: Case, run: Run, step: int) -> Answer | None:
    """torch.autograd.set_detect_anomaly: stops at the first NaN that a backward node returns."""
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            run.do(step)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            said = "\n".join(str(w.message) for w in caught)
            lines = re.findall(rf'File "{re.escape(str(case.path))}", line (\d+)', said)
            return Answer(line=int(lines[-1]) if lines else None, phase="backward")
    return None


def forward_hooks(case: Case, run: Run, step: int) -> Answer | None:
    """The first module, in order of completion, whose output is not finite."""
    found: list[str] = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if is_bad(output):
                found.append(name)

        return look

    with ExitStack() as stack:
        for name, module in run.model.named_modules():
            stack.enter_context(module.register_forward_hook(hook(name)))
        run.do(step)
    return Answer(module=found[0], phase="forward") if found else None


class FirstBadOutput(TorchDispatchMode):
    """The first operation with a non-finite output, in forward, backward or the optimizer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.answer = case, None
        self.stack, self.phase = list[str](), "forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.answer is None and is_bad(result):
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_filename != str(self.case.path):
                frame = frame.f_back
            phase = "loss" if self.phase == "forward" and not self.stack else self.phase
            module = self.stack[-1] if self.stack else None
            self.answer = Answer(line=frame.f_lineno if frame else None, module=module, phase=phase)
        return result

    def enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: self.stack.append(name)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()


def naive_dispatch(case: Case, run: Run, step: int) -> Answer | None:
    """A TorchDispatchMode that checks every output and stops at the first bad one."""
    mode = FirstBadOutput(case)
    with ExitStack() as stack:
        for name, module in run.model.named_modules():
            stack.enter_context(module.register_forward_pre_hook(mode.enter(name)))
            stack.enter_context(module.register_forward_hook(mode.leave, always_call=True))
        with mode:
            run.optimizer.zero_grad()
            loss = run.loss_fn(run.model, run.batches[step])
            mode.phase = "backward"
            loss.backward()
            mode.phase = "optimizer"
            run.optimizer.step()
    return mode.answer


def trimtab_trace(case: Case, run: Run, step: int) -> Answer | None:
    """Ours."""
    import trimtab as tt

    origin = tt.trace(run.model, run.closure(step), run.optimizer)
    if origin is None:
        return None
    line = origin.line if origin.file is not None and Path(origin.file) == case.path else None
    phase, cause = (str(getattr(v, "value", v)).lower() for v in (origin.phase, origin.cause))
    return Answer(line=line, module=origin.module, phase=phase, cause=cause)


PEERS: dict[str, Peer] = {
    "anomaly mode": anomaly_mode,
    "forward hooks": forward_hooks,
    "naive dispatch": naive_dispatch,
}
