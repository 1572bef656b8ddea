"""A run as the rules see it: the log, and what several rules want to know, worked out once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trimtab.diagnose.course import MIN_STEPS, Course
from trimtab.diagnose.shares import MIN_LATE, Share, share_of
from trimtab.diagnose.statistics import FloatArray, middle, spread, trend
from trimtab.record import RunLog, Signal

_VAL_NAMES = ("val_loss", "eval_loss", "valid_loss", "validation_loss", "test_loss", "dev_loss")
_SCALE_NAMES = ("loss_scale", "grad_scale", "scale", "amp_scale")
# A share of the largest rate below which it counts as decayed
_DECAYED = 0.03
# In the first looks a loss is what is known of its targets, to such a factor, or times a number
_NUM_FIRST, _FLOOR = 3, 2.0
# Targets grow or shrink, on the log scale, by so much over the run
_MOVED = 0.2
# A run that did away with so much of what a constant answer leaves, or where that is unknown of its first
# loss, has learned most of what there is to learn
_MOST_EXPLAINED, _MOST_GONE = 0.9, 0.95
# Much is left to learn of a constant answer's loss, and of a first loss, which may hold a floor
_MUCH, _MUCH_OF_LOSS = 0.1, 0.35
# Looks at which the outputs know little of the targets yet
_FRESH = 6
# and so small a share of the loss is their own square
_SMALL = 0.3


class Need(Flag):
    """Signals that a rule cannot do without."""

    NOTHING = 0
    LOSS = auto()
    LR = auto()
    GRAD_NORM = auto()
    VAL_LOSS = auto()
    CLIP_FACTOR = auto()
    LAYERS = auto()
    PARAMETERS = auto()
    LOSS_GRAPH = auto()
    INPUTS = auto()
    LOSS_SCALE = auto()
    EVALUATION = auto()


# How each is called when it could not be seen
WORDS = {
    Need.LOSS: "the loss of each step",
    Need.LR: "the learning rate",
    Need.GRAD_NORM: "the norm of the gradients",
    Need.VAL_LOSS: "a validation loss",
    Need.CLIP_FACTOR: "the clip factor",
    Need.LAYERS: "activations and their gradients",
    Need.PARAMETERS: "updates and wiring of the parameters",
    Need.LOSS_GRAPH: "the graph behind the loss",
    Need.INPUTS: "the inputs",
    Need.LOSS_SCALE: "the loss scale",
    Need.EVALUATION: "the rows that the model was evaluated on",
}


@dataclass(frozen=True)
class View:
    """A run and the quantities that rules share.

    Attributes:
        log: The run.
    """

    log: RunLog

    @cached_property
    def has(self) -> Need:
        """Which signals the log holds."""
        signals = self.log.signals
        there = {
            Need.LOSS: len(self.loss) >= MIN_STEPS or bool(len(self.nonfinite)),
            Need.LR: bool(np.isfinite(self.log.lr).any()),
            Need.GRAD_NORM: bool(np.isfinite(self.log.grad_norm).sum() >= MIN_STEPS),
            Need.VAL_LOSS: self.val is not None,
            # a loop that clips by itself shows in what backward brought against what the optimizer sees
            Need.CLIP_FACTOR: bool(np.isfinite(self.log.clip_factor).any()) or "stale_gradient" in signals,
            Need.LAYERS: "forward_rms" in signals,
            Need.PARAMETERS: "update_ratio" in signals,
            Need.LOSS_GRAPH: "loss" in signals,
            Need.INPUTS: "input" in signals,
            Need.LOSS_SCALE: self.loss_scale is not None,
            Need.EVALUATION: "validation" in signals,
        }
        found = Need.NOTHING
        for need, is_there in there.items():
            found = found | need if is_there else found
        return found

    @cached_property
    def loss(self) -> Course:
        """The loss where it was finite and the update was applied."""
        keep = np.isfinite(self.log.loss)
        return Course(self.log.step[keep], self.log.loss[keep])

    @cached_property
    def nonfinite(self) -> NDArray[np.int64]:
        """Rows whose loss was given and not finite."""
        return np.flatnonzero(~np.isfinite(self.log.loss) & self.log.given("loss"))

    @cached_property
    def lr(self) -> FloatArray:
        """Learning rate at the steps of `loss`; nan where unknown."""
        return self.log.lr[np.isfinite(self.log.loss)]

    @cached_property
    def lr_of_blocks(self) -> FloatArray | None:
        """Median learning rate of each block of the loss, or None."""
        if not np.isfinite(self.lr).all() or len(self.lr) == 0:
            return None
        edges = self.loss.blocks.edges
        return np.array([np.median(self.lr[a:b]) for a, b in pairwise(edges)])

    @cached_property
    def grad_norm(self) -> Course:
        """Norm of the gradients where it was finite."""
        keep = np.isfinite(self.log.grad_norm)
        return Course(self.log.step[keep], self.log.grad_norm[keep])

    @cached_property
    def val(self) -> Course | None:
        """The validation loss, or None."""
        return self._metric(_VAL_NAMES, 4)

    @cached_property
    def loss_scale(self) -> Course | None:
        """The loss scale of float16 training, or None."""
        return self._metric(_SCALE_NAMES, 3)

    def _metric(self, names: tuple[str, ...], at_least: int) -> Course | None:
        for name, (steps, values) in self.log.metrics.items():
            if name.rpartition("/")[2].lower() in names or name.lower() in names:
                keep = np.isfinite(values)
                if keep.sum() >= at_least:
                    return Course(steps[keep], values[keep])
        return None

    @cached_property
    def peak_lr(self) -> float:
        """The largest learning rate, nan if none is known."""
        finite = self.log.lr[np.isfinite(self.log.lr)]
        return float(finite.max()) if len(finite) else float("nan")

    @cached_property
    def is_warming_up(self) -> bool:
        """Whether the learning rate was still small for most of the run: nothing can be said of progress."""
        finite = self.log.lr[np.isfinite(self.log.lr)]
        if len(finite) < 2 or self.peak_lr <= 0:
            return False
        is_rising = bool(finite[-1] >= 0.99 * self.peak_lr > 2 * finite[0])
        return is_rising and float((finite >= 0.3 * self.peak_lr).mean()) < 0.4

    @cached_property
    def decayed_from(self) -> int | None:
        """Index into `lr` from which it stayed below 3 % of its peak, or None."""
        if not np.isfinite(self.lr).all() or len(self.lr) == 0 or self.peak_lr <= 0:
            return None
        low = self.lr <= _DECAYED * self.peak_lr
        if not low[-1]:
            return None
        high = np.flatnonzero(~low)
        return int(high[-1]) + 1 if len(high) else 0

    def signal(self, name: str) -> Signal | None:
        """A signal that was measured, or None.

        Args:
            name: Its name.
        """
        return self.log.signals.get(name)

    @cached_property
    def chance(self) -> float:
        """Cross-entropy of guessing, where the loss is one and the number of classes was seen; else nan."""
        is_entropy, classes = self.column("loss", "is_entropy"), self.column("output", "num_classes")
        if not len(is_entropy) or not len(classes) or is_entropy[-1] != 1 or classes[-1] < 2:
            return float("nan")
        return math.log(float(classes[-1]))

    @cached_property
    def at_looks(self) -> FloatArray:
        """The loss at the steps of the looks at the output, nan where it is not known."""
        found = self.signal("output")
        if found is None or not len(self.loss):
            return np.zeros(0)
        where = np.minimum(np.searchsorted(self.loss.steps, found.steps), len(self.loss) - 1)
        is_there = self.loss.steps[where] == found.steps
        return np.where(is_there, self.loss.values[where], np.nan)

    @cached_property
    def explained(self) -> Share:
        """Share of the loss of the best constant answer that the model did away with, at the late looks."""
        return share_of(self.column("target", "error"), self.column("target", "baseline"))

    @cached_property
    def has_learned(self) -> bool:
        """Whether the run has visibly learned most of what there is: no trait of it keeps it from that."""
        share, squares = self.explained.value, self.explained_squares.value
        if math.isfinite(share):
            return _MOST_EXPLAINED < share <= 1 and not squares < _MOST_EXPLAINED
        return self.loss_is_gone

    @cached_property
    def loss_is_gone(self) -> bool:
        """Whether hardly anything is left of the first loss, or of guessing where that is less."""
        if not self.loss.is_positive or len(self.loss) < MIN_STEPS:
            return False
        first = min(self.loss.start, self.chance) if math.isfinite(self.chance) else self.loss.start
        return self.loss.end < (1 - _MOST_GONE) * first

    @cached_property
    def has_much_left(self) -> bool:
        """Whether much of what a constant answer leaves is still there, or, unknown, of the first loss."""
        share = self.explained.value
        if math.isfinite(share):
            return share < 1 - _MUCH
        return self.loss.end > _MUCH_OF_LOSS * self.loss.start

    def explained_at(self, first: int, last: int) -> float:
        """Share of the loss of the best constant answer that was away in looks between two steps.

        Args:
            first: The first step.
            last: The last one.
        """
        found = self.signal("target")
        if found is None:
            return math.nan
        among = (found.steps >= first) & (found.steps <= last)
        error, baseline = (self.column("target", name)[among] for name in ("error", "baseline"))
        seen = np.isfinite(error) & np.isfinite(baseline)
        return 1 - float(error[seen].sum() / baseline[seen].sum()) if baseline[seen].sum() > 0 else math.nan

    @cached_property
    def weight_growth(self) -> float:
        """Size of the weights at the end over that at the start, median of the layers; nan if unknown."""
        size, weights = self.signal("weight_rms"), self.weights
        if size is None or weights is None or not len(size.steps):
            return math.nan
        is_weight = weights & (size.values[0] > 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratios = size.values[-1, is_weight].astype(np.float64) / size.values[0, is_weight]
        return float(np.median(ratios)) if len(ratios) else math.nan

    @cached_property
    def explained_plainly(self) -> Share:
        """Share of the squares that a ridge regression on the rows of earlier looks did away with."""
        return share_of(self.column("yardstick", "plain_error"), self.column("yardstick", "baseline"))

    @cached_property
    def explained_squares(self) -> Share:
        """The same of the model, on the same rows."""
        return share_of(self.column("yardstick", "error"), self.column("yardstick", "baseline"))

    @cached_property
    def foretold(self) -> Share:
        """Share of what the loss sends back to the output that a ridge regression on the inputs foretells."""
        return share_of(self.column("leftover", "plain_error"), self.column("leftover", "error"))

    @cached_property
    def still_asked(self) -> float:
        """Size of what the loss sends back to the output at the end over that in the first looks."""
        squares = self.column("leftover", "error")
        squares = squares[np.isfinite(squares)]
        if len(squares) < 2 * _FRESH:
            return math.nan
        first, last = (
            float(np.median(squares[:3])),
            float(np.median(squares[-max(MIN_LATE, len(squares) // 3) :])),
        )
        return math.sqrt(last / first) if first > 0 else math.nan

    @cached_property
    def baseline(self) -> float:
        """Loss of the best constant answer for each batch, above the floor of soft labels; nan if unknown."""
        return middle(self.column("target", "baseline"))

    @cached_property
    def baseline_of_loss(self) -> float:
        """The same in units of the loss, which may be times a number; nan if unknown."""
        error, number = self.column("target", "error")[:_NUM_FIRST], min(_NUM_FIRST, len(self.at_looks))
        if len(error) != number or not number:
            return math.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            # at first, while it is large, a floor of the loss counts for little
            factor = middle(self.at_looks[:number] / error)
        return self.baseline * (factor if factor < 1 / _FLOOR or factor > _FLOOR else 1.0)

    @cached_property
    def is_square(self) -> bool:
        """Whether the loss is a mean squared error, at all looks."""
        found = self.column("loss", "is_square")
        return len(found) > 0 and bool(found.min() == 1)

    @cached_property
    def is_critic(self) -> bool:
        """Whether the model also judges what another one made: its loss is a balance between the two."""
        return bool(np.any(self.column("mode", "is_critic") == 1))

    @cached_property
    def targets_move(self) -> bool:
        """Whether the size of a squared error's targets goes one way all along, as of a value function."""
        sizes = self.column("target", "rms")
        sizes = sizes[np.isfinite(sizes)]
        if not self.is_square or len(sizes) < 2 * _FRESH:
            return False
        change = trend(np.log(np.maximum(sizes, np.finfo(np.float64).tiny)))
        return abs(change.change) > _MOVED and change.low * change.high > 0

    @cached_property
    def square_of_targets(self) -> float:
        """Mean square of the targets of a squared error, or somewhat more; nan where fresh outputs hide it.

        Outputs that know nothing of the targets add their own square to it and nothing else.
        """
        out = self.column("output", "rms")
        if not self.is_square or len(out) < _FRESH:
            return float("nan")
        losses, own = self.at_looks[:_FRESH], out[:_FRESH] ** 2
        if not float(np.median(own)) < _SMALL * float(np.median(losses)):
            return float("nan")  # what little the targets add would be lost in the noise
        rest = losses - own
        return float(np.median(rest)) + spread(rest) / math.sqrt(_FRESH)

    @cached_property
    def weights(self) -> NDArray[np.bool_] | None:
        """Which parameters are weights of several units, no biases or scales; None if not measured."""
        shapes = self.signal("unit_spread")
        return None if shapes is None else np.asarray(np.isfinite(shapes.values).any(axis=0))

    @cached_property
    def trained_weights(self) -> NDArray[np.bool_] | None:
        """Those of the weights that get gradients and are in the optimizer; None if not measured."""
        own, has = self.signal("in_optimizer"), self.signal("has_gradient")
        if self.weights is None or own is None or has is None:
            return None
        return np.asarray(self.weights & np.any(own.values == 1, axis=0) & np.any(has.values == 1, axis=0))

    def column(self, name: str, key: str) -> FloatArray:
        """One column of a signal; empty if it was not measured.

        Args:
            name: Name of the signal.
            key: Name of the layer or number.
        """
        found = self.signal(name)
        if found is None or key not in found.axis:
            return np.zeros(0)
        return np.asarray(found.of(key), dtype=np.float64)

    @property
    def span(self) -> tuple[int, int]:
        """First and last step of the run."""
        return (int(self.log.step[0]), int(self.log.step[-1])) if self.log.num_steps else (0, 0)
