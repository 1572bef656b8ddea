"""`trimtab run` over real scripts in real processes: what they print, how they end, what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from typer.testing import CliRunner

import trimtab as tt
from trimtab.cli import app

SCRIPTS = Path(__file__).parent / "scripts"


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def said(self):
        """What the script itself said on standard error, and trimtab's closing line."""
        lines = self.stderr.splitlines(keepends=True)
        own = [line for line in lines if line.startswith("trimtab: ")]
        return "".join(line for line in lines if line not in own), "".join(own)

    def log(self, name="log"):
        return tt.read(self.folder / name)


class Zygote:
    """Processes with torch and trimtab loaded, one at a time."""

    def __init__(self, folder):
        self.folder = folder
        self.num = 0
        self.process = subprocess.Popen(
            [sys.executable, SCRIPTS / "_zygote.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, argv, *, is_plain=False, folder=None):
        self.num += 1
        output = self.folder / str(self.num)
        work = folder or output / "work"
        output.mkdir()
        work.mkdir(exist_ok=True)
        (output / "stdout").touch()
        job = {"folder": str(work), "output": str(output), "argv": argv, "is_plain": is_plain}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), output, work

    def finish(self, output, work):
        status = int(self.process.stdout.readline())
        return Done(status, (output / "stdout").read_text(), (output / "stderr").read_text(), work)

    def plain(self, script, *arguments):
        _, output, work = self.start([str(SCRIPTS / script), *arguments], is_plain=True)
        return self.finish(output, work)

    def run(self, script, *arguments, options=("--record", "log"), folder=None):
        target = [script] if "-m" in options else [str(SCRIPTS / script)]
        argv = ["trimtab", "run", *options, *target, *arguments]
        _, output, work = self.start(argv, folder=folder)
        return self.finish(output, work)


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    own = Zygote(tmp_path_factory.mktemp("runs"))
    yield own
    own.process.stdin.close()
    own.process.wait(60)
    own.process.stdout.close()


HEALTHY = [
    ("loop.py", (), (12,)),
    ("loop.py", ("--wrap", "parallel", "--exit", "3"), (12,)),
    pytest.param("loop.py", ("--wrap", "compile"), (12,), marks=pytest.mark.slow),
    ("gan.py", (), (8, 8)),
    ("several.py", (), (3, 4, 5, 2)),
    ("scaled.py", ("--fused",), (12,)),
    ("scaled.py", ("--clip", "0.1"), (12,)),
    ("scaled.py", ("--scale", str(2.0**127), "--factor", "64", "--fused"), (12,)),
    ("search.py", (), (4, 4)),
    ("trainer.py", (), (9,)),
]


@pytest.mark.parametrize(("script", "arguments", "steps"), HEALTHY, ids=lambda v: "".join(map(str, v)) or "-")
def test_a_healthy_script_ends_and_says_the_same_to_the_last_bit(script, arguments, steps, zygote):
    plain, run = zygote.plain(script, *arguments), zygote.run(script, *arguments)
    assert (run.status, run.stdout) == (plain.status, plain.stdout)
    said, closing = run.said
    assert said == plain.stderr
    assert closing.count("\n") == 1
    assert f"{sum(steps)} steps" in closing
    assert "none faulty" in closing
    folders = ["log", *(f"log/optimizer-{number}" for number in range(2, len(steps) + 1))]
    assert tuple(run.log(folder).num_steps for folder in folders) == steps
    assert all(np.isfinite(run.log(folder).loss).all() for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "step"),
    [(("--optimizer", "SGD"), "0"), pytest.param(("--wrap", "compile"), "5", marks=pytest.mark.slow)],
    ids=["first", "compiled"],
)
def test_a_bad_batch_is_as_if_it_had_been_left_out(arguments, step, zygote):
    run = zygote.run("loop.py", *arguments, "--nan", step)
    assert run.stdout == zygote.plain("loop.py", *arguments, "--without", step).stdout
    assert "finite" in run.stdout
    assert "bad" in zygote.plain("loop.py", *arguments, "--nan", step).stdout
    assert "12 steps, 1 faulty, 1 refused. See: trimtab show log" in run.said[1]
    log = run.log()
    assert np.flatnonzero(~log.applied).tolist() == np.flatnonzero(np.isnan(log.loss)).tolist() == [int(step)]
    assert log.header.layer_names[0] == "0.weight"
    assert f"{log.loss[-1]:.9f}" in run.stdout


def test_of_a_gan_only_the_bad_step_of_the_one_model_is_refused(zygote):
    run = zygote.run("gan.py", "3")
    assert run.stdout.endswith("True\n")
    assert zygote.plain("gan.py", "3").stdout.endswith("False\n")
    generator, critic = run.log(), run.log("log/optimizer-2")
    assert np.flatnonzero(~critic.applied).tolist() == [3]
    assert generator.applied.all()
    # each has the loss that it was trained on, though one gradient is zeroed by the model and in place
    assert (np.abs(critic.loss) < 2).all()
    assert (generator.loss > 8).all()


@pytest.mark.parametrize(("fused", "step"), [((), "5"), (("--fused",), "0")], ids=["plain", "fused"])
def test_with_a_loss_scale_a_bad_batch_leaves_no_trace(fused, step, zygote):
    run = zygote.run("scaled.py", "--nan", step, *fused)
    plain = zygote.plain("scaled.py", "--nan", step, *fused)
    assert run.stdout.split()[1:] == [plain.stdout.split()[1], "True"]  # the scale moves as it did
    assert plain.stdout.split()[2] == "False"  # torch's scaler saves the weights, not batch norm
    log = run.log()
    assert np.flatnonzero(~log.applied).tolist() == np.flatnonzero(np.isnan(log.loss)).tolist() == [int(step)]


def test_a_scale_that_is_too_large_is_no_fault_and_logged(zygote):
    run = zygote.run("scaled.py", "--scale", str(2.0**127), "--factor", "64", "--nan", "9")
    log = run.log()
    assert "12 steps, 1 faulty, 1 refused, loss scale too large in 5." in run.said[1]
    assert np.flatnonzero(~log.applied).tolist() == [0, 1, 2, 3, 4, 9]
    assert np.flatnonzero(~np.isfinite(log.loss)).tolist() == [9]
    assert "loss scale" not in run.said[0]


@pytest.mark.parametrize("evaluation", ["1", "7"])
def test_a_search_that_meets_a_bad_loss_is_taken_back(evaluation, zygote):
    run = zygote.run("search.py", evaluation)
    assert run.status == 0
    assert run.stdout.count("True") == 2
    step = 0 if evaluation == "1" else 1
    for folder in ("log", "log/optimizer-2"):
        assert np.flatnonzero(~run.log(folder).applied).tolist() == [step]


def test_policies_of_the_command_line_are_those_of_the_guard(zygote):
    options = (
        "--clip",
        "norm:0.1",
        "--remedy",
        "rewind:budget=2",
        "--snapshots",
        "2",
        "--detect",
        "overflow",
    )
    run = zygote.run("loop.py", "--nan", "5", options=("--record", "log", *options))
    log = run.log()
    assert "finite" in run.stdout
    assert log.header.policies["clip"] == "NormClip(max_norm=0.1, norm_type=2.0)"
    assert log.header.policies["detect"] == "(NonFinite(), Overflow(threshold=1000000.0))"
    assert "rewind" in {fault.action.value for fault in log.faults}
    assert np.nanmax(log.grad_norm * log.clip_factor) < 0.11
    stopped = zygote.run("loop.py", "--nan", "5", options=("--record", "none", "--remedy", "raise"))
    assert stopped.status == 1
    assert "trimtab.errors.NonFiniteError: step 5" in stopped.stderr
    assert 'loop.py", line' in stopped.stderr
    assert list(stopped.folder.iterdir()) == []


def test_the_record_has_a_folder_of_its_own_unless_told(zygote):
    run = zygote.run("loop.py", options=())
    (folder,) = (run.folder / "runs").iterdir()
    assert re.fullmatch(r"loop-\d{8}-\d{6}", folder.name)
    assert f"See: trimtab show runs/{folder.name}" in run.said[1]
    quiet = zygote.run("loop.py", "--nan", "5", options=("--record", "none", "--quiet"))
    assert quiet.stderr == "to stderr\n"
    assert list(quiet.folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["own", "hook", "message"])
def test_what_ends_a_script_is_shown_as_python_shows_it(kind, zygote):
    script = str(SCRIPTS / "fails.py")
    plain = subprocess.run([sys.executable, script, kind], capture_output=True, text=True)
    run = zygote.run("fails.py", kind)
    said, closing = run.said
    assert (run.status, run.stdout, said) == (plain.returncode, plain.stdout, plain.stderr)
    assert closing == "trimtab: no optimizer made a step in this process, so nothing was guarded.\n"
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["backward", "optimizer"])
def test_no_frame_of_ours_is_in_the_way(kind, zygote):
    run = zygote.run("fails.py", kind)
    assert run.status == 1
    assert "Traceback" in run.stderr
    assert "trimtab/" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_as_they_end_any_script(number, zygote):
    process, output, work = zygote.start(["trimtab", "run", "--record", "log", str(SCRIPTS / "waits.py")])
    while "going" not in (output / "stdout").read_text():
        time.sleep(0.05)
    os.kill(process, number)
    run = zygote.finish(output, work)
    assert run.status == -number
    assert run.log().num_steps >= 4
    if number == signal.SIGINT:
        assert run.stdout == "going\nleft in order\n"
        assert "KeyboardInterrupt\ntrimtab: " in run.stderr
        assert "trimtab/" not in run.said[0]


def test_a_module_is_run_as_python_runs_it(zygote):
    for target, arguments in (("package", ("a", "-m")), ("package.part", ("--help",))):
        argv = [sys.executable, "-m", target, *arguments]
        plain = subprocess.run(argv, cwd=SCRIPTS, capture_output=True, text=True)
        run = zygote.run(target, *arguments, options=("--record", "none", "-m"), folder=SCRIPTS)
        assert (run.status, run.stdout) == (plain.returncode, plain.stdout)


def test_a_forked_process_keeps_a_log_of_its_own(zygote):
    run = zygote.run("forks.py")
    child, status = run.stdout.split()
    assert status == "5"
    assert run.log().num_steps == 3
    assert run.log(f"log/process-{child}").num_steps == 4
    assert run.said[1].count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.py",), "cannot open the script nowhere.py"),
        (("-m", "no_such_module"), "no module named no_such_module"),
        (("-m", "trimtab.no_such_module"), "no module named trimtab.no_such_module"),
        (("--clip", "nrm:1", "x.py"), "--clip nrm:1: there is no clip 'nrm'. Allowed are norm, quantile"),
        (("--clip", "norm:-1", "x.py"), "expected a finite number > 0"),
        (("--remedy", "skip:often", "x.py"), "--remedy skip:often: Skip(budget='often')"),
        (("--detect", "overflow:limit=3", "x.py"), "It takes threshold=1e+06"),
        (("--snapshots", "0", "x.py"), "expected a whole number >= 1"),
        (("--cooldown", "2", "x.py"), "--cooldown 2: CoolDown(factor=2)"),
        ((), "Missing argument"),
    ],
)
def test_wrong_words_are_usage_errors_that_leave_nothing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["run", *words])
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_help_lists_all_policies():
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["run", "--help"])
    for written in ("norm:max_norm,norm_type=2", "skip:budget=10", "loss-spike:z=6", "AfterWarmup(...)"):
        assert written in result.output


@pytest.mark.slow
def test_by_its_name_and_by_python(tmp_path):
    argv = [sys.executable, "-m", "trimtab", "run", "--record", "log", SCRIPTS / "loop.py", "--exit", "4"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    plain = subprocess.run([sys.executable, *argv[-3:]], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (4, plain.stdout)
    assert done.stderr == plain.stderr + "trimtab: 12 steps, none faulty. See: trimtab show log\n"


def torchrun(tmp_path, *words):
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=200, env=env)
    assert done.returncode == 0, done.stderr
    return done, [(tmp_path / f"rank-{rank}.txt").read_text().split() for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.timeout(600)  # three runs of two processes, half a minute each on a busy machine
def test_ranks_decide_alike_and_the_first_keeps_the_log(tmp_path):
    script = str(SCRIPTS / "parallel.py")
    run = ("-m", "trimtab", "run", "--record", "log", script)
    _, plain = torchrun(tmp_path, script)
    _, healthy = torchrun(tmp_path, "-m", "trimtab", "run", "--record", "healthy", script)
    assert plain == healthy
    done, ranks = torchrun(tmp_path, *run, "bad")
    assert ranks[0][:2] == ranks[1][:2] == [ranks[0][0], "True"]
    assert done.stderr.count("trimtab: 12 steps, 1 faulty, 1 refused. See: trimtab show log") == 1
    log = tt.read(tmp_path / "log")
    # its own loss was NaN in step 7 while all gradients were good: known, and not decided by
    assert np.flatnonzero(~log.applied).tolist() == [5]
    assert np.flatnonzero(np.isnan(log.loss)).tolist() == [7]
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["run.sqlite"]
