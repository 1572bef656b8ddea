from __future__ import annotations

import pytest
import torch

from trimtab.measure.unit_counts import kind_between


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["relu", "tanh", "sigmoid"])
def test_an_activation_is_found_under_autocast(kind, dtype):
    """Autocast gives one side in half precision; comparing the two must neither fail nor miss."""
    before = torch.linspace(-3, 3, 64)
    after = getattr(torch, kind)(before.to(dtype))
    assert kind_between(before, after) == kind
    assert kind_between(before.to(dtype), after.float()) == kind


def test_what_is_no_activation_is_not_taken_for_one():
    before = torch.linspace(-3, 3, 64)
    assert kind_between(before, (2 * before).bfloat16()) is None
    assert kind_between(before, torch.arange(64)) is None
