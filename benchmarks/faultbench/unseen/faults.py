"""Fault operators of the held-out suite, none of them in `faults.py`: what they are, and the right answers."""

from __future__ import annotations

from faults import (
    _NOT_LEARNING,
    _TOO_HIGH,
    Fault,
    _all_trained,
    _has_norm,
    _is_classes,
    _is_table,
    _layered,
    _sgd,
)
from models import Setup, entropy, square
from torch import nn

from unseen import models as nets
from unseen.changes import (
    accumulated_sum,
    bare_log,
    broadcast,
    clip_value,
    decay_decoupled,
    decays_each_batch,
    destroying_augmentation,
    dropped_inputs,
    eval_stays,
    features_shuffled,
    frozen,
    hidden_one,
    labels_shifted,
    layers_of,
    leaky_feature,
    loss_scaled,
    no_warmup,
    norm_momentum,
    not_centered,
    one_layer_ascends,
    one_layer_runs,
    output_bias,
    poisoned_moment,
    rounded,
    same_batch,
    short_moment,
    softmax_of_batch,
    stale_targets,
    targets_wild,
    temperature,
    tokens_zero,
    val_leaks,
)


def _moments(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw", "nadam", "radam")


def _has_embedding(s: Setup) -> bool:
    return any(isinstance(m, nn.Embedding) for m in s.model.modules())


def _square_table(s: Setup) -> bool:
    return s.train_split is not None and s.loss is square


def _single_number(s: Setup) -> bool:
    return _square_table(s) and s.train_split.y.dim() == 2 and s.train_split.y.shape[1] == 1


def _rows_of_classes(s: Setup) -> bool:
    return s.loss is entropy or s.loss is square


def _class_table(s: Setup) -> bool:
    return _is_table(s) and _is_classes(s) and s.train_split.x.dim() == 2


def _flat_table(s: Setup) -> bool:
    return _is_table(s) and s.loss in (entropy, square)


def _biased_output(s: Setup) -> bool:
    linear = [m for m in s.model.modules() if isinstance(m, nn.Linear)]
    return s.loss is entropy and bool(linear) and linear[-1].bias is not None


def _several_layers(s: Setup) -> bool:
    """A cut in the middle of what has no second path leaves something to train."""
    return len(layers_of(s.model)) >= 3 and s.loss is not nets.residual


def _long_warmup(s: Setup) -> bool:
    return s.schedule(0) < 0.2


_RUINED = ("label_trouble", *_NOT_LEARNING)
_WEAK = ("lr_too_low", "vanishing_gradients", *_NOT_LEARNING)
_SMALL = ("underfitting", "over_regularized", *_NOT_LEARNING)

FAULTS = (
    Fault("labels_shifted", (*_RUINED, "overfitting"), labels_shifted, (1.0,), _rows_of_classes),
    Fault("targets_of_next", (*_RUINED, "overfitting"), stale_targets, (1.0,), _rows_of_classes),
    Fault(
        "softmax_of_batch",
        (*_RUINED, "class_collapse", "softmax_before_cross_entropy"),
        softmax_of_batch,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "targets_wild",
        ("input_scale", "lr_too_low", "underfitting", *_NOT_LEARNING, *_TOO_HIGH),
        targets_wild,
        (100.0, 1e4),
        _square_table,
    ),
    Fault("broadcast", (*_RUINED, "class_collapse", "underfitting"), broadcast, (1.0,), _single_number),
    Fault("accumulated_sum", ("sum_reduction", *_TOO_HIGH, "update_ratio"), accumulated_sum, (64.0,), _sgd),
    Fault("same_batch", ("overfitting", "leak"), same_batch, (1.0,), lambda s: s.metric == "val_loss"),
    Fault("no_warmup", ("no_warmup", *_TOO_HIGH), no_warmup, (5.0, 30.0), _long_warmup),
    Fault(
        "decay_decoupled",
        ("over_regularized", "underfitting"),
        decay_decoupled,
        (20.0, 200.0),
        lambda s: s.optimizer in ("adamw", "lion"),
    ),
    Fault(
        "poisoned_moment",
        ("second_moment", "lr_too_low", "loss_spike", "adam_epsilon", "plateau", "update_ratio"),
        poisoned_moment,
        (1e3, 1e6),
        lambda s: _moments(s) and s.clip is None,
    ),
    Fault("short_moment", ("second_moment", *_TOO_HIGH, "update_ratio"), short_moment, (0.3,), _moments),
    Fault(
        "norm_momentum",
        ("wrong_mode", "tiny_batch_batchnorm", "overfitting"),
        norm_momentum,
        (1e-4,),
        _has_norm,
    ),
    Fault("eval_stays", ("wrong_mode", "overfitting"), eval_stays, (1.0,), _has_norm),
    Fault(
        "frozen",
        ("frozen", "parameter_not_in_optimizer", "underfitting", "detached"),
        frozen,
        (0.6, 0.95),
        _all_trained,
    ),
    Fault(
        "tokens_zero",
        ("constant_features", *_RUINED, "class_collapse"),
        tokens_zero,
        (1.0,),
        _has_embedding,
    ),
    Fault(
        "not_centered",
        ("input_scale", "saturation", "dead_units", "bad_init", *_NOT_LEARNING, *_TOO_HIGH),
        not_centered,
        (30.0, 300.0),
        _flat_table,
    ),
    Fault("leaky_feature", ("leak", "overfitting"), leaky_feature, (1.0, 5.0), _class_table),
    Fault("val_leaks", ("leak", "overfitting"), val_leaks, (20.0,), _is_table),
    Fault("clip_value", ("clipping_too_tight", *_WEAK), clip_value, (1e-4, 1e-6), _sgd),
    Fault("loss_scaled", (*_WEAK, "fp16_underflow"), loss_scaled, (1e-3, 1e-6), _sgd),
    Fault(
        "rounded",
        ("detached", "vanishing_gradients", "frozen", "underfitting"),
        rounded,
        (1.0,),
        _several_layers,
    ),
    Fault(
        "bare_log", ("loss_nan", "loss_explosion", "bad_init", "lr_too_high"), bare_log, (100.0,), _is_classes
    ),
    Fault(
        "output_bias",
        ("bad_init", "lr_too_low", "class_collapse", "underfitting", *_NOT_LEARNING),
        output_bias,
        (10.0, 60.0),
        _biased_output,
    ),
    Fault("hidden_one", (*_SMALL, "saturation"), hidden_one, (1.0,), _layered),
    Fault("decays_each_batch", ("lr_decayed_too_early", "lr_too_low"), decays_each_batch, (0.97, 0.85)),
    Fault(
        "features_shuffled",
        (*_RUINED, "constant_features", "overfitting", "underfitting"),
        features_shuffled,
        (1.0,),
        lambda s: _is_table(s) and s.train_split.x[0].numel() > 2,
    ),
    Fault(
        "destroying_noise",
        (*_RUINED, "input_scale", "over_regularized", "underfitting"),
        destroying_augmentation,
        (4.0,),
        _flat_table,
    ),
    Fault(
        "one_layer_ascends",
        (*_TOO_HIGH, "weight_growth", "update_ratio"),
        one_layer_ascends,
        (1.0,),
        _all_trained,
    ),
    Fault("one_layer_runs", ("update_ratio", *_TOO_HIGH, "weight_growth"), one_layer_runs, (100.0,), _sgd),
    Fault(
        "temperature",
        (*_WEAK, "underfitting"),
        temperature,
        (1000.0,),
        lambda s: _is_classes(s) or s.loss is nets.contrast,
    ),
    Fault("dropped_inputs", _SMALL, dropped_inputs, (0.85,), lambda s: len(layers_of(s.model)) >= 2),
)
