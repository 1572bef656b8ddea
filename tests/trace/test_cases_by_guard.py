"""Every case through a guard: with a closure as good as `trace`; without one, module and operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from case_files import Case, Run, controls, failures
from test_cases import answer

import trimtab as tt

pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom")

# What a guard says that was told of the loss but cannot call the loss function: the operation, no line
OUTSIDE = {"loss"}


def guarded_steps(run: Run, way: str) -> list[tt.StepOutcome]:
    """All steps of a run, through a guard that gives up on none."""
    remedy = tt.Skip(budget=100)
    outcomes = []
    with tt.Guard(run.model, run.optimizer, remedy=remedy) as guard:
        for step in range(len(run.batches)):
            closure = run.closure(step)
            outcomes.append(guard.step(closure if way == "closure" else closure()))
    return outcomes


def first_origin(outcomes: list[tt.StepOutcome]) -> tt.Origin | None:
    return next((outcome.origin for outcome in outcomes if outcome.origin is not None), None)


def is_told(case: Case) -> bool:
    """Whether the step itself shows a bad loss or gradient, or a later one the bad parameter."""
    is_late = case.meta["visible"] == "param" and case.step + 1 < len(case.run().batches)
    return case.meta["visible"] in ("loss", "grad") or is_late


@pytest.mark.parametrize("case", [c for c in failures() if is_told(c)], ids=lambda case: case.name)
def test_with_a_closure(case: Case):
    origin = first_origin(guarded_steps(case.run(), "closure"))
    assert origin is not None
    assert answer(case, origin) == {}


# What no replay of the model's own calls can show the first time: a penalty on slopes, a part that only the
# loss function calls. There the guard must say nothing, or only that it lies in the loss function.
OUT_OF_REACH = {
    "audio_magnitude_at_digital_silence",
    "gan_gradient_penalty_dead_critic",
    "physics_pinn_distance_at_centre",
    "pointcloud_kabsch_svd",
}


@pytest.mark.parametrize("case", [c for c in failures() if is_told(c)], ids=lambda case: case.name)
def test_without_a_closure(case: Case):
    origin = first_origin(guarded_steps(case.run(), "loss"))
    if case.name in OUT_OF_REACH:
        assert origin is None or (origin.phase, origin.line) == ("loss", None)
        return
    assert origin is not None
    wrong: dict[str, Any] = answer(case, origin)
    if origin.phase in OUTSIDE:
        assert case.meta["module"] is None, f"blamed on the loss function: {origin}"
        return
    assert not wrong.keys() & {"module", "op"}


@pytest.mark.parametrize("way", ["loss", "closure"])
@pytest.mark.parametrize("case", controls(), ids=lambda case: case.name)
def test_healthy_steps_have_no_origin(case: Case, way: str):
    torch.manual_seed(0)
    assert first_origin(guarded_steps(case.run(), way)) is None
