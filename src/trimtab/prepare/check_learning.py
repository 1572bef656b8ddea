"""Checks by experiment: can this batch be learned, from the inputs, for the labels, by this optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.prepare.calling import LossCall, changed_inputs, mapped, tensors_of, watched_call
from trimtab.prepare.checks import Check, Number, nothing, ok, problem, unsure
from trimtab.prepare.learning import Trial
from trimtab.prepare.loss_terms import LossTerm

# Share of the loss of the best constant prediction that must go, for inputs to count as used
_MIN_BELOW_CONSTANT = 0.02
# Share of the first loss that must go where no level is known
_MIN_FALL = 0.03
# Share of what was learned that a control must destroy
_MIN_DAMAGE = 0.1
_MIN_STEPS = 60  # with fewer, the time was too short to judge


def constant_level(loss: float, terms: Sequence[LossTerm]) -> float:
    """What the best constant prediction costs, if the loss is one known term and nothing else; else nan."""
    if len(terms) != 1 or not math.isfinite(terms[0].value):
        return math.nan
    term = terms[0]
    is_all = abs(loss - term.value) <= 1e-3 * max(abs(term.value), 1e-12)
    return term.baseline if is_all and term.baseline > 0 else math.nan


def check_overfit(trial: Trial, constant: float) -> Check:
    """Whether one batch can be learned.

    Args:
        trial: The best try.
        constant: Loss of the best constant prediction, or nan.
    """
    name = "one-batch overfit"
    numbers = [
        Number("first loss", trial.first),
        Number("last loss", trial.last),
        Number("steps", float(trial.num_steps)),
    ]
    if math.isfinite(constant):
        numbers.append(Number("best constant prediction", constant))
    if not math.isfinite(trial.last):
        text = f"the loss became NaN or Inf within {trial.num_steps} steps on one batch"
        return problem(name, text, *numbers, advice="Run trimtab.trace on it: it names where this was born.")
    told = f"loss {trial.first:.3g} -> {trial.last:.3g} in {trial.num_steps} steps of Adam, lr {trial.lr:g}"
    if math.isfinite(constant):
        is_learned = trial.last < (1 - _MIN_BELOW_CONSTANT) * constant
        failed = f"{told}: no better than a constant prediction ({constant:.3g})"
    else:
        is_learned = trial.first - trial.last > _MIN_FALL * abs(trial.first)
        failed = f"{told}: it does not fall"
    if is_learned:
        return ok(name, told, *numbers)
    if trial.num_steps < _MIN_STEPS:
        return unsure(name, told + ": too few steps in the time given", *numbers)
    advice = (
        "A model that cannot learn one batch will learn nothing: see the other checks; look for layers that "
        "are dead, cut off or saturated, and for labels that do not belong to the inputs."
    )
    return problem(name, failed, *numbers, advice=advice)


def check_zeroed_inputs(call: LossCall, model: nn.Module, batch: Any, trial: Trial) -> Check:
    """Whether the trained model needs its inputs: their data set to zero must hurt.

    Args:
        call: The loss.
        model: The model, as the trial left it.
        batch: The batch.
        trial: The trial.
    """
    name = "zeroed-input control"
    now, seen = watched_call(call, model, batch)
    inputs, output = seen.inputs, seen.output
    wanted = _data_among(inputs)
    if wanted is None:
        return nothing(name, "the model was not called with a tensor of data")
    with changed_inputs(model, lambda t: torch.zeros_like(t) if wanted(t) else t):
        zeroed, seen = watched_call(call, model, batch)
    blind = seen.output
    numbers = (Number("loss", now), Number("with inputs of zero", zeroed))
    told = f"loss {now:.3g}; with inputs of zero {zeroed:.3g}"
    advice = (
        "The output does not depend on the inputs: look for layers that are dead or whose weights are zero, "
        "and for what overwrites, masks or multiplies the inputs away."
    )
    is_same = output is not None and blind is not None and torch.equal(output, blind)
    learned = trial.first - now
    is_learned = learned > _MIN_FALL * abs(trial.first)
    if is_same and _differs_from_zero(inputs, wanted):
        return problem(name, f"{told}: the outputs are the same", *numbers, advice=advice)
    if not is_learned:
        return unsure(name, f"{told}; too little was learned to tell", *numbers)
    if math.isfinite(zeroed) and zeroed - now < _MIN_DAMAGE * learned:
        text = f"{told}: what was learned does not come from the inputs"
        # some batches can be learned by a constant alone; that is told, and no fault of the model
        return unsure(name, text, *numbers, advice=advice)
    return ok(name, told, *numbers)


def _data_among(inputs: Sequence[Tensor]) -> Callable[[Tensor], bool] | None:
    """Which inputs carry data: rows of numbers; else rows of tokens; else single tokens, or numbers."""
    for wanted in (_is_rows_of_numbers, _is_rows_of_tokens, _is_single):
        if any(wanted(t) for t in inputs):
            return wanted
    return None


def _is_rows_of_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() >= 2


def _is_rows_of_tokens(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int64, torch.int32, torch.uint8) and tensor.dim() >= 2


def _is_single(tensor: Tensor) -> bool:
    return tensor.dim() == 1 and tensor.dtype != torch.bool


def _differs_from_zero(inputs: Sequence[Tensor], wanted: Callable[[Tensor], bool]) -> bool:
    return any(bool(t.any()) for t in inputs if wanted(t))


def check_shuffled_labels(
    call: LossCall, model: nn.Module, batch: Any, trial: Trial, at_first: tuple[float, float]
) -> Check:
    """Whether the trained model's loss depends on which label belongs to which sample.

    Args:
        call: The loss.
        model: The model, as the trial left it.
        batch: The batch.
        trial: The trial.
        at_first: The loss of the untrained model, and with shuffled labels.
    """
    name = "shuffled-label control"
    shuffled = shuffled_labels(call, model, batch)
    if shuffled is None:
        return nothing(name, "the batch holds no labels apart from what the model is given")
    (now, seen), (mixed, _) = (watched_call(call, model, each) for each in (batch, shuffled))
    numbers = (Number("loss", now), Number("with shuffled labels", mixed))
    told = f"loss {now:.3g}; with shuffled labels {mixed:.3g}"
    learned = trial.first - now
    if learned <= _MIN_FALL * abs(trial.first):
        return unsure(name, f"{told}; too little was learned to tell", *numbers)
    output = seen.output
    if mixed == now and output is not None and output.dim() and bool((output == output[:1]).all()):
        return unsure(name, f"{told}; the outputs of all samples are the same", *numbers)
    if mixed == now:
        text = f"{told}: the loss does not depend on them"
        advice = "Look for a target that is overwritten, or for a loss of something else."
        return problem(name, text, *numbers, advice=advice)
    first, first_mixed = at_first
    if first_mixed - first > 0.5 * abs(first_mixed):
        told += "; the untrained model knows them already: pretrained, or labels among the inputs"
    return ok(name, told, *numbers)


def shuffled_labels(call: LossCall, model: nn.Module, batch: Any) -> Any:
    """The batch with its labels in another order; None if it has none, or all are equal.

    A label is a tensor of the batch on which nothing that the model is given depends.
    """
    inputs = watched_call(call, model, batch)[1].inputs
    if not inputs or inputs[0].dim() == 0:
        return None
    num = len(inputs[0])
    changed: dict[int, Tensor] = {}
    for tensor in tensors_of(batch):
        if tensor.dim() == 0 or len(tensor) != num or num < 2:
            continue
        other = _rolled(tensor)
        if torch.equal(other, tensor):
            continue
        replaced = mapped(batch, _replacing({id(tensor): other}))
        seen = watched_call(call, model, replaced)[1].inputs
        if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(inputs, seen, strict=False)):
            changed[id(tensor)] = other
    if not changed:
        return None
    return mapped(batch, _replacing(changed))


def _replacing(others: dict[int, Tensor]) -> Callable[[Tensor], Tensor]:
    """What puts others in the place of tensors known by their identity."""
    return lambda tensor: others.get(id(tensor), tensor)


def _rolled(tensor: Tensor) -> Tensor:
    """Another order in which as many rows as possible change."""
    tries = [tensor.roll(shift, 0) for shift in range(1, min(len(tensor), 9))]
    return max(tries, key=lambda t: int((t != tensor).sum()))


def check_independence(call: LossCall, model: nn.Module, batch: Any) -> Check:
    """Whether the output of a sample depends on the other samples of the batch, in eval mode.

    All other samples are replaced by others; then the output of the one must stay. This sees what a
    gradient sees, and works for tokens and through steps that have no gradient.

    Args:
        call: The loss.
        model: The model, as the trial left it.
        batch: The batch.
    """
    name = "batch independence"
    model.eval()
    seen = watched_call(call, model, batch)[1]
    inputs, output = seen.inputs, seen.output
    why = _no_samples(inputs, output)
    wanted = _data_among(inputs)
    if why or output is None or wanted is None:
        return nothing(name, why or "the model was not called with a tensor of data")
    dim, num = _batch_dim(inputs, output, wanted, batch)
    if num < 2:
        return nothing(name, "there is one sample only")
    leak = _largest_leak(call, model, batch, output, wanted, dim, num)
    numbers = (Number("relative change of the output", leak),)
    if leak <= _MAX_LEAK:
        return ok(name, "the output of a sample is its own", *numbers)
    free = [label for label, m in model.named_modules() if _has_no_statistics(m)]
    if free:
        text = f"{free[0]} normalizes over the batch in eval mode too: predictions depend on their neighbors"
        return ok(name, text, *numbers, advice="Leave track_running_stats on, unless that is meant.")
    if _is_ambiguous(model, inputs, output, wanted, batch):
        text = "the first dimension may be time and not the batch: one depends on the other"
        return unsure(name, text, *numbers)
    text = f"the output of a sample changes by {leak:.2g} of its size with the other samples"
    advice = (
        "Look for a mean, softmax, reshape, view or transpose over dimension 0. (If the rows of the input "
        "are connected on purpose, as in a graph, nothing is wrong.)"
    )
    return problem(name, text, *numbers, advice=advice)


_MAX_LEAK = 1e-4


def _no_samples(inputs: Sequence[Tensor], output: Tensor | None) -> str:
    """Why there are no independent samples to speak of; empty if there are."""
    if output is None or output.dim() == 0:
        return "the model returned no tensor of outputs"
    for tensor in inputs:
        is_edges = not tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[0] == 2
        if len(inputs) > 1 and is_edges and tensor.dtype == torch.int64:
            return "the samples are connected by edges"
        is_square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] == len(inputs[0])
        if tensor.is_sparse or (len(inputs) > 1 and is_square and tensor is not inputs[0]):
            return "the samples are connected by a matrix"
    return ""


def _batch_dim(
    inputs: Sequence[Tensor], output: Tensor, wanted: Callable[[Tensor], bool], batch: Any
) -> tuple[int, int]:
    """Dimension of the samples in the inputs, and how many there are."""
    x = next(t for t in inputs if wanted(t))
    if x.shape[0] != output.shape[0] and x.dim() > 1 and x.shape[1] == output.shape[0]:
        return 1, output.shape[0]
    return 0, x.shape[0] if x.shape[0] == output.shape[0] else 0


def _largest_leak(
    call: LossCall,
    model: nn.Module,
    batch: Any,
    output: Tensor,
    wanted: Callable[[Tensor], bool],
    dim: int,
    num: int,
) -> float:
    leak = 0.0
    scale = float(output.double().abs().max())
    for kept in sorted({0, num // 2, num - 1}):

        def others(t: Tensor, kept: int = kept) -> Tensor:
            if not wanted(t) or t.dim() <= dim or t.shape[dim] != num:
                return t
            # another sample doubled: different even where all are alike; tokens stay valid ones
            new = t.roll(1, dim)
            new = new * 2 + 1 if t.is_floating_point() else _other_tokens(new)
            where = torch.zeros(num, dtype=torch.bool, device=t.device)
            where[kept] = True
            return torch.where(where.reshape([-1 if d == dim else 1 for d in range(t.dim())]), t, new)

        with changed_inputs(model, others):
            other = watched_call(call, model, batch)[1].output
        if other is None or other.shape != output.shape or scale == 0:
            continue
        change = float((other[kept].double() - output[kept].double()).abs().max())
        leak = max(leak, change / scale if math.isfinite(change) else math.inf)
    return leak


def _other_tokens(tokens: Tensor) -> Tensor:
    """Tokens in reverse order of their values: valid, and different from all but the middle one."""
    return tokens.max() + tokens.min() - tokens if tokens.numel() else tokens


def _has_no_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def _is_ambiguous(
    model: nn.Module, inputs: Sequence[Tensor], output: Tensor, wanted: Callable[[Tensor], bool], batch: Any
) -> bool:
    """Whether the first dimension could be time: in models whose parts take time first."""
    x = next(t for t in inputs if wanted(t))
    for module in model.modules():
        is_sequential = isinstance(module, (nn.RNNBase, nn.MultiheadAttention))
        if is_sequential and not module.batch_first:
            return True
    is_sequence = x.dim() >= 2 and output.dim() >= 2 and x.shape[:2] == output.shape[:2]
    cells = any(isinstance(m, nn.RNNCellBase) for m in model.modules())
    return cells and is_sequence
