"""What the fault operators of the third suite change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import mapped
from faults import _trainable, _val, _weights
from models import Batch, Setup, held_out
from torch import Tensor, nn

from third import models as nets
from third.data import MASK

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU)


def activations(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, ACTIVATIONS)]


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, by)


def _on_output(s: Setup, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    s.model.register_forward_hook(lambda m, a, out: change(m, out))


def warmup_endless(s: Setup, by: float) -> None:
    """The warm-up was counted in another unit: it would end many runs later."""
    before = s.schedule
    s.schedule = lambda k: before(k) * (k + 1) / (by * s.steps)


def lr_grows(s: Setup, by: float) -> None:
    """A decay factor above 1."""
    before = s.schedule
    s.schedule = lambda k: before(k) * by ** (k / s.steps)


def betas_swapped(s: Setup, _: float) -> None:
    s.options["betas"] = (0.999, 0.9)


def l1_penalty(s: Setup, by: float) -> None:
    """The sum of all weights' sizes, not their mean, is added to the loss."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) + by * sum(p.abs().sum() for p in _trainable(m))


def smoothing_high(s: Setup, share: float) -> None:
    """The share of the true label and the share that is spread were mixed up."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.cross_entropy(out.reshape(-1, out.shape[-1]), b[1].reshape(-1), label_smoothing=share)

    s.loss = loss


def activations_gone(s: Setup, _: float) -> None:
    for name in activations(s.model):
        _replace(s.model, name, nn.Identity())


def softmax_hidden(s: Setup, _: float) -> None:
    """A softmax where the hidden layers' activations should be."""
    for name in activations(s.model):
        _replace(s.model, name, nn.Softmax(-1))


def squashed_output(s: Setup, kind: float) -> None:
    """Targets below zero, and a sigmoid (1) or a ReLU (2) on the output."""
    _on_output(s, lambda m, out: out.sigmoid() if kind == 1 else out.relu())


def norm_of_one(s: Setup, _: float) -> None:
    """A norm over the only output: nothing is left of it."""
    _on_output(s, lambda m, out: F.layer_norm(out, out.shape[-1:]))


def dropout_on_output(s: Setup, share: float) -> None:
    _on_output(s, lambda m, out: F.dropout(out, share, training=m.training))


def class_ids(s: Setup, _: float) -> None:
    """All outputs are drawn to the number of the class by a squared error."""
    s.loss = lambda m, b: (m(b[0]) - b[1][:, None].float()).square().mean()


def single_logit(s: Setup, _: float) -> None:
    """Cross entropy over one class is 0 whatever the output."""
    s.loss = lambda m, b: F.cross_entropy(m(b[0]), b[1])


def signed_error(s: Setup, _: float) -> None:
    """The square was forgotten: below the target is better and better."""
    s.loss = lambda m, b: (m(b[0]) - b[1]).mean()


def percentage_error(s: Setup, _: float) -> None:
    """Relative errors of targets that go about zero."""
    s.loss = lambda m, b: ((m(b[0]) - b[1]).abs() / (b[1].abs() + 1e-6)).mean()


def log_targets(s: Setup, _: float) -> None:
    """Squared error of logarithms, where some targets have none."""
    s.loss = lambda m, b: (torch.log1p(m(b[0])) - torch.log1p(b[1])).square().mean()


def term_sign(s: Setup, _: float) -> None:
    first, second = nets.TERMS[s.loss]
    s.loss = lambda m, b: first(m, b) - second(m, b)


def term_heavy(s: Setup, by: float) -> None:
    first, second = nets.TERMS[s.loss]
    s.loss = lambda m, b: first(m, b) + by * second(m, b)


def reversed_augment(s: Setup, _: float) -> None:
    """Half of the rows are turned round as an augmentation, though the direction is what tells the classes."""

    def turn(x: Tensor, y: Tensor) -> Batch:
        return torch.where(torch.rand(len(x), 1) < 0.5, x.flip(1), x), y

    s.batches = mapped(s.batches, turn)


def mask_inverted(s: Setup, _: float) -> None:
    """The loss is taken where it should not: on the padding, on what is not hidden."""
    if isinstance(s.model, nets.MaskedModel):
        s.batches = mapped(s.batches, lambda x, y: (x, torch.where(x == MASK, -100, x)))
    else:

        def loss(m: nn.Module, b: Batch) -> Tensor:
            x, y = b
            out, goal = m(x, nets.shifted(y)), y.masked_fill(y > 0, -100)
            return F.cross_entropy(out.flatten(0, 1), goal.flatten())

        s.loss = loss


def answers_shown(s: Setup, _: float) -> None:
    """What is asked for is among the inputs, in training only: the mask or the shift is missing."""
    if isinstance(s.model, nets.MaskedModel):
        s.batches = mapped(s.batches, lambda x, y: (torch.where(y >= 0, y, x), y))
    else:
        s.loss = lambda m, b: F.cross_entropy(m(*b).flatten(0, 1), b[1].flatten(), ignore_index=0)


def view_not_permute(s: Setup, _: float) -> None:
    """A reshape stands where axes should change places: rows get mixed."""
    s.model.register_forward_pre_hook(
        lambda m, a: (a[0].transpose(0, 1).reshape(a[0].shape), *a[1:]), prepend=True
    )


def batch_first_lost(s: Setup, _: float) -> None:
    """The recurrent layer takes rows for moments: it runs along the batch."""
    for m in s.model.modules():
        if isinstance(m, nn.RNNBase):
            m.batch_first = False


def positive_init(s: Setup, _: float) -> None:
    """torch.rand was meant to be torch.randn, and is not scaled either."""
    for p in _weights(s.model):
        nn.init.uniform_(p, 0.0, 1.0)


def layers_renewed(s: Setup, period: float) -> None:
    """The initialization is called in each epoch."""
    size = {n: float(p.detach().std()) for n, p in s.model.named_parameters() if p.dim() >= 2}

    def renew(model: nn.Module, step: int) -> None:
        if step == 0 or step % int(period):
            return
        for n, p in model.named_parameters():
            if n in size:
                nn.init.normal_(p, std=size[n])

    s.after_backward = renew


def mean_written_back(s: Setup, keep: float) -> None:
    """A running mean of the weights, kept for evaluation, is written into the model in each step."""
    mean = {n: p.detach().clone() for n, p in s.model.named_parameters()}

    def write(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(mean[n].lerp_(p, 1 - keep))

    s.after_backward = write


def weights_clamped(s: Setup, bound: float) -> None:
    """Weights are cut to a narrow range in each step, as a critic's are."""

    def clamp(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.clamp_(-bound, bound)

    s.after_backward = clamp


def targets_truncated(s: Setup, _: float) -> None:
    """Targets pass through integers."""
    s.batches = mapped(s.batches, lambda x, y: (x, y.trunc()))


def targets_typos(s: Setup, by: float) -> None:
    """One target of fifty is in another unit."""
    generator = torch.Generator().manual_seed(s.seed + 5)

    def spoil(x: Tensor, y: Tensor) -> Batch:
        return x, torch.where(torch.rand(len(y), 1, generator=generator) < 0.02, y * by, y)

    s.batches = mapped(s.batches, spoil)


def _seen_as(s: Setup, change: Callable[[Tensor], Tensor]) -> None:
    """Inputs are changed alike in training and validation."""
    s.batches = mapped(s.batches, lambda x, y: (change(x), y))
    s.val = held_out(s.loss, change(s.train_split.val_x), s.train_split.val_y)


def inputs_as_bytes(s: Setup, _: float) -> None:
    """Standardized inputs are cast to unsigned bytes: -1 becomes 255."""
    _seen_as(s, lambda x: x.to(torch.int32).remainder(256).float())


def missing_coded(s: Setup, code: float) -> None:
    """One value of twenty is missing, and its code is taken for a number."""

    def code_some(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(x.flatten()[0].abs() * 1e4))
        return torch.where(torch.rand(x.shape, generator=generator) < 0.05, code, x)

    _seen_as(s, code_some)


def val_other_scale(s: Setup, by: float) -> None:
    """Only the training data were standardized."""
    s.val = held_out(s.loss, by * s.train_split.val_x + by, s.train_split.val_y)


def half_overflow(s: Setup, by: float) -> None:
    """Gradients of a loss scaled by far too much do not fit in half precision."""

    def round_(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.copy_((p.grad * by).half().float() / by)

    s.after_backward = round_


def term_detached(s: Setup, _: float) -> None:
    """The second term passes through .item(): it is shown, and nothing learns from it."""
    first, second = nets.TERMS[s.loss]
    s.loss = lambda m, b: first(m, b) + 0.5 * second(m, b).item()


def matrices_renewed(s: Setup, _: float) -> None:
    """All matrices are made anew after the optimizer was built, as by a late conversion."""

    def renew(model: nn.Module) -> None:
        for m in model.modules():
            for name, p in list(m._parameters.items()):
                if p is not None and p.dim() >= 2:
                    setattr(m, name, nn.Parameter(p.detach().clone(), p.requires_grad))

    s.after_optimizer = renew


def classes_missing(s: Setup, share: float) -> None:
    """A sampler with wrong weights never draws the last classes."""
    last = int(share * (int(s.train_split.y.max()) + 1))
    s.batches = mapped(s.batches, lambda x, y: (x[y < last], y[y < last]))


def encoders_differ(s: Setup, _: float) -> None:
    """Labels are numbered one way for training and another for validation."""
    num = int(s.train_split.y.max()) + 1
    s.batches = mapped(s.batches, lambda x, y: (x, (y + 1) % num))
    s.val = _val(s, s.loss)


def sorted_targets(s: Setup, _: float) -> None:
    """Rows come in the order of their target."""
    split = s.train_split
    order = split.y[:, 0].argsort()

    def go() -> Iterator[Batch]:
        while True:
            for rows in order.split(s.batch_size):
                yield split.x[rows], split.y[rows]

    s.batches = go()


def pairs_swapped(s: Setup, _: float) -> None:
    """What is alike and what is not come in the wrong order."""
    s.batches = mapped(s.batches, lambda x, y: (x[:, [0, 2, 1]], y))


def root_of_zero(s: Setup, at: float) -> None:
    """From a step on a square root is taken of 0: the loss is fine, its gradient is not a number."""
    own, count = s.loss, [0]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value, count[0] = own(m, b), count[0] + 1
        if count[0] - 1 == int(at * s.steps):
            value = value + (value - value).square().sqrt()
        return value

    s.loss = loss
