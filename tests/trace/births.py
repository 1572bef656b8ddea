"""A slow, simple reference for the tracer: every place where a step makes a non-finite value.

It knows nothing of legitimacy: it lists births, among them the origin that a case claims. A birth is an
Inf or a NaN from finite values, a NaN from infinities, or the first use of a batch, parameter or buffer
that was bad before. Forward and optimizer are watched operation by operation, backward node by node.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Birth:
    """A non-finite value with its phase, operation or node, line of the case file and innermost module."""

    phase: str
    op: str
    line: int | None
    module: str | None


def badness(values: Any) -> int:
    """0: all finite; 1: with an Inf; 2: with a NaN."""
    worst = 0
    for leaf in tree_leaves(values):
        value = leaf
        while isinstance(value, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
            value = torch._C._functorch.get_unwrapped(value)
        if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.layout not in {torch.strided, torch.sparse_coo}:
            continue
        dense = value.coalesce().values() if value.is_sparse else value
        if bool(torch.isnan(dense).any()):
            return 2
        worst = max(worst, int(not bool(torch.isfinite(dense).all())))
    return worst


class Watch(TorchDispatchMode):
    """Lists the births of one step of a case file."""

    def __init__(self, model: nn.Module, batch: Any, file: Path) -> None:
        super().__init__()
        tensors = [("parameter", t) for t in (*model.parameters(), *model.buffers())]
        tensors += [("input", t) for t in tree_leaves(batch) if isinstance(t, torch.Tensor)]
        self.given = [(what, t.untyped_storage().data_ptr()) for what, t in tensors if badness(t)]
        self.file, self.births = str(file), list[Birth]()
        self.phase, self.stack = "loss", list[str]()
        self.names: dict[nn.Module, str] = {}
        for name, module in model.named_modules():
            self.names.setdefault(module, name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Asked before the call: an operation in place overwrites its input. What is out= is no input.
        inputs = [*args, *(v for k, v in kwargs.items() if k != "out")]
        was_bad = badness(inputs)
        result = func(*args, **kwargs)
        if was_bad and self.given and badness(result):
            self.meet(inputs, sys._getframe(1))
        in_node = self.phase == "backward" and self.line(sys._getframe(1)) is None
        if not in_node and badness(result) > was_bad:
            phase = "forward" if self.stack and self.phase == "loss" else self.phase
            self.add(phase, f"aten.{func._schema.name.split('::')[-1]}", sys._getframe(1))
        return result

    def add(self, phase: str, op: str, frame: FrameType) -> None:
        module = self.stack[-1] if self.stack else None
        self.births.append(Birth(phase, op, self.line(frame), module or None))

    def meet(self, inputs: Any, frame: FrameType) -> None:
        """The first use of what was bad before the step; asking for isnan() is none."""
        used = {t.untyped_storage().data_ptr() for t in tree_leaves(inputs) if isinstance(t, torch.Tensor)}
        for given in self.given:
            if given[1] in used:
                self.add(given[0], given[0], frame)
                self.given = [g for g in self.given if g != given]

    def line(self, frame: FrameType | None) -> int | None:
        """The innermost line of the case file; None inside an autograd node, which has no Python frame."""
        while frame is not None and frame.f_code.co_filename != self.file:
            if frame.f_code.co_name == "_engine_run_backward":
                return None
            frame = frame.f_back
        return None if frame is None else frame.f_lineno

    def watch_nodes(self, roots: list[torch.Tensor]) -> list[Any]:
        """Hooks every autograd node below some tensors."""
        handles, seen, todo = [], set(), [t.grad_fn for t in roots if t.grad_fn is not None]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            handles.append(node.register_hook(self.node_hook(node)))
            todo += [following for following, _ in node.next_functions]
        return handles

    def node_hook(self, node: Any) -> Callable[[Any, Any], None]:
        def look(outputs: Any, inputs: Any) -> None:
            if badness(outputs) <= badness(inputs):
                return
            line = None
            for text in reversed(node.metadata.get("traceback_", [])):
                for frame in reversed(text.strip().split("\n")):
                    if f'File "{self.file}", line ' in frame and line is None:
                        line = int(frame.split(", line ")[1].split(",")[0])
            self.births.append(Birth("backward", node.name(), line, None))

        return look

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Keeps the path of the module that runs."""

        def enter(module: nn.Module, args: Any) -> None:
            if module in self.names:
                self.stack.append(self.names[module])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if module in self.names:
                self.stack.pop()

        with ExitStack() as stack:
            for module in self.names:
                stack.enter_context(module.register_forward_pre_hook(enter))
                stack.enter_context(module.register_forward_hook(leave, always_call=True))
            yield


def births(
    model: nn.Module,
    closure: Callable[[], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Any,
    file: Path,
) -> list[Birth]:
    """Every birth of the step, in the order of execution. The step is done."""
    watch = Watch(model, batch, file)
    engine = torch.autograd._engine_run_backward

    def watched(roots: Any, *args: Any, **kwargs: Any) -> Any:
        handles = watch.watch_nodes(list(roots))
        phase, watch.phase = watch.phase, "backward"
        try:
            return engine(roots, *args, **kwargs)
        finally:
            watch.phase = phase
            for handle in handles:
                handle.remove()

    with (
        watch.modules(),
        torch.autograd.set_detect_anomaly(True, check_nan=False),
        mock.patch("torch.autograd._engine_run_backward", watched),
        watch,
    ):
        closure()
        watch.phase = "optimizer"
        optimizer.step()
    return watch.births
