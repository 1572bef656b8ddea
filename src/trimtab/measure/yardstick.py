"""A model held against a cheap learner that saw the same rows: is what it leaves noise, or could it know?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trimtab.measure.fingerprint import are_judged, fingerprints_of

STATISTICS = ("error", "plain_error", "baseline", "num_rows")
# Features of the regression: so many of the inputs, and so many of a random layer on top of them
_NUM_LINEAR, _NUM_RANDOM, _NUM_COLUMNS = 128, 128, 64
# Numbers of a row that are looked at, and deviations beyond which a feature says no more
_MAX_NUMBERS, _MAX_DEVIATION = 4096, 5.0
# Ridge of so many rows: on digits, linear and curved functions with and without noise the share that is
# explained after 500 rows is within 0.05 of that of the best ridge for each
_RIDGE = 10.0


class Answers(NamedTuple):
    """What a model answered and should have, row by row.

    Attributes:
        predicted: Shape (rows, numbers): probabilities of classes, or the output.
        targets: The same for what was asked.
        counts: Shape (rows,), the weight of each; 0 where nothing is known.
        shape: Of the whole output that the rows are the first of; a row is all but its last dimension, or
            a sample.
    """

    predicted: Tensor
    targets: Tensor
    counts: Tensor
    shape: torch.Size


class Yardstick:
    """Ridge regression on half of the rows of the looks so far, which predicts the other half of each look.

    Which half a row belongs to hangs on its numbers: what comes again, as rows of a small data set do, was
    not learned by heart when it is judged.

    It sees what enters the model, standardized, and a random layer of ReLU units on top (random features);
    of tokens it sees which stands at the place and which before it, or how often each occurs. Where the
    targets have the shape of the inputs, as in an autoencoder, it says nothing: copying is no merit there.

    Given what the loss sends back to the output in place of targets, and nothing as the answer, it tells what
    of that the inputs foretell: of a model that has learned what there is only noise is left.

    Args:
        keep: Share of what is known that is kept from look to look; 1 for targets, less for what changes.

    Cost:
        Per look one product and one solution of a system of at most 257 unknowns; memory for its square.
        No host read.

    Example:
        >>> yardstick, x = Yardstick(), torch.linspace(-1, 1, 64)[:, None]
        >>> answers = Answers(torch.zeros(64, 1), 2 * x, torch.ones(64), torch.Size((64, 1)))
        >>> _ = yardstick.look(x.expand(64, 2), answers)
        >>> [round(number, 2) for number in yardstick.look(x.expand(64, 2), answers).tolist()]
        [1.28, 0.0, 1.32, 31.0]

    References:
        Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", 2002 (sums with signs);
        Rahimi, Recht, "Weighted sums of random kitchen sinks", 2008; Dawid, "Prequential analysis", 1984
        (judging by what comes next).
    """

    def __init__(self, keep: float = 1.0) -> None:
        self._keep = keep
        self._known: _Known | None = None

    def look(self, entering: Tensor, answers: Answers) -> Tensor:
        """Predict the rows of a look from those before, then learn them.

        Args:
            entering: What the model was given.
            answers: Its answers and what they should have been.

        Returns:
            Aligned to `STATISTICS`: mean squares of what the model, the regression and the mean of these
            rows are off. nan for the first look, and where nothing is known.
        """
        nothing = torch.full((len(STATISTICS),), float("nan"), device=answers.targets.device)
        # products of half precision would lose the ridge
        with torch.autocast(answers.targets.device.type, enabled=False):
            return self._look(entering, answers, nothing)

    def _look(self, entering: Tensor, answers: Answers, nothing: Tensor) -> Tensor:
        rows = _Rows.of(entering, answers)
        if rows is None:
            return nothing
        if self._known is None:
            frame = _Frame.of(rows.raw)
            self._known = _Known.nothing(frame, rows)
        known = self._known
        if not known.fits(rows):
            return nothing
        features = known.frame.features(rows.raw) * rows.weight
        is_judged = rows.is_judged
        found = known.judge(rows.only(is_judged), features * is_judged)
        self._known = known.and_these(rows.only(~is_judged), features * ~is_judged, self._keep)
        return found


class _Frame(NamedTuple):
    """How rows become features: by mean and deviation of the first look, and a random layer."""

    mean: Tensor
    scale: Tensor
    into: Tensor
    weights: Tensor
    bias: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> _Frame:
        """That of the rows of a first look."""
        # numbers of its own: those of the run must stay what they are
        generator = torch.Generator().manual_seed(0)
        num_raw = raw.shape[1]
        num_linear = min(num_raw, _NUM_LINEAR)
        into = torch.eye(num_raw)
        if num_raw > num_linear:
            into = torch.randn(num_raw, num_linear, generator=generator) / math.sqrt(num_raw)
        weights = torch.randn(num_linear, _NUM_RANDOM, generator=generator) / math.sqrt(num_linear)
        bias = torch.randn(_NUM_RANDOM, generator=generator)
        spread = raw.std(0, unbiased=False)
        # what did not move in one batch may move in the next, by as much as the others
        typical = torch.where(spread > 0, spread, float("nan")).nanmedian().nan_to_num(1.0)
        scale = torch.where(spread > 1e-3 * typical, spread, typical)
        return cls(raw.mean(0), scale, *(t.to(raw.device) for t in (into, weights, bias)))

    def features(self, raw: Tensor) -> Tensor:
        """Shape (rows, features), the first one constant."""
        around = ((raw - self.mean) / self.scale).clamp(-_MAX_DEVIATION, _MAX_DEVIATION) @ self.into
        return torch.cat(
            [torch.ones_like(around[:, :1]), around, (around @ self.weights + self.bias).relu()], 1
        )


class _Known(NamedTuple):
    """The sums of which the regression is made."""

    frame: _Frame
    moment: Tensor
    with_targets: Tensor
    number: Tensor

    @classmethod
    def nothing(cls, frame: _Frame, rows: _Rows) -> _Known:
        """What is known before any row was learned."""
        zeros, num_features = rows.targets.new_zeros, 1 + frame.into.shape[1] + _NUM_RANDOM
        return cls(
            frame, zeros(num_features, num_features), zeros(num_features, rows.targets.shape[1]), zeros(())
        )

    def fits(self, rows: _Rows) -> bool:
        """Whether rows have as many numbers as those before."""
        is_wide = rows.raw.shape[1] == len(self.frame.mean)
        return is_wide and rows.targets.shape[1] == self.with_targets.shape[1]

    def judge(self, rows: _Rows, features: Tensor) -> Tensor:
        """Aligned to `STATISTICS`."""
        ridge = self.moment + _RIDGE * torch.eye(len(self.moment), device=self.moment.device)
        solution, _ = torch.linalg.solve_ex(ridge, self.with_targets)
        number, width = rows.weight.square().sum(), rows.targets.shape[1]
        center = (rows.targets * rows.weight).sum(0) / number
        answers = (rows.predicted, features @ solution, center * rows.weight)
        squares = [(answer - rows.targets).square().sum() / width for answer in answers]
        by = torch.stack([number, number, number - 1])
        found = torch.cat([torch.stack(squares) / by, self.number.reshape(1)])
        return torch.where(self.number > 0, found, float("nan"))

    def and_these(self, rows: _Rows, features: Tensor, keep: float) -> _Known:
        """What is known with these rows as well, and a share of what was known before."""
        return _Known(
            self.frame,
            keep * self.moment + features.T @ features,
            keep * self.with_targets + features.T @ rows.targets,
            keep * self.number + rows.weight.square().sum(),
        )


class _Rows(NamedTuple):
    """What a look brings: raw features of each row, and answers and targets times the root of its weight."""

    raw: Tensor
    predicted: Tensor
    targets: Tensor
    weight: Tensor
    is_judged: Tensor

    @classmethod
    def of(cls, entering: Tensor, answers: Answers) -> _Rows | None:
        """The rows of a look; None if the inputs cannot be told apart row by row."""
        shape, (predicted, targets, counts) = answers.shape, answers[:3]
        if entering.layout is not torch.strided or entering.dim() < 2 or _is_as_large(entering, shape):
            return None
        number, of_places = len(targets), _of_places(entering, shape)
        num_places = max(shape[1:-1].numel(), 1)
        if of_places is None and entering.shape[0] != shape[0]:
            return None
        if of_places is None:
            number //= num_places
            if not number:  # a sample has more places than rows were kept
                return None
            predicted, targets, counts = (
                t[: number * num_places].reshape(number, -1) for t in (predicted, targets, counts)
            )
            counts = counts.amin(1)
        raw = (_of_samples(entering[:number]) if of_places is None else of_places[:number]).float()
        raw = raw.to(targets.device)
        if not raw.numel() or not targets.numel():
            return None
        predicted, targets = _narrow(predicted), _narrow(targets)
        are_sound = [t.isfinite().all(1) for t in (raw, predicted, targets)]
        weight = (torch.stack(are_sound).all(0) * counts).sqrt()[:, None]
        raw, predicted, targets = (t.nan_to_num(0.0, 0.0, 0.0) for t in (raw, predicted, targets))
        if of_places is None:
            is_judged = are_judged(fingerprints_of(entering[:number]))
        else:  # a sample with all of its places
            prints = fingerprints_of(entering[: -(-number // num_places)])
            is_judged = are_judged(prints).repeat_interleave(num_places)[:number]
        is_judged = is_judged[:, None].to(targets.device)
        return cls(raw, predicted * weight, targets * weight, weight, is_judged)

    def only(self, chosen: Tensor) -> _Rows:
        """The same rows, of which only the chosen ones count."""
        return self._replace(
            predicted=self.predicted * chosen, targets=self.targets * chosen, weight=self.weight * chosen
        )


def _is_as_large(entering: Tensor, shape: torch.Size) -> bool:
    """Whether a sample goes in and comes out with as many numbers, as in an autoencoder."""
    has_numbers = entering.is_floating_point() and entering.shape[0] == shape[0]
    return entering.shape == shape or (has_numbers and entering.numel() == shape.numel())


def _narrow(numbers: Tensor) -> Tensor:
    """At most 64 columns, each a sum of some with signs: squares stay what they are, on average."""
    width = numbers.shape[1]
    if width <= _NUM_COLUMNS:
        return numbers
    generator = torch.Generator().manual_seed(0)
    into = torch.randint(_NUM_COLUMNS, (width,), generator=generator).to(numbers.device)
    signs = (torch.randint(2, (width,), generator=generator) * 2 - 1).to(numbers)
    return numbers.new_zeros(len(numbers), _NUM_COLUMNS).index_add_(1, into, numbers * signs)


def _of_places(entering: Tensor, shape: torch.Size) -> Tensor | None:
    """One row for each place of a sequence, if the model was given something for each of its outputs."""
    if entering.is_floating_point():
        is_alike = entering.dim() > 2 and entering.shape[:-1] == shape[:-1]
        return entering.flatten(0, -2)[:, :_MAX_NUMBERS] if is_alike else None
    if entering.shape != shape[:-1]:
        return None
    before = torch.cat([torch.zeros_like(entering[..., :1]), entering[..., :-1]], -1)
    half = _NUM_LINEAR // 2
    both = torch.stack([entering.flatten() % half, before.flatten() % half + half], 1).long()
    return torch.zeros(len(both), 2 * half, device=both.device).scatter_(1, both, 1.0)


def _of_samples(entering: Tensor) -> Tensor:
    flat = entering.flatten(1)[:, :_MAX_NUMBERS]
    if flat.is_floating_point():
        return flat
    counts = torch.zeros(len(flat), _NUM_LINEAR, device=flat.device)
    return counts.scatter_add_(1, flat.long() % _NUM_LINEAR, torch.ones_like(flat, dtype=counts.dtype))
