"""Whether a model is trained on rows of another kind than those that it is evaluated on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimtab.measure.fingerprint import are_judged, fingerprints_of

# Rows that are kept of each kind, and how many there must be; of a row so many numbers count
_MAX_ROWS, _MIN_ROWS, _MAX_COLUMNS = 512, 96, 4096
_NUM_SKETCHED, _NUM_RANDOM = 48, 64
_LAGS = (1, 2, 3, 5, 8, 13)
# A ridge of half of the rows: with 64 to 256 rows learned, rows of one kind then explain -0.2 to 0 of it, and
# those that were shuffled, covered or noised 0.3 to 0.9 (normal, correlated, 8 to 784 columns)
_RIDGE, _TINY, _MAX_DEVIATION = 0.5, 1e-12, 5.0


class Kinds:
    """A classifier that tells training rows from evaluated ones, judged on rows that it did not learn.

    It sees of each row its numbers (sums of some with random signs, and a random layer of ReLU units on top),
    how they are spread, how many are 0, and how neighbours go together; of tokens which occur, and which
    follow each other. Rows of one kind cannot be told apart, whatever the classifier.

    Cost:
        Memory for 512 rows of some 150 numbers of each kind. Each time twice as many rows are known, the
        solution of a system of as many unknowns and three host reads: six times in a run.

    Example:
        >>> kinds, rows = Kinds(), torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        >>> kinds.add(rows[:128].cumsum(1), is_trained=True)
        >>> kinds.add(rows[128:], is_trained=False)
        >>> kinds.share() > 0.5
        True

    References:
        Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017, arXiv:1610.06545.
    """

    def __init__(self) -> None:
        self._rows: dict[bool, list[Tensor]] = {True: [], False: []}
        self._prints: dict[bool, list[Tensor]] = {True: [], False: []}
        self._numbers = {True: 0, False: 0}
        self._share, self._known = math.nan, 0

    def add(self, rows: Tensor, *, is_trained: bool) -> None:
        """Keep some rows of a batch.

        Args:
            rows: Shape (rows, ...); as many numbers in each as those before.
            is_trained: Whether they are trained on, and not evaluated.
        """
        room = _MAX_ROWS - self._numbers[is_trained]
        if room <= 0 or not rows.numel() or rows.is_complex():
            return
        some = rows.detach()[:room]
        described = _described(some)
        known = self._rows[True] or self._rows[False]
        if known and known[0].shape[1] != described.shape[1]:
            return
        self._rows[is_trained].append(described)
        self._prints[is_trained].append(fingerprints_of(some))
        self._numbers[is_trained] += len(described)

    def share(self) -> float:
        """Share of the variance of the kind that the classifier explains; nan if too little is known."""
        number = min(self._numbers.values())
        if number < _MIN_ROWS or number < 2 * self._known:
            return self._share
        self._known = number
        firsts = {kind: self._firsts(is_trained=kind) for kind in (True, False)}
        number = min(len(places) for places in firsts.values())
        if number < _MIN_ROWS:  # the same few rows, again and again
            return self._share
        rows, prints = [], []
        for kind, places in firsts.items():
            # evenly spaced: rows of all times, and as many of the one kind as of the other
            chosen = places[torch.arange(number, device=places.device) * len(places) // number]
            rows.append(torch.cat(self._rows[kind])[chosen])
            prints.append(torch.cat(self._prints[kind])[chosen])
        home = rows[0].device
        kinds = torch.tensor([1.0, -1.0], device=home).repeat_interleave(number)
        # a row that comes again must not be learned and judged
        is_judged = are_judged(torch.cat([p.to(home) for p in prints]))
        self._share = float(_explained(torch.cat([r.to(home) for r in rows]), kinds, is_judged))
        return self._share

    def _firsts(self, *, is_trained: bool) -> Tensor:
        """Places of the rows that did not come before."""
        prints = torch.cat(self._prints[is_trained])
        ordered, order = prints.sort(stable=True)
        is_first = torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]])
        return order[is_first].sort()[0]


def _explained(rows: Tensor, kind: Tensor, is_judged: Tensor) -> Tensor:
    """Share of the kinds' variance that a ridge regression on one half of the rows explains of the other."""
    features = ((rows - rows.mean(0)) / (rows.std(0) + _TINY)).clamp(-_MAX_DEVIATION, _MAX_DEVIATION)
    features = torch.cat([features.nan_to_num(0.0), torch.ones_like(features[:, :1])], 1)
    learned = ~is_judged[:, None]
    seen = features * learned
    ridge = _RIDGE * len(rows) / 2
    system = seen.T @ seen + ridge * torch.eye(features.shape[1], device=rows.device)
    solution, _ = torch.linalg.solve_ex(system, seen.T @ kind)
    off = ((features @ solution).clamp(-1, 1) - kind).square() * is_judged
    share: Tensor = 1 - off.sum() / is_judged.sum()
    return share


def _described(rows: Tensor) -> Tensor:
    """Shape (rows, features)."""
    flat = rows.reshape(len(rows), -1)[:, :_MAX_COLUMNS]
    if not flat.is_floating_point():
        return _of_tokens(flat.long())
    flat = flat.float().nan_to_num(0.0, 0.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    width = flat.shape[1]
    number = min(width, _NUM_SKETCHED)
    sketched = flat
    if width > number:
        into = torch.randint(number, (width,), generator=generator).to(flat.device)
        signs = (torch.randint(2, (width,), generator=generator) * 2 - 1).to(flat)
        sketched = flat.new_zeros(len(flat), number).index_add_(1, into, flat * signs)
    weights = torch.randn(number, _NUM_RANDOM, generator=generator).to(flat)
    size = flat.square().mean(1, keepdim=True).sqrt()
    random = (sketched / (sketched.square().mean(1, keepdim=True).sqrt() + _TINY) @ weights).relu()
    return torch.cat([sketched, random, size.log1p(), _of_order(flat / (size + _TINY))], 1)


def _of_order(flat: Tensor) -> Tensor:
    """How the numbers of a row of size 1 are spread, and how neighbours go together."""
    mean = flat.mean(1, keepdim=True)
    spread = (mean, (flat == 0).float().mean(1, keepdim=True), flat.abs().amax(1, keepdim=True))
    around, width = flat - mean, flat.shape[1]
    together = [
        (around[:, lag:] * around[:, :-lag]).mean(1, keepdim=True) if width > lag else torch.zeros_like(mean)
        for lag in _LAGS
    ]
    return torch.cat([*spread, *together], 1)


def _of_tokens(flat: Tensor) -> Tensor:
    """How often each token and each pair of neighbours occurs, by their remainders."""
    counts = torch.zeros(len(flat), _NUM_SKETCHED + _NUM_RANDOM, device=flat.device)
    ones = torch.ones_like(flat, dtype=counts.dtype)
    counts.scatter_add_(1, flat % _NUM_SKETCHED, ones)
    # a prime times the one and the other: pairs that differ rarely share a remainder
    pairs = (flat[:, 1:] * 31 + flat[:, :-1] * 7) % _NUM_RANDOM + _NUM_SKETCHED
    return counts.scatter_add_(1, pairs, ones[:, 1:])
