"""Training set-ups with one thing wrong each, and the check that must tell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from prepare.healthy import Setup, adam, blobs, images, sgd
from torch import Tensor, nn


def classifier(*layers: nn.Module, head: int = 5, size: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, head), *layers)


def of(model: nn.Module, batch: Any = None, loss_fn: Callable[..., Tensor] = F.cross_entropy) -> Setup:
    return Setup(model, loss_fn, blobs() if batch is None else batch, adam(model))


def softmax_before_cross_entropy() -> Setup:
    return of(classifier(nn.Softmax(1)))


def softmax_by_hand_before_cross_entropy() -> Setup:
    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    class ByHand(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            e = (x - x.amax(1, keepdim=True)).exp()
            return e / e.sum(1, keepdim=True)

    return of(classifier(ByHand()), loss_fn=loss_fn)


def log_softmax_before_cross_entropy() -> Setup:
    return of(classifier(nn.LogSoftmax(1)))


def raw_output_into_nll() -> Setup:
    return of(classifier(), loss_fn=F.nll_loss)


def log_softmax_over_the_batch() -> Setup:
    return of(classifier(nn.LogSoftmax(0)), loss_fn=F.nll_loss)


def relu_on_logits() -> Setup:
    return of(classifier(nn.ReLU()))


def sigmoid_before_bce_with_logits() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(nn.Sigmoid()), (x, (x[:, :5] > 0).float()), F.binary_cross_entropy_with_logits)


def relu_on_a_regression() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(nn.ReLU(), head=1), (x, x[:, :1]), F.mse_loss)


def tanh_on_targets_beyond_it() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(nn.Tanh(), head=1), (x, 3 * x[:, :1]), lambda m, b: (m(b[0]) - b[1]).square().mean())


def one_class_cross_entropy() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(head=1), (x, torch.zeros(64, dtype=torch.long)))


def log_of_softmax() -> Setup:
    return of(classifier(), loss_fn=lambda m, b: F.nll_loss(m(b[0]).softmax(1).log(), b[1]))


def broadcast_loss() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(head=1), (x, x[:, 0]), lambda m, b: (m(b[0]) - b[1]).pow(2).mean())


def summed_loss_with_sgd() -> Setup:
    model = classifier()
    return Setup(model, nn.CrossEntropyLoss(reduction="sum"), blobs(), sgd(model, 1e-4))


def wild_last_layer() -> Setup:
    model = classifier()
    with torch.no_grad():
        model[2].weight.mul_(40)
    return of(model)


def targets_far_from_zero() -> Setup:
    x = torch.randn(64, 12)
    return of(classifier(head=1), (x, 300 + x[:, :1]), F.mse_loss)


def missing_from_the_optimizer() -> Setup:
    model = classifier()
    return Setup(model, F.cross_entropy, blobs(), torch.optim.SGD(model[2].parameters(), lr=0.1))


def stale_optimizer() -> Setup:
    model = classifier()
    optimizer = adam(model)
    model[2] = nn.Linear(32, 5)
    return Setup(model, F.cross_entropy, blobs(), optimizer)


def optimizer_of_a_copy() -> Setup:
    return Setup(classifier(), F.cross_entropy, blobs(), adam(classifier()))


def zero_learning_rate() -> Setup:
    model = classifier()
    return Setup(model, F.cross_entropy, blobs(), sgd(model, 0.0))


def huge_learning_rate() -> Setup:
    model = classifier()
    return Setup(model, F.cross_entropy, blobs(), torch.optim.SGD(model.parameters(), lr=100.0))


def tiny_learning_rate() -> Setup:
    model = classifier()
    return Setup(model, F.cross_entropy, blobs(), torch.optim.SGD(model.parameters(), lr=1e-8))


def underflowing_epsilon() -> Setup:
    model = classifier().to(torch.bfloat16)
    x, y = blobs()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-46)
    return Setup(model, F.cross_entropy, (x.bfloat16(), y), optimizer)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.spare = classifier(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)).detach())


def unused_layer() -> Setup:
    return of(Unused())


def detached_layer() -> Setup:
    return of(Detached())


def all_frozen() -> Setup:
    model = classifier().requires_grad_(False)
    x, y = blobs()
    return Setup(model, F.cross_entropy, (x.requires_grad_(), y), adam(model))


class Leaking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        return self.last(h - h.mean(0))


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x * 0)))


def leak_over_the_batch() -> Setup:
    return of(Leaking())


def inputs_ignored() -> Setup:
    return of(Blind())


def labels_ignored() -> Setup:
    return of(classifier(head=12), None, lambda m, b: F.mse_loss(m(b[0]), b[0]) + 0.0 * b[1].sum())


def raw_bytes() -> Setup:
    x, y = images()
    return of(nn.Sequential(nn.Flatten(), *classifier(head=4, size=64)), (255 * x, y))


def features_of_very_different_scale() -> Setup:
    x, y = blobs()
    return of(classifier(), (x * torch.tensor([1e-4] + [1.0] * 11), y))


def constant_feature() -> Setup:
    x, y = blobs()
    x[:, 3] = 5.0
    return of(classifier(), (x, y))


def same_samples() -> Setup:
    x, y = blobs()
    return of(classifier(), (x[:1].repeat(64, 1), y))


def nan_in_the_data() -> Setup:
    x, y = blobs()
    x[3, 2] = torch.nan
    return of(classifier(), (x, y))


def nan_in_a_weight() -> Setup:
    model = classifier()
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    return of(model)


def equal_labels() -> Setup:
    x, _ = blobs()
    return of(classifier(), (x, torch.full((64,), 2)))


def deep(activation: Callable[[], nn.Module], scale: float, depth: int = 10) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(12, 32)]
    for _ in range(depth):
        layers += [activation(), nn.Linear(32, 32)]
    model = nn.Sequential(*layers, activation(), nn.Linear(32, 5))
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(scale)
    return model


def deep_sigmoid() -> Setup:
    return of(deep(nn.Sigmoid, 1.0, 10))


def weights_too_large() -> Setup:
    return of(deep(nn.ReLU, 12.0))


def weights_too_small() -> Setup:
    return of(deep(nn.ReLU, 0.3))


def equal_units() -> Setup:
    model = classifier()
    nn.init.constant_(model[0].weight, 0.1)
    return of(model)


def dead_layer() -> Setup:
    model = classifier()
    nn.init.constant_(model[0].bias, -100.0)
    return of(model)


def tiny_batches_of_batchnorm() -> Setup:
    model = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5))
    return of(model, blobs(2))


BROKEN: dict[Callable[[], Setup], str] = {
    softmax_before_cross_entropy: "loss and activation",
    softmax_by_hand_before_cross_entropy: "loss and activation",
    log_softmax_before_cross_entropy: "loss and activation",
    raw_output_into_nll: "loss and activation",
    log_softmax_over_the_batch: "loss and activation",
    relu_on_logits: "loss and activation",
    sigmoid_before_bce_with_logits: "loss and activation",
    relu_on_a_regression: "loss and activation",
    tanh_on_targets_beyond_it: "loss and activation",
    one_class_cross_entropy: "loss and activation",
    log_of_softmax: "stable forms",
    broadcast_loss: "shapes of the loss",
    summed_loss_with_sgd: "reduction",
    wild_last_layer: "initial loss",
    targets_far_from_zero: "initial loss",
    missing_from_the_optimizer: "optimizer wiring",
    stale_optimizer: "optimizer wiring",
    optimizer_of_a_copy: "optimizer wiring",
    zero_learning_rate: "optimizer wiring",
    huge_learning_rate: "learning rate",
    tiny_learning_rate: "learning rate",
    underflowing_epsilon: "number format",
    unused_layer: "parameters used",
    detached_layer: "parameters used",
    all_frozen: "parameters used",
    leak_over_the_batch: "batch independence",
    inputs_ignored: "zeroed-input control",
    labels_ignored: "shuffled-label control",
    raw_bytes: "input scale",
    features_of_very_different_scale: "input scale",
    constant_feature: "constant features",
    same_samples: "constant features",
    nan_in_the_data: "finite data",
    nan_in_a_weight: "finite data",
    equal_labels: "targets",
    deep_sigmoid: "backward gain",
    weights_too_large: "forward gain",
    weights_too_small: "forward gain",
    equal_units: "symmetry",
    dead_layer: "one-batch overfit",
    tiny_batches_of_batchnorm: "normalization",
}
