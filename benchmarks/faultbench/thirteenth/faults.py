"""Fault operators of the thirteenth suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from faults import _NOT_LEARNING, _TOO_HIGH, Fault, _all_trained, _has_norm, _is_classes, _is_table, _sgd
from models import Setup, entropy, square, temporal, to_itself
from ninth.faults import _RUINED, _SLOW, _SMALL, _deep, _flat, _has, _square_table, _words
from third.changes import activations
from torch import nn
from twelfth.faults import _BOUNDLESS, _INIT, _flat_bare, _one_class_each, _open, _stack

from thirteenth import builds, spoils
from thirteenth import changes as do

_NOTHING = ("step_changes_nothing", "vanishing_gradients", *_NOT_LEARNING)
_BLIND = ("constant_features", *_SMALL)


def _plain_adam(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw")


def _plain(s: Setup) -> bool:
    return s.loss in (entropy, square)


def _activated(s: Setup) -> bool:
    return bool(activations(s.model)) and _all_trained(s) and isinstance(s.model, nn.Sequential)


def _normed(s: Setup) -> bool:
    return _has(*builds.NORMS)(s)


def _warmed(s: Setup) -> bool:
    return s.schedule(0) < 0.2


def _mixed(s: Setup) -> bool:
    """Layers of other kinds beside linear ones."""
    others = (nn.Conv1d, nn.Conv2d, nn.RNNBase)
    return _all_trained(s) and _has(nn.Linear)(s) and _has(*others)(s)


def _biased(s: Setup) -> bool:
    return _all_trained(s) and any("weight" not in name for name, _ in s.model.named_parameters())


def _linear_stack(s: Setup) -> bool:
    return _stack(s) and not _has(nn.Conv1d, nn.Conv2d, nn.RNNBase)(s)


def _undropped(s: Setup) -> bool:
    """Nothing by chance in it that would tell copies apart."""
    return _flat_bare(s) and _all_trained(s) and not _has(nn.Dropout)(s)


def _placed(s: Setup) -> bool:
    return isinstance(getattr(s.model, "place", None), nn.Parameter)


def _several_classes(s: Setup) -> bool:
    if not _is_classes(s) or s.train_split is None:
        return False
    return int(s.train_split.y.max()) > 1 and int(s.train_split.y.min()) >= 0


def _labelled_words(s: Setup) -> bool:
    return _words(s) and s.train_split.y.dim() == 1


def _labelled(s: Setup) -> bool:
    return _is_classes(s) and s.train_split is not None and s.train_split.y.dim() == 1


def _rows_told(s: Setup) -> bool:
    return _square_table(s) or _one_class_each(s)


def _many_outputs(s: Setup) -> bool:
    if s.train_split is None or s.loss not in (square, to_itself):
        return False
    return (s.train_split.x if s.loss is to_itself else s.train_split.y)[0].numel() >= 8


def _drawn_out(s: Setup) -> bool:
    """A table, or series of moments, with something to tell apart in its columns."""
    return _is_table(s) and s.train_split.x.dim() in (2, 3) and s.judged is None and _plain(s)


_STEPS = (
    Fault(
        "clip_upside_down",
        ("gradients_altered", "exploding_gradients", *_TOO_HIGH),
        do.clip_upside_down,
        (0.02,),
        _open,
    ),
    Fault("lion_as_sgd", ("update_ratio", "weight_growth", *_TOO_HIGH), do.lion_as_sgd, (1.0,), _sgd),
    Fault(
        "adagrad_after_adam",
        (*_SLOW, "second_moment", "lr_decayed_too_early"),
        do.adagrad_after_adam,
        (1.0,),
        _plain_adam,
    ),
    Fault(
        "polynomial_power_high",
        ("lr_decayed_too_early", "lr_zero", *_SLOW),
        do.polynomial_power_high,
        (60.0,),
    ),
    Fault(
        "rmsprop_memory_inverted",
        ("second_moment", "update_ratio", *_TOO_HIGH),
        do.rmsprop_memory_inverted,
        (0.01,),
        _plain_adam,
    ),
    Fault(
        "root_without_warmup",
        ("no_warmup", "update_ratio", "dead_units", "saturation", "weight_growth", *_TOO_HIGH),
        do.root_without_warmup,
        (30.0,),
        _warmed,
    ),
    Fault(
        "layer_decay_inverted",
        ("update_ratio", "gradients_altered", "weight_growth", "dead_units", "saturation", *_TOO_HIGH),
        do.layer_decay_inverted,
        (8.0,),
        lambda s: _open(s) and _deep(s) and not _normed(s),
    ),
    Fault(
        "clip_by_sum_of_sizes",
        ("clipping_too_tight", "gradients_altered", *_SLOW),
        do.clip_by_sum_of_sizes,
        (0.1,),
        _sgd,
    ),
    Fault(
        "replicas_summed",
        ("weight_growth", "loss_spike", "step_changes_nothing", *_TOO_HIGH),
        do.replicas_summed,
        (5.0,),
        lambda s: not _has_norm(s),
        begins=lambda _: 0.19,
    ),
)
_LOOP = (
    Fault(
        "gradients_delayed",
        ("gradients_altered", *_TOO_HIGH),
        do.gradients_delayed,
        (20.0,),
        _all_trained,
    ),
    Fault(
        "saliency_left_over",
        ("loss_spike", "gradients_altered", "zero_grad_missing", *_TOO_HIGH),
        do.saliency_left_over,
        (30.0,),
        lambda s: _open(s) and _plain(s),
        begins=lambda _: 0.1,
    ),
    Fault(
        "optimizers_pile_up",
        ("duplicated_parameters", "update_ratio", *_TOO_HIGH),
        do.optimizers_pile_up,
        (8.0,),
        lambda s: s.optimizer in ("sgd", "adam", "adamw"),
        begins=lambda _: 0.05,
    ),
    Fault(
        "vectors_not_zeroed",
        ("zero_grad_missing", "update_ratio", *_TOO_HIGH),
        do.vectors_not_zeroed,
        (1.0,),
        _open,
    ),
    Fault(
        "norm_overflows_in_half",
        ("gradients_altered", "clipping_too_tight", "fp16_underflow", "loss_scale_collapse", *_NOTHING),
        do.norm_overflows_in_half,
        (65536.0,),
    ),
    Fault(
        "clip_taken_for_overflow",
        ("loss_scale_collapse", "fp16_underflow", "gradients_altered", *_NOTHING),
        do.clip_taken_for_overflow,
        (0.05,),
    ),
    Fault(
        "scores_in_half",
        ("fp16_underflow", "adam_epsilon", *_NOTHING, *_SLOW),
        do.scores_in_half,
        (1e7,),
        lambda s: _plain_adam(s) and _plain(s),
    ),
    Fault(
        "only_linear_collected",
        ("parameter_not_in_optimizer", "frozen", "detached", *_SMALL),
        do.only_linear_collected,
        (1.0,),
        _mixed,
    ),
    Fault("freezes_by_name", ("frozen", *_SMALL), do.freezes_by_name, (1.0,), _biased),
    Fault(
        "adapters_late",
        ("stale_optimizer", "parameter_not_in_optimizer", "frozen", *_SMALL),
        do.adapters_late,
        (4.0,),
        _linear_stack,
    ),
)
_MODEL = (
    Fault(
        "gates_in_a_row",
        ("vanishing_gradients", "bad_init", *_SMALL),
        builds.gates_in_a_row,
        (16.0,),
        lambda s: _sgd(s) and _flat_bare(s),
    ),
    Fault(
        "residuals_pile_up",
        ("exploding_gradients", "bad_init", "input_scale", *_TOO_HIGH),
        builds.residuals_pile_up,
        (16.0,),
        _flat_bare,
    ),
    Fault(
        "clamp_range_narrow",
        ("saturation", "vanishing_gradients", "dead_units", *_SMALL),
        builds.clamp_range_narrow,
        (0.02,),
        _activated,
    ),
    Fault(
        "grown_without_noise",
        ("symmetric_init", "bad_init", *_SMALL),
        builds.grown_without_noise,
        (2.0,),
        _undropped,
    ),
    Fault(
        "gains_zero",
        ("bad_init", "symmetric_init", "dead_units", *_NOTHING),
        builds.gains_zero,
        (1.0,),
        lambda s: _normed(s) and isinstance(s.model, nn.Sequential),
    ),
    Fault(
        "length_over_rows",
        ("wrong_mode", "overfitting", "leak", "vanishing_gradients", *_SMALL),
        builds.length_over_rows,
        (1.0,),
        lambda s: _activated(s) and _flat(s),
    ),
    Fault(
        "buffers_left_behind",
        ("wrong_mode", "tiny_batch_batchnorm", "overfitting", "leak"),
        builds.buffers_left_behind,
        (1.0,),
        lambda s: _has_norm(s) and s.judged is None,
    ),
    Fault("places_drown_words", _INIT, builds.places_drown_words, (100.0,), _placed),
    Fault(
        "drawn_scores",
        ("softmax_before_cross_entropy", "activated_logits", "over_regularized", *_SMALL),
        builds.drawn_scores,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "softmax_into_bits",
        ("sigmoid_before_bce", "softmax_before_cross_entropy", "activated_logits", "saturation", *_SMALL),
        builds.softmax_into_bits,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "held_to_start",
        ("over_regularized", *_SMALL),
        builds.held_to_start,
        (0.1,),
        lambda s: _all_trained(s) and s.loss is not temporal,
    ),
)
_DATA = (
    Fault("targets_missing", ("loss_nan", "label_trouble"), spoils.targets_missing, (4.0,), _square_table),
    Fault("signs_for_bits", _BOUNDLESS, spoils.signs_for_bits, (1.0,), _is_classes),
    Fault(
        "propensities_unclipped",
        ("overfitting", "loss_spike", "label_trouble", "underfitting", *_TOO_HIGH),
        spoils.propensities_unclipped,
        (4.0,),
        _rows_told,
    ),
    Fault("label_as_token", ("leak", "overfitting"), spoils.label_as_token, (1.0,), _labelled_words),
    Fault(
        "minmax_with_outlier",
        ("input_scale", *_BLIND, "lr_too_low"),
        spoils.minmax_with_outlier,
        (1000.0,),
        _flat_bare,
    ),
    Fault("column_repeated", _BLIND, spoils.column_repeated, (1.0,), _drawn_out),
    Fault(
        "labels_as_bool",
        ("label_trouble", "class_collapse", "overfitting", "leak", "wrong_mode"),
        spoils.labels_as_bool,
        (1.0,),
        _several_classes,
    ),
    Fault(
        "own_answers_as_labels",
        ("class_collapse", *_RUINED, "overfitting", "leak"),
        spoils.own_answers_as_labels,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "summed_over_columns",
        ("sum_reduction", *_TOO_HIGH),
        spoils.summed_over_columns,
        (1.0,),
        lambda s: _open(s) and _many_outputs(s),
    ),
    Fault(
        "repeats_in_batch",
        ("tiny_batch_batchnorm", "wrong_mode", "overfitting", "leak", "oscillation", "lr_too_high"),
        spoils.repeats_in_batch,
        (2.0,),
        lambda s: _has_norm(s) and _is_table(s),
    ),
    Fault(
        "mean_before_square",
        ("underfitting", "label_trouble", "plateau", "overfitting"),
        spoils.mean_before_square,
        (1.0,),
        _square_table,
    ),
)
FAULTS = (*_STEPS, *_LOOP, *_MODEL, *_DATA)
