"""The pre-flight check: what can be known about a training run before its first step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.errors import told
from trimtab.prepare import check_data, check_flow, check_loss, check_wiring
from trimtab.prepare.calling import (
    LossCall,
    LossFunction,
    Watched,
    WrongLossError,
    is_of_a_call,
    tensors_of,
    watching,
)
from trimtab.prepare.check_learning import (
    check_independence,
    check_overfit,
    check_shuffled_labels,
    check_zeroed_inputs,
    constant_level,
    shuffled_labels,
)
from trimtab.prepare.check_rate import check_learning_rate
from trimtab.prepare.checks import Check, Preflight, unsure
from trimtab.prepare.given import check_given, named_tensors, raised, running_layers
from trimtab.prepare.learning import OUT_OF_TIME, Deadline, Trial, learn_one_batch, without_noise
from trimtab.prepare.loop import check_loop
from trimtab.prepare.loss_terms import LossTerm, loss_terms
from trimtab.prepare.restoring import Beginning, kept
from trimtab.prepare.roots import with_roots

# Passes over which a parameter may get a gradient: layers that are dropped at random come up in one of them
_NUM_PASSES = 3
# Passes that the controls before the first experiment take: without time for them there is none
_CONTROL_STEPS = 3


def preflight(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    optimizer: Optimizer | None = None,
    *,
    clip: Any = None,
    train_step: Callable[[Any], Any] | None = None,
    scaler: Any = None,
    budget_sec: float = 20.0,
) -> Preflight:
    """Check a model, its loss, a batch and an optimizer before the first step.

    Looked at are: finite data, input scale, constant features, targets; the first loss against chance,
    whether the loss fits the last activation, shapes, reduction, formulas that are not stable; forward and
    backward gain over depth, symmetry, conditioning, batch normalization; unused, cut off and frozen
    parameters; the wiring of the optimizer, number formats, clipping; and, by experiment on this one batch,
    whether it can be learned at all, from its inputs and for its labels, whether samples leak into each
    other, and which learning rates work.

    Afterwards model, optimizer, gradients, buffers, training modes and random generators are as they were.

    Args:
        model: The model, on its device.
        loss_fn: `loss_fn(model, batch)`, or torch's `loss_fn(output, target)` with a batch
            `(inputs, target)`.
        batch: One batch, as training gives it: 16 to 256 samples say enough.
        optimizer: The optimizer, if its wiring and learning rate are to be checked.
        clip: The clip that will be used: a policy, or a number as `max_norm`.
        train_step: One step of the training loop, called with the batch, if the order of its calls is to be
            checked: zero_grad, backward, unscale, clip, step. Two steps are made; what it changes besides
            model, optimizer and scaler, such as a scheduler, stays changed.
        scaler: The `torch.amp.GradScaler` that `train_step` uses.
        budget_sec: The experiments end when so much time is used up; what could not be finished says so.

    Returns:
        One check for each point, with a verdict, numbers and advice.

    Raises:
        TypeError: An argument is something else, as a class or a loader; the loss is no tensor of one
            element; or some state cannot be copied. What model, loss and train_step themselves raise is a
            problem that is told, with the line of it.
        ValueError: `budget_sec` is not > 0, the batch is empty, or the model has no parameters.

    Cost:
        A copy of model and optimizer on the host, some 600 steps on the batch or the time given.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
        >>> x = torch.randn(48, 8)
        >>> found = preflight(model, torch.nn.functional.cross_entropy, (x, x[:, :3].argmax(1)))
        >>> found.is_clean, found.check("parameters used").summary
        (True, 'a gradient reaches all 4 trainable parameters')
        >>> wrong = torch.nn.Sequential(model, torch.nn.Softmax(1))
        >>> found = preflight(wrong, torch.nn.functional.cross_entropy, (x, x[:, :3].argmax(1)))
        >>> [check.name for check in found.problems]
        ['loss and activation']

    References:
        For the gains: Schoenholz et al. 2017, arXiv:1611.01232; for the controls: Braiek and Khomh,
        "Testing feedforward neural networks training programs", 2022, arXiv:2204.00694.
    """
    check_given(model, loss_fn, batch, optimizer, budget_sec)
    begun = time.monotonic()
    deadline = Deadline(budget_sec)
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    also = {} if scaler is None else {"scaler": scaler}
    with kept(modules, optimizer, also) as beginning:
        model.train()
        call = _first_call(model, loss_fn, batch)
        if isinstance(call, Check):
            return Preflight((call,), time.monotonic() - begun)
        beginning.restore_()
        setting = _Setting(model, call, batch, optimizer, modules, beginning, deadline)
        try:
            checks = _look(setting, clip)
        except _BackwardError as error:
            return Preflight((_no_backward(error, batch),), time.monotonic() - begun)
        beginning.restore_()
        checks += _looped(lambda: check_loop(train_step, batch, model, optimizer, scaler), batch)
    return Preflight(with_roots(checks), time.monotonic() - begun)


def _first_call(model: nn.Module, loss_fn: LossFunction, batch: Any) -> LossCall | Check:
    """How the loss is called; or the problem that it raises."""
    with running_layers(model) as layer:
        try:
            call = LossCall(model, loss_fn, batch)
        except WrongLossError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the user's code, and its error is the finding
            advice = (
                "Called are loss_fn(model, batch), or loss_fn(model(inputs), target) for a batch "
                "(inputs, target): mend what does not fit."
            )
            return raised("forward pass", error, batch, layer=layer(), advice=advice)
    return call


class _BackwardError(Exception):
    """The backward pass raised what is the cause of this."""


def _no_backward(error: _BackwardError, batch: Any) -> Check:
    advice = (
        "Look for tensors that are changed in place after they were used, and for backward() inside the loss."
    )
    cause = error.__cause__
    return raised("backward pass", cause if isinstance(cause, Exception) else error, batch, advice=advice)


def _looped(look: Callable[[], list[Check]], batch: Any) -> list[Check]:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - as above
        return [raised("training loop", error, batch, advice="train_step is called with the batch alone.")]


class _Setting(NamedTuple):
    """What all checks work on."""

    model: nn.Module
    call: LossCall
    batch: Any
    optimizer: Optimizer | None
    modules: list[nn.Module]
    beginning: Beginning
    deadline: Deadline


class _FirstPass(NamedTuple):
    """What one forward and backward pass showed."""

    loss: Tensor
    value: float
    seen: Watched
    terms: tuple[LossTerm, ...]
    static: list[Check]
    layers: tuple[check_flow.LayerFlow, ...]
    rows: dict[str, int]
    grad_norm: float
    seconds: float


def _look(setting: _Setting, clip: Any) -> list[Check]:
    model, optimizer = setting.model, setting.optimizer
    named = [*named_tensors(setting.batch), *model.named_parameters(), *model.named_buffers()]
    finite = check_data.check_finite(named)
    first = _first_pass(setting)
    checks = [
        finite,
        check_data.check_input_scale(first.seen),
        check_data.check_constant_features(first.seen),
        check_data.check_targets(first.terms),
        *first.static,
        check_flow.check_forward(first.layers),
    ]
    used = check_wiring.check_gradients(model, first.seen.called, _reached(setting))
    experiments, later = _experiments(setting, first)
    checks += [
        check_flow.check_backward(first.layers, later),
        check_flow.check_symmetry(model),
        check_flow.check_conditioning(model),
        check_flow.check_normalization(model, first.rows),
        used,
        check_wiring.check_optimizer(model, optimizer),
        check_wiring.check_number_format(model, optimizer),
        check_wiring.check_clipping(clip, first.grad_norm, model),
        *experiments,
    ]
    return checks


def _first_pass(setting: _Setting) -> _FirstPass:
    model, optimizer, begun = setting.model, setting.optimizer, time.monotonic()
    with (
        watching(model) as seen,
        check_flow.watching_layers(model) as layers,
        check_flow.watching_batchnorm(model) as rows,
    ):
        loss = setting.call(setting.batch)
        watched = seen()
        terms = loss_terms(loss, watched.output, tensors_of(setting.batch))
        value = float(loss.detach())
        num = len(watched.output) if watched.output is not None and watched.output.dim() else 0
        static = [
            check_loss.check_initial_loss(value, terms),
            check_loss.check_activation(loss, terms, watched.output),
            check_loss.check_shapes(terms, watched.output, num),
            check_loss.check_reduction(value, terms, optimizer),
            check_loss.check_stable_forms(loss),
        ]
        if loss.requires_grad:
            try:
                loss.backward()  # type: ignore[no-untyped-call]
            except Exception as error:
                raise _BackwardError from error
        grads = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in _with_gradient(model)]
        squares = [float(gradient.double().square().sum()) for gradient in grads]
        flow = layers()
    seconds = time.monotonic() - begun
    return _FirstPass(loss, value, watched, terms, static, flow, rows, math.sqrt(sum(squares)), seconds)


def _with_gradient(model: nn.Module) -> list[Any]:
    return [p for p in model.parameters() if p.grad is not None]


def _reached(setting: _Setting) -> dict[str, float | None]:
    """Largest gradient of each parameter over some passes; None where there was none in any."""
    largest: dict[str, float | None] = {name: None for name, _ in setting.model.named_parameters()}
    for _ in range(_NUM_PASSES):
        setting.model.zero_grad(set_to_none=True)
        loss = setting.call(setting.batch)
        if not loss.requires_grad:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in setting.model.named_parameters():
            if parameter.grad is not None and parameter.grad.numel():
                gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
                size = float(gradient.detach().abs().max()) if gradient.numel() else 0.0
                # Python's max() would lose a NaN that comes second
                known = largest[name] or 0.0
                largest[name] = size if math.isnan(size) else max(known, size)
        if all(size is not None for size in largest.values()) or setting.deadline.is_over:
            break
    return largest


_EXPERIMENTS = (
    "one-batch overfit",
    "zeroed-input control",
    "shuffled-label control",
    "batch independence",
    "learning rate",
)


def _experiments(
    setting: _Setting, first: _FirstPass
) -> tuple[list[Check], tuple[check_flow.LayerFlow, ...]]:
    model, call, batch, beginning = setting.model, setting.call, setting.batch, setting.beginning
    parameters = [p for module in setting.modules for p in module.parameters() if p.requires_grad]
    if not parameters or not first.loss.requires_grad or not math.isfinite(first.value):
        why = "the loss is not finite" if not math.isfinite(first.value) else "nothing is trainable"
        return [unsure(name, why) for name in _EXPERIMENTS], ()
    if not setting.deadline.allows(_CONTROL_STEPS * first.seconds):
        return [unsure(name, OUT_OF_TIME) for name in _EXPERIMENTS], ()
    beginning.restore_()
    constant = constant_level(first.value, first.terms)
    with without_noise(model):
        at_first = _at_first(setting)
        beginning.restore_()
        trial = _learn(setting, parameters, constant)
        checks = [
            check_overfit(trial, constant),
            *_in_time(
                setting, "zeroed-input control", lambda: check_zeroed_inputs(call, model, batch, trial)
            ),
            *_in_time(
                setting,
                "shuffled-label control",
                lambda: check_shuffled_labels(call, model, batch, trial, at_first),
            ),
        ]
        later: tuple[check_flow.LayerFlow, ...] = ()
        if not setting.deadline.is_over:
            model.zero_grad(set_to_none=True)
            with check_flow.watching_layers(model) as layers:
                call(batch).backward()  # type: ignore[no-untyped-call]
                later = layers()
    checks += _in_time(setting, "batch independence", lambda: check_independence(call, model, batch))
    model.train()
    with without_noise(model):
        checks.append(
            check_learning_rate(
                lambda: call(batch), setting.optimizer, beginning, len(parameters), setting.deadline
            )
        )
    beginning.restore_()
    model.train()
    return checks, later


def _in_time(setting: _Setting, name: str, look: Callable[[], Check]) -> list[Check]:
    """A check if there is time for it; else the word that it was left out."""
    if setting.deadline.is_over:
        return [unsure(name, OUT_OF_TIME)]
    try:
        return [look()]
    except Exception as error:
        if not is_of_a_call(error):
            raise
        return [unsure(name, f"with the batch changed for it, the model raised {told(error)}")]


def _at_first(setting: _Setting) -> tuple[float, float]:
    """The untrained model's loss, and its loss with shuffled labels."""
    shuffled = shuffled_labels(setting.call, setting.model, setting.batch)
    with torch.no_grad():
        now = float(setting.call(setting.batch))
        return now, now if shuffled is None else float(setting.call(shuffled))


def _learn(setting: _Setting, parameters: list[nn.Parameter], constant: float) -> Trial:
    with torch.no_grad():
        now = float(setting.call(setting.batch))
    # what a constant prediction can do, or what there was; half of that is plenty
    mark = min(now, constant) if math.isfinite(constant) else now
    return learn_one_batch(
        lambda: setting.call(setting.batch),
        parameters,
        setting.beginning,
        lambda loss: loss <= mark - 0.5 * abs(mark),
        lambda loss: loss <= mark - 0.15 * abs(mark),
        setting.deadline.part(0.5),
    )
