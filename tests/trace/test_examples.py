"""The worked cases of the tracer: eight failures and two healthy runs, each with its answer in META."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import trimtab as tt
from trimtab.types import Origin

FILES = sorted((Path(__file__).parent / "examples").glob("*.py"))
# META speaks of passes; an origin says what in the forward pass it was
PASSES = {"loss": "forward", "input": "forward", "parameter": "forward"}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_origin(case: ModuleType) -> tuple[int, Origin] | None:
    model, loss_fn, batches, optimizer = case.make()
    for step, batch in enumerate(batches):

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            return loss

        origin = tt.trace(model, closure, optimizer)
        if origin is not None:
            return step, origin
        closure()
        optimizer.step()
    return None


def one_of(meta: dict, key: str) -> list:
    return [meta[key], *meta.get(f"{key}_alt", [])]


@pytest.mark.parametrize("path", [f for f in FILES if "_ok_" not in f.name], ids=lambda f: f.stem)
def test_failure(path):
    case = load(path)
    meta = case.META
    found = first_origin(case)
    assert found is not None
    step, origin = found
    assert step == meta["step"]
    assert PASSES.get(origin.phase.value, origin.phase.value) in one_of(meta, "phase")
    assert origin.op in one_of(meta, "first_op")
    assert origin.module == meta["module"]
    assert origin.cause.value in one_of(meta, "cause")
    assert "param" not in meta or origin.parameter == meta["param"]
    assert origin.input == meta.get("bad_input")
    if meta.get("line_scored", True):
        marked = [line for line in path.read_text().splitlines() if line.endswith("# ORIGIN")]
        assert origin.file == str(path)
        assert [origin.code] == [line.strip() for line in marked]
        assert path.read_text().splitlines()[origin.line - 1].strip() == origin.code


@pytest.mark.parametrize("path", [f for f in FILES if "_ok_" in f.name], ids=lambda f: f.stem)
def test_healthy_run_is_silent(path):
    assert first_origin(load(path)) is None
