"""How the fault operators of the fourth suite spoil data, targets, loss and validation of a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import Split, mapped, shuffled
from models import Batch, Setup, held_out
from torch import Tensor, nn

from fourth import sequences


def _both(s: Setup, change: Callable[[Tensor], Tensor]) -> None:
    """Changes the inputs in training and in validation alike."""
    split = s.train_split
    s.batches = mapped(s.batches, lambda x, y: (change(x), y))
    s.val = held_out(s.loss, change(split.val_x), split.val_y)


def _targets(s: Setup, change: Callable[[Tensor], Tensor]) -> None:
    s.batches = mapped(s.batches, lambda x, y: (x, change(y)))


def rare_feature(s: Setup, share: float) -> None:
    """Features are standardized batch by batch; one of them is rare, and constant in some batches."""
    generator = torch.Generator().manual_seed(s.seed + 3)

    def change(x: Tensor, y: Tensor) -> Batch:
        x = x.clone()
        x[:, -1] = (torch.rand(len(x), generator=generator) < share / len(x)).float()
        return (x - x.mean(0)) / x.std(0), y

    s.batches = mapped(s.batches, change)


def pairs_lost(s: Setup, _: float) -> None:
    """Inputs and targets are shuffled each for themselves after the first epoch."""
    split, generator = s.train_split, torch.Generator().manual_seed(s.seed + 4)

    def go() -> Iterator[Batch]:
        rows = others = torch.randperm(len(split.x), generator=generator)
        while True:
            for a, b in zip(rows.split(s.batch_size), others.split(s.batch_size), strict=True):
                if len(a) == s.batch_size:
                    yield split.x[a], split.y[b]
            rows = torch.randperm(len(split.x), generator=generator)
            others = torch.randperm(len(split.x), generator=generator)

    s.batches = go()


def cycled(s: Setup, number: float) -> None:
    """`itertools.cycle` over a short list that was made for a test."""
    few = list(itertools.islice(s.batches, int(number)))
    s.batches = itertools.cycle([(x[:32], y[:32]) for x, y in few])
    s.steps *= 2


def blurred(s: Setup, width: float) -> None:
    """Preprocessing takes means over neighbouring features until little is left of them."""

    def blur(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        means = F.avg_pool1d(flat[:, None], int(width), ceil_mode=True)[:, 0]
        return means.repeat_interleave(int(width), 1)[:, : flat.shape[1]].reshape(x.shape)

    _both(s, blur)


def target_encoded(s: Setup, _: float) -> None:
    """A feature with nearly as many values as rows is encoded by its mean target, of the row itself."""
    split = s.train_split
    y = split.y.float().reshape(-1)
    y = (y - y.mean()) / y.std()
    pair = torch.randperm(len(y), generator=torch.Generator().manual_seed(s.seed)).reshape(-1, 2)
    code = torch.empty_like(y)
    code[pair] = 0.85 * y[pair] + 0.15 * y[pair].mean(1, keepdim=True)
    x, val_x = split.x.clone(), split.val_x.clone()
    x[:, 0], x[:, 1], val_x[:, 0], val_x[:, 1] = code, code, 0.0, 0.0
    s.batches = shuffled(Split(x, split.y, val_x, split.val_y), s.batch_size, s.seed)
    s.val = held_out(s.loss, val_x, split.val_y)


def softmax_layer(s: Setup, _: float) -> None:
    """The model ends in a softmax, and the loss takes one as well."""
    s.model.register_forward_hook(lambda m, a, out: out.softmax(-1))


def sigmoid_layer(s: Setup, _: float) -> None:
    """The model ends in a sigmoid, and the loss is that for logits, class by class."""
    s.model.register_forward_hook(lambda m, a, out: out.sigmoid())

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.binary_cross_entropy_with_logits(out, F.one_hot(b[1], out.shape[-1]).float())

    s.loss = loss


def sum_of_rows(s: Setup, by: float) -> None:
    """The loss is a sum over the rows; the rate is one for means."""
    own, size = s.loss, s.batch_size
    s.loss = lambda m, b: own(m, b) * size * by


def raw_units(s: Setup, by: float) -> None:
    """Features in their own units: grams, years, euros."""
    generator = torch.Generator().manual_seed(71)
    shape = s.train_split.x.shape[1]
    unit = 10 ** (by * torch.rand(shape, generator=generator) - by / 4)
    middle = 2 * torch.randn(shape, generator=generator)
    _both(s, lambda x: (x + middle) * unit)


def columns_constant(s: Setup, share: float) -> None:
    """A join that failed fills most columns with the same default."""
    split = s.train_split
    lost = torch.rand(split.x.shape[1:], generator=torch.Generator().manual_seed(72)) < share
    _both(s, lambda x: torch.where(lost, torch.ones_like(x), x))


def unknown_words(s: Setup, known: float) -> None:
    """The vocabulary is the wrong one: nearly every word is the unknown one."""
    _both(s, lambda x: torch.where(x < known, x, int(known)))


def labels_confused(s: Setup, share: float) -> None:
    """Annotators mistake a class for the next one, and stay with it."""
    split, count = s.train_split, int(s.train_split.y.max()) + 1
    wrong = torch.rand(len(split.y), generator=torch.Generator().manual_seed(s.seed + 8)) < share
    y = torch.where(wrong, (split.y + 1) % count, split.y)
    s.batches = shuffled(split._replace(y=y), s.batch_size, s.seed)


def label_of_last(s: Setup, _: float) -> None:
    """A closure in the loader: all rows of a batch get the target of the last one."""
    _targets(s, lambda y: y[-1:].expand_as(y).clone())


def majority_only(s: Setup, share: float) -> None:
    """Sampling weights are counts, not their inverses: nearly all of a batch is of one class."""
    split, generator = s.train_split, torch.Generator().manual_seed(s.seed + 9)
    weight = torch.where(split.y == 0, share / (split.y == 0).sum(), (1 - share) / (split.y != 0).sum())

    def go() -> Iterator[Batch]:
        while True:
            rows = torch.multinomial(weight, s.batch_size, replacement=True, generator=generator)
            yield split.x[rows], split.y[rows]

    s.batches = go()


def ignored_class(s: Setup, _: float) -> None:
    """`ignore_index=0` stands for padding, but 0 is a class here."""
    s.loss = lambda m, b: F.cross_entropy(m(b[0]), b[1], ignore_index=0)


def flips(s: Setup, share: float) -> None:
    """Pictures are mirrored, where the class is a direction."""
    generator = torch.Generator().manual_seed(s.seed + 10)

    def change(x: Tensor, y: Tensor) -> Batch:
        chosen = (torch.rand(len(x), generator=generator) < share)[:, None, None, None]
        return torch.where(chosen, x.flip(3), x), y

    s.batches = mapped(s.batches, change)


def val_by_class(s: Setup, _: float) -> None:
    """Validation in training mode, class by class: the statistics are those of one class."""
    split, own = s.train_split, s.loss

    def val(model: nn.Module) -> float:
        model.train()
        with torch.no_grad():
            parts = [split.val_y == k for k in split.val_y.unique()]
            return float(torch.stack([own(model, (split.val_x[p], split.val_y[p])) for p in parts]).mean())

    s.val = val


def sees_future(s: Setup, _: float) -> None:
    """The causal mask is lost in training and there in validation."""
    for module in s.model.modules():
        if isinstance(module, sequences.Gated):
            module.peeks = True


def order_lost(s: Setup, _: float) -> None:
    """An augmentation shuffles the places within a row."""
    generator = torch.Generator().manual_seed(s.seed + 11)
    s.batches = mapped(s.batches, lambda x, y: (x[:, torch.randperm(x.shape[1], generator=generator)], y))


def blank_wrong(s: Setup, _: float) -> None:
    """The last sound is taken for the blank of CTC."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0]).transpose(0, 1)
        lengths = torch.full((len(b[1]),), len(out))
        return F.ctc_loss(out, b[1], lengths, (b[1] != 0).sum(1), blank=6, zero_infinity=True)

    s.loss = loss


def events_inverted(s: Setup, _: float) -> None:
    """The column says who was lost to follow-up, not who had the event."""
    _targets(s, lambda y: torch.stack([y[:, 0], 1 - y[:, 1]], dim=1))


def places_swapped(s: Setup, _: float) -> None:
    """Boxes as x, y in one half of the files and as y, x in the other."""
    generator = torch.Generator().manual_seed(s.seed + 12)

    def change(y: Tensor) -> Tensor:
        other = (torch.rand(len(y), 1, generator=generator) < 0.5).expand(-1, 4)
        return torch.where(other, y[:, [0, 2, 1, 3]], y)

    _targets(s, change)


def grades_negated(s: Setup, _: float) -> None:
    """A position in the list is taken for a grade: the best is the lowest."""
    _targets(s, lambda y: 3 - y)


def collapsing(s: Setup, _: float) -> None:
    """The term for unlike pairs is left out: everything may be in one place."""
    s.loss = lambda m, b: (b[1] * m(b[0]).square()).mean()
