"""Fault operators of the twelfth suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from faults import (
    _NOT_LEARNING,
    _TOO_HIGH,
    Fault,
    _all_trained,
    _classes_table,
    _has_norm,
    _is_classes,
    _is_table,
    _sgd,
)
from models import Setup, entropy, square, temporal
from ninth.faults import _RUINED, _SLOW, _SMALL, _UNALIKE, _deep, _flat, _has, _square_table, _words
from ninth.models import evidence
from sixth.models import Energy
from third.models import logistic
from torch import nn

from twelfth import builds, spoils
from twelfth import changes as do

_BOUNDLESS = ("loss_explosion", "slow_divergence", "weight_growth", "lr_too_high", "label_trouble")
_NOTHING = ("step_changes_nothing", "vanishing_gradients", *_NOT_LEARNING)
_INIT = ("bad_init", "saturation", "dead_units", "vanishing_gradients", *_SMALL, *_TOO_HIGH)


def _adam(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw")


def _flat_bare(s: Setup) -> bool:
    """A plain table and a stack without norms that ends as it begins."""
    return (
        _flat(s)
        and isinstance(s.model, nn.Sequential)
        and isinstance(s.model[0], nn.Linear)
        and isinstance(s.model[-1], nn.Linear)
        and not _has(nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)(s)
    )


def _one_class_each(s: Setup) -> bool:
    return _classes_table(s) and s.train_split.y.dim() == 1


def _scored(s: Setup) -> bool:
    return _is_table(s) and s.loss in (entropy, square) and s.judged is None


def _squares(s: Setup) -> bool:
    """Pictures as high as they are wide."""
    return _scored(s) and s.train_split.x.dim() == 4 and s.train_split.x.shape[2] == s.train_split.x.shape[3]


def _modular(s: Setup) -> bool:
    """Layers that are modules of their own and called as such."""
    return _deep(s) and not isinstance(s.model, Energy) and not _has(nn.MultiheadAttention)(s)


def _stack(s: Setup) -> bool:
    return _modular(s) and isinstance(s.model, nn.Sequential)


def _parted(s: Setup) -> bool:
    children = [c for c in s.model.children() if any(True for _ in c.parameters())]
    return len(children) >= 3 and _all_trained(s)


def _falls(s: Setup) -> bool:
    return s.schedule(s.steps - 1) < 0.1


def _open(s: Setup) -> bool:
    """Nothing holds large gradients back."""
    return _sgd(s) and s.clip is None


def _logged(s: Setup) -> bool:
    return s.loss is not temporal and s.judged is None


def _graph(s: Setup) -> bool:
    held = {name for name, _ in s.model.named_buffers()}
    return bool(held & {"matrix", "mean"}) and s.train_split is not None


_STEPS = (
    Fault(
        "one_cycle_peak", ("weight_growth", *_TOO_HIGH), do.one_cycle_peak, (60.0,), begins=lambda by: 0.05
    ),
    Fault("schedule_inverted", ("weight_growth", *_TOO_HIGH), do.schedule_inverted, (0.005,), _falls),
    Fault("lambda_gives_rate", _SLOW, do.lambda_gives_rate, (1.0,), lambda s: s.lr <= 0.05),
    Fault("inverse_time_decay", ("lr_decayed_too_early", *_SLOW), do.inverse_time_decay, (1.0,)),
    Fault(
        "amsgrad_remembers",
        ("second_moment", "adam_epsilon", "loss_spike", "update_ratio", "exploding_gradients", *_SLOW),
        do.amsgrad_remembers,
        (1e4,),
        lambda s: _adam(s) and s.clip is None,
    ),
    Fault(
        "clipped_to_weights",
        ("clipping_too_tight", "gradients_altered", "vanishing_gradients", *_SLOW),
        do.clipped_to_weights,
        (1e-4,),
        _sgd,
    ),
    Fault(
        "buffer_not_cleared",
        ("zero_grad_missing", "gradients_altered", *_TOO_HIGH),
        do.buffer_not_cleared,
    ),
    Fault(
        "grad_scale_compounds",
        ("exploding_gradients", "gradients_altered", "update_ratio", *_TOO_HIGH),
        do.grad_scale_compounds,
        (8.0,),
        lambda s: _open(s) and _modular(s),
    ),
    Fault(
        "equalized_rate",
        ("update_ratio", "bad_init", "weight_growth", *_TOO_HIGH),
        do.equalized_rate,
        (30.0,),
        _modular,
    ),
    Fault(
        "unscaled_twice",
        ("fp16_underflow", "vanishing_gradients", "gradients_altered", "step_changes_nothing", *_SLOW),
        do.unscaled_twice,
        (65536.0,),
        _sgd,
    ),
)
_LOOP = (
    Fault(
        "children_overwritten",
        ("parameter_not_in_optimizer", "frozen", "detached", *_SMALL),
        do.children_overwritten,
        (1.0,),
        _parted,
    ),
    Fault(
        "hooks_zero",
        ("frozen", "vanishing_gradients", "detached", "gradients_altered", "parameter_not_in_optimizer"),
        do.hooks_zero,
        (0.7,),
        _deep,
    ),
    Fault(
        "replaced_midway",
        ("stale_optimizer", "parameter_not_in_optimizer", "frozen", "step_changes_nothing", *_NOT_LEARNING),
        do.replaced_midway,
        (0.05,),
        _stack,
        begins=float,
    ),
    Fault(
        "repeated_for_each_fold",
        ("duplicated_parameters", "update_ratio", *_TOO_HIGH),
        do.repeated_for_each_fold,
        (25.0,),
        _sgd,
    ),
    Fault(
        "best_is_worst",
        ("step_changes_nothing", "loss_spike", "oscillation", *_SMALL),
        do.best_is_worst,
        (1.0,),
        _logged,
        begins=lambda _: 0.1,
    ),
)
_MODEL = (
    Fault(
        "deep_default_init",
        ("vanishing_gradients", "bad_init", "dead_units", *_NOT_LEARNING),
        builds.deep_default_init,
        (14.0,),
        _flat_bare,
    ),
    Fault(
        "max_subtracted",
        ("dead_units", "vanishing_gradients", "constant_features", "bad_init", "class_collapse", *_SMALL),
        builds.max_subtracted,
        (1.0,),
        lambda s: _has(nn.ReLU)(s) and isinstance(s.model, nn.Sequential),
    ),
    Fault(
        "gate_bias_huge",
        ("saturation", "vanishing_gradients", "bad_init", *_SMALL),
        builds.gate_bias_huge,
        (8.0,),
        _has(nn.LSTM, nn.GRU),
    ),
    Fault("biases_drawn", _INIT, builds.biases_drawn, (10.0,), lambda s: _stack(s) and not _has_norm(s)),
    Fault(
        "rank_one_init",
        ("symmetric_init", "bad_init", *_SMALL),
        builds.rank_one_init,
        (1.0,),
        _stack,
    ),
    Fault(
        "pruned_wrong_way",
        ("frozen", "step_changes_nothing", "symmetric_init", "constant_features", *_INIT),
        builds.pruned_wrong_way,
        (0.97,),
        _modular,
    ),
    Fault("dropout_of_rows", ("over_regularized", *_SMALL), builds.dropout_of_rows, (0.5,), _flat_bare),
    Fault(
        "activity_penalty",
        ("over_regularized", "vanishing_gradients", "dead_units", "class_collapse", *_SMALL),
        builds.activity_penalty,
        (1.0,),
        _modular,
    ),
    Fault(
        "norm_sees_raw",
        ("wrong_mode", "tiny_batch_batchnorm", "overfitting", "input_scale"),
        builds.norm_sees_raw,
        (20.0,),
        lambda s: _has_norm(s) and _scored(s),
    ),
    Fault(
        "sigmoid_scores",
        ("activated_logits", "softmax_before_cross_entropy", "saturation", *_SMALL),
        builds.sigmoid_scores,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "sigmoid_of_binary",
        ("sigmoid_before_bce", "activated_logits", "saturation", *_SMALL),
        builds.sigmoid_of_binary,
        (1.0,),
        lambda s: s.loss in (logistic, evidence),
    ),
    Fault(
        "cosine_without_scale",
        ("activated_logits", "softmax_before_cross_entropy", *_SMALL),
        builds.cosine_without_scale,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "neighbors_summed",
        ("input_scale", "exploding_gradients", "saturation", *_TOO_HIGH),
        builds.neighbors_summed,
        (1.0,),
        _graph,
    ),
)
_LOSS = (
    Fault(
        "divergence_by_hand",
        ("loss_nan", "nonfinite_activations"),
        spoils.divergence_by_hand,
        (1.0,),
        _is_classes,
    ),
    Fault("hinge_without_floor", _BOUNDLESS, spoils.hinge_without_floor, (1.0,), _is_classes),
    Fault(
        "first_class_heavy",
        ("class_collapse", "label_trouble", *_SMALL),
        spoils.first_class_heavy,
        (300.0,),
        _is_classes,
    ),
    Fault(
        "weights_are_counts",
        ("sum_reduction", "class_collapse", *_TOO_HIGH),
        spoils.weights_are_counts,
        (1.0,),
        lambda s: _open(s) and _one_class_each(s),
    ),
    Fault(
        "huber_narrow",
        ("vanishing_gradients", "clipping_too_tight", *_SLOW),
        spoils.huber_narrow,
        (1e-3,),
        lambda s: _sgd(s) and _square_table(s),
    ),
    Fault(
        "quantile_left",
        ("label_trouble", "underfitting", "plateau", "overfitting"),
        spoils.quantile_left,
        (0.95,),
        _square_table,
    ),
)
_DATA = (
    Fault(
        "bad_shard",
        ("loss_spike", "input_scale", "label_trouble", *_TOO_HIGH),
        spoils.bad_shard,
        (0.5,),
        lambda s: _open(s) and _flat_bare(s),
        begins=float,
    ),
    Fault("inputs_sorted_alone", (*_RUINED, "overfitting"), spoils.inputs_sorted_alone, (1.0,), _scored),
    Fault("row_ids_kept", ("overfitting", "leak"), spoils.row_ids_kept, (1.0,), _flat_bare),
    Fault(
        "background_by_class", ("leak", "overfitting"), spoils.background_by_class, (2.0,), _one_class_each
    ),
    Fault(
        "batches_of_one_class",
        ("wrong_mode", "tiny_batch_batchnorm", "overfitting", "oscillation", "label_trouble"),
        spoils.batches_of_one_class,
        (1.0,),
        lambda s: _has_norm(s) and _one_class_each(s),
    ),
    Fault(
        "logarithm_forgotten",
        ("input_scale", "loss_spike", "saturation", "dead_units", *_TOO_HIGH),
        spoils.logarithm_forgotten,
        (3.0,),
        _flat_bare,
    ),
    Fault(
        "rows_defaulted",
        ("constant_features", "label_trouble", *_SMALL),
        spoils.rows_defaulted,
        (0.75,),
        _flat,
    ),
    Fault("vocabulary_rebuilt", _UNALIKE, spoils.vocabulary_rebuilt, (1.0,), _words),
    Fault("axes_swapped", _UNALIKE, spoils.axes_swapped, (1.0,), _squares),
)
FAULTS = (*_STEPS, *_LOOP, *_MODEL, *_LOSS, *_DATA)
