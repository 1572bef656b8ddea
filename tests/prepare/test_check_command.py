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

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(5, 3)

    def forward(self, x):
        return self.body(x)  # five, not six

def wrong_shape():
    _, loss_fn, batch = parts()
    return Net(), loss_fn, batch

def raises():
    raise KeyError("data/train.csv")

def needs(config, *, seed):
    return config

def a_class():
    return Net, *parts()[1:]

def a_loss_class():
    model, _, batch = parts()
    return model, torch.nn.CrossEntropyLoss, batch

def a_loader():
    model, loss_fn, (x, y) = parts()
    data = torch.utils.data.TensorDataset(x, y)
    return model, loss_fn, torch.utils.data.DataLoader(data)

def a_pair():
    return parts()[:2]

def a_typo():
    model, loss_fn, batch = parts()
    return {"model": model, "loss": loss_fn, "batch": batch}

def no_scalar():
    model, loss_fn, batch = parts()
    return model, lambda model, batch: model(batch[0]), batch

def a_schedule():
    return (*parts(), "adam")

def no_time():
    return dict(zip(("model", "loss_fn", "batch"), parts()), budget_sec=0)

def later():
    import setups_too
    return setups_too.made
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "raises",
            ["'setups:raises' raised KeyError: 'data/train.csv'", "line 36, in raises: raise KeyError"],
        ),
        ("needs", ["called without arguments, and needs config, seed"]),
        ("a_class", ["model is the class Net: expected the model itself, Net(...)"]),
        ("a_loss_class", ["CrossEntropyLoss: expected a function, CrossEntropyLoss()"]),
        ("a_loader", ["batch is DataLoader: expected one batch, as next(iter(loader))"]),
        ("a_pair", ["returned tuple of 2: expected (model, loss_fn, batch)"]),
        ("a_typo", ["'loss', which is none of them", "model, loss_fn, batch, optimizer, clip"]),
        ("no_scalar", ["shape (48, 3)", "loss.mean()"]),
        ("a_schedule", ["optimizer is str"]),
        ("no_time", ["budget_sec=0"]),
    ],
)
def test_a_factory_that_does_not_do_says_what_it_gave_and_what_is_allowed(name, words):
    result = invoke(f"setups:{name}")
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.replace("\u2502", " ").split())
    assert all(word in said for word in words), said


def test_a_model_that_raises_is_a_problem_with_the_line_and_the_shapes():
    result = invoke("setups:wrong_shape")
    assert result.exit_code == 1
    assert "PROBLEM  forward pass" in result.output
    assert "in layer body (Linear) RuntimeError: mat1 and mat2 shapes cannot be multiplied" in result.output
    assert "in forward: return self.body(x)  # five, not six" in result.output
    assert "batch[0]: (48, 6) float32" in result.output


def test_a_factory_may_import_its_neighbors_when_it_is_called(tmp_path):
    (tmp_path / "setups_too.py").write_text("made = None")
    assert "returned NoneType" in invoke("setups:later").output
    sys.modules.pop("setups_too", None)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1 +", "SyntaxError: invalid syntax"),
        ("def f():\n    return 1\n\nundefined()", "line 4, in <module>: undefined()"),
        ("import no_such_package", "no module 'no_such_package'"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, source, words):
    (tmp_path / "broken_setup.py").write_text(source)
    result = invoke("broken_setup:f")
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.replace("\u2502", " ").split())
