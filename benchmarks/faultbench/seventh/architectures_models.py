"""Networks of the seventh suite for sequences, sets, pictures and streams, and the losses that are their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, mlp
from torch import Tensor, nn


class Chain(nn.Module):
    """Scores of tags from a filter over the signs, and of what follows what (Lafferty et al. 2001)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.filter = nn.Embedding(12, 16), nn.Conv1d(16, 24, 3, padding=1)
        self.head, self.follows = nn.Linear(24, 5), nn.Parameter(torch.zeros(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.filter(self.embed(x).transpose(1, 2))).transpose(1, 2))


def chained(model: nn.Module, batch: Batch) -> Tensor:
    """Likelihood of all tags of a row together, per tag."""
    scores, y = model(batch[0]), batch[1]
    right = scores.gather(2, y[..., None]).sum((1, 2)) + model.follows[y[:, :-1], y[:, 1:]].sum(1)
    total = scores[:, 0]
    for at in range(1, scores.shape[1]):
        total = (total[:, :, None] + model.follows).logsumexp(1) + scores[:, at]
    return (total.logsumexp(1) - right).mean() / scores.shape[1]


class Sessions(nn.Module):
    """The state after each item, and vectors of all items (Hidasi et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.cell = nn.Embedding(240, 24), nn.GRU(24, 48, batch_first=True)
        self.head, self.answers = nn.Linear(48, 24), nn.Embedding(240, 24)
        nn.init.normal_(self.answers.weight, std=0.2)
        popular = 1 / (torch.arange(240) + 8.0)
        self.register_buffer("drawn", (popular / popular.sum()).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.items(x))[0])


def sampled(model: nn.Module, batch: Batch) -> Tensor:
    """Softmax over the right item and forty drawn ones, corrected for how often they are drawn."""
    state = model(batch[0])
    right, others = batch[1][:, :10], batch[1][0, 10:]
    first = (state * model.answers(right)).sum(-1, keepdim=True) - model.drawn[right][..., None]
    rest = state @ model.answers(others).T - model.drawn[others]
    rest = rest.masked_fill(others == right[..., None], -1e9)
    return F.cross_entropy(
        torch.cat([first, rest], -1).flatten(0, 1), torch.zeros(right.numel(), dtype=torch.long)
    )


class Taste(nn.Module):
    """How much a user likes items that are known by their features."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(150, 12), mlp((8, 32, 12), nn.ReLU)
        nn.init.normal_(self.users.weight, std=0.3)

    def forward(self, user: Tensor, items: Tensor) -> Tensor:
        return torch.einsum("bd,bnd->bn", self.users(user), self.items(items))


def preferred(model: nn.Module, batch: Batch) -> Tensor:
    """What was bought before what was not (Rendle et al. 2009)."""
    likes = model(*batch)
    return -F.logsigmoid(likes[:, 0] - likes[:, 1]).mean()


class Seller(nn.Module):
    """A policy over five offers and what it expects to get."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh())
        self.policy, self.value = nn.Linear(48, 5), nn.Linear(48, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x)
        return self.policy(hidden).log_softmax(-1), self.value(hidden)[:, 0]


def advantage(model: nn.Module, batch: Batch) -> Tensor:
    """An actor with a critic (Mnih et al. 2016); the chance for its choice comes with the batch."""
    logs, value = model(batch[0])
    pays, noise, chance = batch[1].split((5, 1, 5), 1)
    choice = (logs.detach() - (-chance.log()).log()).argmax(1, keepdim=True)
    reward = (pays.gather(1, choice) + noise)[:, 0]
    better = (reward - value).detach()
    entropy = -(logs.exp() * logs).sum(1).mean()
    return (
        -(better * logs.gather(1, choice)[:, 0]).mean() + (reward - value).square().mean() - 0.005 * entropy
    )


def regret(model: nn.Module, batch: Batch) -> Tensor:
    """What the policy gives away against the best offers."""
    pays = batch[1][:, :5]
    return (pays.amax(1) - (model(batch[0])[0].exp() * pays).sum(1)).mean()


class Lately(nn.Module):
    """Causal attention that knows places only by how far back they are (Press et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.all, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.net, self.head = mlp((32, 64, 32), nn.GELU), nn.Linear(32, 3)
        back = torch.arange(20)[:, None] - torch.arange(20)
        slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None]
        self.register_buffer("bias", torch.where(back < 0, float("-inf"), -slopes * back))

    def forward(self, x: Tensor) -> Tensor:
        state = self.embed(x)
        q, k, v = self.all(self.norms[0](state)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        state = state + self.out(seen.transpose(1, 2).flatten(2))
        return self.head(self.norms[2](state + self.net(self.norms[1](state))))


class Simple(nn.Module):
    """Two layers of a recurrent unit whose gates do not look at the state (Lei et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 32), nn.Linear(48, 6)
        self.layers = nn.ModuleList(nn.Linear(n, 4 * 48) for n in (32, 48))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x)
        for layer in self.layers:
            new, keep, show, straight = layer(rows).chunk(4, -1)
            keep, show = (keep + 1).sigmoid(), show.sigmoid()
            state, states = torch.zeros_like(new[:, 0]), []
            for at in range(rows.shape[1]):
                state = keep[:, at] * state + (1 - keep[:, at]) * new[:, at]
                states.append(state)
            rows = show * torch.tanh(torch.stack(states, 1)) + (1 - show) * straight
        return self.head(rows)


class Unnormalized(nn.Module):
    """An energy and what it lacks to be the logarithm of a density (Gutmann and Hyvarinen 2010)."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.lacks = mlp((2, 48, 48, 1), nn.SiLU), nn.Parameter(torch.tensor(-3.0))

    def forward(self, x: Tensor) -> Tensor:
        noise = -0.5 * (x / 1.6).square().sum(1) - 2 * torch.log(torch.tensor(1.6)) - 1.838
        return self.lacks - self.net(x)[:, 0] - noise


def generator() -> nn.Sequential:
    return mlp((4, 48, 48, 2), nn.LeakyReLU)


def discrepancy(model: nn.Module, batch: Batch) -> Tensor:
    """How far what is made is from what is true, by kernels of four widths (Li et al. 2015)."""
    made, true = model(batch[0]), batch[1]

    def alike(a: Tensor, b: Tensor) -> Tensor:
        away = (a[:, None] - b[None]).square().sum(-1)
        return sum((-away / width).exp().mean() for width in (0.1, 0.5, 2.0, 8.0))

    return alike(made, made) + alike(true, true) - 2 * alike(made, true)


class Facts(nn.Module):
    """Complex vectors of things and relations (Trouillon et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.things, self.relations = nn.Embedding(80, 48), nn.Embedding(5, 48)
        nn.init.normal_(self.things.weight, std=0.3)
        nn.init.normal_(self.relations.weight, std=0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.things(x[:, 0]).chunk(2, -1)
        r, s = self.relations(x[:, 1]).chunk(2, -1)
        turned = torch.cat([a * r - b * s, a * s + b * r], 1)
        return torch.einsum("bd,bnd->bn", turned, self.things(y))


def true_and_false(model: nn.Module, batch: Batch) -> Tensor:
    scores = model(*batch)
    return 0.5 * (F.softplus(-scores[:, 0]).mean() + F.softplus(scores[:, 1:]).mean())


class Stacked(nn.Module):
    """Three blocks, each of which explains a part of the past and takes it away (Oreshkin et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp((40, 64, 64, 48), nn.ReLU) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        future = torch.zeros(len(x), 8)
        for block in self.blocks:
            past, ahead = block(x).split((40, 8), 1)
            x, future = x - past, future + ahead
        return future


def absolute(model: nn.Module, batch: Batch) -> Tensor:
    return F.l1_loss(model(batch[0]), batch[1])


class Perceiver(nn.Module):
    """Six learned vectors look at all points and then at each other (Jaegle et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.asks = mlp((2, 32, 32), nn.GELU), nn.Parameter(0.5 * torch.randn(6, 32))
        self.look, self.mix = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.norms, self.net = nn.ModuleList(nn.LayerNorm(32) for _ in range(3)), mlp((32, 64, 32), nn.GELU)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        points, asks = self.norms[0](self.into(x)), self.asks.expand(len(x), -1, -1)
        state = asks + self.look(asks, points, points, need_weights=False)[0]
        inner = self.norms[1](state)
        state = state + self.mix(inner, inner, inner, need_weights=False)[0]
        return self.head((state + self.net(self.norms[2](state))).mean(1))


class Film(nn.Module):
    """A gated state for each pixel, moved by filters (Ballas et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.new = nn.Conv2d(13, 24, 3, padding=1), nn.Conv2d(13, 12, 3, padding=1)
        self.out = nn.Conv2d(13, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        state, told = x.new_zeros(len(x), 12, 10, 10), []
        for picture in x.unbind(1):
            keep, reset = self.gates(torch.cat([picture, state], 1)).sigmoid().chunk(2, 1)
            new = torch.tanh(self.new(torch.cat([picture, reset * state], 1)))
            state = keep * state + (1 - keep) * new
            told.append(self.out(torch.cat([picture, state], 1)))
        return torch.stack(told, 1)


class WaveNet(nn.Module):
    """Gated causal filters over ever longer distances whose outputs add up (van den Oord et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Conv1d(1, 16, 1)
        self.filters = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**k) for k in range(4))
        self.ahead, self.aside = (nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4)) for _ in range(2))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.into(x.transpose(1, 2))
        total = torch.zeros_like(rows)
        for k, (layer, ahead, aside) in enumerate(zip(self.filters, self.ahead, self.aside, strict=True)):
            shape, gate = layer(F.pad(rows, (2**k, 0))).chunk(2, 1)
            gated = torch.tanh(shape) * gate.sigmoid()
            rows, total = rows + ahead(gated), total + aside(gated)
        return self.out(total).transpose(1, 2)
