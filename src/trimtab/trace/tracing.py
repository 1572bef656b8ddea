"""From a step, or a module's part of it, to the origin of what is bad in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab import measure
from trimtab.trace.headroom import Headroom, headroom
from trimtab.trace.marks import is_finite
from trimtab.trace.origins import Seen, born_in_loss, is_any_bad, origin_of, vanished_in, what_is_bad
from trimtab.trace.replay import Replay, tensors_in
from trimtab.trace.watching import Watch
from trimtab.types import Origin


@overload
def trace(
    model: nn.Module,
    closure: Callable[[], Any],
    optimizer: Optimizer | None = None,
    *,
    watch: Literal["faults"] = "faults",
) -> Origin | None: ...


@overload
def trace(
    model: nn.Module,
    closure: Callable[[], Any],
    optimizer: Optimizer | None = None,
    *,
    watch: Literal["overflow"],
) -> Headroom: ...


def trace(
    model: nn.Module,
    closure: Callable[[], Any],
    optimizer: Optimizer | None = None,
    *,
    watch: Literal["faults", "overflow"] = "faults",
) -> Origin | Headroom | None:
    """Run a step once, and name the operation that made its first bad value.

    The step is bad if the loss, a gradient, or what the optimizer would make of them is not finite. From
    there every bad element is followed back to where it was born, through modules, views, operations in
    place and the backward pass. Infinities that were put there on purpose, and whatever never reaches
    loss, gradients or parameters, are no faults.

    Args:
        model: The model.
        closure: The step in torch's convention: zero the gradients, forward, backward, return the loss.
            It is called once, with the batch and the random numbers of the step to be traced.
        optimizer: If given, and loss and gradients are finite, its step is looked at as well.
        watch: "faults", or "overflow" for what `headroom` gives.

    Returns:
        Where the first bad value was born; None for a step that is sound, however extreme its values.
        A float16 value that overflows and then vanishes, as in rsqrt(inf) = 0, is reported as well.

    Raises:
        TypeError: `closure` is not a function.
        ValueError: `watch` is neither.

    Cost:
        One run of the closure and one more pass over every result. Model, optimizer, gradients, buffers
        and random number generators are left as they were, also when the closure raises.

    Example:
        >>> from trimtab.trace import trace
        >>> model = torch.nn.Linear(2, 1)
        >>> def closure():
        ...     model.zero_grad()
        ...     loss = torch.sqrt(model(torch.zeros(1, 2)) * 0).sum()
        ...     loss.backward()
        ...     return loss
        >>> origin = trace(model, closure)
        >>> origin.op, origin.cause.value, origin.line
        ('SqrtBackward0', 'singular_gradient', 3)
        >>> model.weight.grad is None
        True
    """
    if watch == "overflow":
        return headroom(model, closure)
    if watch != "faults":
        raise ValueError(f'trace(watch={watch!r}): expected "faults" or "overflow".')
    with Replay(model, optimizer, Watch) as replay:
        loss = replay.run(closure)
        seen = what_is_bad(replay.watch, model, optimizer, loss)
        if not seen and optimizer is not None and not measure.needs_closure(optimizer):
            seen = _bad_after_step(replay, model, optimizer)
        if not seen:
            return vanished_in(replay.watch, replay.running, model)
        return origin_of(replay.watch, replay.running, model, seen)


def _bad_after_step(replay: Replay[Watch], model: nn.Module, optimizer: Optimizer) -> list[Seen]:
    if not replay.goes_wrong(optimizer, lambda: is_any_bad(model, optimizer)):
        return []
    replay.step(optimizer)
    return what_is_bad(replay.watch, model, optimizer, None)


def replay_module(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    output_gradients: Sequence[Tensor | None] = (),
    *,
    part: str = "",
    is_lost: bool = False,
    within: AbstractContextManager[Any] | None = None,
) -> Origin | None:
    """Replay a module's forward and backward pass from its inputs and the gradients of its outputs.

    For whoever has no closure: what lies outside of the module, the loss in particular, is not run.

    Args:
        model: The module.
        args: What it was called with.
        kwargs: What it was called with by name.
        output_gradients: The gradients that reached its outputs: one for each tensor among them, in the
            order in which they lie in nested tuples, lists and dicts; None where there was none.
        part: Name of the submodule that is called instead of the whole; modules are named as in the whole.
        is_lost: Whether the loss of the step was not finite: an infinity among the outputs may be why.
        within: Context of the forward pass, such as `torch.autocast`.

    Returns:
        Where the first bad value was born; an origin of phase `LOSS` without a line if the module was sound,
        and the loss or the gradients that came back were not; None if all is sound.

    Raises:
        ValueError: There are more gradients than tensors among the outputs.
        AttributeError: The model has no such part.

    Cost:
        As `trace`.

    Example:
        >>> from trimtab.trace import replay_module
        >>> model = torch.nn.Linear(2, 1)
        >>> replay_module(model, [torch.tensor([[1.0, float("inf")]])], {}, [torch.ones(1, 1)]).cause.value
        'bad_input'
    """
    called = model.get_submodule(part) if part else model  # a scripted model has no such method
    came_bad = any(g is not None and not is_finite(g.detach()) for g in output_gradients)
    with Replay(model, None, Watch) as replay:
        outputs: list[Tensor] = []

        def step() -> None:
            for parameter in model.parameters():
                parameter.grad = None
            with within or nullcontext():
                outputs.extend(tensors_in(called(*args, **(kwargs or {}))))
            if not came_bad:  # else it lies before the backward pass, which could tell nothing
                _backward(outputs, output_gradients)

        replay.run(step)
        seen = [] if came_bad else what_is_bad(replay.watch, model, None, None)
        seen = seen or _bad_outputs(outputs, is_lost=came_bad or is_lost)
        origin = origin_of(replay.watch, replay.running, model, seen) if seen else None
        is_sound = all(is_finite(output.detach()) for output in outputs)
        return born_in_loss() if origin is None and (came_bad or (is_lost and is_sound)) else origin


def _backward(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    if len(gradients) > len(outputs):
        raise ValueError(
            f"replay_module() got {len(gradients)} output gradients for {len(outputs)} output tensors: "
            "expected one for each, None where there was none."
        )
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=False) if g is not None and o.requires_grad]
    if pairs:
        torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])


def _bad_outputs(outputs: Sequence[Tensor], *, is_lost: bool) -> list[Seen]:
    """Outputs that may be why a step is bad.

    A mask of -inf may well be among them, and is fine until the loss function makes something of it. A NaN
    is not, nor is one infinite number by itself.
    """
    found = []
    for index, output in enumerate(outputs):
        is_nan = Seen.is_nan(output)
        if is_nan or (is_lost and not is_finite(output.detach())):
            is_end = is_lost and (is_nan or output.dim() == 0)
            found.append(Seen.of(output, f"output {index} of the model", is_end=is_end))
    return found
