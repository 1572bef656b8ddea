"""The house rules that a test can hold: imports, names, optional packages, cost of the import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab

SOURCE = Path(trimtab.__file__).parent

# The guard and the files that hold its stages: the only ones that know all live parts
STAGES = {
    *("stepping", "attachment", "concluding", "recording", "accumulation"),
    *("retrying", "rewinding", "resuming", "tracing", "recall", "evidence"),
}
LIVE = [f"{stage}.py" for stage in sorted(STAGES | {"guard"})]
# Built upon them
OTHERS = {
    "checkpoint.py": {"types", "errors", "measure"},
    # what wraps detectors and checkpoints for loops without a guard is in prepare too
    "prepare": {"types", "errors", "measure", "act", "record", "numerics", "decide", "checkpoint"},
    "mixed_precision.py": {"types", "act", "decide", "guard", "record", "tracing"},
    "retracing.py": {"types", "act", "errors", "evidence", "trace", "tracing"},
    "screens.py": {"types", "evidence", "record", "report"},
    "running": {"types", "errors", "act", "decide", "record", "guard"},
}

# What each part may import of ours, besides itself
MAY_IMPORT = {
    "types": set(),
    "errors.py": {"types"},
    "numerics": {"errors"},
    "_version.py": set(),
    "measure": {"types", "errors", "numerics"},
    "decide": {"types", "errors", "numerics"},
    "act": {"types", "errors", "numerics"},
    "record": {"types", "errors", "numerics", "_version"},
    "report": {"types", "errors", "record", "_version"},
    "diagnose": {"types", "errors", "measure", "record"},
    "trace": {"types", "errors", "numerics", "measure"},
    "lint": set(),
    **OTHERS,
    **dict.fromkeys(LIVE, {"types", "errors", "measure", "decide", "act", "record", "trace"} | STAGES),
}
# RunLog.plot_*() and RangeTest.plot() are in the style of report, loaded when they are called
EXCEPTIONS = {("record", "report"), ("prepare", "report")}
# sympy comes with torch's compiler, which takes seconds to load
OPTIONAL = [
    *("sympy", "safetensors", "matplotlib", "rich", "typer", "jinja2", "pandas", "sklearn", "scipy", "pyamg"),
]


def parts() -> list[Path]:
    return sorted(p for p in SOURCE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists())


def imported(file: Path) -> set[str]:
    """Parts of trimtab that a file imports, inside functions too; not those only for type checkers."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "trimtab":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trimtab."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("trimtab.")}
    return found


@pytest.mark.parametrize("part", [p for p in parts() if p.name in MAY_IMPORT], ids=lambda p: p.name)
def test_import_rule(part):
    for file in part.rglob("*.py") if part.is_dir() else [part]:
        allowed = MAY_IMPORT[part.name] | {part.stem} | {b for a, b in EXCEPTIONS if a == part.name}
        assert imported(file) <= allowed, file.name


def test_every_part_has_a_rule():
    free = {"__init__.py", "__main__.py", "cli.py", "demo"}  # import anything, and nothing imports them
    assert {p.name for p in parts()} == set(MAY_IMPORT) | free
    for part in parts():
        for file in part.rglob("*.py") if part.is_dir() else [part]:
            if part.name not in free:
                assert not imported(file) & {"cli", "demo"}, file.name


def test_only_the_command_line_prints():
    for file in SOURCE.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
        prints = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        assert not prints or file.name == "cli.py", file.name


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: f.name)
def test_files_stay_short(file):
    assert len(file.read_text().splitlines()) <= 400


def test_exported_names_are_pinned():
    expected = [
        *("Guard", "StepOutcome", "NormClip", "NonFinite", "Overflow", "Observe", "Raise", "Skip"),
        *("QuantileClip", "MeanClip", "EmaClip", "ZScoreClip", "LossSpike", "NormSpike", "SpikeRule"),
        *("SteadyClipping", "Underflow", "ZeroBad", "ReplaceBad", "RescaleBad", "Rewind", "Retry"),
        *("PerPlace", "Escalate", "CoolDown", "Snapshots", "Batches", "save", "LossScaler", "MasterWeights"),
        *("MixedPrecision", "BackwardOptimizer", "UpdateClip", "ValueClip", "LayerClip", "UnitClip"),
        *(
            "TensorClip",
            "Grouped",
            "ByName",
            "ByGroup",
            "AfterWarmup",
            "First",
            "When",
            "NormAbove",
            "LossAbove",
        ),
        *("EveryNth", "SnapshotError", "CheckpointError", "EvidenceError", "TraceFaults", "retrace"),
        *("lint", "LintFinding", "preflight", "find_lr", "find_layer_lrs", "LearningRateFinder"),
        *("EarlyStopping", "BestCheckpoint", "AnomalyDetection"),
        *("RunLog", "RunWriter", "read", "report", "act", "measure", "numerics", "types"),
        *("trace", "Origin", "Cause"),
        *("NonFiniteError", "MissingDependencyError", "RunLogError", "TrimtabError"),
        *("NumericalWarning", "TrimtabWarning"),
        *("diagnose", "Diagnose", "Finding", "FindingCause", "Severity", "Evidence", "certificate", "load"),
        "TrainingStabilityMonitor",
        *("TrainingHistory", "TrainingDebugger", "ActivationMonitor", "GradientFlow", "GradientStats"),
        *("clip_gradients", "detect_dead_neurons", "check_initialization"),
    ]
    assert sorted(trimtab.__all__) == sorted([*expected, "__version__"])
    assert all(hasattr(trimtab, name) for name in trimtab.__all__)


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*(m for m in sys.modules if '.' not in m))"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_import_loads_no_optional_package():
    # torch itself may bring some of them; what counts is what we add
    assert not (loaded_by("import trimtab") - loaded_by("import torch, numpy")) & set(OPTIONAL)


def test_that_the_test_above_can_fail():
    assert "rich" in loaded_by("import trimtab, rich")


def test_type_checkers_and_the_interpreter_are_told_the_same_homes():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    told = {alias.name: node.module for node in block.body for alias in node.names}
    parts = {name for name, home in told.items() if home == "trimtab"}
    assert {name: home for name, home in told.items() if home != "trimtab"} == trimtab._HOMES
    assert parts == trimtab._PARTS
    assert {*told, "__version__"} == set(trimtab.__all__)


def test_functions_are_not_hidden_by_the_packages_of_their_names():
    code = """
import trimtab.trace, trimtab.diagnose, trimtab.report, trimtab as tt
from trimtab.trace import replay_module
print([type(x).__name__ for x in (tt.trace, tt.diagnose, tt.report, tt.types)])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['function', 'function', 'function', 'module']"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'trimtab' has no attribute 'Guards'"):
        trimtab.Guards  # noqa: B018
