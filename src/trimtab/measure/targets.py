"""What the targets of a step were, read from the gradient that the loss sent to the model's output."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.measure.loss_graph import LossFacts
from trimtab.measure.yardstick import Answers

STATISTICS = (
    "baseline",
    "error",
    "accuracy",
    "rms",
    "mean",
    "copied",
    "smallest",
    "largest",
    "alike",
    "one_for_all",
)
# Rows looked at, and numbers of output and gradient that are kept until then
_MAX_ROWS, _MAX_NUMBERS = 512, 1 << 20
_MAX_SAMPLES, _MAX_COLUMNS = 64, 2048
# A gradient is that of the mean square if it gives back the loss to this part
_EXACT = 0.01
# Gradients of a cross-entropy add up to zero over the classes, to this part of their size and of a row's
_BALANCED, _TINY = 1e-3, 1e-5
# Of the numbers of an output so many take part in a loss that is taken of all of it
_NEARLY_ALL = 0.95
# The gradient of a term of a sum is that of a cross-entropy times a number, to this part of the largest
_EVEN = 0.01
# A part of the rows may have so many times the loss of all
_ALIKE = 3.0
# So large a share of rows whose class occurs once means classes that the batch does not show (Good 1953)
_SINGLE = 0.1
# Targets may be so far outside of [0, 1] by rounding; a target of one class only
_ROUNDED, _SURE = 0.02, 0.99
# Targets that were worked out of a gradient are equal if they differ by so much of their size
_EQUAL = 1e-3


class OutputGradient(NamedTuple):
    """What is kept of a model's output and of the gradient that came back to it.

    Attributes:
        shape: Of the whole output.
        output: Its first numbers, flat.
        gradient: The gradient there.
        square: Mean square of the whole gradient.
    """

    shape: torch.Size
    output: Tensor
    gradient: Tensor
    square: Tensor

    @classmethod
    def of(cls, output: Tensor, gradient: Tensor) -> OutputGradient:
        """Keep a copy of at most a million numbers of each: a language model's outputs are large.

        Args:
            output: Of the model, any shape with two or more dimensions, the last one that of the classes.
            gradient: Of the loss with respect to it.
        """
        square = gradient.float().square().mean()
        return cls(output.shape, _first_numbers(output), _first_numbers(gradient), square)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Output and gradient, shape (rows, classes)."""
        width = self.shape[-1]
        number = min(_MAX_ROWS, len(self.output) // max(width, 1))
        out, gradient = (t[: number * width].view(number, width) for t in (self.output, self.gradient))
        return out, gradient

    def as_answers(self) -> Answers:
        """The gradient as what should have been answered, for a row's own loss, and 0 as the answer."""
        if not self.shape.numel():
            nothing = self.gradient.new_zeros(0, 1)
            return Answers(nothing, nothing, nothing[:, 0], self.shape)
        output, gradient = self.rows() if len(self.shape) == 2 else self.samples()
        is_whole = self.shape[1:].numel() <= _MAX_COLUMNS
        width = self.shape[-1] if is_whole else gradient.shape[1]
        gradient = _along_sphere(output.reshape(-1, width), gradient.reshape(-1, width))
        gradient = gradient * (self.shape.numel() // self.shape[-1])
        shape = self.shape if width == self.shape[-1] else torch.Size((self.shape[0], width))
        return Answers(torch.zeros_like(gradient), gradient, torch.ones_like(gradient[:, 0]), shape)

    def samples(self) -> tuple[Tensor, Tensor]:
        """Output and gradient, shape (samples, numbers of each)."""
        size = self.shape[1:].numel()
        number = min(_MAX_SAMPLES, len(self.output) // size)
        out, gradient = (t[: number * size].view(number, size) for t in (self.output, self.gradient))
        return out[:, :_MAX_COLUMNS], gradient[:, :_MAX_COLUMNS]


def _along_sphere(output: Tensor, gradient: Tensor) -> Tensor:
    """Of outputs that all have one norm, what can move them: the normalization swallows the rest."""
    norms = torch.linalg.vector_norm(output, dim=1, keepdim=True)
    is_sphere = (norms.amax() - norms.amin() <= _EQUAL * norms.amax()) & (output.shape[1] > 1)
    ways = output / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.where(is_sphere, gradient - (gradient * ways).sum(1, keepdim=True) * ways, gradient)


def _first_numbers(tensor: Tensor) -> Tensor:
    per_sample = max(tensor.shape[1:].numel(), 1)
    return tensor.detach()[: -(-_MAX_NUMBERS // per_sample)].reshape(-1)[:_MAX_NUMBERS].float().clone()


class Targets(NamedTuple):
    """What the gradient of a loss told.

    Attributes:
        statistics: Aligned to `STATISTICS`; nan for what the loss does not tell.
        answers: Those of the model, and what they should have been; None where nothing can be told.
    """

    statistics: Tensor
    answers: Answers | None


def target_facts(
    seen: OutputGradient, loss: Tensor, facts: LossFacts, tokens: Tensor | None = None
) -> Targets:
    """What the targets of a step were, as far as the loss tells.

    The gradient of a mean squared error over N numbers is 2 (output - target) / N, that of a cross-entropy
    over N rows (softmax - target) / N. Where that gives no shares, as with masked rows or a scaled loss, the
    label of a cross-entropy is where the gradient is negative; so too if it is one term of a sum. Of losses
    with weights nothing is said.

    `baseline` is the loss of the best constant answer on this batch (the variance of each column; the
    entropy of the labels, with the correction of Miller and Madow, and that of guessing where the batch does
    not show all classes; of binary labels one answer for all columns), `error` that of the model on the same
    rows, both above the floor that soft labels leave; `accuracy` is the share of labels it has right, `rms`
    and `mean` are those of the targets (of the labels' numbers), `copied` is the share of rows whose label
    is the token that the model was given there, `smallest` and `largest` are those of a squared error, and
    `alike` is the share of samples whose targets are those of the first one; `one_for_all` is the share of
    rows of a squared error whose outputs, two and more, all have the same target.

    Args:
        seen: What was kept of output and gradient.
        loss: The loss.
        facts: What the graph of the loss told.
        tokens: Whole numbers that the model was given, one for each row of its output, or None.

    Cost:
        Some twenty small operations on at most 512 rows; no host read.

    Example:
        >>> out = torch.zeros(4, 3, requires_grad=True)
        >>> loss = torch.nn.functional.cross_entropy(out, torch.tensor([0, 1, 2, 2]))
        >>> (gradient,) = torch.autograd.grad(loss, out)
        >>> from trimtab.measure.loss_graph import loss_facts
        >>> seen, facts = OutputGradient.of(out.detach(), gradient), loss_facts(loss)
        >>> [round(x, 2) for x in target_facts(seen, loss.detach(), facts).statistics.tolist()]
        [1.29, 1.1, 0.25, 1.5, 1.25, nan, nan, nan, 0.25, nan]

    References:
        Miller, "Note on the bias of information estimates", 1955; Good, "The population frequencies of
        species and the estimation of population parameters", Biometrika 40, 1953.
    """
    if not seen.shape.numel() or not seen.output.numel() // max(seen.shape[-1], 1):
        return Targets(torch.full((len(STATISTICS),), float("nan"), device=seen.output.device), None)
    if facts.is_entropy == 1 and seen.shape[-1] >= 2:
        return _of_classes(seen, loss.float(), tokens, facts)
    if facts.sigmoid_twice == 0:
        return _of_switches(seen, loss.float(), is_alone=facts.is_binary == 1)
    if 1 in (facts.is_square, facts.is_scaled, facts.is_shifted) or math.isfinite(facts.bend):
        return _of_numbers(seen, loss.float(), facts)
    return Targets(torch.full((len(STATISTICS),), float("nan"), device=seen.output.device), None)


def _of_classes(seen: OutputGradient, loss: Tensor, tokens: Tensor | None, facts: LossFacts) -> Targets:
    output, gradient = seen.rows()
    log = output.log_softmax(1)
    targets, weight, is_known = _labels(seen, loss, log, gradient, facts)
    number = weight.sum().clamp(min=1)
    shares, floor = targets.sum(0) / number, -torch.xlogy(targets, targets).sum() / number
    counts = shares * number
    baseline = -torch.xlogy(shares, shares).sum() + ((counts > 0.5).sum() - 1) / (2 * number)
    # of many classes a few rows say little: then that of guessing, which is no less
    is_covered = ((counts > 0.5) & (counts < 1.5)).sum() < _SINGLE * number
    baseline = torch.where(is_covered, baseline, baseline.clamp_min(math.log(output.shape[1])))
    labels, copied = targets.argmax(1), baseline * float("nan")
    if tokens is not None and tokens.numel() == seen.shape[:-1].numel():
        copied = ((labels == tokens.reshape(-1)[: len(labels)]) * weight).sum() / number
    found = (
        baseline - floor,
        _entropy_between(targets, log) / number - floor,
        ((output.argmax(1) == labels) * weight).sum() / number,
        ((labels**2 * weight).sum() / number).sqrt(),
        (labels * weight).sum() / number,
        copied,
        *(baseline * float("nan"),) * 2,
        _alike(labels[:, None], seen),
        baseline * float("nan"),
    )
    statistics = torch.where(is_known, torch.stack([f.float() for f in found]), float("nan"))
    return Targets(statistics, Answers(log.exp(), targets, weight * is_known, seen.shape))


def _alike(targets: Tensor, seen: OutputGradient) -> Tensor:
    """Share of the samples whose targets, in all of their rows, are those of the first one."""
    num_places = max(seen.shape[1:-1].numel(), 1)
    number = len(targets) // num_places
    if number < 2:
        return torch.full((), float("nan"), device=targets.device)
    flat = targets[: number * num_places].reshape(number, -1).float()
    near = _EQUAL * flat.square().mean().sqrt()
    return ((flat - flat[:1]).abs() <= near).all(1).float().mean()


def _one_for_all(targets: Tensor, width: int) -> Tensor:
    """Share of the rows all of whose targets are equal."""
    if width < 2 or targets.shape[1] % width:
        return torch.full((), float("nan"), device=targets.device)
    rows = targets.reshape(-1, width)
    near = _EQUAL * rows.square().mean().sqrt()
    return ((rows - rows[:, :1]).abs() <= near).all(1).float().mean()


def _labels(
    seen: OutputGradient, loss: Tensor, log: Tensor, gradient: Tensor, facts: LossFacts
) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of the classes, whether each row counts, and whether the gradient is that of a cross-entropy."""
    counts = gradient.abs().sum(1) > 0  # rows that are masked get no gradient
    # the gradient of a mean over rows is (prediction - target) / rows
    is_sum, num_rows = facts.is_sum == 1, seen.shape.numel() // seen.shape[-1]
    rows = 1 if is_sum else num_rows
    soft = log.exp() - gradient * rows
    hard = torch.zeros_like(log).scatter_(1, gradient.argmin(1, keepdim=True), 1.0)
    # after a log-softmax in the model the gradient is there at the label and nowhere else
    is_at_label = ((gradient != 0).sum(1) <= 1).all() & (gradient <= 0).all() & counts.any()
    # of a loss that was scaled down the rest would be the prediction itself
    implied = _entropy_between(soft, log) / (1 if is_sum else len(log))
    alike = _ALIKE if num_rows > len(log) else 1 + _EXACT
    is_alike = (implied >= loss / alike - _TINY) & (implied <= loss * alike + _TINY)
    is_soft = _are_shares(soft) & ~is_at_label & is_alike
    # what is right beyond rounding gets none either, and counts
    weight = (counts | (is_soft & (soft.amax(1) > _SURE))).float()
    allowed = _BALANCED * gradient.abs().sum(1) + _TINY / rows
    is_known = is_at_label | (gradient.sum(1).abs() <= allowed).all()
    if facts.is_plain != 1:  # a sum of several losses
        is_known = is_known & (is_soft | _is_one_term(log.exp() - hard, hard, gradient, counts))
    return torch.where(is_soft, soft.clamp(0, 1), hard) * weight[:, None], weight, is_known


def _is_one_term(plain: Tensor, on: Tensor, gradient: Tensor, counts: Tensor) -> Tensor:
    """Whether the gradient is so many times that of a cross-entropy, the same in all places that count.

    Then that loss is one term of a sum and alone sends gradients to this output. Weights of classes or rows
    are not let pass: what a constant answer leaves would hang on which of them a batch holds.
    """
    counted = counts.reshape(-1, *[1] * (plain.dim() - 1)) if counts.dim() < plain.dim() else counts
    times = (gradient.abs() * on * counted).sum() / (plain.abs() * on * counted).sum()
    off = ((gradient - times * plain) * counted).abs().amax()
    return (off <= _EVEN * times * (plain.abs() * on * counted).amax()) & (times > 0)


def _entropy_between(targets: Tensor, log: Tensor) -> Tensor:
    """Cross-entropy, summed; a class that is masked out and no target counts nothing."""
    return -torch.where(targets > 0, targets * log, 0.0).sum()


def _are_shares(targets: Tensor) -> Tensor:
    """Whether the numbers can be targets; not so if rows or classes are weighted, or the loss is scaled."""
    return ((targets > -_ROUNDED) & (targets < 1 + _ROUNDED)).all()


def _of_switches(seen: OutputGradient, loss: Tensor, *, is_alone: bool) -> Targets:
    output, gradient = seen.rows()
    plain = output.sigmoid() - gradient * seen.shape.numel()
    error = torch.nn.functional.binary_cross_entropy_with_logits(output, plain)
    alike = 1 + _EXACT if output.numel() == seen.shape.numel() else _ALIKE
    # not so where rows are weighted or left out, or the output is no logit of this loss
    is_plain = _are_shares(plain) & (error <= loss * alike + _TINY) & (error >= loss / alike - _TINY)
    labels = (gradient < 0).float()
    is_term = _is_one_term(
        output.sigmoid() - labels, torch.ones_like(labels), gradient, torch.ones_like(labels)
    )
    is_plain = is_plain & is_alone
    targets, is_known = torch.where(is_plain, plain, labels), is_plain | is_term
    error = torch.nn.functional.binary_cross_entropy_with_logits(output, targets)
    # one answer for all: columns may stand for places that the model does not know of
    share, floor = targets.clamp(0, 1).mean(), _entropy(targets.clamp(0, 1)).mean()
    right = ((output > 0) == (targets > 0.5)).float().mean()
    nothing = share * float("nan")
    moments = (share.sqrt(), share)
    found = (
        _entropy(share) - floor,
        error - floor,
        right,
        *moments,
        *(nothing,) * 3,
        _alike(targets, seen),
        nothing,
    )
    answers = Answers(output.sigmoid(), targets, is_known.float().expand(len(targets)), seen.shape)
    return Targets(torch.where(is_known, torch.stack(found), float("nan")), answers)


def _entropy(shares: Tensor) -> Tensor:
    return -torch.xlogy(shares, shares) - torch.xlogy(1 - shares, 1 - shares)


def _of_numbers(seen: OutputGradient, loss: Tensor, facts: LossFacts) -> Targets:
    """Of a squared error, or of a Huber loss none of whose elements is beyond its bend."""
    bend, is_huber = facts.bend, math.isfinite(facts.bend)
    scale = seen.shape.numel() * (bend if is_huber else 0.5)
    square = seen.square * scale**2
    is_exact = (square / (2 * bend if is_huber else 1.0) - loss).abs() <= _EXACT * loss
    output, gradient = seen.samples()
    off = gradient * scale
    # what gets no gradient was left out of the loss
    is_whole_loss = (gradient != 0).float().mean() > _NEARLY_ALL
    if facts.is_scaled == 1:  # a factor counts once in the loss, and twice in the square of its gradient
        off, is_exact = off * loss / square, is_whole_loss & (square > 0) & (loss > 0)
    if facts.is_shifted == 1:
        is_exact = is_whole_loss & (square > 0) & (square <= loss * (1 + _EXACT))
    targets, nothing = output - off, seen.square * float("nan")
    variance = targets.var(0).mean() if len(targets) > 1 else nothing
    rms, ends = targets.square().mean().sqrt(), torch.aminmax(targets)
    # the samples are flat here, and each is a row
    alike = _alike(targets, seen._replace(shape=torch.Size(targets.shape)))
    found = (
        variance,
        off.square().mean(),
        nothing,
        rms,
        targets.mean(),
        nothing,
        *ends,
        alike,
        _one_for_all(targets, seen.shape[-1]),
    )
    statistics = torch.where(is_exact, torch.stack(found), float("nan"))
    is_whole = output.shape[1] == seen.shape[1:].numel()
    shape = seen.shape if is_whole else torch.Size((seen.shape[0], output.shape[1]))
    predicted, targets = output.reshape(-1, shape[-1]), targets.reshape(-1, shape[-1])
    return Targets(statistics, Answers(predicted, targets, is_exact.float().expand(len(targets)), shape))
