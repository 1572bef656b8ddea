"""The tracer on every case: each field of its answer, silence on the controls, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from case_files import Case, Run, controls, failures

# torch says so itself when the variance of one sample is taken
pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom")


def names(value: Any) -> set[str]:
    """How an enum member or a string may be spelled."""
    return {str(getattr(value, "value", value)).lower(), str(getattr(value, "name", value)).lower()}


def answer(case: Case, origin: Any) -> dict[str, Any]:
    """Those fields of an origin that are wrong, of the ones that a case gives an answer for."""
    said: dict[str, Any] = {}
    if not names(origin.phase) & case.accepted("phase"):
        said["phase"] = origin.phase
    if origin.op not in case.accepted("first_op"):
        said["op"] = origin.op
    if not names(origin.cause) & case.accepted("cause"):
        said["cause"] = origin.cause
    if case.meta["module"] is not None and origin.module not in case.accepted("module"):
        said["module"] = origin.module
    if case.meta.get("line_scored", True):
        right = {case.line, *case.lines(case.meta.get("line_alt_marker", "ORIGIN"))}
        if origin.line not in right or Path(origin.file) != case.path:
            said["line"] = (origin.file, origin.line)
        elif str(origin.code).strip() not in case.text[origin.line - 1]:
            said["code"] = origin.code
    if "param" in case.meta and origin.parameter != case.meta["param"]:
        said["parameter"] = origin.parameter
    return said


def state(run: Run) -> list[Any]:
    """All that a trace must leave as it was."""
    tensors = [*run.model.named_parameters(), *run.model.named_buffers()]
    kept: list[Any] = [(n, t.detach().clone()) for n, t in tensors]
    kept += [(n, None if p.grad is None else p.grad.clone()) for n, p in run.model.named_parameters()]
    for i, slots in enumerate(run.optimizer.state.values()):
        kept += [(f"{i}.{k}", v.clone() if isinstance(v, torch.Tensor) else v) for k, v in slots.items()]
    modules = list(run.model.modules())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)
    settings = [torch.get_rng_state(), hooks, [m.training for m in modules], torch.is_grad_enabled()]
    return [*kept, *settings, torch.is_anomaly_enabled()]


def assert_same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def assert_state_is(run: Run, before: list[Any]) -> None:
    after = state(run)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, tuple):
            assert old[0] == new[0]
            old, new = old[1], new[1]
        if isinstance(old, torch.Tensor) and old.is_sparse:
            old, new = old.to_dense(), new.to_dense()
        if isinstance(old, torch.Tensor):
            assert_same(new, old)
        else:
            assert new == old


@pytest.mark.parametrize("case", failures(), ids=lambda case: case.name)
def test_origin(case: Case):
    import trimtab as tt

    run = case.run_until_failure()
    before = state(run)
    origin = tt.trace(run.model, run.closure(case.step), run.optimizer)
    assert origin is not None, "no origin found"
    assert answer(case, origin) == {}
    assert origin.why
    assert origin.advice
    assert_state_is(run, before)


@pytest.mark.parametrize("case", controls(), ids=lambda case: case.name)
def test_no_origin_in_a_healthy_step(case: Case):
    import trimtab as tt

    run = case.run()
    for step in range(len(run.batches)):
        before = state(run)
        assert tt.trace(run.model, run.closure(step), run.optimizer) is None
        assert_state_is(run, before)
        run.do(step)


# A parameter or buffer that is bad before a step was made so in the step before, which is no healthy one
LATER = [case for case in failures() if case.step > 0 and case.meta["cause"] != "bad_parameter"]


@pytest.mark.parametrize("case", LATER, ids=lambda case: case.name)
def test_no_origin_before_the_failing_step(case: Case):
    import trimtab as tt

    run = case.run()
    for step in range(case.step):
        assert tt.trace(run.model, run.closure(step), run.optimizer) is None
        run.do(step)
