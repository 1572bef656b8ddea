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
