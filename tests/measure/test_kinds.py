"""Rows of one kind cannot be told apart; rows of two kinds can."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.measure.kinds import Kinds


def share(trained, evaluated, *, size=32):
    kinds = Kinds()
    for part in trained.split(size):
        kinds.add(part, is_trained=True)
    for part in evaluated.split(size):
        kinds.add(part, is_trained=False)
    return kinds.share()


def walks(seed, number=256, width=24):
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed)).cumsum(1)


@pytest.mark.parametrize("width", [1, 5, 24, 700])
def test_rows_of_one_kind_are_not_told_apart(width):
    for seed in range(5):
        assert share(walks(seed, width=width), walks(seed + 50, width=width)) < 0.1


CHANGES = {
    "shuffled": lambda x: x.gather(1, torch.rand(x.shape).argsort(1)),
    "reversed": lambda x: x.flip(1),
    "covered": lambda x: x * (torch.rand(x.shape) < 0.4),
    "drowned": lambda x: x + 10 * torch.randn(x.shape),
    "scaled": lambda x: 10 * x,
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_were_changed_are_told_apart(change):
    torch.manual_seed(0)
    assert share(CHANGES[change](walks(0)), walks(1)) > 0.3


def test_the_order_of_tokens_counts():
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 4, (600, 30), generator=generator)
    rows = steps.cumsum(1) % 40
    apart = rows[:300].gather(1, torch.rand(300, 30, generator=generator).argsort(1))
    assert share(apart, rows[300:]) > 0.5
    assert share(rows[:300], rows[300:]) < 0.1


def test_too_little_says_nothing():
    assert math.isnan(share(walks(0, 512), walks(1, 20)))
    assert math.isnan(Kinds().share())


def test_odd_rows_do_no_harm():
    kinds = Kinds()
    kinds.add(torch.full((200, 4), float("nan")), is_trained=True)
    kinds.add(torch.randn(200, 5), is_trained=False)  # of another width: left out
    kinds.add(torch.randn(200, 4) + torch.inf, is_trained=False)
    kinds.add(torch.zeros(200, 4, dtype=torch.complex64), is_trained=False)
    assert not kinds.share() > 0.1


def test_the_same_few_rows_again_and_again_say_nothing():
    few = torch.randn(40, 8)
    kinds = Kinds()
    for _ in range(20):
        kinds.add(torch.randn(32, 8), is_trained=True)
        kinds.add(few, is_trained=False)
    assert math.isnan(kinds.share())
