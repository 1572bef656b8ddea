"""Rows that a model is trained on are known again when it is evaluated on them, and no others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trimtab.measure.row_memory import RowMemory


def watch(train, evaluated, *, model=None):
    """Train on batches, a look at each, then evaluate others: what is found at the last look."""
    model = nn.Linear(train[0].shape[1], 1) if model is None else model
    memory = RowMemory(model)
    for batch in train:
        memory.open()
        model.train()(batch)
        memory.take()
    with torch.no_grad():
        for batch in evaluated:
            model.eval()(batch)
    memory.open()
    model.train()(train[0])
    found = memory.take()
    memory.close()
    assert not model._forward_pre_hooks
    return dict(zip(*found["validation"], strict=True)) if found else {}


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 9))
def test_only_rows_that_were_seen_are_known(seed, num, width):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(60, width, generator=generator)
    # the same rows in another order and another batch, with others between them
    order = torch.randperm(num, generator=generator)
    mixed = torch.cat([torch.randn(13, width, generator=generator), rows[:num][order]])
    found = watch([rows[:30], rows[30:]], [mixed])
    # the same bits give the same number, whatever surrounds them; of one column rows may agree by chance
    assert found["num_evaluated"] == len({tuple(row) for row in mixed.tolist()})
    assert found["num_known"] == len({tuple(r) for r in mixed.tolist()} & {tuple(r) for r in rows.tolist()})


def test_neighbors_differ():
    rows = torch.arange(64.0)[:, None].repeat(1, 3)
    near = torch.nextafter(rows, torch.tensor(1e9))
    swapped = torch.cat([rows[:, :2], rows[:, :1] + 1], dim=1).flip(1)
    assert watch([rows], [near])["num_known"] == 0
    assert watch([rows], [swapped])["num_known"] == 0
    assert watch([rows], [rows])["num_known"] == 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype):
    rows = torch.randn(32, 8, dtype=dtype)
    assert watch([rows], [rows[:7]], model=nn.Linear(8, 1).to(dtype))["num_known"] == 7


def test_token_ids():
    ids = torch.randint(0, 1000, (32, 12))
    model = nn.Sequential(nn.Embedding(1000, 2), nn.Flatten(), nn.Linear(24, 1))
    assert watch([ids], [ids[5:9], torch.randint(0, 1000, (32, 12))], model=model)["num_known"] == 4


def test_rows_that_come_again_are_expected_to():
    rows = torch.randn(48, 5)
    assert watch([rows, rows, rows], [torch.randn(9, 5)])["expected_share"] == 1.0
    equal = torch.ones(48, 5)
    found = watch([equal, equal], [equal])
    assert found["chance_share"] > 0.9


def test_without_evaluation_there_is_nothing_to_say():
    assert watch([torch.randn(8, 3)], []) == {}
    # training in eval mode, with gradients, is no evaluation
    model = nn.Linear(3, 1)
    memory = RowMemory(model)
    memory.open()
    model.eval()(torch.randn(8, 3))
    assert memory.take() == {}
    memory.close()
