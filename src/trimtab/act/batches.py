"""Where the data are: a position in any loader that can be saved, restored and moved on, in mid-loop too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from trimtab.act import rng

T = TypeVar("T")

_VERSION = 1


class _Start(NamedTuple):
    """What an epoch's order of batches follows from.

    Attributes:
        rng: The global generators just before the iterator was made.
        sources: The loader's own generators and epoch counters then.
        is_reused: Whether an iterator with persistent workers was there already: then torch draws no new
            seed for them.
    """

    rng: dict[str, Any]
    sources: dict[str, list[Any]]
    is_reused: bool


class Batches(Generic[T]):
    """A loader whose position is state: saved with a snapshot, restored in the middle of a `for` loop.

    `for batch in batches:` gives what the loader gives. After `load_state_dict` a running loop goes on with
    the batch that followed when `state_dict` was called.

    A loader with `state_dict` and `load_state_dict` of its own keeps its position itself. Any other is
    iterated again, from the random numbers its epoch began with, and the batches already seen are dropped.
    That gives the same batches if their order follows from the global generators, the `generator` of the
    loader and its samplers, and `set_epoch`, as for every sampler of torch; random transforms must draw
    from the global generators or happen in worker processes, but not in persistent ones.

    Args:
        loader: A `DataLoader`, a list, or anything else that can be iterated again and again.

    Raises:
        TypeError: It cannot be iterated, or only once.

    Cost:
        For each epoch one copy of the state of the generators. To go back: the loading of the batches of
        that epoch that came before. To leave the position alone costs nothing.

    Example:
        >>> from trimtab.act.batches import Batches
        >>> batches = Batches([10, 11, 12, 13])
        >>> seen = []
        >>> for batch in batches:
        ...     seen.append(batch)
        ...     if batch == 10:
        ...         saved = batches.state_dict()
        ...     if len(seen) == 3:
        ...         batches.load_state_dict(saved)  # back to just after 10
        ...         batches.skip(1)
        >>> seen
        [10, 11, 12, 12, 13]

    References:
        Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, arXiv:2204.02311, section
        5.1: going back some 100 steps and leaving out 200 to 500 batches.
    """

    def __init__(self, loader: Iterable[T]) -> None:
        if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
            raise TypeError(
                f"Batches({type(loader).__name__}): expected something that can be iterated again and again, "
                "as a DataLoader or a list. An iterator or a generator can go only forward."
            )
        self.loader = loader
        self.epoch = 0
        self._position = 0  # batches of this epoch that were given or left out
        self._num_to_skip = 0
        self._start: _Start | None = None
        self._iterator: Iterator[T] | None = None
        self._pending: dict[str, Any] | None = None  # a position that was restored but not gone to yet
        self._loop: object = None
        self._is_led = False
        self._num_ended = 0
        self._epoch_counters: dict[int, list[int]] = {}
        self._callbacks: OrderedDict[int, Callable[[], object]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[T]:
        if self._iterator is not None:
            self._end_epoch()  # the loop before this one was left early
        loop = self._loop = object()
        epoch_of_the_loop = self.epoch
        while True:
            for callback in list(self._callbacks.values()):
                callback()
            if self._loop is not loop:
                raise RuntimeError(
                    "another loop over these Batches began within this one. Both would move the same "
                    "position: make a second Batches."
                )
            try:
                batch = self._next()
            except StopIteration:
                is_over = self._is_led or self.epoch >= epoch_of_the_loop
                self._end_epoch()
                if is_over:
                    return
                # the caller's set_epoch stands outside of this loop
                _set_counters(self.loader, self._epoch_counters.get(self.epoch, []))
                continue
            yield batch

    def epochs(self, num: int) -> Iterator[int]:
        """The epochs still to go: `for epoch in batches.epochs(90):` around the loop over batches.

        Unlike `range(90)` it begins with the epoch that was restored, and after a rewind across the end of
        an epoch it gives the later epoch again, so that what is done between epochs is done again as well.
        (With `range`, the loop in which the rewind happened goes on until its own epoch has ended.)

        Args:
            num: Number of epochs in all.

        Example:
            >>> from trimtab.act.batches import Batches
            >>> batches = Batches("ab")
            >>> [(epoch, batch) for epoch in batches.epochs(2) for batch in batches]
            [(0, 'a'), (0, 'b'), (1, 'a'), (1, 'b')]
        """
        self._is_led = True
        try:
            while self.epoch < num:
                num_ended = self._num_ended
                yield self.epoch
                if self._num_ended == num_ended and self._pending is None:
                    self._end_epoch()  # the loop over its batches was left early, or there was none
        finally:
            self._is_led = False

    def on_next(self, callback: Callable[[], object]) -> RemovableHandle:
        """Have this called right before each batch is fetched.

        That is the one moment between two steps: all that the loop does after the optimizer's step (a
        scheduler, an EMA) is over, and nothing of the next step, not even its random numbers, has begun.

        Args:
            callback: Called without arguments.

        Returns:
            A handle with `remove()`.
        """
        handle = RemovableHandle(self._callbacks)
        self._callbacks[handle.id] = callback
        return handle

    def skip(self, num: int) -> None:
        """Leave out the next batches. They are loaded and dropped when the next one is asked for.

        Args:
            num: How many; what the epoch does not have is left out of the next.

        Raises:
            ValueError: `num` is negative.
        """
        if num < 0:
            raise ValueError(f"skip({num}): expected a number of batches >= 0. To go back, load_state_dict.")
        self._num_to_skip += num

    def state_dict(self) -> dict[str, Any]:
        """The position, in plain containers and tensors."""
        if self._pending is not None:
            return {**self._pending, "num_to_skip": self._num_to_skip}
        state: dict[str, Any] = {
            "version": _VERSION,
            "epoch": self.epoch,
            "position": self._position,
            "num_to_skip": self._num_to_skip,
            "sources": _sources(self.loader),
        }
        if _is_stateful(self.loader):
            with rng.kept():  # a loader that was not iterated yet may make its iterator for this
                state["loader"] = self.loader.state_dict()  # type: ignore[attr-defined]
        elif self._start is not None:
            state["start"] = self._start._asdict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position. A running loop goes on from there; otherwise the next one does.

        The loader is gone through when the next batch is asked for, and the global generators are then left
        as they are found.

        Args:
            state: What `state_dict` returned, in this process or another one.

        Raises:
            ValueError: The state is of another version, or of a loader of another kind.
        """
        if state.get("version") != _VERSION:
            raise ValueError(
                f"Batches state of version {state.get('version')!r}: this release reads version {_VERSION}"
            )
        now, then = _sources(self.loader), state["sources"]
        fits = all(len(now[key]) == len(then[key]) for key in now)
        if ("loader" in state) != _is_stateful(self.loader) or not fits:
            raise ValueError(
                f"the state is of another kind of loader than this {type(self.loader).__name__}: give a "
                "loader with the same sampler, and a generator where that one had it."
            )
        self._pending = dict(state)
        self._iterator, self._start = None, None
        self.epoch, self._position = int(state["epoch"]), int(state["position"])
        self._num_to_skip = int(state["num_to_skip"])
        _restore_sources(self.loader, then)

    def _next(self) -> T:
        if self._iterator is None:
            self._iterator = self._open()
        while self._num_to_skip:
            next(self._iterator)
            self._num_to_skip -= 1
            self._position += 1
        batch = next(self._iterator)
        self._position += 1
        return batch

    def _open(self) -> Iterator[T]:
        """An iterator that stands where the position is."""
        pending, self._pending = self._pending, None
        self._epoch_counters[self.epoch] = _sources(self.loader)["counters"]
        if pending is not None and "loader" in pending:
            return self._open_stateful(pending)
        if pending is None or "start" not in pending:
            self._start = _Start(rng.capture(), _sources(self.loader), _has_workers(self.loader))
            return iter(self.loader)
        self._start = _Start(**pending["start"])
        with rng.kept():
            iterator = self._replay(self._start)
        _restore_sources(self.loader, pending["sources"])
        return iterator

    def _open_stateful(self, pending: Mapping[str, Any]) -> Iterator[T]:
        self.loader.load_state_dict(pending["loader"])  # type: ignore[attr-defined]
        if self._position == 0:
            return iter(self.loader)  # a new epoch: it draws as it did then
        with rng.kept():
            return iter(self.loader)

    def _replay(self, start: _Start) -> Iterator[T]:
        if isinstance(self.loader, DataLoader) and _has_workers(self.loader) != start.is_reused:
            self.loader._iterator = None
            if start.is_reused:
                iter(self.loader)
        rng.restore_(start.rng)
        _restore_sources(self.loader, start.sources)
        iterator = iter(self.loader)
        for num in range(self._position):
            try:
                next(iterator)
            except StopIteration:
                raise RuntimeError(
                    f"{type(self.loader).__name__} ended after {num} batches, but {self._position} of epoch "
                    f"{self.epoch} had been seen when the position was saved. Is it of the same data?"
                ) from None
        return iterator

    def _end_epoch(self) -> None:
        self.epoch += 1
        self._num_ended += 1
        self._position = 0
        self._iterator, self._start = None, None


def _is_stateful(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _has_workers(loader: object) -> bool:
    """Whether worker processes of an earlier epoch wait for the next one."""
    return isinstance(loader, DataLoader) and loader._iterator is not None


def _parts(loader: object) -> list[object]:
    """The loader and its samplers, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = [loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    return list({id(part): part for part in found if part is not None}.values())


def _generators(loader: object) -> list[torch.Generator]:
    found = [getattr(part, "generator", None) for part in _parts(loader)]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _counting(loader: object) -> list[Any]:
    """Samplers that are told the epoch, as `DistributedSampler`."""
    return [
        p for p in _parts(loader) if hasattr(p, "set_epoch") and isinstance(getattr(p, "epoch", None), int)
    ]


def _sources(loader: object) -> dict[str, list[Any]]:
    return {
        "generators": [generator.get_state() for generator in _generators(loader)],
        "counters": [sampler.epoch for sampler in _counting(loader)],
    }


def _restore_sources(loader: object, saved: Mapping[str, list[Any]]) -> None:
    for generator, state in zip(_generators(loader), saved["generators"], strict=True):
        generator.set_state(state)
    _set_counters(loader, saved["counters"])


def _set_counters(loader: object, epochs: list[int]) -> None:
    for sampler, epoch in zip(_counting(loader), epochs, strict=False):
        sampler.set_epoch(epoch)
