"""How the fault operators of the ninth suite spoil data, targets and loss of a run."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import mapped, shuffled
from models import Batch, Setup, held_out
from parts import split_of
from sixth import models as sixth_nets
from third import models as third_nets
from torch import Tensor, nn


def _both(s: Setup, change: Callable[[Tensor], Tensor]) -> None:
    """Changes the inputs in training and in validation alike."""
    split = split_of(s)
    s.batches = mapped(s.batches, lambda x, y: (change(x), y))
    s.val = held_out(s.loss, change(split.val_x), split.val_y)


def squared_probabilities(s: Setup, _: float) -> None:
    """A squared error between probabilities and one-hot labels, where a cross entropy should be."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.mse_loss(out.softmax(-1), F.one_hot(b[1], out.shape[-1]).float())

    s.loss = loss


def focal_inverted(s: Setup, power: float) -> None:
    """The focal loss has p where 1 - p should be: what is already right counts most."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        each = F.cross_entropy(out.reshape(-1, out.shape[-1]), b[1].reshape(-1), reduction="none")
        return ((-each).exp() ** power * each).mean()

    s.loss = loss


def entropy_bonus(s: Setup, by: float) -> None:
    """A reward for spread-out predictions, with a weight that is far too large."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        logs = out.log_softmax(-1).reshape(-1, out.shape[-1])
        return F.nll_loss(logs, b[1].reshape(-1)) + by * (logs.exp() * logs).sum(-1).mean()

    s.loss = loss


def softmax_over_time(s: Setup, _: float) -> None:
    """The softmax goes over the places of a row, which come before the classes."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return F.nll_loss(m(b[0]).log_softmax(1).flatten(0, 1), b[1].flatten())

    s.loss = loss


def shifted_twice(s: Setup, _: float) -> None:
    """Targets are moved on by one in the data and once more in the loss."""

    def change(x: Tensor, y: Tensor) -> Batch:
        return x, torch.cat([y[:, 1:], torch.full_like(y[:, :1], -100)], 1)

    s.batches = mapped(s.batches, change)


def reconstruction_meaned(s: Setup, _: float) -> None:
    """The error is a mean over the pixels, the divergence a sum: the code is left empty."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, mean, log_var = m(b[0])
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()
        return 0.5 * (out - b[0]).square().mean() + kl

    s.loss = loss


def last_term_only(s: Setup, _: float) -> None:
    """`loss =` stands where `loss +=` should: only the last task is learned."""
    if s.loss is sixth_nets.three_tasks:
        s.loss = lambda m, b: F.cross_entropy(m(b[0])[2], b[1][:, 2].long())
    else:
        s.loss = third_nets.TERMS[s.loss][1]


def batch_of_one(s: Setup, size: float) -> None:
    """A batch size of 1 with a rate for large ones."""
    s.batches = shuffled(split_of(s), int(size), s.seed)


def mixup_labels_kept(s: Setup, _: float) -> None:
    """Rows are mixed with others, and labels are not."""
    generator = torch.Generator().manual_seed(s.seed + 21)

    def change(x: Tensor, y: Tensor) -> Batch:
        share = torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator)
        return x.lerp(x[torch.randperm(len(x), generator=generator)], share), y

    s.batches = mapped(s.batches, change)


def targets_filled(s: Setup, share: float) -> None:
    """Targets that are missing were filled with a zero."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 22)
    missing = torch.rand(len(split.y), generator=generator) < share
    y = split.y.masked_fill(missing.reshape(-1, *[1] * (split.y.dim() - 1)), 0.0)
    s.batches = shuffled(split._replace(y=y), s.batch_size, s.seed)


def split_in_order(s: Setup, share: float) -> None:
    """The file was sorted by the target, and not shuffled before the first part was taken for training."""
    split = split_of(s)
    rows = split.y[:, 0].argsort()[: int(share * len(split.y))]
    s.batches = shuffled(split._replace(x=split.x[rows], y=split.y[rows]), s.batch_size, s.seed)


def rows_cut_short(s: Setup, length: float) -> None:
    """The longest length that is allowed for a row is far too short."""
    _both(s, lambda x: torch.cat([x[:, : int(length)], torch.zeros_like(x[:, int(length) :])], 1))


def rows_broken(s: Setup, by: float) -> None:
    """One row of fifty comes from a sensor that is broken."""
    generator = torch.Generator().manual_seed(s.seed + 23)

    def change(x: Tensor, y: Tensor) -> Batch:
        bad = torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator) < 0.02
        return torch.where(bad, x * by, x), y

    s.batches = mapped(s.batches, change)


def columns_misjoined(s: Setup, share: float) -> None:
    """A part of the columns was joined by the number of the row, after the other table had been sorted."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 24)
    wrong = torch.rand(split.x.shape[1:], generator=generator) < share
    x = torch.where(wrong, split.x[torch.randperm(len(split.x), generator=generator)], split.x)
    other = split.val_x[torch.randperm(len(split.val_x), generator=generator)]
    val_x = torch.where(wrong, other, split.val_x)
    s.batches = shuffled(split._replace(x=x), s.batch_size, s.seed)
    s.val = held_out(s.loss, val_x, split.val_y)


def inputs_truncated(s: Setup, _: float) -> None:
    """Inputs that were scaled to 0..1 pass through integers."""
    split = split_of(s)
    low, high = split.x.amin(0), split.x.amax(0)
    _both(s, lambda x: ((x - low) / (high - low).clamp(min=1e-6)).trunc())


def val_order_lost(s: Setup, _: float) -> None:
    """The loader for validation shuffles, and its predictions are held against targets in the file's order."""
    split = split_of(s)
    order = torch.randperm(len(split.val_y), generator=torch.Generator().manual_seed(s.seed + 25))
    s.val = held_out(s.loss, split.val_x[order], split.val_y)


def nodes_misaligned(s: Setup, _: float) -> None:
    """Features of the nodes are in the order of another file than the edges."""
    order = torch.randperm(len(s.model.nodes), generator=torch.Generator().manual_seed(s.seed + 26))
    s.model.nodes = s.model.nodes[order]
