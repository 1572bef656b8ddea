"""Fault operators of the fourth suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from faults import _INIT, _NOT_LEARNING, _TOO_HIGH, Fault, _has_norm, _is_classes, _is_table, _sgd
from models import Setup, entropy, square
from torch import nn

from fourth import changes as do
from fourth import models as nets
from fourth import sequences, spoils

_SMALL = ("underfitting", *_NOT_LEARNING)
_RUINED = ("label_trouble", *_NOT_LEARNING)
_SLOW = ("lr_too_low", "underfitting", "plateau")
_NOTHING = ("step_changes_nothing", *_NOT_LEARNING)
_BLIND = ("constant_features", *_SMALL)


def _is(*kinds: type) -> object:
    return lambda s: isinstance(s.model, kinds)


def _adam(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw")


def _flat(s: Setup) -> bool:
    """A plain table of features that are told apart by their column."""
    return _is_table(s) and s.train_split.x.dim() == 2 and s.loss in (entropy, square)


def _plain(s: Setup) -> bool:
    """A plain stack for a table."""
    return _flat(s) and isinstance(s.model, nn.Sequential) and isinstance(s.model[0], nn.Linear)


def _rows_of_classes(s: Setup) -> bool:
    return _is_classes(s) and s.train_split is not None


def _rows(s: Setup) -> bool:
    return s.train_split is not None


def _words(s: Setup) -> bool:
    return _rows_of_classes(s) and not s.train_split.x.is_floating_point()


def _bends(s: Setup) -> bool:
    return any(isinstance(m, do.ACTIVATIONS) for m in s.model.modules())


def _rectified(s: Setup) -> bool:
    return any(isinstance(m, (nn.ReLU, nn.LeakyReLU)) for m in s.model.modules())


def _layered(s: Setup) -> bool:
    """With at least three layers that are modules of their own and no straight-through tricks."""
    return len(do.layers(s.model)) >= 3 and not isinstance(s.model, nets.Binary)


def _warmed(s: Setup) -> bool:
    return s.schedule(0) < 0.2


def _lone(s: Setup) -> bool:
    """No two names for one tensor and no table of its own that a copy would lose."""
    return not isinstance(s.model, (nets.Quantized, sequences.Tied))


_OPTIMIZER = (
    Fault("momentum_twice", _TOO_HIGH, do.momentum_twice, (0.97,), _sgd),
    Fault(
        "decay_sign",
        ("weight_growth", "slow_divergence", "loss_explosion", "over_regularized", *_TOO_HIGH),
        do.decay_sign,
        (0.3,),
        lambda s: not _has_norm(s),
    ),
    Fault("lr_spikes", ("oscillation", "loss_spike", *_TOO_HIGH), do.lr_spikes, (60.0,)),
    Fault(
        "burst_start",
        ("no_warmup", "dead_units", "loss_spike", "saturation", "weight_growth", *_TOO_HIGH),
        do.burst_start,
        (200.0,),
        lambda s: _warmed(s) or _rectified(s),
    ),
    Fault(
        "lr_of_sgd", ("dead_units", "saturation", "weight_growth", *_TOO_HIGH), do.lr_of_sgd, (0.3,), _adam
    ),
    Fault("lr_divided", _SLOW, do.lr_divided, (2.0,)),
    Fault("epoch_as_step", ("lr_decayed_too_early", "lr_zero", *_SLOW), do.epoch_as_step, (10.0,)),
    Fault("misfires", ("lr_decayed_too_early", "lr_zero", *_SLOW), do.misfires, (3.0,)),
    Fault(
        "first_batch_huge",
        ("second_moment", "loss_spike", "adam_epsilon", "update_ratio", "exploding_gradients", *_SLOW),
        do.first_batch_huge,
        (1e4,),
        _adam,
    ),
    Fault(
        "loss_tiny",
        ("adam_epsilon", "vanishing_gradients", "fp16_underflow", *_SLOW, *_NOTHING),
        do.loss_tiny,
        (1e-8,),
        _adam,
    ),
    Fault(
        "clip_each",
        ("clipping_too_tight", "gradients_altered", "vanishing_gradients", *_SLOW),
        do.clip_each,
        (1e-3,),
        _sgd,
    ),
    Fault("norm_penalty", ("over_regularized", *_SMALL, "class_collapse"), do.norm_penalty, (0.1,)),
    Fault(
        "dropout_always",
        ("wrong_mode", "over_regularized", *_SMALL),
        do.dropout_always,
        (0.5,),
        _layered,
    ),
    Fault(
        "only_vectors",
        ("parameter_not_in_optimizer", "underfitting", "frozen", "stale_optimizer"),
        do.only_vectors,
        (1.0,),
        lambda s: any(p.dim() < 2 for p in s.model.parameters()),
    ),
    Fault(
        "parameters_repeated",
        ("duplicated_parameters", "update_ratio", "weight_growth", *_TOO_HIGH),
        do.parameters_repeated,
        (1.0,),
        _adam,
    ),
    Fault("zero_each", ("zero_grad_missing", *_TOO_HIGH), do.zero_each, (40.0,)),
    Fault("zero_head_only", ("zero_grad_missing", *_TOO_HIGH), do.zero_head_only, (1.0,), _lone),
    Fault(
        "no_grad_part",
        ("detached", "frozen", "vanishing_gradients", "parameter_not_in_optimizer"),
        do.no_grad_part,
        (1.0,),
        _layered,
    ),
    Fault(
        "left_frozen",
        ("frozen", "detached", "parameter_not_in_optimizer", "vanishing_gradients", "underfitting"),
        do.left_frozen,
        (0.03,),
        _lone,
        begins=float,
    ),
    Fault(
        "body_copied",
        (
            "stale_optimizer",
            "parameter_not_in_optimizer",
            "detached",
            "frozen",
            "step_changes_nothing",
            *_SMALL,
        ),
        do.body_copied,
        (1.0,),
        lambda s: _layered(s) and _lone(s),
    ),
    Fault("norm_late", ("stale_optimizer", "parameter_not_in_optimizer"), do.norm_late, (1.0,), _layered),
    Fault("micro_batches", ("tiny_batch_batchnorm", "wrong_mode"), do.micro_batches, (2.0,), _has_norm),
    Fault(
        "half_activations",
        ("fp16_underflow", "vanishing_gradients", "gradients_altered", *_NOTHING),
        do.half_activations,
        (1e-6,),
        _layered,
    ),
    Fault(
        "scale_collapses",
        ("loss_scale_collapse", "fp16_underflow", "vanishing_gradients", "gradients_altered", *_NOTHING),
        do.scale_collapses,
        (0.6,),
    ),
    Fault(
        "thin_deep",
        ("vanishing_gradients", "bad_init", "symmetric_init", *_NOT_LEARNING),
        do.thin_deep,
        (6.0,),
        _plain,
    ),
    Fault("randn_init", (*_INIT, "dead_units"), do.randn_init, (1.0,), _layered),
    Fault(
        "steep",
        ("saturation", "vanishing_gradients", "exploding_gradients", "bad_init", *_SMALL),
        do.steep,
        (40.0,),
        lambda s: _bends(s) and _lone(s),
    ),
    Fault(
        "thresholds",
        ("dead_units", "vanishing_gradients", "bad_init", *_SMALL),
        do.thresholds,
        (1.5,),
        _bends,
    ),
    Fault("copied_units", ("symmetric_init", "bad_init", *_SMALL), do.copied_units, (1.0,), _layered),
    Fault(
        "zeros_in_two",
        ("symmetric_init", "vanishing_gradients", "bad_init", "dead_units", "frozen", *_SMALL),
        do.zeros_in_two,
        (1.0,),
        _layered,
    ),
    Fault("ema_stays", ("wrong_mode", "overfitting", "leak", "lr_too_low"), do.ema_stays, (0.999,)),
    Fault(
        "embedding_small",
        ("over_regularized", "vanishing_gradients", "input_scale", "bad_init", "frozen", *_SLOW, *_NOTHING),
        do.embedding_small,
        (0.01,),
        _words,
    ),
)
_DATA = (
    Fault("rare_feature", ("loss_nan", "constant_features"), spoils.rare_feature, (4.0,), _flat),
    Fault("pairs_lost", (*_RUINED, "overfitting"), spoils.pairs_lost, (1.0,), _rows),
    Fault("cycled", ("overfitting", "leak"), spoils.cycled, (2.0,)),
    Fault("blurred", _BLIND, spoils.blurred, (5.0,), _is_table),
    Fault("target_encoded", ("leak", "overfitting"), spoils.target_encoded, (1.0,), _flat),
    Fault(
        "softmax_layer",
        ("softmax_before_cross_entropy", "activated_logits"),
        spoils.softmax_layer,
        (1.0,),
        _is_classes,
    ),
    Fault(
        "sigmoid_layer",
        ("sigmoid_before_bce", "activated_logits"),
        spoils.sigmoid_layer,
        (1.0,),
        _rows_of_classes,
    ),
    Fault("sum_of_rows", ("sum_reduction", *_TOO_HIGH), spoils.sum_of_rows, (1.0,), _sgd),
    Fault(
        "raw_units",
        ("input_scale", "saturation", "dead_units", *_SMALL, *_TOO_HIGH),
        spoils.raw_units,
        (4.0,),
        _flat,
    ),
    Fault("columns_constant", _BLIND, spoils.columns_constant, (0.8,), _flat),
    Fault(
        "unknown_words",
        (*_BLIND, "label_trouble", "class_collapse"),
        spoils.unknown_words,
        (4.0,),
        _words,
    ),
    Fault(
        "labels_confused", ("label_trouble", "overfitting"), spoils.labels_confused, (0.55,), _rows_of_classes
    ),
    Fault(
        "label_of_last",
        (*_RUINED, "class_collapse", "oscillation"),
        spoils.label_of_last,
        (1.0,),
        _rows,
    ),
    Fault(
        "majority_only",
        ("class_collapse", "label_trouble", "overfitting"),
        spoils.majority_only,
        (0.98,),
        _rows_of_classes,
    ),
    Fault(
        "ignored_class",
        ("class_collapse", "label_trouble", "overfitting"),
        spoils.ignored_class,
        (1.0,),
        _rows_of_classes,
    ),
    Fault(
        "flips",
        ("label_trouble", *_SMALL, "over_regularized"),
        spoils.flips,
        (0.5,),
        lambda s: _is_table(s) and _has_norm(s) and s.train_split.x.dim() == 4,
    ),
    Fault(
        "val_by_class",
        ("wrong_mode", "tiny_batch_batchnorm", "overfitting"),
        spoils.val_by_class,
        (1.0,),
        lambda s: _has_norm(s) and _rows_of_classes(s),
    ),
    Fault("sees_future", ("leak", "overfitting"), spoils.sees_future, (1.0,), _is(sequences.Tied)),
    Fault(
        "order_lost",
        (*_RUINED, "overfitting", "underfitting"),
        spoils.order_lost,
        (1.0,),
        _is(sequences.Tied, sequences.Listener),
    ),
    Fault(
        "blank_wrong",
        (*_RUINED, "underfitting", "overfitting"),
        spoils.blank_wrong,
        (1.0,),
        _is(sequences.Listener),
    ),
    Fault(
        "events_inverted",
        (*_RUINED, "overfitting", "underfitting"),
        spoils.events_inverted,
        (1.0,),
        lambda s: s.loss is sequences.cox,
    ),
    Fault("places_swapped", ("label_trouble", *_SMALL), spoils.places_swapped, (1.0,), _is(nets.Detector)),
    Fault(
        "grades_negated",
        ("label_trouble", "overfitting", *_NOT_LEARNING),
        spoils.grades_negated,
        (1.0,),
        lambda s: s.loss is sequences.listed,
    ),
    Fault(
        "collapsing",
        ("label_trouble", "class_collapse", "dead_units", "vanishing_gradients", "overfitting"),
        spoils.collapsing,
        (1.0,),
        _is(sequences.Siamese),
    ),
)
FAULTS = (*_OPTIMIZER, *_DATA)
