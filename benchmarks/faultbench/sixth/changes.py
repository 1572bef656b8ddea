"""How the fault operators of the sixth suite spoil a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from data import mapped
from models import Batch, Setup, held_out
from parts import split_of
from torch import Tensor, nn

from sixth import models as nets


def moments_forgotten(s: Setup, _: float) -> None:
    """The optimizer is made anew in the loop: Adam without a past goes by the signs of gradients."""
    s.options = {**s.options, "betas": (0.0, 0.0)}


def nll_of_logits(s: Setup, _: float) -> None:
    """NLLLoss without a logarithm of a softmax before it: the right score need only grow."""
    s.loss = lambda m, b: F.nll_loss(m(b[0]).flatten(0, -2), b[1].flatten())


def nll_of_probabilities(s: Setup, by: float) -> None:
    """NLLLoss gets probabilities, not their logarithms."""
    s.loss = lambda m, b: F.nll_loss(m(b[0]).softmax(-1).flatten(0, -2), b[1].flatten())


def divided_again(s: Setup, by: float) -> None:
    """The loader divides by the largest value in place: rows are smaller each time they come."""
    split, generator = split_of(s), torch.Generator().manual_seed(s.seed)
    x, size = split.x.clone(), s.batch_size

    def go() -> Iterator[Batch]:
        while True:
            for rows in torch.randperm(len(x), generator=generator)[: len(x) // size * size].split(size):
                yield x[rows], split.y[rows]
                x[rows] /= by

    s.batches, s.steps = go(), s.steps * 2


def factorized(s: Setup, _: float) -> None:
    """Labels are numbered chunk by chunk in the order in which they come up (`pandas.factorize`)."""

    def change(x: Tensor, y: Tensor) -> Batch:
        codes: dict[int, int] = {}
        return x, torch.tensor([codes.setdefault(k, len(codes)) for k in y.tolist()])

    s.batches = mapped(s.batches, change)


def clip_before_unscale(s: Setup, scale: float) -> None:
    """Gradients are clipped while the scale of mixed precision is still on them, and then divided by it."""

    def clip(model: nn.Module, step: int) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm() * scale
        for grad in grads:
            grad.mul_((1.0 / (norm + 1e-6)).clamp(max=1.0))

    s.after_backward = clip


class _Listed(nn.Module):
    """Keeps layers in a plain list, where no one finds their parameters."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = (layers,)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[0]:
            x = layer(x)
        return x


def layers_in_list(s: Setup, _: float) -> None:
    """Hidden layers are in a Python list, not in a ModuleList."""
    assert isinstance(s.model, nn.Sequential)
    parts = list(s.model)
    s.model = nn.Sequential(_Listed(parts[:-1]), parts[-1])


def columns_reordered(s: Setup, _: float) -> None:
    """The columns of the validation file come in another order."""
    split = split_of(s)
    order = torch.randperm(split.x.shape[1], generator=torch.Generator().manual_seed(s.seed + 3))
    s.val = held_out(s.loss, split.val_x[:, order], split.val_y)


def targets_scaled(s: Setup, _: float) -> None:
    """Targets are brought to 0..1 for training, and validation compares with those that are not."""
    split = split_of(s)
    low, high = split.y.min(), split.y.max()
    s.batches = mapped(s.batches, lambda x, y: (x, (y - low) / (high - low)))


def masks_left_behind(s: Setup, _: float) -> None:
    """An augmentation turns and mirrors the pictures, and the masks stay as they are."""
    generator = torch.Generator().manual_seed(s.seed + 4)

    def change(x: Tensor, y: Tensor) -> Batch:
        turns = int(torch.randint(4, (), generator=generator))
        mirrored = x.flip(3) if float(torch.rand((), generator=generator)) < 0.5 else x
        return torch.rot90(mirrored, turns, (2, 3)), y

    s.batches = mapped(s.batches, change)


def masks_as_bytes(s: Setup, by: float) -> None:
    """Masks are 0 and 255, as they are in the files."""
    s.batches = mapped(s.batches, lambda x, y: (x, y * by))


def rate_not_exponentiated(s: Setup, _: float) -> None:
    """The output is taken for the rate itself, and half of all rates are below zero."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        rate, closed = m(b[0])
        open_log, shut_log = F.logsigmoid(-closed), F.logsigmoid(closed)
        some = open_log + b[1] * rate.log() - rate - torch.lgamma(b[1] + 1)
        return -torch.where(b[1] > 0, some, torch.logaddexp(shut_log, open_log - rate)).mean()

    s.loss = loss


def angle_by_arccosine(s: Setup, _: float) -> None:
    """The arccosine has no slope where the angle is 0, and no value beyond."""
    s.loss = lambda m, b: torch.acos((m(b[0]) * b[1]).sum(-1)).mean()


def views_alike(s: Setup, _: float) -> None:
    """The augmentation is called once, and both views are the same one."""
    s.batches = mapped(s.batches, lambda x, y: (x[:, :64].repeat(1, 2), y))


def places_lost(s: Setup, _: float) -> None:
    """The encoding of places is not added."""
    assert isinstance(s.model, nets.Translator)
    s.model.place = None


def classes_not_moved(s: Setup, _: float) -> None:
    """The classes should change places with the steps for the loss, and a view does something else."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(*b)
        return F.cross_entropy(out.reshape(len(out), out.shape[2], out.shape[1]), b[1])

    s.loss = loss


def attention_over_batch(s: Setup, _: float) -> None:
    """The softmax of the attention goes over the bags, not over the pieces of each."""
    assert isinstance(s.model, nets.Pooling)
    s.model.over = 0


def shown_to_itself(s: Setup, _: float) -> None:
    """The targets are not moved on by one: each value is told from itself."""
    s.batches = mapped(s.batches, lambda x, y: (x, x))


def forward_overflows(s: Setup, share: float) -> None:
    """A layer runs in half precision, and what it gives is soon too large for that."""
    layers = [m for m in s.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    most: list[float] = []

    def halve(m: nn.Module, a: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if not most:
            most.append(share * float(out.detach().abs().max()))
        by = 65504 / most[0]
        return (out * by).half().float() / by

    layers[len(layers) // 2].register_forward_hook(halve)


def time_in_other_unit(s: Setup, by: float) -> None:
    """The simulation is run with a pause that is in another unit: it goes astray at once."""
    assert isinstance(s.model, nets.Policy)
    check, usual = s.val, s.model.pause
    s.model.pause = usual * by

    def val(m: nn.Module) -> float:
        m.pause = usual
        value = check(m)
        m.pause = usual * by
        return value

    s.val = val


def labels_as_floats(s: Setup, _: float) -> None:
    """Class numbers are standardized along with the columns and cut to integers again."""
    split = split_of(s)
    y = split.y.float()
    mean, spread = y.mean(), y.std()
    s.batches = mapped(s.batches, lambda x, y: (x, ((y - mean) / spread).clamp(min=0).long()))
