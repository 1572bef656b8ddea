"""What dropout really does in training and in evaluation, wherever in the forward pass it is called."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trimtab.measure.hooks import Hook, takes_hooks

DROPOUT_STATISTICS = ("trained", "evaluated", "is_on_output", "is_repeated")
# Function to the names of the rate and of the switch among its arguments
_CALLS: dict[Callable[..., Any], tuple[str, str]] = {
    F.dropout: ("p", "training"),
    F.dropout1d: ("p", "training"),
    F.dropout2d: ("p", "training"),
    F.dropout3d: ("p", "training"),
    F.alpha_dropout: ("p", "training"),
    F.feature_alpha_dropout: ("p", "training"),
    F.multi_head_attention_forward: ("dropout_p", "training"),
}
# Attention is a builtin without a signature: the place of its rate
_ATTENTION_RATE = 4


class DropoutCalls:
    """Listens once to a forward pass in training and once to one in evaluation.

    A layer of dropout tells its rate; a call of `F.dropout` does not, and its default is to drop in
    evaluation as well. So the calls themselves are seen, as `torch.overrides` shows them.

    Args:
        model: The model. Compiled parts are not looked at: they would be compiled again.

    Cost:
        Two forward passes of a run, one of each kind, in which each call of torch takes some microseconds
        more; hooks of the model until both were seen. At most one host read in all, in a `take`.

    Example:
        >>> class Net(torch.nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(torch.nn.functional.dropout(x, 0.5))
        >>> model = Net(4, 1)
        >>> calls = DropoutCalls(model)
        >>> calls.open()
        >>> _ = model(torch.ones(2, 4))
        >>> with torch.no_grad():
        ...     _ = model.eval()(torch.ones(2, 4))
        >>> names, values = calls.take()["dropout"]
        >>> dict(zip(names, values.tolist()))["evaluated"]
        0.5
        >>> calls.close()
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._listener: _Listener | None = None
        self._trained = self._evaluated = self._is_on_output = float("nan")
        # what was evaluated first, until something else runs: a pass that comes again is meant to vary
        self._first: Tensor | None = None
        self._is_repeated: Tensor | float = float("nan")

    @property
    def _is_done(self) -> bool:
        return math.isfinite(self._trained) and math.isfinite(self._evaluated) and self._first is None

    def open(self) -> None:
        """Add the hooks, if there is still something to hear."""
        if self._handles or self._is_done or not takes_hooks(self._model) or _is_compiled(self._model):
            return
        self._handles.append(
            self._model.register_forward_pre_hook(Hook(self._enter), with_kwargs=True, prepend=True)
        )
        self._handles.append(self._model.register_forward_hook(Hook(self._leave), always_call=True))

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> dict[str, tuple[tuple[str, ...], NDArray[np.floating]]]:
        """The largest rates in a pass of each kind, nan as long as there was none.

        Returns:
            "dropout" to names and numbers: besides the rates, 1 if the outputs themselves are dropped, and if
            the same rows are evaluated twice in a row.
        """
        if self._is_done:
            self.close()
        self._is_repeated = float(self._is_repeated)  # read once: later looks find a number
        numbers = (self._trained, self._evaluated, self._is_on_output, self._is_repeated)
        return {"dropout": (DROPOUT_STATISTICS, np.array(numbers))}

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_training = module.training
        if is_training != torch.is_grad_enabled() or self._listener is not None:
            return
        rows = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)), None)
        if self._first is not None:
            self._is_repeated = 0.0
            if not is_training and rows is not None and rows.shape == self._first.shape:
                self._is_repeated = torch.all(torch.eq(rows, self._first))
            self._first = None
        if math.isfinite(self._trained if is_training else self._evaluated):
            return
        self._listener = _Listener()
        self._listener.__enter__()  # type: ignore[no-untyped-call]
        if not is_training and rows is not None:
            self._first = rows.detach()

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        rate = max(listener.rates, default=0.0)
        if module.training:
            self._trained, self._is_on_output = (
                rate,
                float(listener.last is not None and listener.last is output),
            )
            return
        # layers in train mode inside a model in eval mode are so on purpose, as to see how sure it is
        is_meant = any(m.training for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
        self._evaluated = 0.0 if is_meant else rate
        if not self._evaluated:
            self._first = None


class _Listener(TorchFunctionMode):
    """Notes the rates at which calls of torch drop."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []
        self.last: object = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        rate = _rate_of(func, args, kwargs or {})
        if rate > 0:
            self.rates.append(rate)
            self.last = result
        return result


def _rate_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The rate at which a call drops; 0 if it does not."""
    if func is F.scaled_dot_product_attention:
        return float(kwargs.get("dropout_p", args[_ATTENTION_RATE] if len(args) > _ATTENTION_RATE else 0.0))
    if func not in _CALLS:
        return 0.0
    rate, switch = _CALLS[func]
    bound = inspect.signature(func).bind(*args, **kwargs)
    bound.apply_defaults()
    return float(bound.arguments[rate]) if bound.arguments[switch] else 0.0


def _is_compiled(model: nn.Module) -> bool:
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
