"""Hard negatives of the held-out suite: what looks bad and is fine, none of them in `negatives.py`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import Split, digits, mapped, shuffled, table
from models import Batch, Setup, elbo, entropy, held_out, mlp
from torch import Tensor, nn


def _curriculum(s: Setup) -> None:
    """The first half of the classes only, then all: the loss jumps up when the task gets harder."""
    count, half = itertools.count(), int(s.train_split.y.max() + 1) // 2 + 1

    def change(x: Tensor, y: Tensor) -> Batch:
        rows = y < (half if next(count) < 0.3 * s.steps else half * 2)
        return x[rows], y[rows]

    s.batches = mapped(s.batches, change)


def _smoothed(s: Setup) -> None:
    """A floor that the training loss cannot get below, and a validation loss that can."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.cross_entropy(out.reshape(-1, out.shape[-1]), b[1].reshape(-1), label_smoothing=0.1)

    s.loss = loss


def _switched(s: Setup) -> None:
    """Another loss from the middle on: the absolute error, whose values are larger."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        return own(m, b) if next(count) < s.steps // 2 else (m(b[0]) - b[1]).abs().mean()

    s.loss = loss


def _mixup(s: Setup) -> None:
    """Pairs of samples are mixed: the training loss stays far above the validation loss."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        share, other = float(torch.distributions.Beta(0.4, 0.4).sample()), torch.randperm(len(b[0]))
        out = m(share * b[0] + (1 - share) * b[0][other])
        return share * F.cross_entropy(out, b[1]) + (1 - share) * F.cross_entropy(out, b[1][other])

    s.loss = loss


def _weighted(s: Setup) -> None:
    """Heavy-tailed importance weights of the batches."""
    own, generator = s.loss, torch.Generator().manual_seed(s.seed)
    s.clip = s.clip or 5.0
    s.loss = lambda m, b: own(m, b) * (0.9 * torch.randn((), generator=generator) - 0.4).exp()


def _tiny_val(s: Setup) -> None:
    """The validation set has eight rows: its loss jumps about."""
    s.judged, split = s.val, s.train_split
    s.val = held_out(s.loss, split.val_x[:8], split.val_y[:8])


def _pretrained(s: Setup, steps: int) -> None:
    optimizer = torch.optim.Adam(s.model.parameters(), lr=2e-3)
    few = s.train_split.y < int(s.train_split.y.max() + 1) // 2 + 1
    split = Split(s.train_split.x[few], s.train_split.y[few], *s.train_split[2:])
    for x, y in itertools.islice(shuffled(split, s.batch_size, s.seed), steps):
        optimizer.zero_grad()
        entropy(s.model, (x, y)).backward()
        optimizer.step()


def _unfrozen(s: Setup) -> None:
    """A body trained on half of the classes is frozen while the head learns, then let go."""
    _pretrained(s, 80)
    body = list(s.model.parameters())[:-2]

    def free(model: nn.Module, step: int) -> None:
        if step == s.steps // 3:
            for p in body:
                p.requires_grad_(True)

    for p in body:
        p.requires_grad_(False)
    s.after_backward = free


def _mean_teacher(s: Setup) -> None:
    """Agreement with a running mean of the model gains weight: the loss rises while the model gets better."""
    teacher, count = copy.deepcopy(s.model), itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        noisy = b[0] + 0.3 * torch.randn_like(b[0])
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), m.parameters(), strict=True):
                p.lerp_(q, 0.05)
            goal = teacher(b[0]).softmax(-1)
        out = m(noisy)
        weight = 4 * min(1.0, next(count) / (0.6 * s.steps))
        return F.cross_entropy(out, b[1]) + weight * (out.softmax(-1) - goal).square().sum(-1).mean()

    s.loss = loss


def _few_rows(s: Setup) -> None:
    """Four rows a batch under a lower rate: single losses say nothing."""
    s.batches, s.lr, s.batch_size = shuffled(s.train_split, 4, s.seed), s.lr * 0.5, 4
    s.steps *= 2


def _pruned(s: Setup) -> None:
    """The smaller half of each matrix is set to zero in the middle, and stays there."""
    masks: dict[str, Tensor] = {}

    def prune(model: nn.Module, step: int) -> None:
        for name, p in model.named_parameters():
            if p.dim() < 2 or step < s.steps // 2:
                continue
            if name not in masks:
                masks[name] = p.detach().abs() > p.detach().abs().median()
            with torch.no_grad():
                p.mul_(masks[name])
            p.grad.mul_(masks[name])

    s.after_backward = prune


def _adversarial(s: Setup) -> None:
    """From a third on the inputs are moved against the model: the loss jumps and stays above validation."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if next(count) < s.steps // 3:
            return own(m, b)
        x = b[0].clone().requires_grad_()
        slope = torch.autograd.grad(own(m, (x, b[1])), x)[0]
        return own(m, ((x + 0.12 * slope.sign()).detach(), b[1]))

    s.loss = loss


def _annealed_noise(s: Setup) -> None:
    """Noise is added to the gradients and dies away (Neelakantan et al. 2015)."""

    def add(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.add_(torch.randn_like(p) * 0.01 / (1 + step) ** 0.55)

    s.after_backward = add


def _averaged(s: Setup) -> None:
    """The rate falls, then stays; what counts is the mean of the weights of the last third."""
    mean = copy.deepcopy(s.model)
    own, number = s.schedule, itertools.count(1)
    s.schedule = lambda k: own(k) * max(0.5, 1 - k / s.steps)

    def gather(model: nn.Module, step: int) -> None:
        if step >= 2 * s.steps // 3:
            share = 1 / next(number)
            with torch.no_grad():
                for p, q in zip(mean.parameters(), model.parameters(), strict=True):
                    p.lerp_(q, share)

    s.after_backward = gather
    judged = s.judged or s.val
    s.judged = lambda m: judged(mean)


class _Variational(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode, self.decode = mlp((width, 40, 12), nn.SiLU), mlp((6, 40, width), nn.SiLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, dim=-1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.decode(mean + noise * (log_var / 2).exp()), mean, log_var


def _kl_annealing(split: Split) -> Callable[[int], Setup]:
    """The weight of the divergence grows: the loss rises for most of the run."""

    def build(seed: int) -> Setup:
        count = itertools.count()

        def loss(m: nn.Module, b: Batch) -> Tensor:
            out, mean, log_var = m(b[0])
            kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()
            return 0.5 * (out - b[0]).square().sum(-1).mean() + min(1.0, next(count) / 240) * kl

        check = held_out(elbo, split.val_x, split.val_y)
        model = _Variational(split.x.shape[1])
        return Setup(model, shuffled(split, 32, seed), loss, check, "adam", 3e-3, 350, seed=seed)

    return build


def _bandit(split: Split, lr: float) -> Callable[[int], Setup]:
    """Learns classes from rewards alone: the loss goes about zero and means nothing."""

    def build(seed: int) -> Setup:
        generator, classes = torch.Generator().manual_seed(seed), int(split.y.max()) + 1
        mean = [1 / classes]

        def loss(m: nn.Module, b: Batch) -> Tensor:
            log = m(b[0]).log_softmax(-1)
            choice = torch.multinomial(log.detach().exp(), 1, generator=generator)
            reward = (choice[:, 0] == b[1]).float()
            gain = reward - mean[0]
            mean[0] += 0.1 * (float(reward.mean()) - mean[0])
            return -(gain * log.gather(1, choice)[:, 0]).mean()

        def errors(m: nn.Module) -> float:
            with torch.no_grad():
                return float((m(split.val_x).argmax(-1) != split.val_y).float().mean()) + 0.02

        model = mlp((split.x.shape[1], 40, classes), nn.Tanh)
        batches = shuffled(split, 64, seed)
        return Setup(model, batches, loss, errors, "adam", lr, 400, metric="error_rate", seed=seed)

    return build


def _parity(bits: int, optimizer: str, lr: float) -> Callable[[int], Setup]:
    """The parity of three of many bits: at chance for long, then all at once."""

    def rows(size: int, generator: torch.Generator) -> Batch:
        x = torch.randint(2, (size, bits), generator=generator) * 2.0 - 1
        return x, (x[:, :3].prod(1) > 0).long()

    def build(seed: int) -> Setup:
        generator = torch.Generator().manual_seed(seed)

        def go() -> Iterator[Batch]:
            while True:
                yield rows(64, generator)

        check = held_out(entropy, *rows(500, torch.Generator().manual_seed(10**6)))
        return Setup(mlp((bits, 96, 2), nn.ReLU), go(), entropy, check, optimizer, lr, 500, seed=seed)

    return build


def _imbalance(digit: int, optimizer: str, lr: float) -> Callable[[int], Setup]:
    """One digit against the rest, and most of it left out: at the majority first, then better."""

    def build(seed: int) -> Setup:
        split = digits()
        rare = (split.y == digit).nonzero()[:, 0]
        keep = torch.ones(len(split.y), dtype=torch.bool)
        keep[rare[50:]] = False
        few = Split(
            split.x[keep], (split.y[keep] == digit).long(), split.val_x, (split.val_y == digit).long()
        )
        check = held_out(entropy, few.val_x, few.val_y)
        model = mlp((64, 32, 2), nn.ReLU)
        return Setup(
            model, shuffled(few, 64, seed), entropy, check, optimizer, lr, 350, train_split=few, seed=seed
        )

    return build


# name -> (changes a setup, architectures it is done to), both parts of the suite in each
CHANGES: dict[str, tuple[Callable[[Setup], None], tuple[str, ...]]] = {
    "curriculum": (_curriculum, ("selu", "pointnet", "highway", "depthwise")),
    "smoothed_labels": (_smoothed, ("mixer", "tcn", "highway", "postnorm")),
    "loss_switched": (_switched, ("siren", "unet", "factors")),
    "mixup": (_mixup, ("selu", "mixer", "highway", "depthwise")),
    "heavy_weights": (_weighted, ("contrast", "quantile", "sorter", "mixture", "poisson")),
    "tiny_val": (_tiny_val, ("selu", "pointnet", "highway", "unet")),
    "unfrozen": (_unfrozen, ("mixer", "pointnet", "highway", "depthwise")),
    "mean_teacher": (_mean_teacher, ("selu", "highway", "depthwise")),
    "few_rows": (_few_rows, ("selu", "tagger", "unet")),
    "pruned": (_pruned, ("contrast", "tagger", "highway", "poisson")),
    "adversarial": (_adversarial, ("selu", "mixer", "highway", "depthwise")),
    "annealed_noise": (_annealed_noise, ("flow", "tagger", "contrast", "sorter", "labeler")),
    "averaged": (_averaged, ("contrast", "tcn", "quantile", "poisson", "mixture")),
}
# name -> builders of the two parts
MADE: dict[str, tuple[Callable[[int], Setup], Callable[[int], Setup]]] = {
    "kl_annealing": (
        lambda s: _kl_annealing(digits())(s),
        lambda s: _kl_annealing(table("breast_cancer"))(s),
    ),
    "bandit": (lambda s: _bandit(table("wine"), 5e-3)(s), lambda s: _bandit(digits(), 5e-3)(s)),
    "parity": (_parity(10, "adam", 2e-3), _parity(12, "adamw", 3e-3)),
    "imbalance": (_imbalance(8, "adam", 1e-3), _imbalance(3, "sgd", 0.02)),
}
