"""The fault operators: each spoils one thing of a healthy setup, in up to three severities."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from data import Split, mapped, shuffled
from models import Batch, Setup, elbo, entropy, held_out, square
from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """One operator.

    `causes` are the right answers, the plainest first: where two changes undo a fault alike (a lower rate or
    a tighter clip), both are right. `begins` gives the share of the run that is still sound, by severity.
    """

    name: str
    causes: tuple[str, ...]
    apply: Callable[[Setup, float], None]
    severities: tuple[float, ...] = (1.0,)
    fits: Callable[[Setup], bool] = lambda s: True
    begins: Callable[[float], float] = lambda severity: 0.0


_TOO_HIGH = (
    "lr_too_high",
    "loss_explosion",
    "exploding_gradients",
    "oscillation",
    "loss_nan",
    "slow_divergence",
)
_NOT_LEARNING = ("at_chance", "plateau")


def _is_classes(s: Setup) -> bool:
    return s.loss is entropy


def _is_table(s: Setup) -> bool:
    """Whether the inputs are real numbers that a fault may change."""
    return s.train_split is not None and s.train_split.x.is_floating_point()


def _has_norm(s: Setup) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in s.model.modules())


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.dim() >= 2 and p.requires_grad]


def lr(s: Setup, by: float) -> None:
    s.lr *= by


def lr_jump(s: Setup, by: float) -> None:
    """The rate jumps in the middle, as after a resume with the wrong schedule."""
    before, half = s.schedule, s.steps // 2
    s.schedule = lambda k: before(k) * (by if k >= half else 1.0)


def lr_decays(s: Setup, share: float) -> None:
    before, end = s.schedule, share * s.steps
    s.schedule = lambda k: before(k) * 0.5 * (1 + math.cos(math.pi * min(1.0, k / end))) + 1e-7


def lr_stops(s: Setup, share: float) -> None:
    before, end = s.schedule, share * s.steps
    s.schedule = lambda k: before(k) if k < end else 0.0


def clip_tight(s: Setup, bound: float) -> None:
    s.clip = bound


def momentum(s: Setup, value: float) -> None:
    s.options["momentum"] = value


def epsilon(s: Setup, value: float) -> None:
    s.options["eps"] = value


def decay(s: Setup, value: float) -> None:
    s.weight_decay = value


def flipped(s: Setup, _: float) -> None:
    own = s.loss
    s.loss = lambda m, b: -own(m, b)


def zero_weights(s: Setup, _: float) -> None:
    for p in _weights(s.model):
        nn.init.zeros_(p)


def equal_weights(s: Setup, value: float) -> None:
    for p in _weights(s.model):
        nn.init.constant_(p, value)


def scaled_weights(s: Setup, by: float) -> None:
    with torch.no_grad():
        for p in _weights(s.model):
            p.mul_(by)


def dead_biases(s: Setup, by: float) -> None:
    with torch.no_grad():
        for name, p in s.model.named_parameters():
            if p.dim() == 1 and p.requires_grad and "norm" not in name and p.shape[0] > 10:
                p.sub_(by)


def deep_sigmoid(s: Setup, depth: float) -> None:
    """Many narrow layers with sigmoids in front of the last."""
    assert s.train_split is not None
    width = s.train_split.x.shape[1]
    out = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1].out_features
    layers: list[nn.Module] = []
    for i in range(int(depth)):
        layers += [nn.Linear(width if i == 0 else 24, 24), nn.Sigmoid()]
    s.model = nn.Sequential(*layers, nn.Linear(24, out))


def deep_large(s: Setup, by: float) -> None:
    """Many layers without normalization whose weights are too large."""
    assert s.train_split is not None
    width = s.train_split.x.shape[1]
    out = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1].out_features
    layers: list[nn.Module] = []
    for i in range(8):
        layers += [nn.Linear(width if i == 0 else 24, 24), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=by * math.sqrt(2 / layers[-2].in_features))
    s.model = nn.Sequential(*layers, nn.Linear(24, out))


def no_zero_grad(s: Setup, every: float) -> None:
    s.zeroes = lambda k: every > 1 and k % int(every) == 0


def not_in_optimizer(s: Setup, share: float) -> None:
    """The first part of the layers is forgotten."""
    s.parameters = lambda m: _trainable(m)[int(share * len(_trainable(m))) :]


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def stale_head(s: Setup, _: float) -> None:
    """The last layer is made anew after the optimizer was built: the optimizer keeps the old one's weights."""

    def renew(model: nn.Module) -> None:
        name, layer = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], copy.deepcopy(layer))

    s.after_optimizer = renew


def detached(s: Setup, _: float) -> None:
    """A detach() cuts the graph in the middle."""
    layers = [m for m in s.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.LSTM, nn.GRU))]
    middle = layers[max(1, len(layers) // 2)] if len(layers) > 1 else layers[0]
    middle.register_forward_pre_hook(lambda m, a: (a[0].detach(), *a[1:]))


def copied_weights(s: Setup, _: float) -> None:
    """After each step the weights are put back, as by a reload of a checkpoint inside the loop."""
    saved = {n: p.detach().clone() for n, p in s.model.named_parameters()}

    def restore(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(saved[n])

    s.after_backward = restore


def gradients_lost(s: Setup, _: float) -> None:
    """Gradients are set to zero between backward and step."""

    def lose(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.zero_()

    s.after_backward = lose


def in_eval(s: Setup, _: float) -> None:
    s.in_eval = True


def tiny_batch(s: Setup, size: float) -> None:
    assert s.train_split is not None
    s.batches = shuffled(s.train_split, int(size), s.seed)


def softmax_twice(s: Setup, _: float) -> None:
    s.loss = lambda m, b: F.cross_entropy(
        m(b[0]).softmax(-1).reshape(-1, m(b[0]).shape[-1]), b[1].reshape(-1)
    )


def sigmoid_twice(s: Setup, _: float) -> None:
    def loss(m: nn.Module, b: Batch) -> Tensor:
        out = m(b[0])
        return F.binary_cross_entropy_with_logits(out.sigmoid(), F.one_hot(b[1], out.shape[-1]).float())

    s.loss = loss
    s.val = _val(s, lambda m, b: F.cross_entropy(m(b[0]).sigmoid(), b[1]))


def _val(s: Setup, loss: Callable[[nn.Module, Batch], Tensor]) -> Callable[[nn.Module], float]:
    assert s.train_split is not None
    return held_out(loss, s.train_split.val_x, s.train_split.val_y)


def relu_logits(s: Setup, _: float) -> None:
    s.loss = lambda m, b: F.cross_entropy(F.relu(m(b[0]) - 1.0), b[1])
    s.val = _val(s, s.loss)


def summed(s: Setup, _: float) -> None:
    if s.loss is entropy:
        s.loss = lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction="sum")
    else:
        s.loss = lambda m, b: F.mse_loss(m(b[0]), b[0] if b[1].dtype == torch.long else b[1], reduction="sum")


def random_labels(s: Setup, share: float) -> None:
    generator = torch.Generator().manual_seed(s.seed + 77)

    def change(x: Tensor, y: Tensor) -> Batch:
        bad = torch.rand(len(y), generator=generator) < share
        return x, torch.where(bad, y[torch.randperm(len(y), generator=generator)], y)

    s.batches = mapped(s.batches, change)


def inputs_times(s: Setup, by: float) -> None:
    s.batches = mapped(s.batches, lambda x, y: (x * by, y))
    split = s.train_split
    assert split is not None
    own = s.loss if s.loss in (entropy, square) else entropy
    s.val = held_out(own, split.val_x * by, split.val_y)


def wild_feature(s: Setup, by: float) -> None:
    split = s.train_split
    assert split is not None
    column = int(split.x.std(0).argmax())

    def wild(x: Tensor) -> Tensor:
        return torch.cat([x[:, :column], x[:, column : column + 1] * by, x[:, column + 1 :]], dim=1)

    s.batches = mapped(s.batches, lambda x, y: (wild(x), y))
    s.val = held_out(s.loss, wild(split.val_x), split.val_y)


def zero_inputs(s: Setup, _: float) -> None:
    s.batches = mapped(s.batches, lambda x, y: (torch.zeros_like(x), y))


def same_rows(s: Setup, _: float) -> None:
    """A broadcasting bug repeats the first sample's input."""
    s.batches = mapped(s.batches, lambda x, y: (x[:1].expand_as(x).clone(), y))


def one_class(s: Setup, _: float) -> None:
    s.batches = mapped(s.batches, lambda x, y: (x, torch.zeros_like(y)))


def sorted_classes(s: Setup, _: float) -> None:
    split = s.train_split
    assert split is not None
    order = split.y.argsort(stable=True)

    def go() -> Iterator[Batch]:
        while True:
            for rows in order.split(s.batch_size):
                yield split.x[rows], split.y[rows]

    s.batches = go()


def few_samples(s: Setup, number: float) -> None:
    split = s.train_split
    assert split is not None
    few = Split(split.x[: int(number)], split.y[: int(number)], split.val_x, split.val_y)
    s.batches = shuffled(few, min(s.batch_size, int(number)), s.seed)
    s.steps *= 3


def bad_loss(s: Setup, at: float) -> None:
    """From a step on the loss takes the logarithm of 0."""
    own, count = s.loss, itertools.count()

    def loss(m: nn.Module, b: Batch) -> Tensor:
        value = own(m, b)
        return value + (0 * value).log() if next(count) == int(at * s.steps) else value

    s.loss = loss


def nan_batch(s: Setup, at: float) -> None:
    count = itertools.count()

    def change(x: Tensor, y: Tensor) -> Batch:
        if next(count) == int(at * s.steps):
            x = x.clone()
            x[0] = math.nan
        return x, y

    s.batches = mapped(s.batches, change)


def large_output_bias(s: Setup, by: float) -> None:
    last = [m for m in s.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(by)


def half_weights(s: Setup, by: float) -> None:
    """Weights are rounded to bfloat16 after each step, and the rate is too small to move them."""
    s.lr *= by

    def before(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(p.bfloat16())

    s.after_backward = before


def half_gradients(s: Setup, by: float) -> None:
    """Gradients pass through float16 without a loss scale, where they are too small."""
    own = s.loss
    s.loss = lambda m, b: own(m, b) * by

    def round_(model: nn.Module, step: int) -> None:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.copy_(p.grad.half().float() / by)

    s.after_backward = round_


def dropout(s: Setup, share: float) -> None:
    for module in list(s.model.modules()):
        if isinstance(module, (nn.ReLU, nn.GELU, nn.Tanh)):
            module.register_forward_hook(lambda m, a, out: F.dropout(out, share, training=m.training))


def noise(s: Setup, by: float) -> None:
    """Gradients drown in noise."""

    def add(model: nn.Module, step: int) -> None:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        total = torch.stack([g.norm() for g in grads]).norm()
        num = sum(g.numel() for g in grads)
        for g in grads:
            g.add_(torch.randn_like(g) * by * total / num**0.5)

    s.after_backward = add


def _sgd(s: Setup) -> bool:
    return s.optimizer == "sgd"


def _adam(s: Setup) -> bool:
    return s.optimizer.startswith("adam")


def _plain_table(s: Setup) -> bool:
    return _is_table(s) and isinstance(s.model, nn.Sequential) and s.loss in (entropy, square)


def _classes_table(s: Setup) -> bool:
    return _is_table(s) and _is_classes(s)


def _layered(s: Setup) -> bool:
    return _plain_table(s) and isinstance(s.model[0], nn.Linear)


def _all_trained(s: Setup) -> bool:
    return all(p.requires_grad for p in s.model.parameters())


_INIT = (
    "bad_init",
    "vanishing_gradients",
    "saturation",
    "exploding_gradients",
    "lr_too_high",
    "loss_explosion",
)
_DEAD = ("dead_units", "vanishing_gradients", "bad_init", "class_collapse")
_DATA = ("input_scale", "lr_too_high", "loss_explosion")
_BLIND = ("constant_features", "label_trouble", "class_collapse", *_NOT_LEARNING)

FAULTS = (
    Fault("lr_high", _TOO_HIGH, lr, (20.0, 100.0, 1000.0)),
    Fault("lr_jump", _TOO_HIGH, lr_jump, (30.0, 300.0), begins=lambda by: 0.5),
    Fault("lr_low", ("lr_too_low",), lr, (1e-2, 1e-3, 1e-5)),
    Fault("lr_decays_early", ("lr_decayed_too_early", "lr_too_low"), lr_decays, (0.1, 0.2), begins=float),
    Fault(
        "lr_zero",
        ("lr_zero", "lr_decayed_too_early", "step_changes_nothing"),
        lr_stops,
        (0.0, 0.1),
        begins=float,
    ),
    Fault("clip_tight", ("clipping_too_tight", "lr_too_low"), clip_tight, (1e-2, 1e-3), _sgd),
    Fault("momentum_high", _TOO_HIGH, momentum, (0.999,), _sgd),
    Fault("adam_epsilon", ("adam_epsilon", "lr_too_low"), epsilon, (1.0, 100.0), _adam),
    Fault("decay_strong", ("over_regularized",), decay, (0.3, 3.0), lambda s: s.optimizer in ("sgd", "adam")),
    Fault("sign_flipped", ("loss_explosion", "slow_divergence", "lr_too_high"), flipped),
    Fault(
        "zero_weights",
        ("symmetric_init", "vanishing_gradients", "bad_init"),
        zero_weights,
        (1.0,),
        _all_trained,
    ),
    Fault("equal_weights", ("symmetric_init", "bad_init"), equal_weights, (0.01, 0.1), _all_trained),
    Fault("large_weights", _INIT, scaled_weights, (5.0, 20.0), _all_trained),
    Fault("small_weights", ("bad_init", "vanishing_gradients"), scaled_weights, (0.1, 0.01), _all_trained),
    Fault("dead_biases", _DEAD, dead_biases, (3.0, 30.0), lambda s: _is_classes(s) and _all_trained(s)),
    Fault("deep_sigmoid", ("vanishing_gradients", "saturation"), deep_sigmoid, (6.0, 12.0), _layered),
    Fault("deep_large", ("exploding_gradients", "bad_init", *_TOO_HIGH), deep_large, (2.0, 4.0), _layered),
    Fault("no_zero_grad", ("zero_grad_missing",), no_zero_grad, (0.0,)),
    Fault("not_in_optimizer", ("parameter_not_in_optimizer",), not_in_optimizer, (0.5, 0.9), _all_trained),
    Fault("stale_head", ("stale_optimizer", "parameter_not_in_optimizer"), stale_head, (1.0,), _is_classes),
    Fault("detached", ("detached",), detached, (1.0,), _all_trained),
    Fault("weights_put_back", ("step_changes_nothing", *_NOT_LEARNING), copied_weights),
    Fault("gradients_lost", ("vanishing_gradients", "step_changes_nothing", "detached"), gradients_lost),
    Fault("in_eval", ("wrong_mode",), in_eval, (1.0,), _has_norm),
    Fault("tiny_batch", ("tiny_batch_batchnorm",), tiny_batch, (2.0,), _has_norm),
    Fault("softmax_twice", ("softmax_before_cross_entropy",), softmax_twice, (1.0,), _is_classes),
    Fault("sigmoid_twice", ("sigmoid_before_bce",), sigmoid_twice, (1.0,), _classes_table),
    Fault("relu_logits", ("activated_logits",), relu_logits, (1.0,), _classes_table),
    Fault(
        "summed_loss",
        ("sum_reduction", *_TOO_HIGH),
        summed,
        (1.0,),
        lambda s: _is_table(s) and s.loss is not elbo,
    ),
    Fault("random_labels", ("label_trouble", *_NOT_LEARNING), random_labels, (1.0, 0.7), _classes_table),
    Fault("inputs_large", _DATA, inputs_times, (50.0, 1000.0), _plain_table),
    Fault(
        "inputs_small",
        ("input_scale", "lr_too_low", *_NOT_LEARNING),
        inputs_times,
        (1e-2, 1e-4),
        _plain_table,
    ),
    Fault("wild_feature", _DATA, wild_feature, (100.0, 1e4), _layered),
    Fault("zero_inputs", _BLIND, zero_inputs, (1.0,), _plain_table),
    Fault("same_rows", _BLIND, same_rows, (1.0,), _classes_table),
    Fault("one_class", ("class_collapse", "label_trouble", "overfitting"), one_class, (1.0,), _classes_table),
    Fault(
        "sorted_classes",
        ("oscillation", "label_trouble", "overfitting", "lr_too_high"),
        sorted_classes,
        (1.0,),
        _classes_table,
    ),
    Fault("few_samples", ("overfitting",), few_samples, (16.0, 40.0), _is_table),
    Fault("bad_loss", ("loss_nan",), bad_loss, (0.3,), begins=float),
    Fault("nan_batch", ("loss_nan",), nan_batch, (0.4,), _plain_table, begins=float),
    Fault("output_wild", ("bad_init", *_TOO_HIGH), large_output_bias, (30.0,), _is_classes),
    Fault("weights_rounded", ("step_changes_nothing", "fp16_underflow", "lr_too_low"), half_weights, (0.02,)),
    Fault("gradients_rounded", ("fp16_underflow", "vanishing_gradients"), half_gradients, (1e-6, 1e-9)),
    Fault(
        "gradient_noise",
        ("gradients_altered", "label_trouble", "plateau", "lr_too_high", "at_chance"),
        noise,
        (10.0,),
    ),
    Fault(
        "dropout_strong",
        ("over_regularized", "plateau", "at_chance"),
        dropout,
        (0.95,),
        lambda s: (
            _is_classes(s) and any(isinstance(m, (nn.ReLU, nn.GELU, nn.Tanh)) for m in s.model.modules())
        ),
    ),
)
