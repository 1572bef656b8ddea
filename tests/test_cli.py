from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import trimtab as tt
from trimtab.cli import app


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), record=tmp_path / "run") as guard:
        for step in range(12):
            x = torch.randn(4, 3)
            if step == 5:
                x[0, 0] = float("nan")
            guard.optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            guard.step(loss)
    return tmp_path / "run"


def invoke(*words: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words])


def test_show_tells_what_happened(run_folder):
    result = invoke("show", run_folder)
    assert result.exit_code == 0
    assert "Step 5" in result.output
    assert "weight" in result.output


def test_show_as_json_is_one_object(run_folder):
    facts = json.loads(invoke("show", run_folder, "--json").stdout)
    assert (facts["num_steps"], facts["num_refused"], facts["num_faulty"]) == (12, 1, 1)
    assert facts["episodes"][0].startswith("Step 5")


def test_report_writes_beside_the_run_or_where_told(run_folder, tmp_path):
    assert invoke("report", run_folder).exit_code == 0
    assert "<html" in (run_folder / "report.html").read_text()
    out = tmp_path / "elsewhere.html"
    result = invoke("report", run_folder / "run.sqlite", "--out", out, "--baseline", run_folder, "--json")
    assert json.loads(result.stdout) == {"report": str(out)}
    assert out.exists()


@pytest.mark.parametrize("command", ["show", "report"])
def test_missing_run_is_a_failure_that_names_it_and_leaves_nothing(command, tmp_path):
    result = invoke(command, tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr.replace("\n", "")
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["show"], ["dance"], ["demo", "--data", "poems"], ["demo", "--seed", "-1"], ["show", "--fast", "x"]],
)
def test_wrong_words_are_usage_errors(words):
    assert invoke(*words).exit_code == 2


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"trimtab {tt.__version__}\n"


def test_without_its_packages_the_command_names_the_extra():
    code = "import sys; sys.modules['typer'] = None; from trimtab.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'trimtab[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def _task(size, seed):
    from trimtab import demo

    return demo.language_task(size, seed=seed)


@pytest.fixture
def small_demo(monkeypatch):
    """The same demo, smaller: a tenth of the steps of a narrower model."""
    from trimtab import demo

    size = demo.LanguageSize(num_steps=60, width=16, num_blocks=1, num_heads=2, context=24)
    monkeypatch.setitem(
        demo.compare.__globals__["TASKS"], "text", lambda seed: demo.language_task(size, seed=seed)
    )


def test_demo_closes_with_what_happened_and_where_the_report_lies(small_demo, tmp_path):
    result = invoke("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.replace("│", " ").split())
    for said in (
        "unguarded",
        "NaN from step",
        "a useful model",
        "bits per byte",
        "were skipped",
        "trimtab show",
    ):
        assert said in words
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "trimtab demo: text, guarded" in page


def test_demo_as_json(small_demo, tmp_path):
    result = invoke("demo", "--out", tmp_path / "demo", "--json")
    facts = json.loads(result.stdout)
    assert facts["unguarded"]["value"] is None
    assert facts["unguarded"]["lost_at_step"] is not None
    assert facts["guarded"]["value"] > 0
    assert facts["guarded"]["num_refused"] >= 3
    assert Path(facts["report"]).exists()


@pytest.mark.slow
@pytest.mark.timeout(400)  # half a minute each on an idle machine
@pytest.mark.parametrize(
    ("data", "score", "is_useful"),
    [("text", "bits per byte", lambda v: v < 3.2), ("digits", "accuracy", lambda v: v > 0.85)],
)
def test_the_real_demo_ends_in_nan_unguarded_and_useful_guarded(data, score, is_useful, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", "demo", "--data", data, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["unguarded"]["value"] is None
    assert facts["guarded"]["score"] == score
    assert is_useful(facts["guarded"]["value"])
    assert (tmp_path / "runs" / f"demo-{data}" / "report.html").exists()


BUILDER = """
import torch

def build():
    return torch.nn.Linear(3, 1)

def other():
    return torch.nn.Linear(2, 1)

number = 3
"""


@pytest.fixture
def fault_folder(run_folder: Path, monkeypatch) -> Path:
    (run_folder.parent / "built_for_trace.py").write_text(BUILDER)
    monkeypatch.chdir(run_folder.parent)
    return run_folder / "faults" / "step-000005"


def test_trace_tells_what_was_written_at_the_time(fault_folder):
    result = invoke("trace", fault_folder)
    assert result.exit_code == 1
    assert "step 5, as recorded" in result.output
    assert "born in   input" in result.output


def test_trace_runs_the_step_again(fault_folder):
    result = invoke("trace", fault_folder, "--model", "built_for_trace:build", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert (said["step"], said["is_replay"], said["origin"]["cause"]) == (5, True, "bad_input")


@pytest.mark.parametrize(
    ("model", "status", "message"),
    [
        ("built_for_trace", 2, "expected MODULE:FUNCTION"),
        ("built_for_trace:missing", 2, "has no function 'missing'"),
        ("built_for_trace:number", 2, "has no function 'number'"),
        ("no_such_module_here:build", 2, "no module 'no_such_module_here'"),
        ("built_for_trace:other", 1, "is of another model"),
    ],
)
def test_trace_says_what_is_wrong_with_the_model(fault_folder, model, status, message):
    result = invoke("trace", fault_folder, "--model", model)
    assert result.exit_code == status
    assert message in " ".join(result.output.split())


def test_trace_refuses_what_is_no_fault_folder(tmp_path):
    result = invoke("trace", tmp_path)
    assert result.exit_code == 1
    assert "is no fault folder" in " ".join(result.output.split())


def test_show_tells_where_it_began(run_folder):
    assert "Where it began" in invoke("show", run_folder).output
    facts = json.loads(invoke("show", run_folder, "--json").stdout)
    assert facts["origins"][0]["steps"] == [5]
