"""The check of a training loop's own step: the order of its calls, and what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.prepare.checks import Check, Number, nothing, ok, problem

_CLIPS = ("clip_grad_norm_", "clip_grad_value_")


def check_loop(
    train_step: Callable[[Any], Any] | None,
    batch: Any,
    model: nn.Module,
    optimizer: Optimizer | None,
    scaler: Any,
) -> list[Check]:
    """Make two steps the loop's own way and look at what happens.

    Args:
        train_step: One step.
        batch: The batch.
        model: The model.
        optimizer: The optimizer that it steps.
        scaler: The gradient scaler that it uses, if any.
    """
    name = "training loop"
    if train_step is None or optimizer is None:
        why = "no train_step was given" if train_step is None else "no optimizer was given"
        return [nothing(name, why)]
    before = [p.detach().clone() for p in model.parameters()]
    with _noting(optimizer, scaler) as events:
        train_step(batch)
        first = _gradients(model)
        changed = any(not torch.equal(a, p) for a, p in zip(before, model.parameters(), strict=True))
        train_step(batch)
    numbers = (Number("calls noted", float(len(events))),)
    if "clip before unscale" in events:
        text = "gradients are clipped while they are still multiplied by the loss scale"
        advice = "Call scaler.unscale_(optimizer) before clipping."
        return [problem(name, text, *numbers, advice=advice)]
    if "step" not in events:
        return [problem(name, "optimizer.step() is not called", *numbers, advice="Call it after backward().")]
    if _is_accumulating(events):
        text = "zero_grad() is not called: gradients of all steps add up"
        return [problem(name, text, *numbers, advice="Call optimizer.zero_grad() before each backward().")]
    if not first:
        text = "no parameter has a gradient after a step, and none was applied" if not changed else ""
        if text:
            return [
                problem(name, text, *numbers, advice="Call loss.backward() between zero_grad() and step().")
            ]
    if not changed and (scaler is None or not scaler.is_enabled()):
        return [
            problem(name, "a step changes no parameter", *numbers, advice="Look for a learning rate of 0.")
        ]
    return [ok(name, " -> ".join(dict.fromkeys(events)), *numbers)]


def _gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def _is_accumulating(events: list[str]) -> bool:
    """Whether gradients were there already when the second backward pass began."""
    return "backward on old gradients" in events


@contextmanager
def _noting(optimizer: Optimizer, scaler: Any) -> Iterator[list[str]]:
    """Note calls in their order: backward, unscale, clip, step, zero_grad."""
    events: list[str] = []
    held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    stepped = [False]
    backward = Tensor.backward

    def on_backward(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
        old = stepped[0] and any(p.grad is not None and bool(p.grad.any()) for p in held)
        events.append("backward on old gradients" if old else "backward")
        stepped[0] = False
        backward(tensor, *args, **kwargs)  # type: ignore[no-untyped-call]

    def noting_clip(original: Callable[..., Any]) -> Callable[..., Any]:
        def clip(*args: Any, **kwargs: Any) -> Any:
            events.append("clip before unscale" if _is_scaled(scaler, optimizer) else "clip")
            return original(*args, **kwargs)

        return clip

    def on_step(*args: Any) -> None:
        del args
        events.append("step")
        stepped[0] = True

    handle = optimizer.register_step_post_hook(on_step)
    clips = [patch.object(nn.utils, clip, noting_clip(getattr(nn.utils, clip))) for clip in _CLIPS]
    try:
        with patch.object(Tensor, "backward", on_backward):
            for each in clips:
                each.start()
            yield events
    finally:
        for each in clips:
            each.stop()
        handle.remove()


def _is_scaled(scaler: Any, optimizer: Optimizer) -> bool:
    """Whether the scaler has not yet divided the gradients of this optimizer by its scale."""
    if scaler is None or not scaler.is_enabled():
        return False
    stages = getattr(scaler, "_per_optimizer_states", {})
    found = stages.get(id(optimizer), {}) if id(optimizer) in stages else {}
    return "UNSCALED" not in str(found.get("stage", "READY"))
