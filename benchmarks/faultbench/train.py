"""Trains one setup under a guard that watches and never interferes, and keeps its log."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from lion import Lion
from models import Setup, temporal
from torch import nn

import trimtab as tt

_OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p, lr, **o: torch.optim.SGD(p, lr=lr, **{"momentum": 0.9, **o}),
    "adam": lambda p, lr, **o: torch.optim.Adam(p, lr=lr, **o),
    "adamw": lambda p, lr, **o: torch.optim.AdamW(p, lr=lr, **o),
    "rmsprop": lambda p, lr, **o: torch.optim.RMSprop(p, lr=lr, **o),
    "adagrad": lambda p, lr, **o: torch.optim.Adagrad(p, lr=lr, **o),
    "adamax": lambda p, lr, **o: torch.optim.Adamax(p, lr=lr, **o),
    "nadam": lambda p, lr, **o: torch.optim.NAdam(p, lr=lr, **o),
    "radam": lambda p, lr, **o: torch.optim.RAdam(p, lr=lr, **o),
    "lion": lambda p, lr, **o: Lion(p, lr=lr, **o),
}
# As often as a user would look in a run a hundred times as long
LOOK_EVERY, VAL_EVERY = 10, 25


def run(setup: Setup) -> tuple[tt.RunLog, float]:
    """Train, and give the log and the number by which the run is judged."""
    optimizer = _OPTIMIZERS[setup.optimizer](
        setup.parameters(setup.model), setup.lr, **{"weight_decay": setup.weight_decay, **setup.options}
    )
    model = setup.model
    model.train(not setup.in_eval)
    with tempfile.TemporaryDirectory() as folder:
        clip = None if setup.clip is None else tt.NormClip(setup.clip)
        watch = tt.Diagnose(every=LOOK_EVERY, budget=1.0)
        with tt.Guard(
            model, optimizer, clip=clip, remedy=tt.Observe(), record=folder, diagnose=watch
        ) as guard:
            setup.after_optimizer(model)  # after all constructors: they would notice
            _train(setup, model, optimizer, guard)
        log = tt.read(folder)
    return log, (setup.judged or setup.val)(model)


def _train(setup: Setup, model: nn.Module, optimizer: torch.optim.Optimizer, guard: tt.Guard) -> None:
    for step in range(setup.steps):
        for group in optimizer.param_groups:
            group["lr"] = setup.lr * setup.schedule(step)
        if setup.zeroes(step):
            optimizer.zero_grad()
        loss = setup.loss(model, next(setup.batches))
        loss.backward()
        setup.after_backward(model, step)
        guard.step(loss)
        if step % VAL_EVERY == VAL_EVERY - 1 and setup.loss is not temporal:
            guard.log(**{setup.metric: setup.val(model)})
