"""Hard negatives: healthy setups with something that looks bad and is fine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import Split, shuffled
from models import RUNS, Setup, entropy
from torch import Tensor, nn

_SOLID = ("mlp_relu", "mlp_gelu", "cnn", "cnn_bn", "decoder", "autoencoder", "regression", "lstm")


def _cosine(s: Setup) -> None:
    s.schedule = lambda k: 0.5 * (1 + math.cos(math.pi * k / s.steps))


def _step_decay(s: Setup) -> None:
    s.schedule = lambda k: 0.1 ** (3 * k // s.steps)


def _restarts(s: Setup) -> None:
    period = s.steps // 4
    s.schedule = lambda k: 0.5 * (1 + math.cos(math.pi * (k % period) / period)) + 0.01


def _triangle(s: Setup) -> None:
    period = s.steps // 5
    s.schedule = lambda k: 0.1 + 1.4 * abs((k / period) % 2 - 1)


def _one_cycle(s: Setup) -> None:
    s.schedule = lambda k: min((k + 1) / (0.3 * s.steps), max(0.02, (s.steps - k) / (0.7 * s.steps)))


def _long_plateau(s: Setup) -> None:
    """Trained far beyond the point where anything happens."""
    s.steps *= 3
    s.schedule = lambda k: max(0.05, 1 - 2.5 * k / s.steps)


def _bad_batch(s: Setup) -> None:
    own, count = s.batches, itertools.count()
    assert s.train_split is None or s.train_split.x.is_floating_point()

    def spoil():
        for x, y in own:
            yield (x * 8 if next(count) == s.steps // 2 and x.is_floating_point() else x), y

    s.batches = spoil()


def _small_batches(s: Setup) -> None:
    assert s.train_split is not None
    s.batches, s.lr = shuffled(s.train_split, 8, s.seed), s.lr * 0.25


def _label_noise(s: Setup) -> None:
    generator = torch.Generator().manual_seed(s.seed)
    own = s.batches

    def mixed():
        for x, y in own:
            bad = torch.rand(len(y), generator=generator) < 0.15
            yield x, torch.where(bad, y[torch.randperm(len(y), generator=generator)], y)

    s.batches = mixed()


def _frozen(s: Setup) -> None:
    for p in list(s.model.parameters())[:2]:
        p.requires_grad_(False)
    s.parameters = lambda m: [p for p in m.parameters() if p.requires_grad]


def _dropout_gap(s: Setup) -> None:
    for module in s.model.modules():
        if isinstance(module, (nn.ReLU, nn.GELU)):
            module.register_forward_hook(lambda m, a, out: F.dropout(out, 0.4, training=m.training))


def _fine_tuning(s: Setup) -> None:
    """Goes on from a model that is nearly trained, at a low rate."""
    optimizer = torch.optim.Adam(s.model.parameters(), lr=2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        s.loss(s.model, next(s.batches)).backward()
        optimizer.step()
    s.lr *= 0.2


def _late(s: Setup) -> None:
    """A long warm-up: nothing happens for a third of the run."""
    s.schedule = lambda k: 1e-3 + min(1.0, (k / (0.45 * s.steps)) ** 3)


def _accumulated(s: Setup) -> None:
    """Two micro-batches for each step, without a warning to anyone."""
    own, batches = s.loss, s.batches

    def loss(m: nn.Module, b: tuple[Tensor, Tensor]) -> Tensor:
        (0.5 * own(m, next(batches))).backward()
        return 0.5 * own(m, b)

    s.loss = loss


def _own_clip(s: Setup) -> None:
    def clip(m: nn.Module, step: int) -> None:
        torch.nn.utils.clip_grad_norm_(m.parameters(), 0.5)

    s.after_backward = clip


def _pixels(s: Setup) -> None:
    """Inputs from 0 to 16, as digits have them, under a rate that suits them."""
    split = s.train_split
    assert split is not None
    s.batches = ((4 * x + 4, y) for x, y in s.batches)
    s.val_was = s.val
    from models import held_out

    s.val = held_out(s.loss, 4 * split.val_x + 4, split.val_y)
    s.optimizer, s.lr = "adam", 1e-3


def _frozen_norm(s: Setup) -> None:
    for m in s.model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.train = lambda mode=True, m=m: nn.Module.train(m, False)
            m.eval()


def _negative_loss(s: Setup) -> None:
    own = s.loss
    s.loss = lambda m, b: own(m, b) - 3.0


def _unused(s: Setup) -> None:
    """A head that this task does not use, and a second optimizer's parameters."""
    s.model.spare = nn.Linear(3, 3)  # never called
    if isinstance(s.model, nn.Sequential):
        s.model = _Wrapped(s.model)


class _Wrapped(nn.Module):
    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.spare = body.spare
        del body.spare
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _one_batch(s: Setup) -> None:
    """Memorizes one batch on purpose, as a test of the loop, without a validation set."""
    first = next(s.batches)
    s.batches = itertools.repeat(first)
    s.val = lambda m: float("nan")


def _modular(seed: int) -> Setup:
    """Modular addition: the training loss is long gone before the validation loss falls, if it does."""
    a, b = torch.meshgrid(torch.arange(23), torch.arange(23), indexing="ij")
    pairs = torch.stack([a.reshape(-1), b.reshape(-1)], 1)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    pairs, y = pairs[order], (pairs.sum(1) % 23)[order]
    model = nn.Sequential(nn.Embedding(23, 32), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 23))
    split = Split(pairs[:420], y[:420], pairs[420:], y[420:])
    return Setup(
        model,
        shuffled(split, 64, seed),
        entropy,
        lambda m: float("nan"),
        "adamw",
        3e-3,
        500,
        weight_decay=0.5,
        seed=seed,
    )


class Experts(nn.Module):
    """Four experts, one chosen for each sample: some get nothing in some batches."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(64, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            rows = chosen == i
            if rows.any():
                out[rows] = weight[rows, None] * expert(x[rows])
        return out


def _experts(seed: int) -> Setup:
    setup = RUNS["mlp_relu"]["adam"](seed)
    setup.model = Experts()
    return setup


# name -> (changes a setup, architectures it is done to)
CHANGES: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "cosine": (_cosine, _SOLID),
    "step_decay": (_step_decay, _SOLID),
    "warm_restarts": (_restarts, _SOLID),
    "triangle": (_triangle, ("mlp_relu", "cnn_bn", "autoencoder", "mlp_gelu", "vae")),
    "one_cycle": (_one_cycle, ("mlp_relu", "cnn_bn", "vit", "lstm")),
    "long_plateau": (_long_plateau, ("mlp_relu", "mlp_gelu", "gnn", "autoencoder")),
    # with a squared error it does ruin the run: no negative then
    "bad_batch": (_bad_batch, ("mlp_relu", "mlp_gelu", "cnn_bn")),
    "small_batches": (_small_batches, ("mlp_relu", "mlp_gelu", "regression", "autoencoder")),
    "label_noise": (_label_noise, ("mlp_relu", "cnn_bn", "vit", "mlp_tanh")),
    "frozen_part": (_frozen, ("mlp_relu", "cnn_bn", "mlp_gelu", "decoder")),
    "dropout_gap": (_dropout_gap, ("mlp_relu", "mlp_gelu", "regression", "cnn_bn")),
    "fine_tuning": (_fine_tuning, ("mlp_relu", "decoder", "cnn_bn", "vae", "bag")),
    "late": (_late, ("mlp_relu", "cnn", "decoder", "vit")),
    "accumulated": (_accumulated, ("mlp_relu", "decoder", "cnn_bn", "regression")),
    "own_clip": (_own_clip, ("mlp_tanh", "gru", "cnn", "vit")),
    "pixels": (_pixels, ("mlp_relu", "cnn_bn")),
    "frozen_norm": (_frozen_norm, ("cnn_bn", "resnet")),
    "negative_loss": (_negative_loss, ("mlp_relu", "vae", "regression", "decoder")),
    "unused_head": (_unused, ("mlp_relu", "mlp_gelu")),
    "one_batch": (_one_batch, ("mlp_relu", "decoder")),
}
MADE: dict[str, Callable[[int], Setup]] = {"modular": _modular, "experts": _experts}
