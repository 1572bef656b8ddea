"""Fault operators of the ninth suite: what they are, to what they can be done, and the right answers."""

from __future__ import annotations

from collections.abc import Callable

from faults import (
    _NOT_LEARNING,
    _TOO_HIGH,
    Fault,
    _all_trained,
    _classes_table,
    _has_norm,
    _is_classes,
    _is_table,
    _layered,
    _sgd,
)
from fourth import sequences
from models import Decoder, GraphNet, Recurrent, Setup, elbo, entropy, square, temporal
from sixth import models as sixth_nets
from third import models as third_nets
from torch import nn

from ninth import changes as do
from ninth import spoils

_SMALL = ("underfitting", *_NOT_LEARNING)
_RUINED = ("label_trouble", *_NOT_LEARNING)
_SLOW = ("lr_too_low", "underfitting", "plateau")
_UNALIKE = ("overfitting", "leak", "wrong_mode", "label_trouble")
_ASCENT = ("loss_explosion", "slow_divergence", "weight_growth", *_TOO_HIGH)


def _adam(s: Setup) -> bool:
    return s.optimizer in ("adam", "adamw", "nadam", "radam")


def _has(*kinds: type) -> Callable[[Setup], bool]:
    return lambda s: any(isinstance(m, kinds) for m in s.model.modules())


def _is(*kinds: type) -> Callable[[Setup], bool]:
    return lambda s: isinstance(s.model, kinds)


def _flat(s: Setup) -> bool:
    """A plain table of features that are told apart by their column."""
    return _is_table(s) and s.train_split.x.dim() == 2 and s.loss in (entropy, square)


def _wide(s: Setup) -> bool:
    return _flat(s) and s.train_split.x.shape[1] >= 6


def _plain(s: Setup) -> bool:
    """Judged by each row for itself, and not by a slope that the model takes of itself."""
    return s.loss in (entropy, square) and not isinstance(s.model, sixth_nets.Energy)


def _flat_bare(s: Setup) -> bool:
    return _flat(s) and isinstance(s.model, nn.Sequential) and isinstance(s.model[0], nn.Linear)


def _square_table(s: Setup) -> bool:
    return s.train_split is not None and s.loss is square and s.train_split.y.dim() == 2


def _scored(s: Setup) -> bool:
    return s.train_split is not None and s.loss in (entropy, square) and s.judged is None


def _rows_of_classes(s: Setup) -> bool:
    return _is_classes(s) and s.train_split is not None


def _words(s: Setup) -> bool:
    return _rows_of_classes(s) and not s.train_split.x.is_floating_point() and s.train_split.x.dim() == 2


def _deep(s: Setup) -> bool:
    return len(do.layers(s.model)) >= 3 and _all_trained(s)


def _linear_head(s: Setup) -> bool:
    return _is_classes(s) and bool(do.layers(s.model)) and isinstance(do.layers(s.model)[-1], nn.Linear)


def _drops(s: Setup) -> bool:
    return any(isinstance(m, nn.Dropout) and 0 < m.p < 0.5 for m in s.model.modules())


_language = _is(Recurrent, Decoder, sequences.Tied)
_TORCH = {"sgd", "adam", "adamw", "rmsprop", "adagrad", "adamax", "nadam", "radam"}

FAULTS = (
    Fault("maximize", _ASCENT, do.maximize, (1.0,), lambda s: s.optimizer in _TORCH),
    Fault("momentum_missing", _SLOW, do.momentum_missing, (1.0,), lambda s: _sgd(s) and _is_classes(s)),
    Fault("sgd_with_adam_rate", _SLOW, do.sgd_with_adam_rate, (1.0,), _adam),
    Fault("warmup_restarts", _SLOW, do.warmup_restarts, (20.0,)),
    Fault(
        "plateau_mode_max",
        ("lr_decayed_too_early", *_SLOW),
        do.plateau_mode_max,
        (1.0,),
        lambda s: s.loss is not temporal,
    ),
    Fault("few_epochs", ("underfitting", "lr_too_low"), do.few_epochs, (0.12,)),
    Fault(
        "resume_of_nothing",
        ("loss_spike", "step_changes_nothing"),
        do.resume_of_nothing,
        (0.9,),
        begins=float,
    ),
    Fault(
        "unfrozen_not_added",
        ("parameter_not_in_optimizer", "frozen", "detached", "underfitting"),
        do.unfrozen_not_added,
        (0.15,),
        _deep,
        begins=float,
    ),
    Fault(
        "never_unscaled",
        ("exploding_gradients", "gradients_altered", *_TOO_HIGH),
        do.never_unscaled,
        (65536.0,),
        lambda s: _sgd(s) and s.clip is None,
    ),
    Fault(
        "reversal_left_in",
        ("gradients_altered", *_ASCENT, *_SMALL),
        do.reversal_left_in,
        (1.0,),
        lambda s: _deep(s) and _plain(s),
    ),
    Fault("tanh_logits", ("activated_logits", "saturation", *_SMALL), do.tanh_logits, (1.0,), _is_classes),
    Fault("keep_for_drop", ("over_regularized", *_SMALL), do.keep_for_drop, (1.0,), _drops),
    Fault("pooled_too_early", ("constant_features", *_SMALL), do.pooled_too_early, (1.0,), _has(nn.Conv2d)),
    Fault(
        "norm_erases",
        ("dead_units", "constant_features", "vanishing_gradients", "detached", *_SMALL),
        do.norm_erases,
        (1.0,),
        lambda s: _layered(s) and len(do.layers(s.model)) >= 2,
    ),
    Fault(
        "norm_weights_drawn",
        ("bad_init", "vanishing_gradients", "lr_too_low", *_SMALL),
        do.norm_weights_drawn,
        (0.02,),
        lambda s: _sgd(s) and _has(nn.LayerNorm)(s),
    ),
    Fault(
        "squared_probabilities",
        ("vanishing_gradients", *_SLOW, "softmax_before_cross_entropy"),
        spoils.squared_probabilities,
        (1.0,),
        lambda s: _sgd(s) and _classes_table(s),
    ),
    Fault("focal_inverted", (*_RUINED, "class_collapse"), spoils.focal_inverted, (2.0,), _is_classes),
    Fault("entropy_bonus", ("over_regularized", *_SMALL), spoils.entropy_bonus, (2.0,), _is_classes),
    Fault("softmax_over_time", _RUINED, spoils.softmax_over_time, (1.0,), _language),
    Fault("shifted_twice", _RUINED, spoils.shifted_twice, (1.0,), _language),
    Fault(
        "reconstruction_meaned",
        ("over_regularized", *_SMALL),
        spoils.reconstruction_meaned,
        (1.0,),
        lambda s: s.loss is elbo,
    ),
    Fault(
        "last_term_only",
        ("detached", "frozen", "vanishing_gradients", "parameter_not_in_optimizer", "underfitting"),
        spoils.last_term_only,
        (1.0,),
        lambda s: s.loss in (sixth_nets.three_tasks, third_nets.two_tasks),
    ),
    Fault(
        "batch_of_one",
        ("oscillation", *_TOO_HIGH),
        spoils.batch_of_one,
        (1.0,),
        lambda s: _sgd(s) and s.train_split is not None and s.loss in (entropy, square) and not _has_norm(s),
    ),
    Fault(
        "mixup_labels_kept",
        ("label_trouble", "underfitting", "over_regularized", "plateau"),
        spoils.mixup_labels_kept,
        (1.0,),
        _classes_table,
    ),
    Fault("targets_filled", ("label_trouble", "underfitting"), spoils.targets_filled, (0.6,), _square_table),
    Fault("split_in_order", _UNALIKE, spoils.split_in_order, (0.6,), _square_table),
    Fault(
        "rows_cut_short", ("constant_features", *_SMALL, "overfitting"), spoils.rows_cut_short, (3.0,), _words
    ),
    Fault("rows_broken", ("input_scale", "loss_spike", *_TOO_HIGH), spoils.rows_broken, (1e4,), _flat_bare),
    Fault("columns_misjoined", ("overfitting", *_RUINED), spoils.columns_misjoined, (0.6,), _wide),
    Fault("inputs_truncated", ("constant_features", *_SMALL), spoils.inputs_truncated, (1.0,), _flat),
    Fault("val_order_lost", _UNALIKE, spoils.val_order_lost, (1.0,), _scored),
    Fault(
        "nodes_misaligned",
        (*_RUINED, "overfitting", "underfitting"),
        spoils.nodes_misaligned,
        (1.0,),
        _is(GraphNet),
    ),
)
