"""Hooks on the layers of a torch model, that hand on what each puts out, while a context is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimtab.measure.hooks import Hook
from trimtab.measure.unit_counts import kind_between, kind_of

_NUM_SAMPLED = 512
_NO_ACTIVATION = "none"


class Recorder(Protocol):
    """What is told of each output."""

    def __call__(self, layer: str, activations: Any, *, activation: str, unit_dim: int | None) -> object:
        """Take one output.

        Args:
            layer: Name of the layer.
            activations: What it put out.
            activation: What made it; "none" for a layer that is no activation.
            unit_dim: The dimension with one slice per unit.
        """


class _Last(NamedTuple):
    """The output of the layer with weights that was called last."""

    name: str
    shape: torch.Size
    sample: Tensor
    unit_dim: int


class LayerWatch:
    """Tells a recorder the outputs of the layers of a model, in their order; use it as a context manager.

    Args:
        model: The model.
        record: What is called with each output.
    """

    def __init__(self, model: nn.Module, record: Recorder) -> None:
        self._model, self._record = model, record
        self._handles: list[RemovableHandle] = []
        self._last: _Last | None = None
        # a module may serve several layers: which one it was first seen after
        self._first_after: dict[str, str] = {}

    def __enter__(self) -> LayerWatch:
        try:
            self._handles.append(self._model.register_forward_pre_hook(Hook(self._begin)))
            for name, module in self._model.named_modules():
                has_own = next(module.parameters(recurse=False), None) is not None
                if has_own or next(module.children(), None) is None:
                    hook = self._hook(name or type(module).__name__)
                    self._handles.append(module.register_forward_hook(Hook(hook)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._last = None

    def _begin(self, module: nn.Module, args: Any) -> None:
        del module, args
        self._last = None

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            values = _first_tensor(output)
            if values is not None:
                self._look(name, module, args, values)

        return look

    @torch.no_grad()
    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        kind, values = kind_of(module), output.detach()
        entering = args[0].detach() if args and isinstance(args[0], Tensor) else None
        if kind is None and entering is not None:
            self._tell_function(entering)
        dim = self._unit_dim(module, values)
        if next(module.parameters(recurse=False), None) is not None:
            self._tell(name, values, _NO_ACTIVATION, dim)
            self._last = _Last(name, values.shape, values.reshape(-1)[:_NUM_SAMPLED].clone(), dim)
            return
        after = "" if self._last is None else self._last.name
        label = name if self._first_after.setdefault(name, after) == after else f"{name} after {after}"
        self._tell(label, values, kind or _NO_ACTIVATION, dim)
        if kind is not None:
            self._last = None if self._last is None else self._last._replace(sample=values.new_empty(0))

    def _tell_function(self, entering: Tensor) -> None:
        """Whether what goes into this layer is an activation of what came out of the last one."""
        last = self._last
        if last is None or entering.shape != last.shape or not last.sample.numel():
            return
        if kind := kind_between(last.sample, entering.reshape(-1)[:_NUM_SAMPLED]):
            self._tell(f"{kind} after {last.name}", entering, kind, last.unit_dim)

    def _tell(self, name: str, values: Tensor, kind: str, dim: int) -> None:
        if values.dim() == 1:  # one row without a batch
            values, dim = values.unsqueeze(0), -1
        self._record(name, values, activation=kind, unit_dim=dim)

    def _unit_dim(self, module: nn.Module, values: Tensor) -> int:
        if isinstance(module, nn.modules.conv._ConvNd):
            return values.dim() - len(module.kernel_size) - 1  # an input without a batch has one less
        if isinstance(module, nn.modules.batchnorm._NormBase):
            return 1
        if self._last is not None and self._last.shape == values.shape:
            return self._last.unit_dim
        return 1 if values.dim() in (4, 5) and not _has_units_last(module) else -1


def _has_units_last(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.LayerNorm, nn.Embedding))


def _first_tensor(output: Any) -> Tensor | None:
    """The first tensor of real numbers, in memory as it is, that a module returned."""
    parts = output.values() if isinstance(output, dict) else output
    for part in parts if isinstance(output, (tuple, list, dict)) else (output,):
        if isinstance(part, Tensor) and part.is_floating_point() and part.layout is torch.strided:
            return part if part.dim() and part.numel() else None
    return None
