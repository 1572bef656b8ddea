"""The healthy runs: small architectures of many kinds, each with settings under which it trains well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from data import Split, digits, graph, shuffled, source_text, table, token_lines, windows
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass
class Setup:
    """All that makes a run; a fault changes some of it.

    `loss` gets the model and a batch; `val` gives the number by which a run is judged (lower is better).
    """

    model: nn.Module
    batches: Iterator[Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    val: Callable[[nn.Module], float]
    optimizer: str
    lr: float
    steps: int = 300
    batch_size: int = 64
    weight_decay: float = 0.0
    clip: float | None = None
    schedule: Callable[[int], float] = field(default=lambda step: 1.0)
    options: dict[str, Any] = field(default_factory=dict)
    parameters: Callable[[nn.Module], list[Any]] = field(default=lambda m: [p for p in m.parameters()])
    after_optimizer: Callable[[nn.Module], None] = field(default=lambda m: None)
    after_backward: Callable[[nn.Module, int], None] = field(default=lambda m, step: None)
    zeroes: Callable[[int], bool] = field(default=lambda step: True)
    in_eval: bool = False
    # the number by which the run is judged, where it is not the one that is logged, and the name of that
    judged: Callable[[nn.Module], float] | None = None
    metric: str = "val_loss"
    train_split: Split | None = None
    seed: int = 0


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    out = model(batch[0])
    return F.cross_entropy(out.reshape(-1, out.shape[-1]), batch[1].reshape(-1))


def square(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def to_itself(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[0])


def held_out(
    loss: Callable[[nn.Module, Batch], Tensor], x: Tensor, y: Tensor
) -> Callable[[nn.Module], float]:
    def val(model: nn.Module) -> float:
        was = model.training
        model.eval()
        with torch.no_grad():
            value = float(loss(model, (x, y)))
        model.train(was)
        return value

    return val


def mlp(
    sizes: tuple[int, ...], act: type[nn.Module], norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.Linear(a, b))
        if index < len(sizes) - 2:
            layers += ([nn.LayerNorm(b)] if norm else []) + [act()]
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


class Image(nn.Module):
    """Gives rows of 64 pixels their shape back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 8, 8)


def cnn(norm: bool) -> nn.Sequential:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU()]

    return nn.Sequential(
        Image(),
        *block(1, 12),
        *block(12, 12),
        nn.MaxPool2d(2),
        *block(12, 24),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 4, 10),
    )


class Residual(nn.Module):
    """Pre-activation block whose last layer starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.first, self.last = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1), None
        self.last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.relu(self.first(F.relu(self.norm(x)))))


def resnet() -> nn.Sequential:
    return nn.Sequential(
        Image(),
        nn.Conv2d(1, 12, 3, padding=1),
        *(Residual(12) for _ in range(4)),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(96, 24),
            kind(24, 48, batch_first=True),
            nn.Linear(48, 96),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(x))[0])


class Block(nn.Module):
    """A transformer block with functional attention and activation."""

    def __init__(self, width: int, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.causal, self.drop = causal, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.drop(self.out(mixed.transpose(1, 2).reshape(b, t, c)))
        return x + self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(96, 32), nn.Parameter(0.02 * torch.randn(24, 32))
        self.blocks = nn.Sequential(Block(32, True), Block(32, True))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 96)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.place)))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Linear(4, 32), nn.Parameter(0.02 * torch.randn(16, 32))
        self.blocks = nn.Sequential(Block(32, False, 0.1), Block(32, False, 0.1))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        return self.head(self.norm(self.blocks(self.patch(patches) + self.place)).mean(1))


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp((64, 48, 16), nn.ReLU), mlp((8, 48, 64), nn.ReLU)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encode(x).chunk(2, dim=-1)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.decode(mean + noise * (log_var / 2).exp()), mean, log_var


def elbo(model: nn.Module, batch: Batch) -> Tensor:
    out, mean, log_var = model(batch[0])
    kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()
    return 0.5 * (out - batch[0]).square().sum(-1).mean() + kl


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        everything, _ = graph()
        self.register_buffer("matrix", everything[:, :400])
        self.register_buffer("nodes", everything[:, 400:])
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, rows: Tensor) -> Tensor:
        hidden = F.relu(self.first(self.matrix @ self.nodes))
        return (self.matrix @ self.second(hidden))[rows.long()]


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = (
            nn.Embedding(96, 16, padding_idx=0),
            nn.Linear(48, 32),
            nn.Linear(32, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        e = self.embed(x)
        near = torch.cat([e, e.roll(1, 1), e.roll(2, 1)], dim=-1)
        return self.head(F.relu(self.hidden(near)).amax(1))


class LowRank(nn.Module):
    """A frozen layer with a trained update of low rank that starts at zero."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.a.T @ self.b.T


def low_rank() -> nn.Module:
    """A network trained on the first five digits, with low-rank updates and a new head for all ten."""
    split, model = digits(), mlp((64, 48, 48, 10), nn.ReLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    few = split.y < 5
    for x, y in _some(shuffled(Split(split.x[few], split.y[few], split.val_x, split.val_y), 64, 0), 80):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return nn.Sequential(LowRank(model[0]), nn.ReLU(), LowRank(model[2]), nn.ReLU(), nn.Linear(48, 10))


def _some(batches: Iterator[Batch], number: int) -> Iterator[Batch]:
    for _, batch in zip(range(number), batches, strict=False):
        yield batch


class ValueNet(nn.Module):
    """Q-values of a walk on a line; targets come from a copy that is refreshed now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp((4, 32, 32, 2), nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Walk:
    """Replayed transitions of a random walk that pays at one end, with a target network."""

    def __init__(self, model: nn.Module, seed: int, size: int) -> None:
        self.model, self.size, self.count = model, size, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.target = mlp((4, 32, 32, 2), nn.ReLU)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            if self.count % 50 == 0:
                source = self.model.net if isinstance(self.model, ValueNet) else self.model
                self.target.load_state_dict(source.state_dict())
            self.count += 1
            at = torch.rand(self.size, 1, generator=self.generator) * 2 - 1
            action = torch.randint(2, (self.size, 1), generator=self.generator)
            after = at + 0.2 * (2 * action - 1) + 0.05 * torch.randn(self.size, 1, generator=self.generator)
            reward = (after > 0.9).float()
            after = after.clamp(-1, 1)
            with torch.no_grad():
                value = reward + 0.9 * (1 - reward) * self.target(features(after)).amax(1, keepdim=True)
            yield torch.cat([features(at), action.float()], 1), value


def features(at: Tensor) -> Tensor:
    return torch.cat([at, at.square(), torch.sin(3 * at), torch.cos(3 * at)], dim=1)


def temporal(model: nn.Module, batch: Batch) -> Tensor:
    x, value = batch
    return F.smooth_l1_loss(model(x[:, :4]).gather(1, x[:, 4:].long()), value)


def greedy(model: nn.Module) -> float:
    """How far the greedy walker is from the goal on average."""
    at = torch.linspace(-0.95, 0.5, 32)[:, None]
    for _ in range(12):
        with torch.no_grad():
            at = (at + 0.2 * (2 * model(features(at)).argmax(1, keepdim=True) - 1)).clamp(-1, 1)
    return float(1.0 - at.mean()) + 0.01


def _classes(model: nn.Module, split: Split, seed: int, size: int, loss: Any = entropy, **more: Any) -> Setup:
    return Setup(
        model,
        shuffled(split, size, seed),
        loss,
        held_out(loss, split.val_x, split.val_y),
        batch_size=size,
        train_split=split,
        seed=seed,
        **more,
    )


def _language(model: nn.Module, seed: int, **more: Any) -> Setup:
    _, val, _ = source_text()
    rows = torch.arange(0, 24 * 100, 24)[:, None] + torch.arange(25)
    part = val[rows]
    check = held_out(entropy, part[:, :-1], part[:, 1:])
    return Setup(model, windows(16, 24, seed), entropy, check, batch_size=16, seed=seed, **more)


def _walk(seed: int, **more: Any) -> Setup:
    model = ValueNet()
    return Setup(model, iter(Walk(model, seed, 64)), temporal, greedy, seed=seed, **more)


_SGD = {"optimizer": "sgd"}
_ADAM = {"optimizer": "adam"}

# name -> optimizer -> setup of a seed
RUNS: dict[str, dict[str, Callable[[int], Setup]]] = {
    "mlp_relu": {
        "sgd": lambda s: _classes(mlp((64, 48, 48, 10), nn.ReLU), digits(), s, 64, lr=0.05, **_SGD),
        "adam": lambda s: _classes(mlp((64, 48, 48, 10), nn.ReLU), digits(), s, 64, lr=2e-3, **_ADAM),
    },
    "mlp_tanh": {
        "sgd": lambda s: _classes(mlp((64, 40, 40, 40, 10), nn.Tanh), digits(), s, 64, lr=0.05, **_SGD),
        "adam": lambda s: _classes(mlp((64, 40, 40, 40, 10), nn.Tanh), digits(), s, 64, lr=1e-3, **_ADAM),
    },
    "mlp_gelu": {
        "sgd": lambda s: _classes(
            mlp((30, 32, 32, 2), nn.GELU, True), table("breast_cancer"), s, 32, lr=0.02, **_SGD
        ),
        "adam": lambda s: _classes(
            mlp((30, 32, 32, 2), nn.GELU, True), table("breast_cancer"), s, 32, lr=5e-4, **_ADAM
        ),
    },
    "cnn": {
        "sgd": lambda s: _classes(cnn(False), digits(), s, 48, lr=0.05, **_SGD),
        "adam": lambda s: _classes(cnn(False), digits(), s, 48, lr=3e-3, **_ADAM),
    },
    "cnn_bn": {
        "sgd": lambda s: _classes(cnn(True), digits(), s, 48, lr=0.05, **_SGD),
        "adam": lambda s: _classes(cnn(True), digits(), s, 48, lr=2e-3, **_ADAM),
    },
    "resnet": {
        "sgd": lambda s: _classes(resnet(), digits(), s, 48, lr=0.05, steps=200, **_SGD),
        "adam": lambda s: _classes(resnet(), digits(), s, 48, lr=2e-3, steps=200, **_ADAM),
    },
    "lstm": {
        "sgd": lambda s: _language(Recurrent(nn.LSTM), s, lr=1.0, clip=1.0, **_SGD),
        "adam": lambda s: _language(Recurrent(nn.LSTM), s, lr=5e-3, clip=1.0, **_ADAM),
    },
    "gru": {
        "adam": lambda s: _language(Recurrent(nn.GRU), s, lr=5e-3, **_ADAM),
        "rmsprop": lambda s: _language(Recurrent(nn.GRU), s, lr=2e-3, optimizer="rmsprop"),
    },
    "decoder": {
        "adam": lambda s: _language(Decoder(), s, lr=3e-3, schedule=lambda k: min(1, (k + 1) / 30), **_ADAM),
        "adamw": lambda s: _language(
            Decoder(),
            s,
            lr=3e-3,
            optimizer="adamw",
            weight_decay=0.05,
            clip=1.0,
            schedule=lambda k: min(1, (k + 1) / 30) * max(0.05, 1 - k / 300),
        ),
    },
    "vit": {
        "adam": lambda s: _classes(VisionTransformer(), digits(), s, 48, steps=220, lr=2e-3, **_ADAM),
        "adamw": lambda s: _classes(
            VisionTransformer(),
            digits(),
            s,
            48,
            lr=3e-3,
            optimizer="adamw",
            weight_decay=0.05,
            schedule=lambda k: min(1, (k + 1) / 20),
        ),
    },
    "autoencoder": {
        "sgd": lambda s: _classes(
            mlp((64, 32, 8, 32, 64), nn.ReLU), digits(), s, 64, to_itself, lr=0.1, **_SGD
        ),
        "adam": lambda s: _classes(
            mlp((64, 32, 8, 32, 64), nn.ReLU), digits(), s, 64, to_itself, lr=3e-3, **_ADAM
        ),
    },
    "vae": {
        "adam": lambda s: _classes(Variational(), digits(), s, 64, elbo, lr=3e-3, **_ADAM),
        "sgd": lambda s: _classes(Variational(), digits(), s, 64, elbo, lr=2e-3, clip=10.0, **_SGD),
    },
    "gnn": {
        "adam": lambda s: _classes(
            GraphNet(), graph()[1], s, 300, lr=1e-2, steps=150, weight_decay=5e-4, **_ADAM
        ),
        "sgd": lambda s: _classes(GraphNet(), graph()[1], s, 300, lr=0.5, steps=150, **_SGD),
    },
    "bag": {
        "adam": lambda s: _classes(Bag(), token_lines(), s, 64, lr=3e-3, **_ADAM),
        "sgd": lambda s: _classes(Bag(), token_lines(), s, 64, lr=0.2, **_SGD),
    },
    "lora": {
        "adam": lambda s: _classes(low_rank(), digits(), s, 64, lr=3e-3, **_ADAM),
        "sgd": lambda s: _classes(low_rank(), digits(), s, 64, lr=0.05, **_SGD),
    },
    "dqn": {
        "adam": lambda s: _walk(s, lr=2e-3, steps=500, **_ADAM),
        "sgd": lambda s: _walk(s, lr=0.05, steps=500, **_SGD),
    },
    "regression": {
        "adam": lambda s: _classes(
            mlp((10, 32, 32, 1), nn.ReLU, dropout=0.1),
            table("diabetes"),
            s,
            32,
            square,
            lr=1e-3,
            steps=200,
            **_ADAM,
        ),
        "sgd": lambda s: _classes(
            mlp((10, 32, 32, 1), nn.ReLU, dropout=0.1),
            table("diabetes"),
            s,
            32,
            square,
            lr=5e-3,
            steps=200,
            **_SGD,
        ),
    },
}

# Thresholds are tuned on the first only
TUNING = ("mlp_relu", "mlp_tanh", "cnn", "resnet", "lstm", "autoencoder", "bag", "dqn")
TEST = ("mlp_gelu", "cnn_bn", "gru", "decoder", "vit", "vae", "gnn", "lora", "regression")
