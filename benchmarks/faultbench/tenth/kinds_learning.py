"""Ways to learn of the tenth suite: gradients that are made otherwise, copied, changed or chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from data import Split, digits, shuffled
from eighth.habits_data import glyphs, kinds, made, sensors, strokes_net
from fourth.runs import cosine, linear
from models import Batch, Setup, entropy, held_out, mlp, square
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def evolved(seed: int) -> Setup:
    """Gradients from 24 pairs of tries with shaken weights (Salimans et al. 2017), none from the loss itself."""
    g, kept = torch.Generator().manual_seed(seed), {}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        kept["batch"] = b if m.training else kept.get("batch")
        return square(m, b)

    def guess(m: nn.Module, step: int) -> None:
        x, y = kept["batch"]
        one, low, two, high = [p.detach() for p in m.parameters()]
        slopes = [torch.zeros_like(p) for p in (one, low, two, high)]
        shakes = [torch.randn(24, *p.shape, generator=g) for p in (one, low, two, high)]
        ends = []
        for sign in (0.02, -0.02):
            a, c, d, e = (p + sign * s for p, s in zip((one, low, two, high), shakes, strict=True))
            hidden = (x @ a.transpose(1, 2) + c[:, None]).tanh()
            ends.append((hidden @ d.transpose(1, 2) + e[:, None] - y).square().mean((1, 2)))
        for slope, shake, p in zip(slopes, shakes, m.parameters(), strict=True):
            slope.copy_(torch.einsum("k,k...->...", (ends[0] - ends[1]) / 0.04, shake) / 24)
            p.grad.copy_(slope)

    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(1011))
    y = (x[:, :1] + 0.5 * x[:, 1:2]).tanh() + 0.5 * x[:, 2:3] + 0.1 * torch.sin(7 * x[:, 3:])
    split, more = Split(x[600:], y[600:], x[:600], y[:600]), {"after_backward": guess, "steps": 400}
    return made(mlp((4, 12, 1), nn.Tanh), split, seed, loss, lr=2.5e-2, size=64, schedule=linear(400), **more)


class _Other(torch.autograd.Function):
    """A layer whose slopes go back through a matrix that was drawn once."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(x, back)
        return x @ weight.T + bias

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, back = ctx.saved_tensors
        return slope @ back, slope.T @ x, slope.sum(0), None


class _Aligned(nn.Linear):
    """Goes back by another way than it came."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.register_buffer("back", torch.randn(b, a) / a**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return _Other.apply(x, self.weight, self.bias, self.back)


def feedback(seed: int) -> Setup:
    """Errors go back through fixed random matrices (Lillicrap et al. 2016)."""
    net = nn.Sequential(_Aligned(64, 96), nn.Tanh(), _Aligned(96, 96), nn.Tanh(), _Aligned(96, 10))
    return made(net, digits(), seed, lr=8e-3, steps=240, schedule=linear(240))


class _Local(nn.Module):
    """Each layer has its own head, and no slope passes from one layer to the one before."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((16, 64), (64, 64), (64, 64))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(*s), nn.ReLU(), nn.LayerNorm(64)) for s in sizes)
        self.heads = nn.ModuleList(nn.Linear(64, 6) for _ in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        told = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x.detach())
            told.append(head(x))
        return told


def local_heads(seed: int) -> Setup:
    """Layers that each learn by themselves (Belilovsky et al. 2019); validation asks the last one."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        costs = [F.cross_entropy(out, b[1]) for out in m(b[0])]
        return sum(costs) if m.training else costs[-1]

    return made(_Local(), kinds(), seed, loss, lr=1e-2, schedule=cosine(220))


class _Goodness(nn.Module):
    """Two layers that say of a picture with a label on it how well both go together."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(74, 128), nn.Linear(128, 128)))

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        hidden, good = torch.cat([F.normalize(x) * 8, 3.0 * F.one_hot(y, 10)], 1), []
        for layer in self.layers:
            hidden = layer(hidden.detach()).relu()
            good.append(hidden.square().mean(1))
            hidden = hidden / (hidden.norm(dim=1, keepdim=True) + 1e-4) * 11
        return good


def forward_forward(seed: int) -> Setup:
    """Right pairs excite each layer and wrong ones do not (Hinton 2022); validation counts errors."""
    g = torch.Generator().manual_seed(seed)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        wrong = (b[1] + torch.randint(1, 10, b[1].shape, generator=g)) % 10
        right = m(b[0], b[1])
        return sum(
            F.softplus(2 - r).mean() + F.softplus(w - 2).mean()
            for r, w in zip(right, m(b[0], wrong), strict=True)
        )

    def error(m: nn.Module, b: Batch) -> Tensor:
        scores = torch.stack([sum(m(b[0], torch.full_like(b[1], k))) for k in range(10)], 1)
        return (scores.argmax(1) != b[1]).float().mean()

    setup = made(_Goodness(), digits(), seed, loss, lr=6e-3, steps=400, schedule=linear(400))
    setup.val, setup.metric = held_out(error, digits().val_x, digits().val_y), "val_error"
    return setup


def private(seed: int) -> Setup:
    """Each row's slope is cut to one length, and noise is added to their sum (Abadi et al. 2016)."""
    g, kept = torch.Generator().manual_seed(seed), {}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        if m.training:
            kept["rows"] = torch.cat([b[0], torch.ones(len(b[0]), 1)], 1)
            kept["errors"] = out.detach().softmax(1) - F.one_hot(b[1], 10)
        return F.cross_entropy(out, b[1])

    def hide(m: nn.Module, step: int) -> None:
        rows, errors = kept["rows"], kept["errors"]
        length = rows.norm(dim=1) * errors.norm(dim=1)
        slope = (errors * (1 / length.clamp(min=1.0))[:, None]).T @ rows
        slope = (slope + 0.8 * torch.randn(slope.shape, generator=g)) / len(rows)
        m.weight.grad.copy_(slope[:, :-1])
        m.bias.grad.copy_(slope[:, -1])

    more = {"optimizer": "sgd", "after_backward": hide, "steps": 250}
    return made(nn.Linear(64, 10), digits(), seed, loss, lr=0.3, size=128, schedule=cosine(250), **more)


class _Sites(nn.Module):
    """Four copies of one net, each of which learns on its own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp((16, 48, 48, 6), nn.ReLU) for _ in range(4))
        for net in self.nets[1:]:
            net.load_state_dict(self.nets[0].state_dict())

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(4) if self.training else (x,)
        return torch.cat([net(part) for net, part in zip(self.nets, parts, strict=False)])


def federated(seed: int) -> Setup:
    """Four clinics with different kinds of patients; every tenth step their nets are averaged (McMahan 2017)."""
    split = kinds()
    parts = [(split.y % 4 == k) | (torch.arange(len(split.y)) % 8 == k) for k in range(4)]
    draws = [
        shuffled(Split(split.x[p], split.y[p], split.val_x, split.val_y), 32, seed + k)
        for k, p in enumerate(parts)
    ]

    def draw() -> Iterator[Batch]:
        while True:
            xs, ys = zip(*(next(d) for d in draws), strict=True)
            yield torch.cat(xs), torch.cat(ys)

    def average(m: nn.Module, step: int) -> None:
        if step % 10 == 9:
            with torch.no_grad():
                mean = torch.stack([parameters_to_vector(net.parameters()) for net in m.nets]).mean(0)
                for net in m.nets:
                    vector_to_parameters(mean.clone(), net.parameters())

    more = {"optimizer": "sgd", "options": {"momentum": 0.0}, "after_backward": average, "steps": 260}
    setup = made(_Sites(), split, seed, lr=0.6, schedule=linear(260), **more)
    setup.batches = draw()
    return setup


def surgery(seed: int) -> Setup:
    """Two tasks of one net; where their slopes are at odds, each gives up what hurts the other (Yu et al. 2020)."""
    split = sensors()
    other = (split.x[:, 1:2] * split.x[:, 2:3] - split.x[:, 6:7]).tanh()
    other_val = (split.val_x[:, 1:2] * split.val_x[:, 2:3] - split.val_x[:, 6:7]).tanh()
    both = Split(split.x, torch.cat([split.y, other], 1), split.val_x, torch.cat([split.val_y, other_val], 1))
    kept: dict[str, Tensor] = {}

    def loss(m: nn.Module, b: Batch) -> Tensor:
        parts = (m(b[0]) - b[1]).square().mean(0)
        if m.training:
            kept["parts"] = parts
            for k in range(2):
                slopes = torch.autograd.grad(parts[k], list(m.parameters()), retain_graph=True)
                kept[str(k)] = torch.cat([s.flatten() for s in slopes])
        return parts.sum()

    def mend(m: nn.Module, step: int) -> None:
        a, b = kept["0"], kept["1"]
        inner = (a @ b).clamp(max=0.0)
        total = a - inner / (b @ b) * b + b - inner / (a @ a) * a
        for p, part in zip(m.parameters(), total.split([p.numel() for p in m.parameters()]), strict=True):
            p.grad.copy_(part.reshape(p.shape))

    net = mlp((10, 64, 64, 2), nn.ReLU)
    return made(net, both, seed, loss, lr=1.2e-2, steps=300, after_backward=mend, schedule=cosine(300))


def on_a_sphere(seed: int) -> Setup:
    """Rows of all matrices have length one after each step (Loshchilov et al. 2024); learned scales do the rest."""

    class Scaled(nn.Module):
        def __init__(self, width: int, start: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((width,), start))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    net = nn.Sequential(
        nn.Linear(16, 96, bias=False), Scaled(96, 1.5), nn.SiLU(), nn.Linear(96, 96, bias=False), Scaled(96, 1.5),
        nn.SiLU(), nn.Linear(96, 6, bias=False), Scaled(6, 1.5),
    )  # fmt: skip

    def normed(m: nn.Module, step: int = 0) -> None:
        with torch.no_grad():
            for p in m.parameters():
                if p.ndim == 2:
                    p.div_(p.norm(dim=1, keepdim=True))

    normed(net)
    return made(net, kinds(), seed, lr=2e-2, after_backward=normed, schedule=cosine(220))


class _Gates(nn.Module):
    """Inputs behind gates that are exactly open or shut for most draws."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.net = nn.Parameter(torch.full((40,), 2.0)), mlp((40, 64, 64, 1), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        score = self.open.expand_as(x)
        if self.training:
            u = torch.rand_like(x).clamp(1e-4, 1 - 1e-4)
            score = (score + u.log() - (1 - u).log()) / 0.66
        return self.net(x * (1.2 * score.sigmoid() - 0.1).clamp(0, 1))


def shut_gates(seed: int) -> Setup:
    """Thirty of forty columns mean nothing: gates close for a price (Louizos et al. 2018), all in training."""
    split, g = sensors(), torch.Generator().manual_seed(1013)
    x, val_x = (torch.cat([a, torch.randn(len(a), 30, generator=g)], 1) for a in (split.x, split.val_x))

    def loss(m: nn.Module, b: Batch) -> Tensor:
        price = 0.02 * (m.open + 1.58).sigmoid().sum() if m.training else 0.0
        return square(m, b) + price

    many = Split(x, split.y, val_x, split.val_y)
    return made(_Gates(), many, seed, loss, lr=1.5e-2, steps=400, schedule=linear(400))


class _Two(nn.Module):
    """Two nets that learn from one another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = strokes_net(), strokes_net()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.two(x)


def co_teaching(seed: int) -> Setup:
    """A quarter of the labels is wrong; each net learns what the other finds likely (Han et al. 2018)."""
    split, g, count = glyphs(), torch.Generator().manual_seed(1012), [0]
    wrong = torch.rand(len(split.y), generator=g) < 0.25
    labels = torch.where(wrong, torch.randint(6, split.y.shape, generator=g), split.y)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        one, two = (F.cross_entropy(out, b[1], reduction="none") for out in m(b[0]))
        if not m.training:
            return (one.mean() + two.mean()) / 2
        count[0] += 1
        keep = round(len(one) * (1 - 0.22 * min(1.0, count[0] / 80)))
        return one[two.detach().argsort()[:keep]].mean() + two[one.detach().argsort()[:keep]].mean()

    noisy = Split(split.x, labels, split.val_x, split.val_y)
    return made(_Two(), noisy, seed, loss, lr=1e-2, steps=220, schedule=cosine(220))


def sure_ones(seed: int) -> Setup:
    """120 labels, and of the rest what the net is sure of: shifted pictures have to agree (Sohn et al. 2020)."""
    split, g = digits(), torch.Generator().manual_seed(seed)
    known = torch.cat([(split.y == k).nonzero()[:12, 0] for k in range(10)])

    def loss(m: nn.Module, b: Batch) -> Tensor:
        if not m.training:
            return entropy(m, b)
        rows = known[torch.randint(len(known), (32,), generator=g)]
        with torch.no_grad():
            sure, told = m(b[0]).softmax(1).max(1)
        mask = torch.rand(b[0].shape, generator=g) > 0.2
        moved = b[0] * mask + 0.5 * torch.randn(b[0].shape, generator=g)
        agree = F.cross_entropy(m(moved), told, reduction="none") * (sure > 0.9)
        light = split.x[rows] + 0.2 * torch.randn(32, 64, generator=g)
        return F.cross_entropy(m(light), split.y[rows]) + agree.mean()

    return made(mlp((64, 96, 96, 10), nn.ReLU), split, seed, loss, lr=4e-3, steps=300, schedule=cosine(300))


MADE: dict[str, Callable[[int], Setup]] = {
    f.__name__: f
    for f in (
        evolved,
        feedback,
        local_heads,
        forward_forward,
        private,
        federated,
        surgery,
        on_a_sphere,
        shut_gates,
        co_teaching,
        sure_ones,
    )
}
