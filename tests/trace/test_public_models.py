"""Code that nobody here wrote: the line that was spoiled is the line that is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from births import births
from case_files import bad_gradients
from public_models import BROKEN, HERE, SPOILED, Broken, Spoiled
from test_cases import names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled"),
    # of packages: einx, gpytorch and torch.jit in auraloss
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
every_spoiled = pytest.mark.parametrize("project", SPOILED, ids=lambda p: p.name)
every_broken = pytest.mark.parametrize("project", BROKEN, ids=lambda p: p.build.__name__)


def is_healthy(model: torch.nn.Module, loss: torch.Tensor) -> bool:
    return math.isfinite(float(loss.detach())) and not bad_gradients(model)


def test_five_projects_at_least():
    assert len({p.submodule.split(".")[0] for p in SPOILED}) >= 5


@every_spoiled
def test_unspoiled_it_is_healthy(project: Spoiled, tmp_path: Path):
    module, _ = project.copy(tmp_path, project.old)
    model, closure, _ = project.build(module)
    assert is_healthy(model, closure())


@every_spoiled
def test_spoiled_it_fails_on_that_line(project: Spoiled, tmp_path: Path):
    module, path = project.copy(tmp_path, project.new)
    model, closure, optimizer = project.build(module)
    assert not is_healthy(model, closure())
    model, closure, optimizer = project.build(module)
    found = births(model, closure, optimizer, None, path)
    here = [b for b in found if b.line == project.line(path) and b.op in project.op]
    assert here, found


def check(origin: Any, project: Spoiled | Broken, path: Path, line: int) -> None:
    assert origin is not None
    assert (Path(origin.file), origin.line) == (path, line)
    assert origin.op in project.op
    assert names(origin.cause) & project.cause
    assert names(origin.phase) & project.phase
    assert project.module in {None, origin.module}


@every_spoiled
def test_tracer_names_the_spoiled_line(project: Spoiled, tmp_path: Path):
    import trimtab as tt

    module, path = project.copy(tmp_path, project.new)
    model, closure, optimizer = project.build(module)
    check(tt.trace(model, closure, optimizer), project, path, project.line(path))


@every_spoiled
def test_tracer_is_silent_on_the_original(project: Spoiled, tmp_path: Path):
    import trimtab as tt

    module, _ = project.copy(tmp_path, project.old)
    assert tt.trace(*project.build(module)) is None


@every_broken
def test_broken_input_fails(project: Broken):
    model, closure, _ = project.build()
    assert not is_healthy(model, closure())


@every_broken
def test_tracer_names_the_line_of_the_user(project: Broken):
    import trimtab as tt

    check(tt.trace(*project.build()), project, HERE, project.line)
