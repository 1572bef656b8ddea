"""Fault operators of the third suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from faults import (
    _INIT,
    _NOT_LEARNING,
    _TOO_HIGH,
    Fault,
    _all_trained,
    _classes_table,
    _is_classes,
    _is_table,
)
from models import Setup, entropy, square
from unseen.faults import _moments, _single_number, _square_table

from third import changes as do
from third import models as nets
from third.data import waveforms

_ONE_TENSOR = (entropy, square, nets.logistic, nets.robust, nets.smoothed)
_RUINED = ("label_trouble", *_NOT_LEARNING)
_SMALL = ("underfitting", *_NOT_LEARNING)
_NOTHING = ("step_changes_nothing", "detached", "vanishing_gradients")


def _flat(s: Setup) -> bool:
    return _is_table(s) and s.loss in (entropy, square)


def _has_activations(s: Setup) -> bool:
    return bool(do.activations(s.model)) and _all_trained(s)


def _curved(s: Setup) -> bool:
    """The task is not a linear one."""
    return _has_activations(s) and s.loss in (square, nets.logistic)


def _one_output(s: Setup) -> bool:
    return _single_number(s) or isinstance(s.model, nets.WideDeep)


def _hides(s: Setup) -> bool:
    return isinstance(s.model, (nets.Attend, nets.MaskedModel))


def _recurrent(s: Setup) -> bool:
    """Without a state that is handed over, whose shape would tell."""
    return isinstance(s.model, nets.Forecaster)


def _directed(s: Setup) -> bool:
    """A digit upside down is hardly another digit; a series run backwards is of another class."""
    return _classes_table(s) and s.train_split is waveforms()


FAULTS = (
    Fault("warmup_endless", ("lr_too_low", "lr_zero"), do.warmup_endless, (30.0,)),
    Fault("lr_grows", _TOO_HIGH, do.lr_grows, (1e4,), begins=lambda by: 0.25),
    Fault(
        "betas_swapped",
        ("second_moment", "update_ratio", "plateau", *_TOO_HIGH),
        do.betas_swapped,
        (1.0,),
        _moments,
    ),
    Fault(
        "l1_penalty", ("over_regularized", *_SMALL, "class_collapse"), do.l1_penalty, (0.03,), _all_trained
    ),
    Fault(
        "smoothing_high",
        ("over_regularized", *_RUINED, "underfitting"),
        do.smoothing_high,
        (0.98,),
        _is_classes,
    ),
    Fault("activations_gone", _SMALL, do.activations_gone, (1.0,), _curved),
    Fault(
        "softmax_hidden",
        ("vanishing_gradients", "saturation", "bad_init", *_SMALL),
        do.softmax_hidden,
        (1.0,),
        _has_activations,
    ),
    Fault(
        "squashed_output",
        ("activated_logits", "saturation", "dead_units", *_SMALL),
        do.squashed_output,
        (1.0, 2.0),
        _square_table,
    ),
    Fault(
        "norm_of_one",
        (*_NOTHING, "constant_features", "activated_logits", *_SMALL),
        do.norm_of_one,
        (1.0,),
        _one_output,
    ),
    Fault(
        "dropout_on_output",
        ("over_regularized", *_SMALL),
        do.dropout_on_output,
        (0.8,),
        lambda s: s.loss in _ONE_TENSOR,
    ),
    Fault(
        "class_ids",
        (*_RUINED, "class_collapse", "underfitting"),
        do.class_ids,
        (1.0,),
        _classes_table,
    ),
    Fault("single_logit", (*_NOTHING, *_RUINED), do.single_logit, (1.0,), _one_output),
    Fault(
        "signed_error",
        ("loss_explosion", "slow_divergence", "label_trouble", "weight_growth", "lr_too_high"),
        do.signed_error,
        (1.0,),
        _square_table,
    ),
    Fault(
        "percentage_error",
        ("label_trouble", "loss_spike", "input_scale", *_SMALL, *_TOO_HIGH),
        do.percentage_error,
        (1.0,),
        _square_table,
    ),
    Fault("log_targets", ("loss_nan", "label_trouble"), do.log_targets, (1.0,), _square_table),
    Fault(
        "term_sign",
        ("loss_explosion", "slow_divergence", "weight_growth", "lr_too_high"),
        do.term_sign,
        (1.0,),
        lambda s: s.loss in nets.TERMS,
    ),
    Fault(
        "term_heavy",
        ("sum_reduction", "update_ratio", "underfitting", *_TOO_HIGH),
        do.term_heavy,
        (1000.0,),
        lambda s: s.loss is nets.two_tasks,
    ),
    Fault(
        "reversed_augment",
        (*_RUINED, "underfitting", "over_regularized"),
        do.reversed_augment,
        (1.0,),
        _directed,
    ),
    Fault(
        "mask_inverted",
        ("label_trouble", "leak", "overfitting", "class_collapse", *_SMALL),
        do.mask_inverted,
        (1.0,),
        _hides,
    ),
    Fault("answers_shown", ("leak", "overfitting"), do.answers_shown, (1.0,), _hides),
    Fault(
        "view_not_permute",
        (*_RUINED, "constant_features", "overfitting", "underfitting"),
        do.view_not_permute,
        (1.0,),
        _flat,
    ),
    Fault(
        "batch_first_lost",
        (*_RUINED, "constant_features", "overfitting", "underfitting"),
        do.batch_first_lost,
        (1.0,),
        _recurrent,
    ),
    Fault(
        "positive_init",
        (*_INIT, "symmetric_init", "dead_units", "oscillation"),
        do.positive_init,
        (1.0,),
        _all_trained,
    ),
    Fault(
        "layers_renewed",
        ("step_changes_nothing", "loss_spike", "oscillation", "slow_divergence", *_NOT_LEARNING),
        do.layers_renewed,
        (40.0,),
        _all_trained,
    ),
    Fault(
        "mean_written_back",
        ("step_changes_nothing", "lr_too_low", *_NOT_LEARNING),
        do.mean_written_back,
        (0.99,),
        _all_trained,
    ),
    Fault(
        "weights_clamped",
        ("over_regularized", "step_changes_nothing", "vanishing_gradients", "bad_init", *_SMALL),
        do.weights_clamped,
        (0.01,),
        _all_trained,
    ),
    Fault(
        "targets_truncated", ("label_trouble", "underfitting"), do.targets_truncated, (1.0,), _square_table
    ),
    Fault(
        "targets_typos",
        ("label_trouble", "loss_spike", "input_scale", *_TOO_HIGH),
        do.targets_typos,
        (100.0,),
        _square_table,
    ),
    Fault(
        "inputs_as_bytes",
        ("input_scale", "saturation", "dead_units", "constant_features", *_SMALL, *_TOO_HIGH),
        do.inputs_as_bytes,
        (1.0,),
        _flat,
    ),
    Fault(
        "missing_coded",
        ("input_scale", "saturation", "dead_units", *_SMALL, *_TOO_HIGH),
        do.missing_coded,
        (-999.0,),
        _flat,
    ),
    Fault(
        "val_other_scale",
        ("input_scale", "overfitting", "leak", "wrong_mode"),
        do.val_other_scale,
        (8.0,),
        _flat,
    ),
    Fault(
        "half_overflow",
        ("loss_nan", "loss_scale_collapse", "exploding_gradients", "loss_explosion", "gradients_altered"),
        do.half_overflow,
        (2.0**30,),
    ),
    Fault(
        "term_detached",
        ("detached", "frozen", "vanishing_gradients", "parameter_not_in_optimizer", "underfitting"),
        do.term_detached,
        (1.0,),
        lambda s: s.loss is nets.two_tasks,
    ),
    Fault(
        "matrices_renewed",
        ("stale_optimizer", "parameter_not_in_optimizer", "step_changes_nothing"),
        do.matrices_renewed,
        (1.0,),
        _all_trained,
    ),
    Fault(
        "classes_missing",
        ("label_trouble", "overfitting", "class_collapse", "leak"),
        do.classes_missing,
        (0.5,),
        _classes_table,
    ),
    Fault(
        "encoders_differ",
        ("label_trouble", "overfitting", "leak"),
        do.encoders_differ,
        (1.0,),
        _classes_table,
    ),
    Fault(
        "sorted_targets",
        ("oscillation", "label_trouble", "overfitting", "lr_too_high"),
        do.sorted_targets,
        (1.0,),
        _square_table,
    ),
    Fault(
        "pairs_swapped",
        (*_RUINED, "overfitting", "class_collapse"),
        do.pairs_swapped,
        (1.0,),
        lambda s: s.loss is nets.apart,
    ),
    Fault(
        "root_of_zero",
        ("loss_nan", "exploding_gradients", "loss_explosion"),
        do.root_of_zero,
        (0.4,),
        begins=float,
    ),
)
