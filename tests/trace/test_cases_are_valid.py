"""The cases themselves: each fails as it says, where it says, and is mended by the fix that it gives."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from births import births
from case_files import VISIBLE, Case, Run, bad_gradients, bad_state, controls, failures

PHASES = {"forward", "loss", "backward", "optimizer", "input", "parameter"}
CAUSES = {
    *("log_zero", "div_zero", "domain_error", "domain_edge", "singular_gradient", "where_grad_trap"),
    *("exp_overflow", "half_overflow", "half_underflow", "fully_masked_softmax", "empty_reduction"),
    *("inf_arithmetic", "degenerate_linalg", "divergence", "uninitialized_memory", "bad_input"),
    *("bad_parameter", "infeasible_target"),
}
# torch says so itself when the variance of one sample is taken
pytestmark = pytest.mark.filterwarnings("ignore:.*degrees of freedom")
every_failure = pytest.mark.parametrize("case", failures(), ids=lambda case: case.name)
every_control = pytest.mark.parametrize("case", controls(), ids=lambda case: case.name)
# Anomaly mode, which keeps the forward line of each node, warns of its own slowness
slow_on_purpose = pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")


@pytest.fixture(autouse=True)
def _settings() -> object:
    """No case may change a global setting."""
    before = (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    yield
    after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
    assert after == before


def finite_step(run: Run, step: int) -> bool:
    """Does a step and tells whether its loss, gradients and parameters are finite."""
    loss = run.closure(step)()
    fine = math.isfinite(float(loss.detach())) and not bad_gradients(run.model)
    run.optimizer.step()
    return fine and all(bool(torch.isfinite(p).all()) for p in run.model.parameters())


def test_there_are_enough_of_them():
    assert len(failures()) >= 90
    assert len(controls()) >= 12


def test_every_cause_has_a_case():
    assert {case.meta["cause"] for case in failures()} == CAUSES


@every_failure
def test_answer_is_of_the_vocabulary(case: Case):
    assert case.accepted("phase") <= PHASES
    assert case.accepted("cause") <= CAUSES
    assert case.meta["visible"] in VISIBLE
    assert len(case.lines("ORIGIN")) == 1
    assert case.meta["source"]
    assert case.meta["fix"]


@every_failure
def test_fails_as_it_says(case: Case):
    run = case.run()
    for step in range(case.step):
        assert finite_step(run, step), f"step {step} fails already"
    given = bad_state(run.model)
    loss = run.closure(case.step)()
    grads = bad_gradients(run.model)
    run.optimizer.step()
    params = {n for n, p in run.model.named_parameters() if not bool(torch.isfinite(p).all())}
    seen = (
        "loss"
        if not math.isfinite(float(loss.detach()))
        else "grad"
        if grads
        else "param"
        if params
        else "hidden"
    )
    assert seen == case.meta["visible"]
    if case.meta["phase"] == "optimizer":
        assert case.meta["param"] in params
    if case.meta["phase"] == "parameter":
        assert case.meta["param"] in given


@every_failure
@slow_on_purpose
def test_origin_is_where_the_bad_value_is_born(case: Case):
    """The reference finds the origin, and before it only what lies on lines that are marked legitimate."""
    run = case.run_until_failure()
    found = births(run.model, run.closure(case.step), run.optimizer, run.batches[case.step], case.path)
    if not case.meta.get("line_scored", True):
        assert {(b.phase, b.line) for b in found} == {(case.meta["phase"], None)}
        assert {b.op for b in found} & case.accepted("first_op")
        return
    here = [b for b in found if b.line == case.line]
    assert any(b.op in case.accepted("first_op") and b.phase in case.accepted("phase") for b in here), found
    if case.meta["phase"] in {"forward", "input", "parameter"}:
        assert any(b.module in case.accepted("module") for b in here), found
    before = {b.line for b in found[: found.index(here[0])]}
    allowed = set(case.lines("LEGIT"))
    if case.meta["phase"] == "backward":
        allowed |= backward_lines(case)
    assert before <= allowed


def backward_lines(case: Case) -> set[int]:
    """Lines of the backward of a custom function: the node that runs them is the answer, not they."""
    tree = ast.parse("\n".join(case.text))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "backward"]
    return {line for node in found for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


@every_failure
def test_fix_mends_it(case: Case, tmp_path: Path):
    run = case.mended(tmp_path).run()
    assert all(finite_step(run, step) for step in range(len(run.batches)))


@every_control
def test_control_stays_healthy(case: Case):
    run = case.run()
    assert len(run.batches) >= 5
    assert all(finite_step(run, step) for step in range(len(run.batches)))
    assert not case.lines("ORIGIN")


@every_control
@slow_on_purpose
def test_control_marks_what_it_makes(case: Case):
    """Non-finite values of a control are born on lines that are marked as legitimate."""
    run = case.run()
    found = births(run.model, run.closure(0), run.optimizer, run.batches[0], case.path)
    assert {b.line for b in found} <= set(case.lines("LEGIT"))


@every_failure
def test_runs_are_reproducible(case: Case):
    """Two runs of a case have the same losses, so that its step is the same everywhere."""

    def losses(run: Run) -> list[str]:
        done: Callable[[int], torch.Tensor] = run.do
        return [str(float(done(step))) for step in range(case.step + 1)]

    assert losses(case.run()) == losses(case.run())
