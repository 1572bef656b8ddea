"""Fault operators of the sixth suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from collections.abc import Callable

from faults import _NOT_LEARNING, _TOO_HIGH, Fault, _classes_table, _is_classes, _is_table, _layered, _sgd
from models import Setup, entropy, square
from torch import nn

from sixth import changes as do
from sixth import models as nets

_RUINED = ("label_trouble", *_NOT_LEARNING)
_SMALL = ("underfitting", *_NOT_LEARNING)
_UNALIKE = ("overfitting", "leak", "wrong_mode")
_BOUNDLESS = ("loss_explosion", "slow_divergence", "weight_growth", "lr_too_high", "label_trouble")


def _is(*kinds: type) -> Callable[[Setup], bool]:
    return lambda s: isinstance(s.model, kinds)


def _flat(s: Setup) -> bool:
    return (
        _is_table(s)
        and s.train_split is not None
        and s.train_split.x.dim() == 2
        and s.loss in (entropy, square)
    )


def _square_table(s: Setup) -> bool:
    return s.train_split is not None and s.loss is square


def _adam(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw", "nadam")


def _deep(s: Setup) -> bool:
    return sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in s.model.modules()) >= 3


FAULTS = (
    Fault(
        "moments_forgotten",
        ("second_moment", "update_ratio", "plateau", *_TOO_HIGH),
        do.moments_forgotten,
        (1.0,),
        _adam,
    ),
    Fault("nll_of_logits", _BOUNDLESS, do.nll_of_logits, (1.0,), _is_classes),
    Fault(
        "nll_of_probabilities",
        ("softmax_before_cross_entropy", "activated_logits", "label_trouble", "plateau"),
        do.nll_of_probabilities,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "divided_again",
        ("input_scale", "constant_features", *_RUINED, "overfitting"),
        do.divided_again,
        (16.0,),
        _flat,
        begins=lambda by: 0.1,
    ),
    Fault("factorized", (*_RUINED, "class_collapse", "underfitting"), do.factorized, (1.0,), _classes_table),
    Fault(
        "clip_before_unscale",
        ("clipping_too_tight", "gradients_altered", "vanishing_gradients", "lr_too_low", *_SMALL),
        do.clip_before_unscale,
        (65536.0,),
        _sgd,
    ),
    Fault(
        "layers_in_list",
        ("parameter_not_in_optimizer", "frozen", "detached", *_SMALL),
        do.layers_in_list,
        (1.0,),
        _layered,
    ),
    Fault(
        "columns_reordered", (*_UNALIKE, "input_scale", "label_trouble"), do.columns_reordered, (1.0,), _flat
    ),
    Fault(
        "targets_scaled",
        (*_UNALIKE, "input_scale", "label_trouble"),
        do.targets_scaled,
        (1.0,),
        _square_table,
    ),
    Fault(
        "masks_left_behind",
        (*_RUINED, "underfitting", "over_regularized", "overfitting"),
        do.masks_left_behind,
        (1.0,),
        _is(nets.Segmenter),
    ),
    Fault(
        "masks_as_bytes",
        (*_BOUNDLESS, "saturation", "input_scale", "class_collapse", "exploding_gradients"),
        do.masks_as_bytes,
        (255.0,),
        _is(nets.Segmenter),
    ),
    Fault(
        "rate_not_exponentiated",
        ("loss_nan", "nonfinite_activations", "label_trouble"),
        do.rate_not_exponentiated,
        (1.0,),
        _is(nets.Counts),
    ),
    Fault(
        "angle_by_arccosine",
        ("loss_nan", "nonfinite_activations", "exploding_gradients", "loss_explosion"),
        do.angle_by_arccosine,
        (1.0,),
        _is(nets.Direction),
    ),
    Fault(
        "views_alike", (*_UNALIKE, "label_trouble", "underfitting"), do.views_alike, (1.0,), _is(nets.Twins)
    ),
    Fault(
        "places_lost",
        (*_SMALL, "label_trouble", "constant_features"),
        do.places_lost,
        (1.0,),
        _is(nets.Translator),
    ),
    Fault(
        "classes_not_moved",
        (*_RUINED, "underfitting", "overfitting"),
        do.classes_not_moved,
        (1.0,),
        _is(nets.Translator),
    ),
    Fault(
        "attention_over_batch",
        (*_RUINED, "underfitting", *_UNALIKE),
        do.attention_over_batch,
        (1.0,),
        _is(nets.Pooling),
    ),
    Fault(
        "shown_to_itself",
        (*_UNALIKE, "label_trouble", "weight_growth"),
        do.shown_to_itself,
        (1.0,),
        _is(nets.Waiting),
    ),
    Fault(
        "forward_overflows",
        ("nonfinite_activations", "loss_nan", "exploding_gradients", "loss_explosion"),
        do.forward_overflows,
        (1.3,),
        _deep,
    ),
    Fault(
        "time_in_other_unit",
        ("exploding_gradients", "label_trouble", "underfitting", *_TOO_HIGH, *_NOT_LEARNING),
        do.time_in_other_unit,
        (10.0,),
        _is(nets.Policy),
    ),
    Fault(
        "labels_as_floats",
        ("class_collapse", "label_trouble", "overfitting", *_NOT_LEARNING),
        do.labels_as_floats,
        (1.0,),
        _classes_table,
    ),
)
