"""How the fault operators of the twelfth suite spoil model, initialization and regularization of a run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, Setup
from ninth.changes import layers
from torch import Tensor, nn


def deep_default_init(s: Setup, depth: float) -> None:
    """Many more layers with ReLUs, drawn as PyTorch does it: what goes in shrinks from layer to layer."""
    parts = list(s.model)
    width = parts[-1].in_features
    more = [m for _ in range(int(depth)) for m in (nn.Linear(width, width), nn.ReLU())]
    s.model = nn.Sequential(*parts[:-1], *more, parts[-1])


def max_subtracted(s: Setup, _: float) -> None:
    """The largest value is subtracted as for a stable softmax, and a ReLU comes next."""
    for m in s.model.modules():
        if isinstance(m, nn.ReLU):
            m.register_forward_pre_hook(lambda m, a: (a[0] - a[0].amax(1, keepdim=True),))


def gate_bias_huge(s: Setup, value: float) -> None:
    """The bias that keeps a forget gate open is set on all gates, and is far too large."""
    for m in s.model.modules():
        if isinstance(m, nn.RNNBase):
            for name, p in m.named_parameters():
                if "bias_hh" in name:
                    nn.init.constant_(p, value)


def biases_drawn(s: Setup, std: float) -> None:
    """Biases are drawn at random, and much wider than what comes from the weights."""
    for layer in layers(s.model):
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=std)


def rank_one_init(s: Setup, _: float) -> None:
    """Weights are made of one row and one column: all units look the same way, only more or less strongly."""
    with torch.no_grad():
        for layer in layers(s.model):
            flat = layer.weight.flatten(1)
            rows = torch.rand(len(flat), 1) + 0.5
            layer.weight.copy_(
                (rows * torch.randn(1, flat.shape[1]) * flat.std()).reshape(layer.weight.shape)
            )
            if layer.bias is not None:
                layer.bias.zero_()


def pruned_wrong_way(s: Setup, share: float) -> None:
    """Pruning keeps the smallest weights, not the largest, and holds the rest at zero."""
    for layer in layers(s.model)[:-1]:
        size = layer.weight.detach().abs()
        mask = (size <= size.flatten().quantile(1 - share)).float()

        def hide(m: nn.Module, a: tuple[Tensor, ...], mask: Tensor = mask) -> None:
            m.weight.data.mul_(mask)

        layer.register_forward_pre_hook(hide)


def dropout_of_rows(s: Setup, share: float) -> None:
    """Dropout1d takes a table without channels for one sample, and drops whole rows of it."""
    for layer in layers(s.model)[:-1]:
        layer.register_forward_hook(lambda m, a, out: F.dropout1d(out, share, training=m.training))


def activity_penalty(s: Setup, by: float) -> None:
    """A penalty on the size of the hidden values is a sum over the units with a weight meant for a mean."""
    own = s.loss
    seen: list[Tensor] = []
    for layer in layers(s.model)[:-1]:
        layer.register_forward_hook(lambda m, a, out: seen.append(out) if m.training else None)

    def loss(m: nn.Module, b: Batch) -> Tensor:
        seen.clear()
        value = own(m, b)
        return value + by * sum(out.flatten(1).square().sum(1).mean() for out in seen)

    s.loss = loss


def norm_sees_raw(s: Setup, by: float) -> None:
    """Rows in their raw units go through the model for a picture in the log, in training mode."""
    own = s.loss

    def loss(m: nn.Module, b: Batch) -> Tensor:
        with torch.no_grad():
            m(by * (b[0] + 1))
        return own(m, b)

    s.loss = loss


def sigmoid_scores(s: Setup, _: float) -> None:
    """The model ends in a sigmoid for each class, and the cross entropy takes that for logits."""
    s.model.register_forward_hook(lambda m, a, out: out.sigmoid())


def sigmoid_of_binary(s: Setup, _: float) -> None:
    """A model for yes or no ends in a sigmoid, and its loss takes one as well."""

    def squash(m: nn.Module, a: tuple[Tensor, ...], out: Tensor | tuple[Tensor, ...]) -> object:
        return out.sigmoid() if isinstance(out, Tensor) else (out[0].sigmoid(), *out[1:])

    s.model.register_forward_hook(squash)


def cosine_without_scale(s: Setup, _: float) -> None:
    """Scores are brought to length one, and nothing makes them larger again before the softmax."""
    s.model.register_forward_hook(lambda m, a, out: F.normalize(out, dim=-1))


def neighbors_summed(s: Setup, _: float) -> None:
    """The matrix of the edges is not divided by the number of neighbors."""
    name = "matrix" if hasattr(s.model, "matrix") else "mean"
    setattr(s.model, name, (getattr(s.model, name) > 0).float())
