"""Real processes: killed, forked, reading while another one writes."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Callable

import pytest

from trimtab.errors import RunLogError
from trimtab.record import RunHeader, RunWriter, read, read_every_row

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which this system does not have"),
    # forking is what is tested here
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child that leaves without Python's clean-up; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_intact(file) -> bool:
    db = sqlite3.connect(file)
    answer = db.execute("PRAGMA integrity_check").fetchone()
    db.close()
    return answer == ("ok",)


def test_a_killed_writer_loses_at_most_the_step_it_was_in(tmp_path, header, make_outcome, fault):
    rng = random.Random(0)
    first = 0
    for _ in range(6):
        source, sink = os.pipe()

        def write_for_ever(first=first, sink=sink) -> None:
            writer = RunWriter(tmp_path)
            writer.open(header)
            for step in range(first, first + 1_000_000):
                faults = (fault,) if step % 3 == 0 else ()
                writer.append(make_outcome(step, norms=[1, 2, 3], faults=faults), lr=0.1)
                os.write(sink, b".")

        pid = in_child(write_for_ever)
        os.close(sink)
        assert os.read(source, 1) == b"."  # the child is under way
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        confirmed = first + 1
        while chunk := os.read(source, 65536):
            confirmed += len(chunk)
        os.close(source)
        log = read(tmp_path)
        assert log.num_steps in {confirmed, confirmed + 1}
        assert log.step.tolist() == list(range(log.num_steps))
        assert len(log.faults) == len(range(0, log.num_steps, 3))
        assert is_intact(tmp_path / "run.sqlite")
        first = log.num_steps
    with RunWriter(tmp_path) as writer:
        writer.open(header)
    assert read_every_row(tmp_path).num_steps == first
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_reader_works_while_another_process_writes(tmp_path, header, make_outcome):
    def write() -> None:
        with RunWriter(tmp_path) as writer:
            writer.open(header)
            for step in range(2000):
                writer.append(make_outcome(step, loss=float(step), norms=[1, 2, 3]), lr=0.1)

    pid = in_child(write)
    seen = []
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        try:
            log = read(tmp_path)
        except RunLogError:
            assert not seen  # not begun yet
            continue
        assert log.loss.tolist() == list(range(log.num_steps))
        assert len(log.layer_steps) == log.num_steps
        seen.append(log.num_steps)
    assert seen == sorted(seen)
    assert read(tmp_path).num_steps == 2000


@pytest.mark.parametrize("leave", ["hard", "clean", "close"])
def test_a_child_that_does_not_write_leaves_the_log_alone(writer, make_outcome, leave):
    writer.append(make_outcome(0), lr=0.1)

    def work() -> None:
        if leave == "close":
            writer.close()
        if leave == "clean":
            # what sys.exit runs: exit callbacks, then the objects go
            import atexit

            atexit._run_exitfuncs()

    pid = in_child(work)
    for step in range(1, 50):
        writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
    assert exit_code(pid) == 0
    for step in range(50, 100):
        writer.append(make_outcome(step), lr=0.1)
    assert read(writer.path).num_steps == 100
    writer.close()
    assert is_intact(writer.file)
    assert read(writer.path).num_steps == 100


def test_a_child_that_ends_by_sys_exit_leaves_the_log_alone(tmp_path):
    # a process of its own, because the child must run the interpreter's real shutdown
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from trimtab.record import RunHeader, RunWriter, read
from trimtab.types import Action, StepOutcome, StepStats
def outcome(step):
    stats = StepStats(loss=1.0, grad_norm=2.0)
    return StepOutcome(step=step, stats=stats, applied=True, action=Action.APPLY)
writer = RunWriter({str(tmp_path)!r})
writer.open(RunHeader.create())
writer.append(outcome(0), lr=0.1)
pid = os.fork()
if pid == 0:
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert os.path.exists(str(writer.file) + "-wal")
for step in range(1, 20):
    writer.append(outcome(step), lr=0.1)
# no close(): the end of the interpreter must do
"""
    pid = os.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", script])
    assert exit_code(pid) == 0
    assert read(tmp_path).num_steps == 20
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_child_that_writes_loses_nothing_even_if_the_parent_closes_first(writer, make_outcome):
    # SQLite alone would lose the child's rows here: see fork.py
    parent_closed, tell = os.pipe()
    child_wrote, say = os.pipe()
    writer.append(make_outcome(0), lr=0.1)

    def work() -> None:
        writer.append(make_outcome(1000), lr=0.1)
        os.write(say, b".")
        os.read(parent_closed, 1)
        for step in range(1001, 1300):
            writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
        writer.close()

    pid = in_child(work)
    os.read(child_wrote, 1)
    for step in range(1, 200):
        writer.append(make_outcome(step, norms=[1, 2, 3]), lr=0.1)
    writer.close()
    os.write(tell, b".")
    assert read(writer.path).num_steps >= 201
    assert exit_code(pid) == 0
    assert read(writer.path).step.tolist() == [*range(200), *range(1000, 1300)]
    assert is_intact(writer.file)


def test_a_child_whose_parent_has_closed_the_log_is_told_so(writer, make_outcome):
    source, sink = os.pipe()
    parent_closed, tell = os.pipe()

    def work() -> None:
        os.read(parent_closed, 1)
        try:
            writer.append(make_outcome(1), lr=0.1)
        except RunLogError as error:
            os.write(sink, str(error).encode())

    pid = in_child(work)
    writer.close()
    os.write(tell, b".")
    assert exit_code(pid) == 0
    assert b"Make a new RunWriter with a folder of its own in the child" in os.read(source, 4096)


def test_a_fresh_run_is_not_moved_away_by_another_process(writer, make_outcome):
    source, sink = os.pipe()

    def work() -> None:
        try:
            RunWriter(writer.path).open(RunHeader.create())
        except RunLogError as error:
            os.write(sink, str(error).encode())

    assert exit_code(in_child(work)) == 0
    assert b"another process writing to this run" in os.read(source, 4096)
    writer.append(make_outcome(0), lr=0.1)
    assert read(writer.path).num_steps == 1
