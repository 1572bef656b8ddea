"""What the fault operators of the held-out suite change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from data import Split, mapped, shuffled
from faults import _trainable
from models import Batch, Setup, held_out
from torch import Tensor, nn

from unseen import models as nets

_MIDDLE = (nn.Linear, nn.Conv1d, nn.Conv2d)


def layers_of(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, _MIDDLE) and m.weight.requires_grad]


def _middle(s: Setup) -> nn.Parameter:
    """The first parameter that is a leaf with two or more dimensions at or after the middle."""
    weights = [p for p in s.model.parameters() if p.dim() >= 2 and p.requires_grad]
    return weights[len(weights) // 2]


def labels_shifted(s: Setup, _: float) -> None:
    """Each row has the target of the row before."""
    s.batches = mapped(s.batches, lambda x, y: (x, y.roll(1, 0)))


def softmax_of_batch(s: Setup, _: float) -> None:
    """The softmax goes over the rows of the batch instead of the classes."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        flat = out.log_softmax(0).reshape(-1, out.shape[-1])
        return F.nll_loss(flat, b[1].reshape(-1))

    s.loss = loss


def targets_wild(s: Setup, by: float) -> None:
    """Targets in another unit; the run is judged in the old one."""
    split = s.train_split
    s.batches = mapped(s.batches, lambda x, y: (x, y * by))
    own = held_out(s.loss, split.val_x, split.val_y * by)
    s.val, s.judged = own, lambda m: own(m) / by**2


def broadcast(s: Setup, _: float) -> None:
    """Targets of shape (N,) against outputs of shape (N, 1): all pairs are compared."""
    s.loss = lambda m, b: (m(b[0]) - b[1][:, 0]).square().mean()


def accumulated_sum(s: Setup, number: float) -> None:
    """Gradients of many micro-batches are added and not divided; here one batch is counted that often."""

    def add(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(number)

    s.after_backward = add


def same_batch(s: Setup, _: float) -> None:
    """The loader is asked for its first batch each time."""
    first = next(s.batches)
    s.batches = itertools.repeat(first)


def no_warmup(s: Setup, by: float) -> None:
    s.schedule, s.lr, s.clip = (lambda k: 1.0), s.lr * by, None


def decay_decoupled(s: Setup, value: float) -> None:
    s.weight_decay = value


def poisoned_moment(s: Setup, by: float) -> None:
    """One batch of huge gradients under a long memory: the steps stay tiny afterwards."""
    first = s.options.get("betas", (0.9, 0.999))[0]
    s.options["betas"] = (first, 0.99999)

    def poison(model: nn.Module, step: int) -> None:
        if step == s.steps // 10:
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.mul_(by)

    s.after_backward = poison


def short_moment(s: Setup, value: float) -> None:
    """The second moment remembers next to nothing while the first does: single steps become huge."""
    s.options["betas"] = (0.97, value)


def norm_momentum(s: Setup, value: float) -> None:
    """Running statistics stay where they began: evaluation uses the wrong ones."""
    for m in s.model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = value


def eval_stays(s: Setup, _: float) -> None:
    """After the first validation nobody calls train() again."""
    own = s.val

    def val(m: nn.Module) -> float:
        value = own(m)
        m.eval()
        return value

    s.val = val


def frozen(s: Setup, share: float) -> None:
    parameters = _trainable(s.model)
    for p in parameters[: min(int(share * len(parameters)), len(parameters) - 1)]:
        p.requires_grad_(False)


def tokens_zero(s: Setup, _: float) -> None:
    """A lookup that fails gives index 0 for all."""
    s.batches = mapped(s.batches, lambda x, y: (torch.zeros_like(x), y))


def not_centered(s: Setup, by: float) -> None:
    split = s.train_split
    s.batches = mapped(s.batches, lambda x, y: (x + by, y))
    s.val = held_out(s.loss, split.val_x + by, split.val_y)


def leaky_feature(s: Setup, by: float) -> None:
    """One feature holds the label, in training only."""

    def leak(x: Tensor, y: Tensor) -> Batch:
        return torch.cat([by * y.float()[:, None], x[:, 1:]], 1), y

    s.batches = mapped(s.batches, leak)


def val_leaks(s: Setup, number: float) -> None:
    """Few samples, and validation is done on them: it looks well until the end."""
    split = s.train_split
    few = Split(split.x[: int(number)], split.y[: int(number)], split.val_x, split.val_y)
    s.batches = shuffled(few, min(s.batch_size, int(number)), s.seed)
    s.judged, s.val = s.val, held_out(s.loss, few.x, few.y)


def clip_value(s: Setup, bound: float) -> None:
    def clip(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.clamp_(-bound, bound)

    s.after_backward = clip


def loss_scaled(s: Setup, by: float) -> None:
    """A factor that was meant for something else makes the loss tiny."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) * by


def rounded(s: Setup, step: float) -> None:
    """A rounding in the middle has no gradient: all before it stays as it was."""
    layers = layers_of(s.model)
    layers[len(layers) // 2].register_forward_hook(lambda m, a, out: (out / step).round() * step)


def bare_log(s: Setup, by: float) -> None:
    """The logarithm of a softmax of large numbers, without a floor."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        chance = (by * out).softmax(-1).reshape(-1, out.shape[-1])
        return -chance.gather(1, b[1].reshape(-1, 1)).log().mean()

    s.loss = loss


def output_bias(s: Setup, by: float) -> None:
    last = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(torch.linspace(-by, by, len(last.bias)) if len(last.bias) > 1 else last.bias + by)


def hidden_one(s: Setup, width: float) -> None:
    """So few hidden units that the task does not fit in."""
    out = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1].out_features
    inside = s.train_split.x.shape[1]
    s.model = nn.Sequential(nn.Linear(inside, int(width)), nn.Tanh(), nn.Linear(int(width), out))


def decays_each_batch(s: Setup, factor: float) -> None:
    """What was meant for each epoch is done for each batch."""
    before = s.schedule
    s.schedule = lambda k: before(k) * max(factor**k, 1e-9)


def features_shuffled(s: Setup, _: float) -> None:
    """Features change places from batch to batch."""

    def shuffle(x: Tensor, y: Tensor) -> Batch:
        flat = x.flatten(1)
        return flat[:, torch.randperm(flat.shape[1])].reshape(x.shape), y

    s.batches = mapped(s.batches, shuffle)


def destroying_augmentation(s: Setup, by: float) -> None:
    """Noise that leaves nothing of the inputs."""
    s.batches = mapped(s.batches, lambda x, y: (x + by * torch.randn_like(x), y))


def one_layer_ascends(s: Setup, by: float) -> None:
    weight = _middle(s)

    def flip(model: nn.Module, step: int) -> None:
        if weight.grad is not None:
            weight.grad.mul_(-by)

    s.after_backward = flip


def one_layer_runs(s: Setup, by: float) -> None:
    """A multiplier meant for another layer: one layer's rate is far above the rest's."""
    weight = _middle(s)

    def run(model: nn.Module, step: int) -> None:
        if weight.grad is not None:
            weight.grad.mul_(by)

    s.after_backward = run


def temperature(s: Setup, value: float) -> None:
    """The logits are divided by far too much."""
    if s.loss is nets.contrast:
        own = s.loss

        def loss(m: nn.Module, b: Batch) -> Tensor:
            return own(lambda x: m(x) / value**0.5, b)

        s.loss = loss
    else:
        s.loss = lambda m, b: F.cross_entropy(m(b[0]).flatten(0, -2) / value, b[1].reshape(-1))


def stale_targets(s: Setup, _: float) -> None:
    """An iterator that was moved on twice: targets come from the next batch."""

    def go(batches: Iterator[Batch]) -> Iterator[Batch]:
        for (x, _), (_, y) in itertools.pairwise(batches):
            if len(x) == len(y):
                yield x, y

    s.batches = go(s.batches)


def dropped_inputs(s: Setup, share: float) -> None:
    """Dropout on the inputs that leaves next to nothing, also between the layers."""
    for m in layers_of(s.model):
        m.register_forward_pre_hook(lambda m, a: (F.dropout(a[0], share, training=m.training), *a[1:]))
