"""The rule of train and eval mode, and of batches too small for BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_MIN_LOOKS, _TINY_ROWS = 3, 4
# Positions of one sample are alike: over so few samples, of so many rows in all, statistics are noise as well
_TINY_BATCH, _FEW_ROWS = 2, 128
# Inputs of such a size are a cause by themselves
_SMALL, _LARGE = 0.05, 20.0
# A rate that is dropped in evaluation and does some harm
_WORTH_TELLING = 0.05
# Means a deviation apart, or variances by a factor of e; while the validation loss is so many times that of
# training, and kept so much of its start
_FAR, _LATE, _MIN_STEPS, _MUCH_WORSE, _KEPT = 1.0, 5, 60, 2.0, 0.3
# Running statistics whose beginning still has the larger say; and a validation loss worse by so much
_BEGINNING, _WORSE = 0.5, 1.25


@final
@dataclass(frozen=True, slots=True)
class Modes:
    """What it detects: training in eval mode; dropout in evaluation; BatchNorm of few rows or left behind.

    Why it matters: in eval mode BatchNorm does not normalize and dropout does nothing; over so few rows
    the statistics are mostly noise, and differ from those used later. With statistics of something else, or
    with dropout, the model that is evaluated is not the one that was trained.

    Evidence used: `model.training` in forward passes with gradients, for models with dropout or BatchNorm;
    calls of dropout in a forward pass without gradients in eval mode; the rows that a BatchNorm averages over
    (batch times positions); many positions of two samples count
    only as the cause of something else; running statistics far from those of all late batches, together with
    a validation loss twice that of training, or a momentum that cannot have brought them there.

    What to try: `model.train()` after each validation; `F.dropout(x, p, training=self.training)`; larger
    batches, GroupNorm or LayerNorm.

    Known false alarms: BatchNorm layers in eval mode inside a model in train mode are frozen on purpose,
    and are left out; so are dropout layers in train mode inside a model in eval mode, and rows that are
    evaluated twice in a row, as to see how sure a model is.

    References: Ioffe and Szegedy 2015; Wu and He, "Group normalization", 2018, arXiv:1803.08494.
    """

    causes = (FindingCause.WRONG_MODE, FindingCause.TINY_BATCH_BATCHNORM, FindingCause.INPUT_SCALE)
    needs = Need.LAYERS

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        training, layers = view.column("mode", "is_training"), view.column("mode", "num_mode_layers")
        if len(training) < _MIN_LOOKS:
            return ()
        found = []
        late = training[len(training) // 2 :]
        if layers.max() > 0 and not late.any():
            summary = (
                f"The model trains in eval mode, though {int(layers.max())} "
                "of its layers behave differently in it."
            )
            advice = "Call model.train() before the training loop, and again after each validation."
            evidence = (
                Evidence("looks in eval mode", float((training == 0).sum())),
                Evidence("dropout and BatchNorm layers", float(layers.max())),
            )
            found.append(Clue(FindingCause.WRONG_MODE, 0.3, 0.9, summary, advice, evidence, view.span))
        return (*found, *_dropped_in_evaluation(view), *_tiny_batches(view), *_left_behind(view))


def _dropped_in_evaluation(view: View) -> tuple[Clue, ...]:
    rates, repeated = view.column("dropout", "evaluated"), view.column("dropout", "is_repeated")
    rate = float(rates[-1]) if len(rates) else 0.0
    if not rate >= _WORTH_TELLING or repeated[-1] == 1:
        return ()
    summary = (
        f"Dropout takes {rate:.0%} of its input away in evaluation too, while the model is in eval mode."
    )
    advice = (
        "F.dropout and F.scaled_dot_product_attention do not know the mode: pass training=self.training, or "
        "dropout_p=self.p if self.training else 0.0. A layer nn.Dropout knows it by itself."
    )
    evidence = (Evidence("largest rate of dropout in evaluation", rate, limit=_WORTH_TELLING),)
    return (Clue(FindingCause.WRONG_MODE, 0.3, 0.9, summary, advice, evidence, view.span),)


def _left_behind(view: View) -> tuple[Clue, ...]:
    """BatchNorm layers whose running statistics are not those of the batches, and a loss to go with it."""
    apart, val, course = view.signal("running_apart"), view.val, view.loss
    if apart is None or val is None or len(apart.steps) < 2 * _LATE or len(course) < _MIN_STEPS:
        return ()
    late = apart.values[-_LATE:]
    worst = np.where(np.isfinite(late).all(axis=0), late.min(axis=0), -1.0)
    last = float(np.median(val.values[-_MIN_LOOKS:]))
    is_hurt = course.is_positive and last > max(_MUCH_WORSE * course.end, _KEPT * course.start)
    is_hurt = is_hurt or (_cannot_follow(view) and last > _WORSE * course.end)
    if not (worst.max(initial=-1.0) > _FAR and is_hurt):
        return ()
    layer = apart.axis[int(worst.argmax())]
    summary = (
        f"The running statistics of {layer} are far from those of the batches it normalizes, in all of the "
        f"last {_LATE} looks: in evaluation the model is another one (loss {last:.4g} against "
        f"{course.end:.4g})."
    )
    # running statistics begin at 1: inputs far from that are the cause then
    size = middle(view.column("input", "rms"))
    is_odd = size < _SMALL or size > _LARGE
    advice = (
        f"The inputs have size {size:.3g}: standardize them."
        if is_odd
        else "Look at the momentum of the BatchNorm layers: in torch it is the share of the new batch, "
        "0.1 as a rule. With inputs that change from batch to batch use GroupNorm or LayerNorm."
    )
    evidence = (
        Evidence("distance of running statistics from those of the batch", float(worst.max()), limit=_FAR),
        Evidence("validation loss at the end", last),
    )
    cause = FindingCause.INPUT_SCALE if is_odd else FindingCause.WRONG_MODE
    return (Clue(cause, 0.5, 0.85, summary, advice, evidence, view.span, layer),)


def _cannot_follow(view: View) -> bool:
    """Whether the momentum of a BatchNorm is too small for as many steps as were made."""
    momentum = view.column("mode", "batchnorm_momentum")
    return len(momentum) > 0 and (1 - momentum[-1]) ** (view.span[1] - view.span[0]) > _BEGINNING


def _tiny_batches(view: View) -> tuple[Clue, ...]:
    rows = view.column("mode", "smallest_batchnorm_rows")
    batch = view.column("mode", "smallest_batchnorm_batch")
    rows, batch = rows[np.isfinite(rows)], batch[np.isfinite(batch)]
    if len(rows) < _MIN_LOOKS:
        return ()
    few, samples = float(np.median(rows)), middle(batch)
    if not (few <= _TINY_ROWS or samples <= _TINY_BATCH):
        return ()
    over = f"{few:.0f} rows" if few <= _TINY_ROWS else f"the positions of {samples:.0f} samples"
    summary = f"A BatchNorm layer averages over {over} only: its statistics are noisy."
    advice = "Use larger batches, or GroupNorm or LayerNorm."
    evidence = (Evidence("rows per batch", few, "rows", _TINY_ROWS),)
    cause = FindingCause.TINY_BATCH_BATCHNORM
    told = few <= _TINY_ROWS or (few <= _FEW_ROWS and not view.has_learned)
    return (Clue(cause, 0.3, 0.85, summary, advice, evidence, view.span, stands_alone=told),)
