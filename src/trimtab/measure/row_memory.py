"""Whether rows that a model is evaluated on are rows that it was trained on."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.measure.fingerprint import fingerprints
from trimtab.measure.hooks import Hook, takes_hooks
from trimtab.measure.kinds import Kinds

# Of each batch; and so many rows and batches in all, until the next look
_MAX_ROWS, _MAX_COLUMNS, _MAX_BATCHES = 64, 4096, 32
_MAX_KNOWN, _MAX_SQUARES = 1 << 14, 4096
# Of so many looks, the last ones: early on little is known yet
_NUM_EXPECTED = 5
_STATISTICS = (
    *("num_evaluated", "num_known", "expected_share", "chance_share", "num_trained"),
    *("trained_rms", "evaluated_rms", "told_apart"),
)


class RowMemory:
    """Remembers fingerprints of training rows and looks for them in forward passes without gradients.

    A fingerprint is a sum of the row's bits with fixed odd weights in 64-bit integers: equal rows give
    equal ones in whatever order they are added up, and unequal rows agree with probability 2**-64 or so.

    Args:
        model: The model; its first argument with two or more dimensions holds the rows.

    Cost:
        One hook of the model, from `open` to `close`. Of a training batch at a look, and of the first 32
        evaluated batches after it: one pass over at most 64 rows, no host read. One read in `take`.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> memory, rows = RowMemory(model), torch.randn(32, 4)
        >>> memory.open()
        >>> _ = model(rows), memory.take()
        >>> with torch.no_grad():
        ...     _ = model.eval()(rows[:8])
        >>> names, values = memory.take()["validation"]
        >>> dict(zip(names, values.tolist()))["num_known"]
        8.0
        >>> memory.close()
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._handle: Any = None
        self._trained: Tensor | None = None
        self._evaluated: list[Tensor] = []
        self._known: set[int] = set()
        self._seen: set[int] = set()
        # how often two rows of a batch are equal, of how many pairs: the nature of the data
        self._num_equal, self._num_pairs = 0, 0
        self._expected: deque[float] = deque(maxlen=_NUM_EXPECTED)
        # mean squares of training rows and of evaluated ones; rows with tails are no measure of the others
        self._trained_squares: deque[float] = deque(maxlen=_MAX_SQUARES)
        self._evaluated_squares: deque[float] = deque(maxlen=_MAX_SQUARES)
        self._kinds = Kinds()

    def open(self) -> None:
        """Add the hook, if it is not there, and listen to the next training batch."""
        self._trained = None
        if self._handle is None and takes_hooks(self._model):
            self._handle = self._model.register_forward_pre_hook(Hook(self._enter), with_kwargs=True)

    def close(self) -> None:
        """Remove the hook."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._trained = None, None
        self._evaluated.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_full = self._trained is not None if module.training else len(self._evaluated) >= _MAX_BATCHES
        if is_full or module.training != torch.is_grad_enabled():
            return
        rows = next((t for t in (*args, *kwargs.values()) if isinstance(t, Tensor) and t.dim() >= 2), None)
        if rows is None or rows.layout is not torch.strided or not rows.numel():
            return
        self._kinds.add(rows[:: -(-len(rows) // _MAX_ROWS)], is_trained=module.training)
        if module.training:
            self._trained = _prints_and_sizes(rows)
        else:
            self._evaluated.append(_prints_and_sizes(rows))

    def take(self) -> dict[str, tuple[tuple[str, ...], NDArray[np.floating]]]:
        """What is known so far: how many evaluated rows there were, and how many of them were trained on.

        Returns:
            "validation" to names and numbers; nothing as long as nothing was evaluated.
        """
        parts = [] if self._trained is None else [self._trained]
        sizes = [len(part) for part in (*parts, *self._evaluated)]
        table: list[list[int]] = torch.cat([*parts, *self._evaluated]).tolist() if sizes else []
        num_trained = sizes[0] if parts else 0
        numbers, squares = [number for number, _ in table], _as_floats([bits for _, bits in table])
        self._trained_squares.extend(squares[:num_trained].tolist())
        self._evaluated_squares.extend(squares[num_trained:].tolist())
        self._evaluated.clear()
        self._seen.update(numbers[num_trained:][: max(0, _MAX_KNOWN - len(self._seen))])
        self._learn(numbers[:num_trained])
        self._trained = None
        if not self._seen:
            return {}
        chance = self._num_equal / max(self._num_pairs, 1) * len(self._known)
        expected = float(np.median(self._expected)) if self._expected else 0.0
        known = len(self._seen & self._known)
        roots = (_typical_root(squares) for squares in (self._trained_squares, self._evaluated_squares))
        found = (
            len(self._seen),
            known,
            expected,
            min(chance, 1.0),
            len(self._known),
            *roots,
            self._kinds.share(),
        )
        return {"validation": (_STATISTICS, np.array(found, dtype=np.float64))}

    def _learn(self, rows: list[int]) -> None:
        if not rows:
            return
        unique = Counter(rows)
        self._num_equal += sum(num * (num - 1) // 2 for num in unique.values())
        self._num_pairs += len(rows) * (len(rows) - 1) // 2
        self._expected.append(len(unique.keys() & self._known) / len(unique))
        if len(self._known) < _MAX_KNOWN:
            self._known |= unique.keys()


def _typical_root(squares: deque[float]) -> float:
    finite = [square for square in squares if math.isfinite(square)]
    return math.sqrt(float(np.median(finite))) if finite else math.nan


def _as_floats(bits: list[int]) -> NDArray[np.float32]:
    return np.array(bits, dtype=np.int32).view(np.float32)


def _prints_and_sizes(rows: Tensor) -> Tensor:
    """Of some rows, evenly spaced, a 64-bit number each, and the bits of the mean square of its elements."""
    some = rows.detach()[:: -(-len(rows) // _MAX_ROWS)]
    flat = some.reshape(len(some), -1)[:, :_MAX_COLUMNS]
    if flat.is_floating_point():
        square = flat.float().square().mean(1)
        flat = flat.float().contiguous().view(torch.int32)
    else:  # the size of a token's number says nothing
        square = torch.full((len(flat),), float("nan"), device=flat.device)
    return torch.stack([fingerprints(flat), square.view(torch.int32).long()], 1)
