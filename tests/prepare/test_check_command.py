from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from trimtab.cli import app

SOURCE = """
import torch

def parts(*layers):
    torch.manual_seed(0)
    x = torch.randn(48, 6)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3), *layers)
    return model, torch.nn.functional.cross_entropy, (x, x[:, :3].argmax(1))

def good():
    model, *rest = parts()
    return model, *rest, torch.optim.Adam(model.parameters())

def bad():
    model, loss_fn, batch = parts(torch.nn.Softmax(1))
    return {"model": model, "loss_fn": loss_fn, "batch": batch, "clip": 0.0}

def nothing():
    return None

number = 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path, monkeypatch):
    (tmp_path / "setups.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("setups", None)


def invoke(*words: str):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["check", *words])


def test_a_good_setup_is_clean():
    result = invoke("setups:good")
    assert result.exit_code == 0, result.output
    assert "no problem in" in result.output
    assert str(sys.path[0]) != "setups"


def test_problems_are_printed_with_advice_and_exit_status_one():
    result = invoke("setups:bad")
    assert result.exit_code == 1
    assert "a softmax is applied twice" in result.output
    assert "max_norm=0.0" in result.output


def test_as_json():
    result = invoke("setups:bad", "--json")
    found = json.loads(result.stdout)
    assert found["is_clean"] is False
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert verdicts["loss and activation"] == verdicts["clipping"] == "problem"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("setups", "MODULE:FUNCTION"),
        ("no_such:f", "no_such"),
        ("setups:absent", "absent"),
        ("setups:number", "number"),
    ],
)
def test_what_cannot_be_called_is_a_usage_error(name, words):
    result = invoke(name)
    assert result.exit_code == 2
    assert words in result.output


def test_a_factory_that_returns_something_else_says_what_is_expected():
    result = invoke("setups:nothing")
    assert result.exit_code == 2
    assert "(model, loss_fn, batch)" in result.output
