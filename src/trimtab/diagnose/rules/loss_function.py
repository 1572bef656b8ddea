"""The rule of losses that do not fit what the model gives them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from trimtab.diagnose.clues import Clue
from trimtab.diagnose.rules.stuck import is_slow
from trimtab.diagnose.rules.underfitting import is_outdone
from trimtab.diagnose.statistics import middle
from trimtab.diagnose.view import Need, View
from trimtab.types import Evidence, FindingCause

_KINDS = (
    (
        "softmax_twice",
        FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY,
        "The cross-entropy gets the output of a softmax, and applies its "
        "own to it: logits in [0, 1] cannot say much.",
        "Give the raw output of the last layer to cross_entropy, or log_softmax to nll_loss.",
    ),
    (
        "without_log",
        FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY,
        "The negative log-likelihood gets the output of a softmax where it expects the logarithm of that: it "
        "takes no logarithm itself.",
        "Use log_softmax with nll_loss, or give the raw output to cross_entropy.",
    ),
    (
        "sigmoid_twice",
        FindingCause.SIGMOID_BEFORE_BCE,
        "binary_cross_entropy_with_logits gets the output of a sigmoid, and applies its own to it.",
        "Give it the raw output of the last layer.",
    ),
    (
        "activated",
        FindingCause.ACTIVATED_LOGITS,
        "The logits of the cross-entropy have passed a ReLU, tanh or sigmoid: they cannot take all values.",
        "Leave the last layer without an activation.",
    ),
)


_MIN_LOOKS = 3
# With a softmax between layers so little is explained; a sharp one, as of categorical units, does better
_EXPLAINED = 0.5
# So few of a batch's rows decide on the gradient, in the first looks and later; and so many there are
_HEARD, _LATER, _HALF_HEARD, _MIN_ROWS, _NUM_EARLY = 0.25, 0.2, 0.5, 16, 6
# Targets that were worked out of a gradient are off by so much at most
_ROUNDED = 0.02
# Share of the steps
_OFTEN = 0.05
# Range of the activations behind a squared error, and how far targets must lie outside, of their own range
_RANGES = (("sigmoid", 0.0, 1.0), ("tanh", -1.0, 1.0), ("ReLU", 0.0, math.inf))
_OUTSIDE = 0.1
# What a model explains that does well in spite of it, as with noise around a bound
_REACHED = 0.75
# Labels that are the input's own tokens, and a model that has found out
_MANY_LOOKS, _SAME, _LEARNED = 4, 0.99, 0.5


@final
@dataclass(frozen=True, slots=True)
class LossFunction:
    """What it detects: a loss that does not fit what the model gives it, as the graph of the loss shows.

    Why it matters: an activation at the end keeps outputs away from their targets; a second softmax leaves
    logits between 0 and 1, so that the loss cannot come near 0 and its gradient is small; a sum over the
    batch makes the step as many times larger as the batch; outputs of shape (N, 1) and targets of shape (N,)
    are compared each with each, and only the mean can be learned; a softmax over one class is 1 whatever the
    model says; a language model whose labels were not shifted learns to copy.

    Evidence used: the nodes of the graph behind the loss, in all looks; the labels, read from the gradient of
    the output, against the tokens of the input; values below 0 of a plain cross-entropy. A sum is told only
    as the cause of something else.

    What to try: raw logits for losses that say "with logits" or "cross-entropy"; reduction="mean".

    Known false alarms: a softmax further back, as in attention, is not meant, and not matched. A model of
    tokens that is meant to give its input back is told that it copies.

    References: the documentation of `torch.nn.functional.cross_entropy`.
    """

    causes = (
        FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY,
        FindingCause.SIGMOID_BEFORE_BCE,
        FindingCause.ACTIVATED_LOGITS,
        FindingCause.SUM_REDUCTION,
        FindingCause.LABEL_TROUBLE,
        FindingCause.LEAK,
    )
    needs = Need.LOSS_GRAPH

    def look(self, view: View) -> tuple[Clue, ...]:
        """See `Rule.look`."""
        found = _pairs(view) + _over_batch(view) + _copied(view) + _squashed(view) + _single_class(view)
        found += _softmax_inside(view) + _few_decide(view) + _class_numbers(view) + _below_zero(view)
        for key, cause, summary, advice in _KINDS:
            column = view.column("loss", key)
            seen = column[np.isfinite(column)]
            if len(seen) and np.all(seen == 1):
                evidence = (Evidence("looks that show it", float(len(seen))),)
                found.append(Clue(cause, 0.3, 0.95, summary, advice, evidence, view.span))
        is_sum = view.column("loss", "is_sum")
        if len(is_sum) and np.all(is_sum == 1):
            summary = "The loss is summed over the batch: gradients and steps grow with the batch size."
            advice = 'Use reduction="mean", or divide the learning rate by the number of terms.'
            evidence = (Evidence("looks that show it", float(len(is_sum))),)
            found.append(
                Clue(
                    FindingCause.SUM_REDUCTION,
                    0.3,
                    0.85,
                    summary,
                    advice,
                    evidence,
                    view.span,
                    stands_alone=False,
                )
            )
        return tuple(found)


def _over_batch(view: View) -> list[Clue]:
    """A softmax that makes the rows of a batch compete, and not the classes."""
    over, rows = view.column("loss", "over_batch"), view.column("output", "num_rows")
    if len(rows) < _MIN_LOOKS or len(over) != len(rows) or not np.all((over == 1) & (rows > 1)):
        return []
    summary = (
        "The softmax before the loss goes over the rows of the batch: they compete, and not the classes."
    )
    advice = "Use log_softmax(dim=-1), or give raw logits to cross_entropy."
    evidence = (Evidence("looks that show it", float(len(rows))),)
    cause = FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY
    return [Clue(cause, 0.6, 0.95, summary, advice, evidence, view.span)]


def _squashed(view: View) -> list[Clue]:
    """Outputs that an activation keeps away from targets that are there."""
    kinds, low, high = (
        view.column("loss", "squashed"),
        view.column("target", "smallest"),
        view.column("target", "largest"),
    )
    if len(kinds) < _MIN_LOOKS or len(low) != len(kinds) or not np.all(kinds == kinds[0]) or kinds[0] < 1:
        return []
    name, least, most = _RANGES[int(kinds[0]) - 1]
    smallest, largest = middle(low), middle(high)  # of each look: one odd target is noise
    room = _OUTSIDE * (largest - smallest)
    is_outside = smallest < least - room or largest > most + room
    if not (is_outside and view.explained.value < _REACHED):
        return []
    summary = (
        f"The outputs pass a {name}, which gives numbers from {least:g} to {most:g}, and the targets go from "
        f"{smallest:.3g} to {largest:.3g}."
    )
    advice = f"Leave the {name} at the end out, or scale the targets into its range."
    evidence = (Evidence("smallest target", smallest), Evidence("largest target", largest))
    return [Clue(FindingCause.ACTIVATED_LOGITS, 0.6, 0.95, summary, advice, evidence, view.span)]


def _softmax_inside(view: View) -> list[Clue]:
    """A softmax between two linear layers: its units share 1, and next to nothing is left for each."""
    inside = view.column("loss", "softmax_inside")
    is_poor = view.explained.value < _EXPLAINED or is_outdone(view) or is_slow(view.loss)
    if len(inside) < _MIN_LOOKS or not np.all(inside == 1) or not is_poor:
        return []
    summary = (
        "A linear layer takes the output of a softmax: its inputs add up to 1, so that each of many is small "
        "and only one can be large."
    )
    advice = "Between layers use ReLU, GELU or tanh; a softmax belongs to attention and after the last layer."
    evidence = (Evidence("looks that show it", float(len(inside))),)
    return [Clue(FindingCause.SATURATION, 0.4, 0.8, summary, advice, evidence, view.span)]


def _few_decide(view: View) -> list[Clue]:
    """A loss in which a few rows of each batch have nearly all the say, before anything was learned."""
    heard, rows = view.column("output", "heard_rows"), view.column("output", "num_rows")
    first, late = heard[:_NUM_EARLY], heard[_NUM_EARLY:]
    # rows that a classifier has right already ask for nothing, and rare ones may be given a weight
    is_classes = np.any(view.column("loss", "is_entropy") == 1) or np.any(
        np.isfinite(view.column("loss", "sigmoid_twice"))
    )
    is_open = not is_classes and bool(np.all(rows >= _MIN_ROWS))
    if len(late) < _MIN_LOOKS or not is_open or not first[0] < _HALF_HEARD:
        return []
    share = middle(first)
    if not (share < _HEARD and middle(late) < _LATER):
        return []
    summary = (
        f"From the first step on a few rows of each batch decide on the gradient: it is as if only "
        f"{share:.0%} of them were there."
    )
    advice = (
        "Look at the loss of single rows: a relative error of targets near 0, targets with outliers or in "
        "other units, weights of rows. Use an absolute or a Huber loss, or logarithms."
    )
    evidence = (Evidence("share of the rows that have a say in the gradient", share, limit=_HEARD),)
    return [Clue(FindingCause.LABEL_TROUBLE, 0.5, 0.8, summary, advice, evidence, view.span)]


def _single_class(view: View) -> list[Clue]:
    """A softmax over one class, which is 1 whatever the model says."""
    entropy, classes = view.column("loss", "is_entropy"), view.column("output", "num_classes")
    is_single = len(entropy) == len(classes) >= _MIN_LOOKS and bool(np.all((entropy == 1) & (classes == 1)))
    if not is_single or not len(view.loss) or np.any(view.loss.values != 0):
        return []
    summary = "The cross-entropy is taken over a single class: it is 0 whatever the model says."
    advice = (
        "For two classes use one output with binary_cross_entropy_with_logits, or two with cross_entropy."
    )
    evidence = (Evidence("classes", 1.0), Evidence("loss", 0.0))
    return [Clue(FindingCause.SOFTMAX_BEFORE_CROSS_ENTROPY, 1.0, 0.95, summary, advice, evidence, view.span)]


def _pairs(view: View) -> list[Clue]:
    """A column of outputs that was broadcast against a row of targets."""
    pairs, rows, width = (
        view.column("loss", "num_paired"),
        view.column("output", "num_rows"),
        view.column("output", "num_classes"),
    )
    if len(rows) < _MIN_LOOKS or len(rows) != len(pairs):
        return []
    if not np.all((pairs == rows) & (width == 1) & (rows > 1)):
        return []
    number = int(rows[-1])
    summary = (
        f"Each of {number} outputs is compared with each of {number} targets: shape ({number}, 1) against "
        f"({number},) is broadcast. Only the mean of the targets can be learned so."
    )
    advice = "Give both the same shape: targets[:, None], or outputs.squeeze(1)."
    evidence = (Evidence("looks that show it", float(len(rows))),)
    return [Clue(FindingCause.LABEL_TROUBLE, 0.9, 0.95, summary, advice, evidence, view.span)]


def _class_numbers(view: View) -> list[Clue]:
    """A squared error that draws all outputs to the number of the class."""
    columns = [view.column("target", name) for name in ("one_for_all", "smallest", "largest")]
    width = view.column("output", "num_classes")
    if len(width) < _MIN_LOOKS or any(len(column) != len(width) for column in columns):
        return []
    one, low, high = (column[np.isfinite(column)] for column in columns)
    if len(one) < _MIN_LOOKS or not np.all(one == 1) or not (np.all(width == width[0]) and width[0] > 2):
        return []
    number = int(width[0])
    if abs(float(low.min())) > _ROUNDED or abs(float(high.max()) - (number - 1)) > _ROUNDED:
        return []
    summary = (
        f"A squared error draws all {number} outputs of a row to one number from 0 to {number - 1}: that "
        "of its class was broadcast over them."
    )
    advice = (
        "Use cross_entropy(outputs, classes), or give each row a target for each output: one_hot(classes)."
    )
    evidence = (Evidence("looks that show it", float(len(one))),)
    return [Clue(FindingCause.LABEL_TROUBLE, 0.8, 0.95, summary, advice, evidence, view.span)]


def _below_zero(view: View) -> list[Clue]:
    """A cross-entropy below 0, as no targets that are probabilities can bring it about."""
    kinds = [view.column("loss", name) for name in ("is_binary", "is_plain")]
    losses = view.loss.values[np.isfinite(view.loss.values)]
    if not any(len(kind) >= _MIN_LOOKS and np.all(kind == 1) for kind in kinds) or not len(losses):
        return []
    share = float((losses < 0).mean())
    # one times -1 begins below 0, one weighted by what an action brought stays close to it
    if not (share > _OFTEN and losses.min() < -1 and view.loss.start > 0):
        return []
    summary = (
        f"The cross-entropy is below 0 in {share:.0%} of the steps, down to {losses.min():.4g}: its targets "
        "are no probabilities."
    )
    advice = "Look at the targets: they must be 0 or 1, or between; -1 and 1 are for a hinge loss."
    evidence = (Evidence("lowest loss", float(losses.min()), limit=0.0),)
    return [Clue(FindingCause.LABEL_TROUBLE, 0.9, 0.95, summary, advice, evidence, view.span)]


def _is_copied(view: View) -> bool:
    """Whether the labels were the very tokens of the input at every look, and the loss fell for that."""
    copied = view.column("target", "copied")
    return len(copied) >= _MANY_LOOKS and bool(np.all(copied >= _SAME)) and view.explained.value > _LEARNED


def _copied(view: View) -> list[Clue]:
    """Labels that are the tokens of the input."""
    if not _is_copied(view):
        return []
    copied = float(np.min(view.column("target", "copied")))
    summary = (
        f"The labels are the tokens that the model is given: {copied:.0%} of them stand at the same place in "
        "the input. It learns to copy."
    )
    advice = "Shift them by one: model(tokens[:, :-1]) against tokens[:, 1:]."
    evidence = (Evidence("smallest share of labels that are their own input", copied, limit=_SAME),)
    return [Clue(FindingCause.LEAK, 0.8, 0.85, summary, advice, evidence, view.span)]
