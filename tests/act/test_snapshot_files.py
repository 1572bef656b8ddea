"""On disk a snapshot is whole or not there: killed processes, full disks, rotten bits, two writers."""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from act import exact_run
from act.exact_run import Run
from act.test_tree import Pair, same, trees
from hypothesis import HealthCheck, given, settings
from torch import nn

from trimtab.act import snapshot_files, snapshot_format
from trimtab.act.snapshot_files import SnapshotFolder
from trimtab.act.snapshots import Snapshots
from trimtab.act.tree import TreeCopy, flatten
from trimtab.errors import MissingDependencyError, NumericalWarning, SnapshotError

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # forks on purpose

NUM_STEPS = 60
SCRIPT = exact_run.__file__


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.name != ".lock")


def folders(*steps):
    return [f"step-{step:06d}" for step in steps]


# Killed while writing


@functools.cache
def straight():
    run = Run().train(NUM_STEPS)
    return json.loads(json.dumps({"trail": run.trail, "digests": run.digests()}))


def start(folder, *stall):
    command = [sys.executable, SCRIPT, str(folder), str(NUM_STEPS), *map(str, stall)]
    source = Path(SCRIPT).parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process):
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0
    return json.loads(lines[-1])


def check_resumed(result, *, after):
    """The rest of the run is that of the straight one, and so is where it ends."""
    assert result["from"] == after
    expected = straight()
    rest = {step: facts for step, facts in expected["trail"].items() if after is None or int(step) > after}
    assert result["trail"] == rest
    assert result["digests"] == expected["digests"]


def test_a_process_that_is_killed_in_the_middle_of_writing_a_snapshot(tmp_path):
    process = start(tmp_path, 30)  # stalls with half of the tensors of step 30 in the file
    assert "stalled\n" in iter(process.stdout.readline, "")
    process.kill()
    process.wait()
    process.stdout.close()
    assert names(tmp_path) == [".step-000030.writing", *folders(0, 10, 20)]
    half = (tmp_path / ".step-000030.writing" / "state.safetensors").stat().st_size
    assert 0 < half < (tmp_path / "step-000020" / "state.safetensors").stat().st_size

    process = start(tmp_path)
    check_resumed(finish(process), after=20)
    process.stdout.close()
    assert names(tmp_path) == folders(30, 40, 50)


@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again(tmp_path):
    generator = random.Random(0)
    reached = -1
    for _ in range(4):
        process = start(tmp_path)
        for _ in range(generator.randrange(1, 25)):
            line = process.stdout.readline()
            if line.startswith("{"):
                break
            reached = max(reached, int(line))
        process.kill()
        process.wait()
        process.stdout.close()
        steps = [int(name[5:]) for name in names(tmp_path) if not name.startswith(".")]
        assert steps or reached <= 10  # the second snapshot waits until the first is on the disk
    process = start(tmp_path)
    check_resumed(finish(process), after=max(steps, default=None))
    process.stdout.close()


# A run of our own in this process


def pair():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def opened(folder, *, model=None, **kwargs):
    model = model or pair()
    snapshots = Snapshots(folder=folder, **kwargs)
    snapshots.bind(*model)
    return snapshots


def filled(folder, steps, **kwargs):
    """Snapshots of these steps, with the step in the weights."""
    model, optimizer = pair()
    with torch.no_grad():
        snapshots = opened(folder, model=(model, optimizer), **kwargs)
        for step in steps:
            model.weight.fill_(step)
            snapshots.take(step, {"step": step})
    snapshots.close()


def loaded(folder):
    """The step that a new process finds, and the weight it gets."""
    model, optimizer = pair()
    snapshots = opened(folder, model=(model, optimizer))
    try:
        restored = snapshots.load_()
        return (
            None
            if restored is None
            else (restored.step, restored.policies["step"], model.weight.unique().tolist())
        )
    finally:
        snapshots.close()


def test_an_empty_folder_gives_none_and_is_made(tmp_path):
    assert loaded(tmp_path / "a" / "b") is None
    assert (tmp_path / "a" / "b").is_dir()


def test_the_newest_is_loaded_and_the_run_goes_on(tmp_path):
    filled(tmp_path, [0, 10, 20, 30], keep=2)
    assert names(tmp_path) == folders(20, 30)
    assert loaded(tmp_path) == (30, 30, [30.0])
    snapshots = opened(tmp_path, keep=2)
    snapshots.load_()
    assert snapshots.steps == (30,)
    snapshots.take(40, {"step": 40})
    assert snapshots.restore_(2).step == 30
    assert names(tmp_path) == folders(30)  # the future that was given up is gone from the disk as well
    snapshots.close()


def test_the_proven_one_stays_on_disk_also_after_a_restart(tmp_path):
    snapshots = opened(tmp_path, keep=1)
    snapshots.take(0, None)
    for step in (10, 20, 30):
        snapshots.take(step, None)
        snapshots.note_fault()
    snapshots.close()
    assert names(tmp_path) == folders(0, 30)
    snapshots = opened(tmp_path, keep=1)
    snapshots.load_()
    for step in (40, 50):
        snapshots.note_fault()
        snapshots.take(step, None)
    snapshots.close()
    assert names(tmp_path) == folders(0, 50)
    snapshots = opened(tmp_path, keep=1)
    snapshots.load_()
    snapshots.take(60, None)  # a healthy stretch proves 50
    snapshots.close()
    assert names(tmp_path) == folders(50, 60)


def test_what_is_on_disk_is_what_was_taken_and_not_what_came_later(tmp_path):
    """The copy of a step is not written over while the thread is still at it."""
    model, optimizer = pair()
    snapshots = opened(tmp_path, model=(model, optimizer), keep=1)
    with torch.no_grad():
        for step in range(20):
            model.weight.fill_(step)
            snapshots.take(step, {"step": step})
            model.weight.fill_(-1.0)
    snapshots.close()
    assert loaded(tmp_path) == (19, 19, [19.0])


def test_moments_of_a_new_process_are_as_they_were(tmp_path):
    """Their type and the order of their memory, which no optimizer state exists for yet."""
    model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    moment = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    optimizer.state[model.weight]["momentum_buffer"] = moment
    snapshots = opened(tmp_path, model=(model, optimizer))
    snapshots.take(0, None)
    snapshots.close()

    again = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last).bfloat16()
    other = torch.optim.SGD(again.parameters(), lr=5.0)
    snapshots = opened(tmp_path, model=(again, other))
    snapshots.load_()
    snapshots.close()
    restored = other.state[again.weight]["momentum_buffer"]
    assert same(restored, moment)
    assert same(again.weight.detach(), model.weight.detach())
    assert other.param_groups[0]["momentum"] == 0.9


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_every_tree_comes_back_exactly_from_disk(tmp_path, tree):
    copy = TreeCopy(flatten(tree))
    folder = tmp_path / "one"
    folder.mkdir(exist_ok=True)
    snapshot_format.write(folder, 7, copy)
    read = snapshot_format.read(folder)
    assert read.step == 7
    assert same(TreeCopy(read.flat).whole(), tree)
    assert read.devices == copy.devices


def test_a_policy_of_our_own_comes_back_as_its_type(tmp_path):
    snapshots = opened(tmp_path)
    snapshots.take(0, Pair(torch.ones(1), ()))
    snapshots.close()
    snapshots = opened(tmp_path)
    restored = snapshots.load_()
    snapshots.close()
    assert same(restored.policies, Pair(torch.ones(1), ()))


# Damage


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a bit of a tensor": lambda s: flip(s / "state.safetensors", -1),
    "a bit of the tensors' header": lambda s: flip(s / "state.safetensors", 12),
    "tensors cut short": lambda s: os.truncate(s / "state.safetensors", 100),
    "tensors empty": lambda s: os.truncate(s / "state.safetensors", 0),
    "no tensors": lambda s: (s / "state.safetensors").unlink(),
    "a digit of the facts": lambda s: (s / "state.json").write_text(
        (s / "state.json").read_text().replace('["momentum", 0.9]', '["momentum", 0.8]')
    ),
    "facts cut short": lambda s: os.truncate(s / "state.json", 200),
    "facts empty": lambda s: os.truncate(s / "state.json", 0),
    "no facts": lambda s: (s / "state.json").unlink(),
    "facts of something else": lambda s: (s / "state.json").write_text("[1]"),
    "a folder in its place": lambda s: ((s / "state.json").unlink(), (s / "state.json").mkdir()),
    "a bit of the text": lambda s: flip(s / "state.json", 300),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_snapshot_is_passed_over(tmp_path, what):
    filled(tmp_path, [0, 10, 20])
    before = (tmp_path / "step-000020" / "state.json").read_bytes()
    DAMAGE[what](tmp_path / "step-000020")
    changed = tmp_path / "step-000020" / "state.json"
    assert "facts" not in what or not changed.exists() or changed.read_bytes() != before
    with pytest.warns(
        NumericalWarning, match=r"step-000020 is damaged \(.*\) and was set aside as step-000020\.damaged"
    ):
        assert loaded(tmp_path) == (10, 10, [10.0])
    assert names(tmp_path) == [*folders(0, 10), "step-000020.damaged"]
    assert loaded(tmp_path) == (10, 10, [10.0])


def test_when_all_are_damaged_it_is_an_error(tmp_path):
    filled(tmp_path, [0, 10])
    for step in folders(0, 10):
        DAMAGE["no facts"](tmp_path / step)
    with (
        pytest.warns(NumericalWarning),
        pytest.raises(SnapshotError, match=r"All 2 snapshots in .* are damaged") as error,
    ):
        loaded(tmp_path)
    assert error.value.path == tmp_path


def test_a_later_format_is_no_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_format, "_FORMAT", 2)
    filled(tmp_path, [0])
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="is of format 2, this release reads format 1"):
        loaded(tmp_path)
    assert names(tmp_path) == folders(0)


def test_leftovers_of_a_killed_process_go_and_nothing_else_does(tmp_path):
    filled(tmp_path, [0])
    for name in (".step-000010.writing", ".step-000020.dropped", ".step-x.writing", "mine", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    assert loaded(tmp_path) == (0, 0, [0.0])
    assert names(tmp_path) == [".hidden", ".step-x.writing", "mine", *folders(0)]


# What cannot be written


def test_a_full_disk_is_told_at_the_next_snapshot_and_leaves_nothing_half(tmp_path):
    """The limit on file sizes stands in for it: the system refuses to write on, in the middle of the file."""
    filled(tmp_path, [0])
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            snapshots = opened(tmp_path)
            snapshots.load_()
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
            snapshots.take(10, None)
            try:
                snapshots.take(20, None)
            except SnapshotError as error:
                is_told = "step 10 could not be written to" in str(error) and "File too large" in str(error)
                code = 0 if is_told and error.path == tmp_path / "step-000010" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert names(tmp_path) == folders(0)
    assert loaded(tmp_path) == (0, 0, [0.0])


class Refusing:
    """Fails to write while `is_full`."""

    def __init__(self, monkeypatch):
        self.is_full = True
        original = snapshot_format.write

        def write(folder, step, copy):
            original(folder, step, copy)
            if self.is_full:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(snapshot_format, "write", write)


@pytest.mark.parametrize("then", ["take", "close"])
def test_an_error_of_the_thread_is_told_once_and_the_run_can_go_on(tmp_path, monkeypatch, then):
    disk = Refusing(monkeypatch)
    snapshots = opened(tmp_path)
    snapshots.take(0, None)
    calls = {
        "take": lambda: snapshots.take(10, None),
        "close": snapshots.close,
    }
    with pytest.raises(SnapshotError, match=r"step 0 could not be written to .*No space left on device"):
        calls[then]()
    assert names(tmp_path) == []
    disk.is_full = False
    if then != "close":
        calls[then]()
        assert snapshots.steps == (0, 10)
    snapshots.close()
    assert names(tmp_path) == (folders(10) if then == "take" else [])


def test_a_full_disk_does_not_bar_the_way_back_in_memory(tmp_path, monkeypatch):
    Refusing(monkeypatch)
    model, optimizer = pair()
    snapshots = Snapshots(folder=tmp_path)
    snapshots.bind(model, optimizer)
    snapshots.take(0, None)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    assert snapshots.restore_().step == 0
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(SnapshotError, match="No space left on device"):
        snapshots.take(10, None)  # and it is told all the same
    snapshots.close()


def test_a_folder_that_is_gone_is_told_before_anything_changes(tmp_path):
    folder = tmp_path / "gone"
    model, optimizer = pair()
    snapshots = Snapshots(folder=folder)
    snapshots.bind(model, optimizer)
    for step in (0, 10):
        snapshots.take(step, None)
    snapshots._files.wait()
    shutil.rmtree(folder)
    with torch.no_grad():
        next(iter(model.parameters())).fill_(5.0)
    with pytest.raises(SnapshotError, match="could not be removed"):
        snapshots.restore_(2)
    assert next(iter(model.parameters())).eq(5.0).all()
    assert snapshots.steps == (0, 10)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        SnapshotError, match=r"The folder .*file/snapshots for snapshots cannot be made or written"
    ):
        opened(tmp_path / "file" / "snapshots")
    with pytest.raises(SnapshotError, match="cannot be made or written"):
        opened(tmp_path / "file")


def test_without_safetensors_it_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trimtab\[snapshots\]'"):
        opened(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    Snapshots().bind(*pair())  # memory alone needs nothing


# Two in one folder


def test_two_guards_of_one_process(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(SnapshotError, match="Another guard of this process keeps its snapshots in"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_a_guard_that_was_dropped_lets_go(tmp_path):
    dropped = [opened(tmp_path)]
    dropped.append(dropped)  # as hooks make cycles
    del dropped
    opened(tmp_path).close()


def test_two_processes(tmp_path):
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        snapshots = opened(tmp_path)
        os.write(sink, b"x")
        threading.Event().wait(30)
        snapshots.close()
        os._exit(0)
    os.read(source, 1)
    with pytest.raises(SnapshotError, match="Another process keeps its snapshots in"):
        opened(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    opened(tmp_path).close()


def test_workers_that_outlive_their_killed_parent_do_not_hold_the_folder(tmp_path):
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        snapshots = opened(tmp_path)
        if not os.fork():  # the worker
            os.close(source)
            threading.Event().wait(30)
            os._exit(0)
        os.write(sink, b"x")
        threading.Event().wait(30)
        snapshots.close()
        os._exit(0)
    os.read(source, 1)
    with pytest.raises(SnapshotError, match="Another process"):
        opened(tmp_path)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    opened(tmp_path).close()


def test_a_forked_child_does_not_write(tmp_path):
    snapshots = opened(tmp_path)
    pid = os.fork()
    if not pid:
        try:
            snapshots.take(0, None)
        except SnapshotError as error:
            os._exit(0 if "belongs to process" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(SnapshotError, match="Another guard of this process"):
        opened(tmp_path)
    snapshots.close()


def test_another_run_in_the_folder_is_not_written_over(tmp_path):
    filled(tmp_path, [0, 10])
    snapshots = opened(tmp_path)
    with pytest.raises(
        SnapshotError, match=r"holds snapshots of an earlier run \(steps 0, 10\). Call guard.resume\(\)"
    ):
        snapshots.take(0, None)
    snapshots.close()
    other = nn.Linear(5, 5)
    snapshots = opened(tmp_path, model=(other, torch.optim.SGD(other.parameters())))
    with pytest.raises(SnapshotError, match=r"parameter weight is \(5, 5\)"):
        snapshots.load_()
    with pytest.raises(SnapshotError, match=r"holds snapshots of an earlier run"):
        snapshots.take(0, None)
    snapshots.close()
    assert names(tmp_path) == folders(0, 10)


def test_loading_comes_first(tmp_path):
    snapshots = opened(tmp_path)
    snapshots.take(0, None)
    with pytest.raises(RuntimeError, match=r"load_\(\) came after the snapshot of step 0"):
        snapshots.load_()
    snapshots.close()
    snapshots.close()


# How it is written


def test_nothing_has_its_name_before_it_is_on_the_disk(tmp_path, monkeypatch):
    """All that a name stands for is flushed first; then the name."""
    log = []
    sync = snapshot_format.sync

    def watched(path):
        log.append((path.name, names(tmp_path)))
        sync(path)

    monkeypatch.setattr(snapshot_format, "sync", watched)
    snapshots = opened(tmp_path)
    snapshots.take(0, None)
    snapshots.close()
    writing, done = [".step-000000.writing"], folders(0)
    assert log == [
        ("state.safetensors", writing),
        ("state.json", writing),
        (".step-000000.writing", writing),
        (tmp_path.name, done),
    ]


def test_taking_one_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    may_write, begun = threading.Event(), threading.Event()
    original = snapshot_format.write

    def write(folder, step, copy):
        begun.set()
        assert may_write.wait(30)
        original(folder, step, copy)

    monkeypatch.setattr(snapshot_format, "write", write)
    snapshots = opened(tmp_path)
    snapshots.take(0, None)
    assert begun.wait(30)
    assert names(tmp_path) == [".step-000000.writing"]
    may_write.set()
    snapshots.close()
    assert names(tmp_path) == folders(0)


def test_json_says_what_is_in_it(tmp_path):
    filled(tmp_path, [3])
    facts = json.loads((tmp_path / "step-000003" / "state.json").read_text())["facts"]
    assert (facts["format"], facts["step"], facts["versions"]["torch"]) == (1, 3, torch.__version__)
    keys = [entry["key"] for entry in facts["tensors"]]
    assert keys[:2] == ["state.model.parameters.weight", "state.model.parameters.bias"]
    assert "state.rng.torch" in keys


def test_a_folder_alone_can_be_used(tmp_path):
    folder = SnapshotFolder(tmp_path, keep=1)
    folder.write(1, TreeCopy(flatten({"x": torch.ones(2)})))
    folder.wait()
    assert folder.steps() == (1,)
    assert folder.newest().flat.tensors[0].tolist() == [1, 1]
    folder.close()
    assert not snapshot_files._open_folders
