"""Training set-ups in which nothing is wrong, of very different kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Setup(NamedTuple):
    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    batch: Any
    optimizer: torch.optim.Optimizer


def adam(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def blobs(num: int = 64, size: int = 12, classes: int = 5) -> tuple[Tensor, Tensor]:
    y = torch.randint(classes, (num,))
    centers = torch.randn(classes, size)
    return centers[y] + 0.5 * torch.randn(num, size), y


def images(num: int = 32, size: int = 8) -> tuple[Tensor, Tensor]:
    y = torch.randint(4, (num,))
    x = 0.3 * torch.rand(num, 1, size, size)
    half = size // 2
    for i, label in enumerate(y.tolist()):
        x[i, 0, half * (label // 2) :, half * (label % 2) :][:half, :half] += 0.6
    return x, y


def mlp() -> Setup:
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    return Setup(model, F.cross_entropy, blobs(), adam(model))


def tanh_mlp_with_sgd() -> Setup:
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5))
    return Setup(model, nn.CrossEntropyLoss(), blobs(), sgd(model))


def batchnorm_cnn() -> Setup:
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 4)),
    )
    return Setup(model, lambda m, b: F.cross_entropy(m(b[0]), b[1]), images(), sgd(model))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(h)))


def zero_init_resnet() -> Setup:
    blocks = [Block(8) for _ in range(4)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), *blocks, *head)
    return Setup(model, F.cross_entropy, images(), sgd(model))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int = 20, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(16, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        num = tokens.shape[1]
        x = self.tokens(tokens) + self.places(torch.arange(num))
        mask = nn.Transformer.generate_square_subsequent_mask(num)
        return self.head(self.norm(self.layers(x, mask=mask, is_causal=True)))


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def language_model() -> Setup:
    start, stride = torch.randint(20, (16, 1)), torch.randint(1, 4, (16, 1))
    tokens = (start + stride * torch.arange(13)) % 20
    model = LanguageModel()
    return Setup(model, next_token, tokens, torch.optim.AdamW(model.parameters(), lr=1e-3))


def language_model_of_noise() -> Setup:
    model = LanguageModel(dropout=0.0)
    return Setup(model, next_token, torch.randint(20, (16, 13)), adam(model, 3e-4))


def autoencoder() -> Setup:
    model = nn.Sequential(
        *(
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.ReLU(),
            nn.Linear(24, 64),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        )
    )
    return Setup(model, lambda m, x: F.mse_loss(m(x), x), images()[0], adam(model))


class LastState(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 24, num_layers=2, dropout=0.1, batch_first=batch_first)
        self.head = nn.Linear(24, 2)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1] if self.batch_first else states[-1])


def lstm() -> Setup:
    x = torch.randn(32, 10, 3)
    model = LastState()
    return Setup(model, F.cross_entropy, (x, (x[:, :, 0].sum(1) > 0).long()), adam(model, 3e-3))


def lstm_with_time_first() -> Setup:
    x = torch.randn(10, 32, 3)
    model = LastState(batch_first=False)
    return Setup(model, F.cross_entropy, (x, (x[:, :, 0].sum(0) > 0).long()), adam(model, 3e-3))


def regression() -> Setup:
    x = torch.randn(64, 6)
    y = (x @ torch.randn(6, 1)).sin() + 0.1 * torch.randn(64, 1)
    model = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 1))
    return Setup(model, F.mse_loss, (x, y), adam(model))


def regression_by_hand() -> Setup:
    x = torch.randn(64, 6)
    model = nn.Sequential(nn.Linear(6, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))
    return Setup(
        model, lambda m, b: (m(b["x"]) - b["y"]).pow(2).mean(), {"x": x, "y": 2 + x.sum(1)}, adam(model)
    )


def linear_regression() -> Setup:
    x = torch.randn(50, 5)
    model = nn.Linear(5, 1)
    return Setup(model, F.mse_loss, (x, x @ torch.ones(5, 1)), torch.optim.SGD(model.parameters(), lr=0.1))


def multi_label() -> Setup:
    x = torch.randn(64, 10)
    y = (x @ torch.randn(10, 6) > 0.5).float()
    model = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 6))
    return Setup(model, F.binary_cross_entropy_with_logits, (x, y), adam(model))


def segmentation() -> Setup:
    x, _ = images()
    y = (x[:, 0] > 0.5).long() + (x[:, 0] > 0.7).long()
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)),
        *(nn.ReLU(), nn.Conv2d(12, 3, 1)),
    )
    return Setup(model, F.cross_entropy, (x, y), adam(model))


class VariationalAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def negative_bound(model: nn.Module, x: Tensor) -> Tensor:
    logits, mean, log_variance = model(x)
    fit = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum")
    return fit - 0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum()


def variational_autoencoder() -> Setup:
    model = VariationalAutoencoder()
    return Setup(model, negative_bound, images()[0].clamp(0, 1), adam(model))


class FrozenBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.backbone.requires_grad_(False)
        self.head = nn.Linear(64, 5)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def frozen_backbone_and_zero_head() -> Setup:
    model = FrozenBackbone()
    return Setup(model, F.cross_entropy, blobs(), adam(model, 1e-2))


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.last(adjacency @ F.relu(self.first(adjacency @ x)))


def graph_network() -> Setup:
    adjacency = (torch.rand(40, 40) < 0.1).float() + torch.eye(40)
    adjacency = adjacency / adjacency.sum(1, keepdim=True)
    x = torch.randn(40, 6)
    y = (adjacency @ x)[:, :3].argmax(1)
    model = GraphNetwork()
    return Setup(model, F.cross_entropy, ((x, adjacency), y), adam(model, 1e-2))


def label_smoothing_and_two_heads() -> Setup:
    model = nn.Sequential(nn.Linear(12, 48), nn.ELU(), nn.Linear(48, 6))
    x, y = blobs()

    def loss_fn(m: nn.Module, batch: Any) -> Tensor:
        out = m(batch[0])
        first = F.cross_entropy(out[:, :5], batch[1], label_smoothing=0.1)
        return first + 0.1 * F.smooth_l1_loss(out[:, 5], batch[0][:, 0])

    return Setup(model, loss_fn, (x, y), torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1))


def deep_residual_mlp() -> Setup:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.two(F.gelu(self.one(self.norm(x))))

    model = nn.Sequential(
        nn.Linear(12, 24), *(Residual() for _ in range(12)), nn.LayerNorm(24), nn.Linear(24, 5)
    )
    return Setup(model, F.cross_entropy, blobs(), adam(model))


def bag_of_words() -> Setup:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.EmbeddingBag(50, 16, mode="mean"), nn.Linear(16, 3)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.words(words))

    words = torch.randint(50, (48, 7))
    model = Bag()
    return Setup(model, F.cross_entropy, (words, words[:, 0] % 3), adam(model, 1e-2))


HEALTHY = [
    *(mlp, tanh_mlp_with_sgd, batchnorm_cnn, zero_init_resnet, language_model, language_model_of_noise),
    *(
        autoencoder,
        lstm,
        lstm_with_time_first,
        regression,
        regression_by_hand,
        linear_regression,
        multi_label,
    ),
    *(segmentation, variational_autoencoder, frozen_backbone_and_zero_head, graph_network),
    *(label_smoothing_and_two_heads, deep_residual_mlp, bag_of_words),
]
