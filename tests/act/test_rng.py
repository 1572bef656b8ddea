"""Every generator goes on exactly where it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from trimtab.act import rng
from trimtab.act.tree import TreeCopy, flatten


def draws():
    """Of each kind that keeps something back for the next call: Gaussians come in pairs."""
    return [
        *(random.random(), random.gauss(0, 1), random.getrandbits(70)),
        *(np.random.rand(), np.random.randn(), np.random.randint(9), np.random.permutation(5).tolist()),
        *(
            torch.rand(3).tolist(),
            torch.randn(1).item(),
            torch.randn(17).tolist(),
            torch.randperm(5).tolist(),
        ),
    ]


@pytest.mark.parametrize("num_before", [0, 1, 2, 3])
def test_every_generator_goes_on_where_it_was(num_before):
    for _ in range(num_before):
        random.gauss(0, 1), np.random.randn(), torch.randn(1), random.random()
    state = TreeCopy(flatten(rng.capture())).whole()
    first = [draws(), draws()]
    assert first[0] != first[1]
    for _ in range(2):
        rng.restore_(state)
        assert [draws(), draws()] == first


def test_the_state_is_not_the_live_one():
    state = rng.capture()
    before = TreeCopy(flatten(state)).whole()
    draws()
    assert (state["python"][1] == before["python"][1]).all()
    assert (state["numpy"]["state"]["key"] == before["numpy"]["state"]["key"]).all()
    assert state["torch"].equal(before["torch"])


def test_kept_leaves_the_generators_alone_whatever_happens():
    state = rng.capture()
    expected = draws()
    rng.restore_(state)

    def fail():
        with rng.kept():
            draws()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draws() == expected


def test_cuda_generators_are_captured_once_cuda_is_in_use(monkeypatch):
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    assert rng.capture()["cuda"] == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    state = rng.capture()
    assert state["cuda"] == states

    restored = {}
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda one, device: restored.update({device: one}))
    rng.restore_(state)
    assert restored == {}  # a machine without CUDA
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    rng.restore_(state)
    assert restored == {0: states[0]}
