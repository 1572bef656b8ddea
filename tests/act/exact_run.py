"""A training run with everything in it that could come back wrong. As a script: a process to be killed.

python exact_run.py FOLDER NUM_STEPS [STALL_STEP]
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from trimtab.act.batches import Batches
from trimtab.act.snapshots import Snapshots

NUM_SAMPLES, BATCH = 70, 8  # nine batches an epoch, the last one smaller


class Run:
    """Dropout, BatchNorm, a shuffling loader, AdamW, a cosine schedule, an EMA, a gradient scaler, and noise
    from Python and NumPy. `events` are called after the step of their number, once each."""

    def __init__(self, folder=None, *, every=50, keep=3):
        torch.manual_seed(7)
        random.seed(8)
        np.random.seed(9)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=300)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=13)
        inputs = torch.randn(NUM_SAMPLES, 6, generator=torch.Generator().manual_seed(3))
        data = TensorDataset(torch.arange(NUM_SAMPLES), inputs)
        self.batches = Batches(DataLoader(data, batch_size=BATCH, shuffle=True))
        also = {"scheduler": self.scheduler, "ema": self.ema, "scaler": self.scaler, "batches": self.batches}
        self.snapshots = Snapshots(every=every, keep=keep, folder=folder, also=also)
        self.step = -1
        self.trail: dict[int, tuple] = {}
        self.events: dict[int, Callable[[], None]] = {}

    def keep_snapshots(self):
        self.snapshots.bind(self.model, self.optimizer)
        self.batches.on_next(self.take_if_due)

    def take_if_due(self):
        if self.step >= 0 and self.snapshots.wants(self.step) and self.step not in self.snapshots.steps:
            self.snapshots.take(self.step, {"trail": len(self.trail)})

    def go_on_from(self, restored):
        self.step = restored.step
        assert restored.policies == {"trail": self.step + 1}

    def train(self, num_steps, *, report=lambda step: None):
        """By hand, as everybody writes it."""
        while self.step + 1 < num_steps:
            for indices, x in self.batches:
                self.train_step(indices, x)
                event = self.events.pop(self.step, None)
                if event is not None:
                    event()
                report(self.step)
                if self.step + 1 >= num_steps:
                    break
        return self

    def train_step(self, indices, x):
        x = x + random.gauss(0.0, 0.1) + torch.from_numpy(np.random.normal(size=x.shape)).float() * 0.1
        self.optimizer.zero_grad()
        loss = (self.model(x) - x[:, :2]).square().mean()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.ema.update_parameters(self.model)
        self.step += 1
        lr = self.optimizer.param_groups[0]["lr"]
        self.trail[self.step] = (indices.tolist(), loss.item(), lr, self.scaler.get_scale())

    def spoil(self):
        """Nothing of it stays as it was."""
        with torch.no_grad():
            tensors = [*self.model.parameters(), *self.model.buffers(), *self.ema.parameters()]
            tensors += [x for state in self.optimizer.state.values() for x in state.values()]
            for tensor in tensors:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 99)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = 77.0, (0.1, 0.2)
        for _ in range(5):
            self.scheduler.step()
        self.scaler.update(3.0)
        torch.rand(17), random.random(), np.random.normal()

    def digests(self):
        """Every part down to the last bit."""
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": self.scaler.state_dict(),
            "torch rng": torch.get_rng_state(),
            "python rng": random.getstate(),
            "numpy rng": np.random.get_state(),
        }
        return {name: digest(part) for name, part in parts.items()}


def digest(part):
    def words(node):
        if isinstance(node, (torch.Tensor, np.ndarray)):
            array = node.detach().numpy() if isinstance(node, torch.Tensor) else node
            yield f"{array.dtype}{array.shape}".encode() + array.tobytes()
        elif isinstance(node, dict):
            for key, value in node.items():
                yield repr(key).encode()
                yield from words(value)
        elif isinstance(node, (list, tuple)):
            yield f"{len(node)}".encode()
            for value in node:
                yield from words(value)
        else:
            yield repr(node).encode()

    return hashlib.sha256(b"|".join(words(part))).hexdigest()


def say(what):
    """One line in one write: two threads say something here."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def stall_in(step):
    """Have the writer stop for ever in the middle of the tensor file of this step."""
    original = safetensors.torch.save_file

    def save_file(tensors, file):
        original(tensors, file)
        if f"step-{step:06d}" in str(file):
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
            say("stalled")
            time.sleep(1000)

    safetensors.torch.save_file = save_file


def main(folder, num_steps, stall_step=None):
    torch.set_num_threads(1)
    if stall_step is not None:
        stall_in(int(stall_step))
    run = Run(folder, every=10)
    run.keep_snapshots()
    restored = run.snapshots.load_()
    if restored is not None:
        run.step = restored.step
    run.train(int(num_steps), report=say)
    run.snapshots.close()
    first = None if restored is None else restored.step
    say(json.dumps({"from": first, "trail": run.trail, "digests": run.digests()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
