"""What flows through the layers of a model in one step, by hooks that are there for that step only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.measure.data_facts import INPUT_STATISTICS, OUTPUT_STATISTICS, flow, input_facts, output_facts
from trimtab.measure.graph import comes_from
from trimtab.measure.hooks import Hook, takes_hooks
from trimtab.measure.loss_graph import LossFacts
from trimtab.measure.targets import STATISTICS as _TARGETS
from trimtab.measure.targets import OutputGradient, target_facts
from trimtab.measure.unit_counts import UnitCounts, kind_between, kind_of, rows_of
from trimtab.measure.yardstick import STATISTICS as _YARDSTICK
from trimtab.measure.yardstick import Yardstick

FloatArray = NDArray[np.floating]
Found = dict[str, tuple[tuple[str, ...], FloatArray]]

_NUM_SAMPLED, _MAX_BATCH, _MAX_COLUMNS = 512, 64, 2048
# A channel whose variance is no more than this part of its squared mean hardly varies
_HARDLY = 1e-6
# What a loss asks for changes while the model learns: of ten looks ago a third counts
_KEPT = 0.9
_NOISY = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
_LAYER_STATISTICS = (
    *("forward_rms", "batch_spread", "backward_rms", "dead_share", "saturated_share", "running_apart"),
)
_MODE_STATISTICS = (
    *("is_training", "num_mode_layers", "smallest_batchnorm_rows", "uses_batchnorm"),
    *("smallest_batchnorm_batch", "largest_dropout", "is_critic", "batchnorm_momentum"),
)


class ActivationProbe:
    """Measures activations and their gradients between `open` and `take`.

    Statistics stay on the device until `take` brings them to the host in one copy. Forward passes
    without gradients, as in validation, are not looked at.

    Args:
        model: The model. Of one that was compiled nothing is seen: hooks would force it to recompile.

    Cost:
        Nothing while closed. While open, about ten small operations per layer on at most 2048 rows.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> probe = ActivationProbe(model)
        >>> probe.open()
        >>> model(torch.randn(16, 4)).sum().backward()
        >>> sorted(probe.take())[:3]
        ['backward_rms', 'batch_spread', 'dead_share']
        >>> probe.close()
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handles: list[Any] = []
        self._order: dict[str, dict[str, Tensor]] = {}
        self._units: dict[str, UnitCounts] = {}
        self._weights: dict[str, Tensor] = {}
        self._pending: tuple[str, torch.Size, Tensor] | None = None
        self._input: Tensor | None = None
        self._output: Tensor | None = None
        self._output_gradient: OutputGradient | None = None
        self._answered: Tensor | None = None
        self._yardstick, self._leftover = Yardstick(), Yardstick(_KEPT)
        self._mode: tuple[float, ...] | None = None
        self._smallest_rows = self._smallest_batch = float("nan")
        # a critic judges what another model made, in that one's step, and what is plain data in its own
        self._was_given_graph: set[bool] = set()
        self._own_nodes: list[Any] = []

    @property
    def is_open(self) -> bool:
        """Whether the hooks are there."""
        return bool(self._handles)

    def open(self) -> None:
        """Add the hooks."""
        if self._handles or not takes_hooks(self._model):
            return
        self._handles.append(self._model.register_forward_pre_hook(Hook(self._enter), with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(Hook(self._leave)))
        for name, module in self._model.named_modules():
            if next(module.children(), None) is None and module is not self._model and _is_layer(module):
                self._handles.append(module.register_forward_hook(Hook(self._layer_hook(name))))

    def close(self) -> None:
        """Remove the hooks, and forget what was seen in this step."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._order.clear()
        self._pending = self._input = self._output = self._output_gradient = self._mode = None
        self._answered = None
        self._smallest_rows = self._smallest_batch = float("nan")
        self._was_given_graph.clear()
        self._own_nodes.clear()

    @torch.no_grad()
    def take(self, loss: object = None, facts: LossFacts | None = None) -> Found:
        """What was measured since `open`; call it after backward, while the gradients are there.

        Args:
            loss: The loss of the step; without it nothing is said of the targets.
            facts: What its graph told.

        Returns:
            Signal name to names of the layers, in the order of the forward pass, and a number for each.
        """
        for name, weight in self._weights.items():
            if name in self._order and name in self._units:
                self._units[name].learn(weight.grad if weight.is_leaf else None)
        names = tuple(self._order)
        rows = [self._row(name) for name in names]
        device = next(iter(self._model.parameters())).device
        told, seen = self._target_facts(loss, facts, device), self._output_gradient
        has_tables = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in self._model.modules())
        entered = input_facts(self._input, device, may_hold_ids=has_tables)
        left = output_facts(self._output, None if seen is None else seen.rows()[1], device)
        # name, statistics, numbers, and whether there is anything to tell
        asides = (
            ("input", INPUT_STATISTICS, entered, self._input is not None),
            ("output", OUTPUT_STATISTICS, left, self._output is not None),
            ("target", _TARGETS, told[0], self._output is not None),
            ("yardstick", _YARDSTICK, told[1], self._output is not None),
            ("leftover", _YARDSTICK, told[2], self._output is not None),
        )
        flat = torch.cat([*(torch.stack(row) for row in rows), *(numbers for _, _, numbers, _ in asides)])
        numbers = np.array(flat.tolist())  # the one read
        found: Found = {}
        width = len(_LAYER_STATISTICS)
        table, rest = np.split(numbers, [width * len(names)])
        for column, statistic in enumerate(_LAYER_STATISTICS):
            if len(names):
                found[statistic] = (names, table.reshape(len(names), width)[:, column])
        for name, statistics, _, is_there in asides:
            own, rest = np.split(rest, [len(statistics)])
            if is_there:
                found[name] = (statistics, own)
        return found | self._mode_facts()

    def _mode_facts(self) -> Found:
        if self._mode is None:
            return {}
        norms = [m for m in self._model.modules() if isinstance(m, _NOISY[1])]
        is_training, num_layers, dropout = self._mode
        smallest = (self._smallest_rows, float(bool(norms)), self._smallest_batch)
        is_critic = float(len(self._was_given_graph) == 2)
        # None stands for a plain mean over all batches
        momentum = min((m.momentum for m in norms if m.momentum is not None), default=float("nan"))
        numbers = (is_training, num_layers, *smallest, dropout, is_critic, momentum)
        return {"mode": (_MODE_STATISTICS, np.array(numbers))}

    def _target_facts(
        self, loss: object, facts: LossFacts | None, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Aligned to the statistics of the targets, of the yardstick, and of what is left to learn."""
        seen, entering = self._output_gradient, self._answered
        found = [torch.full((len(n),), float("nan"), device=device) for n in (_TARGETS, *(_YARDSTICK,) * 2)]
        if seen is not None and entering is not None:
            found[2] = self._leftover.look(entering, seen.as_answers()).to(device)
        if seen is None or facts is None or not isinstance(loss, Tensor) or loss.numel() != 1:
            return tuple(found)
        tokens = None if entering is None or entering.is_floating_point() else entering
        told = target_facts(seen, loss.detach().reshape(()), facts, tokens)
        found[0] = told.statistics.to(device)
        if entering is not None and told.answers is not None:
            found[1] = self._yardstick.look(entering, told.answers).to(device)
        return tuple(found)

    def _row(self, name: str) -> list[Tensor]:
        """The statistics of one layer, aligned to `_LAYER_STATISTICS`."""
        seen = self._order[name]
        nothing = torch.full((), float("nan"), device=seen["square"].device)
        units = self._units.get(name)
        dead, stuck = units.verdict() if units is not None and units.is_due() else (nothing, nothing)
        backward = seen.get("backward")
        row = [
            seen["square"].sqrt(),
            seen["spread"],
            nothing if backward is None else backward.sqrt(),
            dead,
            stuck,
            seen.get("apart", nothing),
        ]
        return [number.float().reshape(()) for number in row]

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        first = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)), None)
        if first is not None and first.dim() >= 2 and not first.is_complex():
            self._input = first.detach()
        if first is not None and not comes_from(first.grad_fn, self._own_nodes):
            self._was_given_graph.add(first.grad_fn is not None)
        noisy = [m for m in module.modules() if _has_modes(m)]
        dropouts = [m.p for m in noisy if isinstance(m, _NOISY[0]) and m.training]
        self._mode = (float(module.training), float(len(noisy)), max(dropouts, default=0.0))
        self._pending = None

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        del module, args
        tensor = _first_tensor(output, at_least=2)  # a loss may stand before it, as in transformers
        if torch.is_grad_enabled() and tensor is not None:
            self._output, entering = tensor.detach(), self._input
            out = self._output
            if tensor.grad_fn is not None:
                self._own_nodes.append(tensor.grad_fn)

            def note(gradient: Tensor) -> None:
                """Keep what the loss sends back to the output."""
                # of several passes the last one that the loss hears counts
                if self._output is out or self._output_gradient is None:
                    self._output_gradient = OutputGradient.of(out, gradient.detach())
                    self._answered = entering

            if tensor.requires_grad:
                tensor.register_hook(note)  # type: ignore[no-untyped-call]

    def _layer_hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            """Measure what the layer gave, in a forward pass with gradients."""
            tensor = _first_tensor(output)
            if torch.is_grad_enabled() and tensor is not None and tensor.numel():
                self._look(name, module, args, tensor)

        return look

    def _look(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        entering = args[0].detach() if args and isinstance(args[0], Tensor) else None
        self._identify(module, entering)
        values = output.detach()
        seen = self._order.setdefault(name, {})
        seen["square"], seen["spread"] = flow(values)
        if output.requires_grad:
            output.register_hook(_note_into(seen))  # type: ignore[no-untyped-call]
        if isinstance(module, _NOISY[1]) and entering is not None and module.training:
            rows = entering.numel() / max(entering.shape[1], 1)
            self._smallest_rows = float(np.fmin(self._smallest_rows, rows))
            self._smallest_batch = float(np.fmin(self._smallest_batch, entering.shape[0]))
            seen["apart"] = _running_apart(module, entering)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and _has_units(module):
            self._units.setdefault(name, UnitCounts()).add(rows_of(values, module))
            self._weights[name] = weight
            self._pending = (name, values.shape, values.reshape(-1)[:_NUM_SAMPLED].clone())

    def _identify(self, module: nn.Module, entering: Tensor | None) -> None:
        """Find out which activation follows the layer before."""
        if self._pending is None:
            return
        name, shape, before = self._pending
        units = self._units[name]
        if kind_of(module) is not None:
            units.kind = kind_of(module)
        elif entering is not None and entering.shape == shape and units.kind is None:
            units.kind = kind_between(before, entering.reshape(-1)[:_NUM_SAMPLED])
        self._pending = None


def _has_modes(module: nn.Module) -> bool:
    """Whether it matters for training if a layer is in eval mode; a frozen BatchNorm may be."""
    if isinstance(module, _NOISY[0]):
        return module.p > 0
    weight = getattr(module, "weight", None)
    return isinstance(module, _NOISY[1]) and (weight is None or bool(weight.requires_grad))


def _running_apart(norm: nn.modules.batchnorm._BatchNorm, entering: Tensor) -> Tensor:
    """How far what a BatchNorm will use in evaluation is from this batch, in the middle over the channels.

    The square of the distance of the means over the variance, and the difference of the logarithms of the
    variances; channels that hardly vary in this batch, as rare features, are left out.
    """
    if norm.running_mean is None or norm.running_var is None:
        return torch.full((), float("nan"), device=entering.device)
    dims = [d for d in range(entering.dim()) if d != 1]
    some = entering[:: -(-len(entering) // _MAX_BATCH)].float()
    var, mean = torch.var_mean(some, dims, correction=0)
    known = norm.running_var + norm.eps
    apart = (mean - norm.running_mean).square() / (var + norm.eps) + ((var + norm.eps) / known).log().abs()
    return torch.where(var > _HARDLY * mean.square(), apart, float("nan")).nanmedian()


def _has_units(module: nn.Module) -> bool:
    """Whether each output feature has weights of its own that an activation may silence."""
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, _NOISY[1]))


def _is_layer(module: nn.Module) -> bool:
    return kind_of(module) is not None or next(module.parameters(recurse=False), None) is not None


def _first_tensor(output: Any, at_least: int = 0) -> Tensor | None:
    """The first floating tensor of what a module returned, of so many dimensions at least."""
    if isinstance(output, dict):
        output = tuple(output.values())
    for part in output if isinstance(output, (tuple, list)) else (output,):
        if isinstance(part, Tensor) and part.is_floating_point() and part.dim() >= at_least:
            return part
    return None


def _note_into(seen: dict[str, Tensor]) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        """Keep the mean square of a sample of the gradient."""
        flat = gradient.detach().reshape(-1)
        stride = max(1, flat.numel() // (_MAX_BATCH * _MAX_COLUMNS))
        seen["backward"] = flat[:: stride + (stride > 1 and stride % 2 == 0)].float().square().mean()

    return note
