"""The tracer is silent on healthy training: real architectures, 200 steps each, sampled every tenth."""

from __future__ import annotations

import math

import pytest
import torch
from case_files import bad_gradients, bad_state
from healthy_models import BUILDERS

NUM_STEPS, EVERY = 200, 10
every_model = pytest.mark.parametrize("name", BUILDERS)


@pytest.mark.slow
@every_model
def test_training_is_healthy_indeed(name: str):
    model, closure, optimizer = BUILDERS[name](0)
    losses = []
    for step in range(NUM_STEPS):
        losses.append(float(closure(step)().detach()))
        assert not bad_gradients(model), step
        optimizer.step()
    assert all(map(math.isfinite, losses))
    assert not bad_state(model)


@pytest.mark.slow
@every_model
def test_no_origin_while_training_is_healthy(name: str):
    import trimtab as tt

    model, closure, optimizer = BUILDERS[name](1)
    for step in range(NUM_STEPS):
        if step % EVERY == 0:
            before = {k: v.clone() for k, v in model.state_dict().items()}
            rng = torch.get_rng_state()
            assert tt.trace(model, closure(step), optimizer) is None, step
            assert torch.equal(torch.get_rng_state(), rng)
            torch.testing.assert_close(model.state_dict(), before, rtol=0.0, atol=0.0)
        closure(step)()
        optimizer.step()
