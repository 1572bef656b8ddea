"""How the fault operators of the twelfth suite spoil data, targets and loss of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import mapped, shuffled
from models import Batch, Setup, held_out
from parts import split_of
from torch import Tensor, nn


def _both(s: Setup, change: Callable[[Tensor], Tensor]) -> None:
    """Changes the inputs in training and in validation alike."""
    split = split_of(s)
    s.batches = mapped(s.batches, lambda x, y: (change(x), y))
    s.val = held_out(s.loss, change(split.val_x), split.val_y)


def _rows(m: nn.Module, b: Batch) -> tuple[Tensor, Tensor]:
    """Scores and labels, one row for each answer that counts."""
    out, y = m(b[0]), b[1].reshape(-1)
    return out.reshape(-1, out.shape[-1])[y >= 0], y[y >= 0]


def divergence_by_hand(s: Setup, _: float) -> None:
    """A divergence from one-hot labels is written out: 0 times the logarithm of 0."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = _rows(m, b)
        goal = F.one_hot(y, out.shape[-1]).float()
        return (goal * (goal / out.softmax(-1)).log()).sum(-1).mean()

    s.loss = loss


def hinge_without_floor(s: Setup, _: float) -> None:
    """A margin loss without its maximum with zero: there is always more to gain."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = _rows(m, b)
        return (1 + out - out.gather(1, y[:, None])).mean()

    s.loss = loss


def first_class_heavy(s: Setup, by: float) -> None:
    """The weight of a class was meant for one that is rare, and the classes are in another order here."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = _rows(m, b)
        weight = torch.ones(out.shape[-1])
        weight[0] = by
        return F.cross_entropy(out, y, weight=weight)

    s.loss = loss


def weights_are_counts(s: Setup, _: float) -> None:
    """Each row counts as often as its class comes up in the file, and not the other way round."""
    count = torch.bincount(split_of(s).y.flatten()).float()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = _rows(m, b)
        return (count[y] * F.cross_entropy(out, y, reduction="none")).mean()

    s.loss = loss


def huber_narrow(s: Setup, width: float) -> None:
    """Huber's loss turns straight at a width from another unit, and all slopes are tiny."""
    s.loss = lambda m, b: F.huber_loss(m(b[0]), b[1], delta=width)


def quantile_left(s: Setup, share: float) -> None:
    """The loss for an upper quantile was left in where the mean is asked for."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        over = b[1] - m(b[0])
        return torch.maximum(share * over, (share - 1) * over).mean()

    s.loss = loss


def bad_shard(s: Setup, at: float) -> None:
    """One file of many comes in other units and with its labels in another order."""
    first, count = int(at * s.steps), itertools.count()

    def change(x: Tensor, y: Tensor) -> Batch:
        return (100 * x, y.flip(0)) if first <= next(count) < first + s.steps // 12 else (x, y)

    s.batches = mapped(s.batches, change)


def inputs_sorted_alone(s: Setup, _: float) -> None:
    """The inputs were sorted by their first column, and the targets stayed as they were."""
    split = split_of(s)
    x = split.x[split.x.flatten(1)[:, 0].argsort()]
    s.batches = shuffled(split._replace(x=x), s.batch_size, s.seed)


def row_ids_kept(s: Setup, _: float) -> None:
    """The number of the row is a category too: one column for each row, standardized as all others."""
    split, first = split_of(s), s.model[0]
    number = len(split.x)
    s.model[0] = nn.Linear(first.in_features + number, first.out_features)
    ids = number**0.5 * torch.eye(number)
    wide = split._replace(x=torch.cat([split.x, ids], 1))
    s.batches = shuffled(wide, s.batch_size, s.seed)
    s.val = held_out(s.loss, F.pad(split.val_x, (0, number)), split.val_y)


def background_by_class(s: Setup, by: float) -> None:
    """Rows of each class were recorded with a device of its own, whose trace is on the inputs in training."""
    split = split_of(s)
    generator = torch.Generator().manual_seed(91)
    trace = by * torch.randn(int(split.y.max()) + 1, *split.x.shape[1:], generator=generator)
    s.batches = mapped(s.batches, lambda x, y: (x + trace[y], y))


def batches_of_one_class(s: Setup, _: float) -> None:
    """A sampler goes by folders: each batch is of one class, and the norms see one class at a time."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed + 31)
    classes = [(split.y == k).nonzero()[:, 0] for k in split.y.unique()]

    def go() -> Iterator[Batch]:
        while True:
            rows = classes[int(torch.randint(len(classes), (), generator=generator))]
            chosen = rows[torch.randint(len(rows), (s.batch_size,), generator=generator)]
            yield split.x[chosen], split.y[chosen]

    s.batches = go()


def logarithm_forgotten(s: Setup, by: float) -> None:
    """Amounts that go over many powers of ten come as they are, without their logarithm."""
    _both(s, lambda x: (by * x).exp())


def rows_defaulted(s: Setup, share: float) -> None:
    """A join found nothing for most rows, and all their columns were filled with the mean."""
    split, generator = split_of(s), torch.Generator().manual_seed(92)

    def fill(x: Tensor) -> Tensor:
        lost = torch.rand(len(x), *[1] * (x.dim() - 1), generator=generator) < share
        return torch.where(lost, split.x.mean(0), x)

    s.batches = shuffled(split._replace(x=fill(split.x)), s.batch_size, s.seed)
    s.val = held_out(s.loss, fill(split.val_x), split.val_y)


def vocabulary_rebuilt(s: Setup, _: float) -> None:
    """The vocabulary was built anew for validation: the same words have other numbers there."""
    split = split_of(s)
    number = int(torch.maximum(split.x.max(), split.val_x.max()))
    order = 1 + torch.randperm(number, generator=torch.Generator().manual_seed(s.seed + 33))
    s.val = held_out(s.loss, torch.cat([torch.zeros(1).long(), order])[split.val_x], split.val_y)


def axes_swapped(s: Setup, _: float) -> None:
    """Pictures for training were read with rows and columns swapped, those for validation were not."""
    s.batches = mapped(s.batches, lambda x, y: (x.transpose(2, 3), y))
