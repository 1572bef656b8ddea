"""The tracer is silent on healthy training: real architectures, 200 steps each, sampled every tenth."""

from __future__ import annotations

import math

import pytest
import torch
from case_files import bad_gradients, bad_state
from healthy_models import BUILDERS, Closure

NUM_STEPS, EVERY = 200, 10


def assert_silent(model: torch.nn.Module, closure: Closure, optimizer: torch.optim.Optimizer) -> None:
    import trimtab as tt

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rng = torch.get_rng_state()
    assert tt.trace(model, closure, optimizer) is None
    assert torch.equal(torch.get_rng_state(), rng)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0.0, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_silent_while_training_is_healthy(name: str):
    model, closure, optimizer = BUILDERS[name](0)
    for step in range(NUM_STEPS):
        if step % EVERY == 0:
            assert_silent(model, closure(step), optimizer)
        loss = closure(step)()
        assert math.isfinite(float(loss.detach()))
        assert not bad_gradients(model)
        optimizer.step()
    assert not bad_state(model)
