"""A position that is saved and restored gives the batches that an uninterrupted run sees."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
)

from trimtab.act import rng
from trimtab.act.batches import Batches
from trimtab.act.tree import TreeCopy, flatten

pytestmark = [
    # workers are forked: that is what is tested here
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]

NUM, BATCH = 11, 2  # six batches an epoch, the last one smaller
PER_EPOCH = 6


class Noisy(Dataset):
    """Draws from all global generators for each sample, as random transforms do."""

    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return float(index), random.random(), np.random.rand(), torch.rand(()).item()


class Counting(IterableDataset):
    def __iter__(self):
        return iter(range(NUM))


class Python(torch.utils.data.Sampler):
    """A sampler that shuffles with Python's own generator."""

    def __iter__(self):
        return iter(random.sample(range(NUM), NUM))

    def __len__(self):
        return NUM


class Stateful:
    """Keeps its own position, as torchdata's StatefulDataLoader does, and shuffles each epoch anew."""

    def __init__(self):
        self.order, self.position, self.is_over = [], 0, True

    def __iter__(self):
        if self.is_over:
            self.order, self.position, self.is_over = torch.randperm(PER_EPOCH).tolist(), 0, False
        while self.position < len(self.order):
            self.position += 1
            yield self.order[self.position - 1]
        self.is_over = True

    def state_dict(self):
        return {"order": self.order, "position": self.position, "is_over": self.is_over}

    def load_state_dict(self, state):
        self.order, self.position, self.is_over = list(state["order"]), state["position"], state["is_over"]


def seeded():
    return torch.Generator().manual_seed(5)


LOADERS = {
    "list": lambda: list(range(PER_EPOCH)),
    "in order": lambda: DataLoader(range(NUM), BATCH),
    "shuffled": lambda: DataLoader(Noisy(), BATCH, shuffle=True),
    "drop last": lambda: DataLoader(range(NUM + 1), BATCH, shuffle=True, drop_last=True),
    "generator": lambda: DataLoader(Noisy(), BATCH, shuffle=True, generator=seeded()),
    "sampler's generator": lambda: DataLoader(
        Noisy(), BATCH, sampler=RandomSampler(Noisy(), generator=seeded())
    ),
    "with replacement": lambda: DataLoader(
        Noisy(), BATCH, sampler=RandomSampler(Noisy(), replacement=True, num_samples=NUM, generator=seeded())
    ),
    "weighted": lambda: DataLoader(Noisy(), BATCH, sampler=WeightedRandomSampler([1.0, 2.0, 3.0], NUM)),
    "python sampler": lambda: DataLoader(Noisy(), BATCH, sampler=Python()),
    "batch sampler": lambda: DataLoader(
        Noisy(),
        batch_sampler=BatchSampler(RandomSampler(Noisy(), generator=seeded()), BATCH, drop_last=False),
    ),
    "iterable data": lambda: DataLoader(Counting(), BATCH),
    "stateful": Stateful,
    "workers": lambda: DataLoader(Noisy(), BATCH, shuffle=True, num_workers=2),
    "workers and generator": lambda: DataLoader(
        Noisy(), BATCH, shuffle=True, num_workers=2, generator=seeded()
    ),
}
# Their random transforms go on from epoch to epoch in the worker processes, where nobody can reach them
PERSISTENT = {
    "persistent workers": lambda: DataLoader(
        range(NUM), BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )
}


def plain(batch):
    return [x.tolist() for x in batch] if isinstance(batch, list) else torch.as_tensor(batch).tolist()


def seed():
    torch.manual_seed(1), random.seed(2), np.random.seed(3)


def use_generators():
    """What a step does between two batches."""
    return torch.rand(()).item(), random.random(), np.random.rand()


def straight(loader, num_epochs, *, saved_at=()):
    """What is seen without any restoring, with the state of everything right before the batches asked for."""
    seed()
    batches, seen, states = Batches(loader), [], {}

    def save():
        if len(seen) in saved_at:
            everything = {"batches": batches.state_dict(), "rng": rng.capture()}
            states.setdefault(len(seen), TreeCopy(flatten(everything)).whole())

    handle = batches.on_next(save)
    for _ in range(num_epochs):
        for batch in batches:
            seen += [(plain(batch), use_generators())]  # `save` looks at how many there are
    handle.remove()  # torch waits seconds for the workers of a loader that only the garbage collector finds
    return seen, states


def go_to(batches, state):
    batches.load_state_dict(state["batches"])
    rng.restore_(state["rng"])


@pytest.mark.parametrize("name", [*LOADERS, *PERSISTENT])
def test_batches_are_those_of_the_loader(name):
    build = (LOADERS | PERSISTENT)[name]
    seed()
    loader, expected = build(), []
    for _ in range(2):
        expected += [(plain(batch), use_generators()) for batch in loader]
    assert straight(build(), 2, saved_at=(1, 4))[0] == expected


@pytest.mark.parametrize("name", [*LOADERS, *PERSISTENT])
def test_a_new_process_goes_on_with_the_batch_that_comes_next(name):
    build = (LOADERS | PERSISTENT)[name]
    at = (1, 4, PER_EPOCH, PER_EPOCH + 2)
    seen, states = straight(build(), 3, saved_at=at)
    for num in at:
        batches = Batches(build())
        go_to(batches, states[num])
        rest = [(plain(b), use_generators()) for _ in batches.epochs(3) for b in batches]
        assert rest == seen[num:], num


@pytest.mark.parametrize("name", [*LOADERS, *PERSISTENT])
def test_a_running_loop_goes_on_from_the_position_restored(name):
    build = (LOADERS | PERSISTENT)[name]
    seen, states = straight(build(), 4, saved_at=(2, 9))
    seed()
    batches, again, rewinds = (
        Batches(build()),
        [],
        {4: 2, 17: 9, 10: 9},
    )  # in an epoch, across an end, at once

    for _ in range(4):
        for batch in batches:
            again.append((plain(batch), use_generators()))
            to = rewinds.pop(len(again), None)
            if to is not None:
                del again[to:]
                go_to(batches, states[to])
    assert not rewinds
    assert again == seen


def test_without_going_back_to_the_random_numbers_of_the_epoch_the_order_is_lost():
    """The hazard: a position that is only an index."""
    seen, states = straight(LOADERS["shuffled"](), 1, saved_at=(3,))
    rng.restore_(states[3]["rng"])
    iterator = iter(LOADERS["shuffled"]())
    for _ in range(3):
        next(iterator)
    assert plain(next(iterator))[0] != seen[3][0][0]


def test_replay_leaves_the_global_generators_alone():
    _, states = straight(LOADERS["shuffled"](), 1, saved_at=(3,))
    batches = Batches(LOADERS["shuffled"]())
    batches.load_state_dict(states[3]["batches"])
    found = {}
    batches.on_next(lambda: found.setdefault("before", use_generators()))
    seed()
    next(iter(batches))
    seed()
    assert found["before"] == use_generators()


def test_a_generator_that_somebody_else_draws_from_as_well():
    def build():
        generator = seeded()
        return DataLoader(range(NUM), BATCH, shuffle=True, generator=generator), generator

    def go_on(batches, generator):
        return [
            (batch.tolist(), torch.rand(1, generator=generator).item()) for _ in range(2) for batch in batches
        ]

    loader, generator = build()
    batches = Batches(loader)
    states = []
    batches.on_next(lambda: states.append(TreeCopy(flatten(batches.state_dict())).whole()))
    seen = go_on(batches, generator)
    loader, generator = build()
    batches = Batches(loader)
    batches.load_state_dict(states[4])
    assert go_on(batches, generator)[: len(seen) - 4] == seen[4:]


def test_distributed_sampler_comes_back_in_its_epoch():
    def build():
        sampler = DistributedSampler(range(NUM), num_replicas=2, rank=1, shuffle=True)
        return DataLoader(range(NUM), BATCH, sampler=sampler)

    def run(batches, seen, rewind=lambda: None):
        for epoch in range(batches.epoch, 4):
            batches.loader.sampler.set_epoch(epoch + 10)
            for batch in batches:
                seen.append(batch.tolist())
                rewind()
        return seen

    batches = Batches(build())
    states = []
    batches.on_next(lambda: states.append(batches.state_dict()))
    seen = run(batches, [])
    states = [states[i] for i in (0, 1, 2, 4, 5, 6, 8, 9, 10)]  # without the calls that find an epoch over

    for num, state in enumerate(states[:8]):
        batches = Batches(build())
        batches.load_state_dict(state)
        batches.loader.sampler.set_epoch(99)
        rest = [batch.tolist() for batch in batches] if state["position"] else run(batches, [])
        assert rest == seen[num : num + len(rest)], num

    batches, again, pending = Batches(build()), [], [1]

    def rewind():
        if len(again) == 8 and pending:
            del again[pending[0] :]
            batches.load_state_dict(states[pending.pop()])

    assert run(batches, again, rewind) == seen  # from epoch 2 back into epoch 0


def test_a_state_on_its_way_is_a_state():
    seen, states = straight(LOADERS["shuffled"](), 2, saved_at=(3,))
    batches = Batches(LOADERS["shuffled"]())
    go_to(batches, states[3])
    batches.skip(1)
    again = batches.state_dict()  # before anything was fetched
    batches = Batches(LOADERS["shuffled"]())
    batches.load_state_dict(again)
    rng.restore_(states[3]["rng"])
    assert plain(next(iter(batches)))[0] == seen[4][0][0]


def test_skip_leaves_out_batches_and_counts_them():
    batches, seen = Batches(range(10)), []
    for batch in batches:
        seen.append(batch)
        if batch == 2:
            batches.skip(2)
            batches.skip(1)
        if batch == 7:
            saved = batches.state_dict()
    assert seen == [0, 1, 2, 6, 7, 8, 9]
    batches.load_state_dict(saved)
    assert list(batches) == [8, 9]


def test_what_an_epoch_does_not_have_is_left_out_of_the_next():
    batches = Batches(range(4))
    assert next(iter(batches)) == 0
    batches = Batches(range(4))
    batches.skip(6)
    assert list(batches) == []
    assert list(batches) == [2, 3]


def test_epochs_of_a_plain_loop_stay_in_step():
    batches, seen, saved = Batches("abc"), [], []
    batches.on_next(lambda: saved.append(batches.state_dict()))
    for epoch in range(3):
        for batch in batches:
            seen.append((epoch, batch))
            if len(seen) == 8:  # 'b' of epoch 2: back to before 'c' of epoch 0
                batches.load_state_dict(saved[2])
    assert seen[:8] == [(0, "a"), (0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "b")]
    assert seen[8:] == [(2, x) for x in "cabcabc"]  # what is left of epoch 0, then 1 and 2


def test_epochs_gives_the_later_epoch_again_after_a_rewind_across_its_end():
    batches, seen, saved, ends = Batches("abc"), [], [], []
    batches.on_next(lambda: saved.append(batches.state_dict()))
    for epoch in batches.epochs(3):
        for batch in batches:
            seen.append(f"{epoch}{batch}")
            if len(seen) == 5:
                batches.load_state_dict(saved[1])
        ends.append(batches.epoch)
    assert " ".join(seen) == "0a 0b 0c 1a 1b 1b 1c 1a 1b 1c 2a 2b 2c"
    assert ends == [1, 1, 2, 3]


def test_a_loop_that_is_left_early_ends_its_epoch():
    batches = Batches("abc")
    for _ in batches:
        break
    assert list(batches) == ["a", "b", "c"]
    assert batches.epoch == 2
    seen = []
    for epoch in batches.epochs(5):
        for batch in batches:
            seen += [(epoch, batch)]
            break
    assert seen == [(2, "a"), (3, "a"), (4, "a")]
    assert list(batches.epochs(7)) == [5, 6]  # without any loop inside
    saved = batches.state_dict()
    assert list(batches.epochs(7)) == []
    batches.load_state_dict(saved | {"epoch": 6})
    assert [(epoch, batch) for epoch in batches.epochs(7) for batch in batches] == [(6, x) for x in "abc"]


def test_callbacks_come_before_each_fetch_and_can_be_removed():
    log = []

    class Loud:
        def __iter__(self):
            for x in "ab":
                log.append(f"fetch {x}")
                yield x

    batches = Batches(Loud())
    handle = batches.on_next(lambda: log.append("next"))
    log.extend(f"step {batch}" for batch in batches)
    assert log == ["next", "fetch a", "step a", "next", "fetch b", "step b", "next"]
    handle.remove()
    log.clear()
    list(batches)
    assert "next" not in log


def test_a_rewind_may_come_from_a_callback():
    batches, pending = Batches("abcd"), [0]
    saved = []

    def callback():
        saved.append(batches.state_dict())
        if len(saved) == 4 and pending:
            pending.pop()
            batches.load_state_dict(saved[1])

    batches.on_next(callback)
    assert list(batches) == ["a", "b", "c", "b", "c", "d"]


def test_length():
    assert len(Batches(DataLoader(range(NUM), BATCH))) == PER_EPOCH
    with pytest.raises(TypeError, match="has no len"):
        len(Batches(Stateful()))


def test_wrong_use_is_told():
    for wrong in (iter([1]), (x for x in [1]), 5):
        with pytest.raises(TypeError, match=r"expected something that can be iterated again and again"):
            Batches(wrong)
    batches = Batches([1, 2, 3])
    with pytest.raises(ValueError, match=r"skip\(-1\)"):
        batches.skip(-1)
    with pytest.raises(ValueError, match="state of version 9"):
        batches.load_state_dict({"version": 9})
    for other in (Batches(Stateful()), Batches(DataLoader([1], generator=seeded()))):
        with pytest.raises(ValueError, match="another kind of loader than this list"):
            batches.load_state_dict(other.state_dict())
    first, second = iter(batches), iter(batches)
    next(first), next(second)
    with pytest.raises(RuntimeError, match="another loop over these Batches began within this one"):
        next(first)


def test_a_loader_that_has_become_shorter_is_told():
    _, states = straight(DataLoader(range(NUM), BATCH), 1, saved_at=(5,))
    batches = Batches(DataLoader(range(4), BATCH))
    batches.load_state_dict(states[5]["batches"])
    with pytest.raises(
        RuntimeError, match="DataLoader ended after 2 batches, but 5 of epoch 0 had been seen"
    ):
        next(iter(batches))
