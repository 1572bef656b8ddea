from __future__ import annotations

import ast
import json
import sys
import sysconfig
from pathlib import Path

import pytest
from lint.examples import FIRES, SILENT, source_of
from typer.testing import CliRunner

import trimtab as tt
from trimtab.cli import app
from trimtab.lint import RULES, lint_source
from trimtab.lint.linting import UNREADABLE


def rules_in(text: str) -> list[str]:
    return [finding.rule for finding in lint_source(text, Path("model.py"))]


@pytest.mark.parametrize(("rule", "body"), [(r, b) for r, bodies in FIRES.items() for b in bodies])
def test_a_pattern_is_found_and_nothing_else(rule, body):
    assert rules_in(source_of(body)) == [rule]


@pytest.mark.parametrize("body", SILENT)
def test_what_only_looks_like_one_is_not_reported(body):
    assert rules_in(source_of(body)) == []


def test_every_rule_has_examples_a_document_and_a_name_of_its_own():
    assert {rule.name for rule in RULES} == set(FIRES)
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        document = type(rule).__doc__ or ""
        for part in ("What it detects:", "Why it matters:", "Instead:", "Known false alarms:"):
            assert part in document, rule.name


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.last = {last}

    def forward(self, x):
        x = self.body(x)
        return self.last(x)

def train(batches):
    net = Net().to("cpu")
    criterion = nn.CrossEntropyLoss()
    for x, y in batches:
        out = net(x)
        loss = criterion(out, y)
"""


def test_a_model_of_the_same_file_is_followed_to_its_last_layer():
    assert rules_in(MODEL.format(last="nn.Softmax(dim=1)")) == ["softmax-before-cross-entropy"]
    deep = "nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Softmax(1)))"
    assert rules_in(MODEL.format(last=deep)) == ["softmax-before-cross-entropy"]
    assert rules_in(MODEL.format(last="nn.Linear(4, 4)")) == []
    assert rules_in(MODEL.format(last="nn.Softmax(1) if PREDICT else nn.Identity()")) == []
    both = MODEL.replace("return self", "if self.training:\n            return x\n        return self")
    assert rules_in(both.format(last="nn.Softmax(dim=1)")) == []


def test_a_file_without_torch_is_not_looked_at():
    assert rules_in("def f(x):\n    return x == float('nan')  # not torch\n") == []
    assert rules_in("import paddle as torch\ndef f(x):\n    return torch.log(torch.softmax(x, 1))\n") == []


@pytest.mark.parametrize(
    ("comment", "count"),
    [
        ("# trimtab: ignore", 0),
        ("# trimtab: ignore[log-of-softmax]", 0),
        ("# trimtab: ignore[other, log-of-softmax]", 0),
        ("# trimtab: ignore[other]", 1),
        ("# ignore", 1),
    ],
)
def test_a_comment_silences_a_rule_where_it_stands(comment, count):
    text = f"import torch\ny = torch.log(torch.softmax(x, 1))  {comment}\n"
    assert len(rules_in(text)) == count
    spread = f"import torch\ny = torch.log(\n    torch.softmax(x, 1)  {comment}\n)\n"
    assert len(rules_in(spread)) == count
    elsewhere = f"import torch\ny = torch.log(torch.softmax(x, 1))\n{comment}\n"
    assert len(rules_in(elsewhere)) == 1


def test_text_in_a_string_is_no_comment():
    text = 'import torch\ny = torch.log(torch.softmax(x, 1)), "# trimtab: ignore"\n'
    assert rules_in(text) == ["log-of-softmax"]


def test_findings_name_the_place(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / ".hidden").mkdir()
    text = "import torch\n\nz = 1 + torch.log(torch.softmax(x, 1))\n"
    for folder in ("inner", ".hidden"):
        (tmp_path / folder / "a.py").write_text(text)
    (tmp_path / "notes.txt").write_text(text)
    [found] = tt.lint(tmp_path)
    assert (found.path, found.line, found.column) == (tmp_path / "inner" / "a.py", 3, 9)
    assert str(found).startswith(f"{tmp_path}/inner/a.py:3:9 log-of-softmax log(softmax(x)) is -inf")
    assert tt.lint([tmp_path, tmp_path / "inner" / "a.py"]) == (found,)


def test_a_path_that_is_missing_is_an_error():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tt.lint("nowhere")


@pytest.mark.parametrize("content", [b"import torch\ndef f(:\n", b"# torch \xff\xfe\n", b"import torch\n\0"])
def test_what_is_not_python_is_a_finding(content, tmp_path):
    file = tmp_path / "broken.py"
    file.write_bytes(content)
    [found] = tt.lint(file)
    assert found.rule == UNREADABLE


def test_nothing_of_the_code_is_run(tmp_path):
    file = tmp_path / "dangerous.py"
    file.write_text(f"import torch\nopen({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    assert tt.lint(file) == ()
    assert not (tmp_path / "ran").exists()


DOCS = Path(__file__).parents[2] / "docs"
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize(
    "name", ["ast.py", "typing.py", "json", "test/test_patma.py", "test/test_grammar.py"]
)
def test_no_source_that_can_be_parsed_is_too_strange(name):
    path = LIBRARY / name
    if not path.exists():
        pytest.skip("this Python comes without its tests")  # some distributions leave them out
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        text = file.read_text(encoding="utf-8")
        ast.parse(text)
        assert lint_source(f"{text}\nimport torch\n", file) == ()


def test_strange_but_legal_sources():
    deep = "import torch\nx = " + " + ".join(["a * b"] * 600)
    assert rules_in(deep) == []
    assert rules_in("import torch\nx = x\ny = y.log()\nx = y\ny = x\n") == []
    assert rules_in("import torch\nfrom . import a\nfrom torch import *\nlog(softmax(*x, **y))\n") == []
    assert rules_in("import torch\nx: int\nx = lambda x, *y: torch.log(x)\n(z := 1)\n[z for z in x]\n") == []


def invoke(*words: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["lint", *map(str, words)])


def test_the_command(tmp_path):
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text("import torch\ny = torch.log(torch.softmax(x, 1))\n")
    good.write_text("import torch\ny = torch.log_softmax(x, 1)\n")
    result = invoke(bad, good)
    assert result.exit_code == 1
    assert f"{bad}:2:5 log-of-softmax" in result.output
    assert "torch.log_softmax(x, dim)" in result.output
    assert "1 finding" in result.output
    assert invoke(good).exit_code == 0
    assert invoke(tmp_path / "nowhere.py").exit_code == 2
    assert invoke().exit_code == 2
    [fact] = json.loads(invoke(tmp_path, "--json").stdout)["findings"]
    assert (fact["path"], fact["line"], fact["column"], fact["rule"]) == (str(bad), 2, 5, "log-of-softmax")
    assert json.loads(invoke(good, "--json").stdout) == {"findings": []}


def test_our_own_sources_are_clean():
    source = Path(sys.modules["trimtab"].__file__).parent
    assert [str(finding) for finding in tt.lint([source / "act", source / "numerics"])] == []


def test_a_folder_without_sources_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Python file"):
        tt.lint(tmp_path)
