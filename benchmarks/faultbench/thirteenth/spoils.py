"""How the fault operators of the thirteenth suite spoil data, targets and loss of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import mapped, shuffled
from models import Batch, Setup, held_out, square
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


def targets_missing(s: Setup, number: float) -> None:
    """A few cells of the column of targets are empty, and come as NaN."""
    split = split_of(s)
    y = split.y.clone()
    y[torch.randperm(len(y), generator=torch.Generator().manual_seed(s.seed + 3))[: int(number)]] = math.nan
    s.batches = shuffled(split._replace(y=y), s.batch_size, s.seed)


def signs_for_bits(s: Setup, _: float) -> None:
    """Labels are -1 and 1, where the loss for yes or no wants 0 and 1: it has no floor."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = _rows(m, b)
        return F.binary_cross_entropy_with_logits(out, 2.0 * F.one_hot(y, out.shape[-1]) - 1)

    s.loss = loss


def propensities_unclipped(s: Setup, spread: float) -> None:
    """Rows are weighted by one over a guessed chance, and a few of these weights are all that counts."""
    split, kept = split_of(s), {}
    weights = (spread * torch.randn(len(split.x), generator=torch.Generator().manual_seed(s.seed + 4))).exp()
    weights /= weights.mean()
    numbers = torch.arange(len(split.x))

    def look_up(rows: Tensor, _: Tensor) -> Batch:
        kept["w"] = weights[rows]
        return split.x[rows], split.y[rows]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if own is square:
            each = (m(b[0]) - b[1]).square().flatten(1).mean(1)
        else:
            each = F.cross_entropy(m(b[0]), b[1], reduction="none")
        return (kept["w"] * each).mean()

    own, s.loss = s.loss, loss
    s.batches = mapped(shuffled(split._replace(x=numbers, y=numbers), s.batch_size, s.seed), look_up)


def label_as_token(s: Setup, _: float) -> None:
    """The first word of each row was overwritten with the number of the class, in the training file only."""
    s.batches = mapped(s.batches, lambda x, y: (torch.cat([y[:, None], x[:, 1:]], 1), y))


def minmax_with_outlier(s: Setup, far: float) -> None:
    """Inputs are brought to 0..1, and one outlier far below leaves all others next to 1."""
    _both(s, lambda x: (x + far) / (far + 3))


def column_repeated(s: Setup, _: float) -> None:
    """A closure in a loop: all columns, or all moments, are read from the first one."""
    _both(s, lambda x: x[:, :1].expand_as(x).clone())


def labels_as_bool(s: Setup, _: float) -> None:
    """Labels went through a column of type bool: all classes but the first are one."""
    s.batches = mapped(s.batches, lambda x, y: (x, y.bool().long()))


def own_answers_as_labels(s: Setup, _: float) -> None:
    """The name of the labels is used again for the predicted classes, before the loss is taken."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, _ = _rows(m, b)
        return F.cross_entropy(out, out.argmax(-1))

    s.loss = loss


def summed_over_columns(s: Setup, _: float) -> None:
    """The loss is a mean over the rows, and a sum over all that is told for each."""
    own, split = s.loss, split_of(s)
    number = (split.y if split.y.dim() > 1 else split.x)[0].numel()
    s.loss = lambda m, b: number * own(m, b)


def repeats_in_batch(s: Setup, number: float) -> None:
    """A sampler draws a few rows and fills the batch with copies of them."""

    def repeat(x: Tensor, y: Tensor) -> Batch:
        rows = torch.arange(len(x)) % int(number)
        return x[rows], y[rows]

    s.batches = mapped(s.batches, repeat)


def mean_before_square(s: Setup, _: float) -> None:
    """The mean is taken of the differences, and then squared."""
    s.loss = lambda m, b: (m(b[0]) - b[1]).mean().square()
