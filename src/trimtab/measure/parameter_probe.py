"""What one step does to the parameters, from a sample of the elements of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

FloatArray = NDArray[np.floating]

# 4096 elements give a norm to 1 % or so: for a diagnosis in orders of magnitude that is plenty
_NUM_SAMPLED = 4096
_NUM_UNITS = 64
# Of smaller weights as few directions are no surprise
_MIN_SIDE = 12
# With so few steps between 0 and a number it is known to 3 % only, and what is smaller is lost
_FEW_STEPS = 16
# Of fewer elements the mean square says little of how they are spread
_MIN_SPREAD = 256
# The gradients of so few parameters, none larger, are compared with what backward brought them
_NUM_COMPARED, _MAX_COMPARED = 8, 1 << 16


class ParameterProbe:
    """Looks at all parameters of a model around one step of their optimizer.

    Args:
        model: The model.
        optimizer: An optimizer over some of its parameters.

    Cost:
        Per step looked at: copies of at most 4096 elements of each parameter and some 20 small
        operations on each, two host reads: of what backward brought, and of all else. Nothing in between.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._parameters: tuple[Tensor, ...] = ()
        self._names: tuple[str, ...] = ()
        self._before: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self._spreads: list[Tensor] = []
        # how many directions the units have, known once: before the first step that is looked at
        self._directions: list[Tensor] | None = None
        self._brought: dict[Tensor, Tensor] = {}
        # where the last look left the parameters, and by which step it got there
        self._left: list[tuple[Tensor, Tensor]] | None = None
        self._undone: list[Tensor] | None = None
        self._close: list[Callable[[], None]] = []
        self._comparison: tuple[float, ...] | None = None

    def listen(self) -> None:
        """Watch what the coming backward passes bring to a few parameters."""
        self.close()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return  # gradients are averaged over ranks behind the hooks' backs
        own = [p for p in self._own() if p.requires_grad and p.is_leaf]
        candidates = [p for p in own if 2 <= p.numel() <= _MAX_COMPARED]
        for parameter in sorted(candidates, key=lambda p: -p.numel())[:_NUM_COMPARED]:
            handle = parameter.register_hook(self._bring_to(parameter))  # type: ignore[no-untyped-call]
            self._close.append(handle.remove)

    def close(self) -> None:
        """Remove the hooks."""
        for close in self._close:
            close()
        self._close.clear()
        self._brought.clear()

    def rest(self) -> None:
        """Steps that are not looked at come now: what the next look finds is not what the last one left."""
        self._left = None

    @torch.no_grad()
    def before(self) -> None:
        """Look at gradients and parameters; called after backward, before the step."""
        named = dict(self._model.named_parameters())
        self._names = tuple(name.replace("_orig_mod.", "") for name in named)
        self._parameters = tuple(named.values())
        self._before = [_sample(p).clone() for p in self._parameters]
        self._undone = self._compare_with_left()
        self._gradients = [_gradient_sample(p) for p in self._parameters]
        # before the first step units are as they were initialized: even one step may tell some of them apart
        self._spreads = [_unit_spread(p) for p in self._parameters]
        is_first = self._directions is None
        self._directions = [_num_directions(p) for p in self._parameters] if is_first else []
        self._comparison = self._compare()

    @torch.no_grad()
    def after(self) -> dict[str, tuple[tuple[str, ...], FloatArray]]:
        """Look again, after the step.

        Returns:
            Signal name to the names of the parameters and a number for each.
        """
        if not self._parameters:
            return {}
        old, new = self._before, [_sample(p) for p in self._parameters]
        steps = [a.float() - b.float() for a, b in zip(new, old, strict=True)]
        sizes = np.array([max(t.numel(), 1) for t in old])
        gradients = [t.new_zeros(1) if g is None else g for g, t in zip(self._gradients, old, strict=True)]
        # on the device of the others: rows of several devices make no table
        unknown = torch.full((len(old),), float("nan"), device=old[0].device)
        table = [
            _norms(old),
            _norms(steps),
            _stack([(s != 0).float().mean() if s.numel() else s.sum() for s in steps]),
            _norms(gradients),
            _stack([(g == 0).float().mean() for g in gradients]),
            _stack([_subnormal_share(g) for g in gradients]),
            _stack(self._spreads),
            *self._adam_facts(gradients),
            _stack([_as_initialized(p) for p in self._parameters]),
            _stack([_share_at_bound(t) for t in old]),
            _stack(self._undone) if self._undone else unknown,
            _stack(self._directions) if self._directions else unknown,
            _stack([_share_of_rarer_sign(t) for t in old]),
        ]
        self._left = list(zip((t.clone() for t in new), steps, strict=True))
        numbers = np.array(torch.stack(table).tolist())  # the one read
        own = set(self._own())
        columns = self._columns(numbers, sizes, own)
        found = {name: (self._names, np.asarray(column)) for name, column in columns.items()}
        found["optimizer"] = (_WIRING, np.array(self._wiring(own)))
        if self._comparison is not None:
            found["stale_gradient"] = (_COMPARISON, np.array(self._comparison))
        self._parameters, self._before, self._gradients, self._spreads = (), [], [], []
        return found

    def _columns(
        self, numbers: FloatArray, sizes: NDArray[np.int64], own: set[Tensor]
    ) -> dict[str, FloatArray]:
        """What was read, and what the host knows, by the name of the signal; a number for each parameter."""
        has = np.array([g is not None for g in self._gradients])
        weight, step, changed, gradient, zeros, subnormal, *rest = numbers
        spread, epsilon, moment, initialized, bound, undone, directions, sign = rest
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(weight > 0, step / weight, np.nan)
        return {
            "weight_rms": weight / np.sqrt(sizes),
            "update_ratio": ratio,
            "changed_share": changed,
            "gradient_rms": np.where(has, gradient / np.sqrt(sizes), np.nan),
            "gradient_zero_share": np.where(has, zeros, np.nan),
            "gradient_subnormal_share": np.where(has, subnormal, np.nan),
            "unit_spread": spread,
            "epsilon_share": epsilon,
            "moment_ratio": np.where(np.isfinite(moment), moment, np.nan),
            "as_initialized": initialized,
            "at_bound": bound,
            "undone_share": undone,
            "unit_directions": directions,
            "rarer_sign_share": sign,
            "has_gradient": has.astype(float),
            "requires_gradient": np.array([float(p.requires_grad) for p in self._parameters]),
            "in_optimizer": np.array([float(p in own) for p in self._parameters]),
            "num_units": np.array([_num_units(p) for p in self._parameters]),
        }

    def _compare_with_left(self) -> list[Tensor] | None:
        """Which share of its last step each parameter has gone back since; None if there were others."""
        left, self._left = self._left, None
        if left is None or [t.shape for t, _ in left] != [t.shape for t in self._before]:
            return None
        pairs = [
            (now.float() - old.float(), step) for now, (old, step) in zip(self._before, left, strict=True)
        ]
        return [-(moved * step).sum() / step.square().sum() for moved, step in pairs]

    def _own(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _wiring(self, own: set[Tensor]) -> tuple[float, ...]:
        """How the optimizer holds the parameters, aligned to `_WIRING`."""
        listed, groups = self._own(), self._optimizer.param_groups
        lr = groups[0].get("lr", float("nan"))
        decay = max(float(g.get("weight_decay", 0.0)) for g in groups)
        momentum = max(float(g.get("momentum", g.get("betas", (0.0,))[0])) for g in groups)
        second = min(float(g["betas"][1]) if "eps" in g and "betas" in g else float("nan") for g in groups)
        foreign = len(own - set(self._parameters))
        rate = float("nan") if isinstance(lr, Tensor) else float(lr)
        decoupled = float(_is_decoupled(self._optimizer))
        return float(foreign), float(len(listed) - len(own)), rate, decay, momentum, second, decoupled

    def _adam_facts(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """How many roots of Adam's second moment are below epsilon, and their size over the gradient's.

        For each parameter, and nan for other optimizers.
        """
        groups = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        shares, ratios = [], []
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            state, group = self._optimizer.state.get(parameter, {}), groups.get(parameter, {})
            moment, step = state.get("max_exp_avg_sq", state.get("exp_avg_sq")), state.get("step")
            if not isinstance(moment, Tensor) or step is None or not {"eps", "betas"} <= group.keys():
                nothing = torch.full((), float("nan"), device=parameter.device)
                shares.append(nothing)
                ratios.append(nothing)
                continue
            seen = 1 - group["betas"][1] ** torch.as_tensor(step, dtype=torch.float32).to(parameter.device)
            sample = _sample(moment).float()
            shares.append(_share_below(sample.sqrt(), group["eps"]))
            # no gradient: inf or nan, which says nothing
            ratios.append((sample.mean() / seen / gradient.float().square().mean()).sqrt())
        return _stack(shares), _stack(ratios)

    def _bring_to(self, parameter: Tensor) -> Callable[[Tensor], None]:
        def bring(gradient: Tensor) -> None:
            """Add what one backward pass brings to what it brought in this step."""
            if gradient.layout is not torch.strided:
                return
            known, grad = self._brought.get(parameter), parameter.grad
            if known is None or grad is None or grad.layout is not torch.strided:
                self._brought[parameter] = gradient.clone()
            else:  # what was brought before a zero_grad, as by the other loss of a GAN, is gone
                self._brought[parameter] = known * (grad != 0).any() + gradient

        return bring

    def _compare(self) -> tuple[float, ...] | None:
        """How far the gradients are from what backward brought, aligned to `_COMPARISON`.

        The angle of all together (as its sine), the factor, and the lowest cosine of a single one.
        """
        pairs = [(p.grad, g) for p, g in self._brought.items() if p.grad is not None]
        pairs = [
            (_as_real(a).double().flatten(), _as_real(b).double().flatten())
            for a, b in pairs
            if a.layout is torch.strided
        ]
        if not pairs:
            return None
        table = torch.stack([torch.stack([a @ a, a @ b, b @ b]) for a, b in pairs])
        products = np.array(table.tolist())
        aa, ab, bb = products.sum(0)
        if not (0 < aa < np.inf and 0 < bb < np.inf):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = products[:, 1] / np.sqrt(products[:, 0] * products[:, 2])
        lowest = cosines[np.isfinite(cosines)].min(initial=1.0)
        return float(np.sqrt(max(0.0, 1 - ab * ab / (aa * bb)))), float(ab / bb), float(lowest)


_COMPARISON = ("residual", "factor", "lowest_cosine")
_WIRING = ("num_foreign", "num_duplicated", "lr", "weight_decay", "momentum", "second_beta", "is_decoupled")
# These add their weight decay to the gradient
_COUPLED = (
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
)


def _is_decoupled(optimizer: Optimizer) -> bool:
    """Whether weight decay is no part of the gradient, as in AdamW, or may not be."""
    return any(
        g.get("decoupled_weight_decay", not isinstance(optimizer, _COUPLED)) for g in optimizer.param_groups
    )


def _sample(tensor: Tensor) -> Tensor:
    """Evenly spaced elements, at most 4096 or so; a view where the memory allows it."""
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values()
    flat = _as_real(tensor.detach()).reshape(-1)
    # an odd stride: an even one would see the same few columns of every row
    stride = max(1, flat.numel() // _NUM_SAMPLED)
    return flat[:: stride + (stride > 1 and stride % 2 == 0)]


def _as_real(tensor: Tensor) -> Tensor:
    """A complex number is two numbers here."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _gradient_sample(parameter: Tensor) -> Tensor | None:
    if parameter.grad is None:
        return None
    sample = _sample(parameter.grad)
    return sample.clone() if sample.numel() else sample.new_zeros(1)


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    # vector_norm takes no type narrower than that of its input
    types = [torch.promote_types(t.dtype, torch.float32) for t in tensors]
    return _stack([torch.linalg.vector_norm(t, dtype=d) for t, d in zip(tensors, types, strict=True)])


def _stack(numbers: Sequence[Tensor]) -> Tensor:
    home = numbers[0].device
    return torch.stack([n.detach().to(home, torch.float32, non_blocking=True) for n in numbers])


def _unit_spread(parameter: Tensor) -> Tensor:
    """How much the units of a weight differ: deviation across them over the size of their elements."""
    if parameter.dim() < 2 or parameter.shape[0] < 2 or parameter.numel() < 2 * parameter.shape[0]:
        return torch.full((), float("nan"), device=parameter.device)
    some = _as_real(parameter.detach()[:_NUM_UNITS]).flatten(1)[:, :_NUM_UNITS].float()
    # exact: equal units must give exactly 0
    apart = (some - some[:1]).square().mean().sqrt()
    return apart / some.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)


def _num_directions(parameter: Tensor) -> Tensor:
    """How many directions the units of a weight have, of 64 units and 64 inputs at most; nan of small ones.

    The participation ratio of the squared singular values, (sum s_i)^2 / sum s_i^2: 1 if all units lie on one
    line, half of the smaller side for independent random numbers.
    """
    if parameter.dim() < 2 or min(parameter.shape[0], math.prod(parameter.shape[1:])) < _MIN_SIDE:
        return torch.full((), float("nan"), device=parameter.device)
    some = _as_real(parameter.detach()[:_NUM_UNITS]).flatten(1)[:, :_NUM_UNITS].float()
    products = some @ some.T
    count: Tensor = products.diagonal().sum().square() / products.square().sum()
    return count


def _subnormal_share(gradient: Tensor) -> Tensor:
    """Of the elements other than 0, those that are a few of the smallest number of float16; nan without any.

    Whole multiples of 2**-24, 16 at most: in another type a number is one by accident only.
    """
    steps = gradient.float() * 2.0**24
    is_there = steps != 0
    is_whole = (steps == steps.round()) & (steps.abs() <= _FEW_STEPS) & is_there
    return is_whole.sum() / is_there.sum()


def _num_units(parameter: Tensor) -> float:
    """Number of outputs of a weight of two or more dimensions; nan for others."""
    return float(parameter.shape[0]) if parameter.dim() >= 2 else float("nan")


def _share_below(values: Tensor, bound: float) -> Tensor:
    """Of the elements above 0; nan if there are none."""
    is_there = values > 0
    return ((values < bound) & is_there).sum() / is_there.sum()


def _share_at_bound(sample: Tensor) -> Tensor:
    """Share of the elements that are as large as the largest one, as of weights that are clamped."""
    if not sample.numel():
        return torch.full((), float("nan"), device=sample.device)
    sizes = sample.abs()
    return (sizes == sizes.amax()).float().mean()


def _share_of_rarer_sign(sample: Tensor) -> Tensor:
    """Share of the elements whose sign is the rarer one; 0 of weights that are held on one side of 0."""
    signs = torch.stack([(sample > 0).sum(), (sample < 0).sum()])
    return signs.min() / max(sample.numel(), 1)


def _as_initialized(parameter: Tensor) -> Tensor:
    """1 if a weight is spread evenly between two bounds, as most initializations leave it; else 0.

    The square of the largest is then three times the mean square. Training spoils that at once, and a
    normal distribution is far from it.
    """
    if parameter.dim() < 2 or parameter.numel() < _MIN_SPREAD:
        return torch.full((), float("nan"), device=parameter.device)
    sample = _sample(parameter).float()
    ratio: Tensor = sample.abs().amax().square() / sample.square().mean()
    return ((ratio > 2.5) & (ratio < 3.3)).float()
