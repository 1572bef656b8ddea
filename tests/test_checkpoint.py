"""A checkpoint that is not finite is refused, and whatever goes wrong, the good one on disk stays."""

from __future__ import annotations

import os
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn

from trimtab import checkpoint
from trimtab.errors import CheckpointError

GOOD = {"weight": torch.tensor([1.0, 2.0])}


def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def refused(state, file, **kwargs):
    with pytest.raises(CheckpointError) as error:
        checkpoint.save(state, file, **kwargs)
    assert error.value.path == file
    return error.value


def test_a_finite_state_is_what_torch_loads(tmp_path):
    model, optimizer = trained()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 7,
        "best": float("inf"),
    }
    checkpoint.save(state, tmp_path / "last.pt")
    loaded = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (loaded["step"], loaded["best"]) == (7, float("inf"))
    for name, value in model.state_dict().items():
        assert loaded["model"][name].equal(value)
    for key, value in optimizer.state_dict()["state"][0].items():
        assert loaded["optimizer"]["state"][0][key].equal(value)
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_may_be_text(tmp_path, kind):
    checkpoint.save(GOOD, kind(tmp_path / "last.pt"))
    assert torch.load(tmp_path / "last.pt", weights_only=True)["weight"].equal(GOOD["weight"])


def test_every_bad_entry_is_counted_and_named(tmp_path):
    file = tmp_path / "last.pt"
    model, optimizer = trained()
    with torch.no_grad():
        model[0].weight[2, 1] = torch.nan
        model[0].weight[3, 0] = -torch.inf
        optimizer.state[model[0].bias]["exp_avg_sq"][:3] = torch.inf
    error = refused({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    found = [(c.name, c.num_nan, c.num_inf, c.first_bad_index) for c in error.culprits]
    assert found == [("model.0.weight", 1, 1, (2, 1)), ("optimizer.state.1.exp_avg_sq", 0, 3, (0,))]
    assert str(error).splitlines() == [
        f"{file} was not saved: 2 of its entries are not finite.",
        "  model.0.weight: 1 NaN and 1 Inf of 12 elements, first bad index (2, 1)",
        "  optimizer.state.1.exp_avg_sq: 0 NaN and 3 Inf of 4 elements, first bad index (0,)",
        "What was there before is untouched. For an entry that is meant so, as a mask of -inf, pass "
        "allow=['model.0.weight'].",
    ]
    assert names(tmp_path) == []


def test_many_bad_entries_are_not_all_listed(tmp_path):
    error = refused([torch.tensor(torch.nan)] * 9, tmp_path / "last.pt")
    assert len(error.culprits) == 9
    assert str(error).splitlines()[5:7] == [
        "  4: 1 NaN and 0 Inf of 1 elements, first bad index ()",
        "  and 4 more",
    ]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (torch.tensor([torch.nan]), ""),
        ({"a": [1, (torch.tensor([torch.inf]),)]}, "a.1.0"),
        ({3: {"x": torch.tensor([1.0, torch.nan], dtype=torch.bfloat16)}}, "3.x"),
        ({"x": torch.tensor([complex(1, float("inf"))])}, "x"),
        ({"x": torch.tensor([torch.nan]).to(torch.float8_e5m2)}, "x"),
        ({"x": torch.sparse_coo_tensor([[1]], [torch.nan], (4,), check_invariants=True)}, "x"),
        ({"x": np.array([1.0, np.nan])}, "x"),
        ({"x": np.array([1.0, np.nan], ">f4")}, "x"),
        ({"x": np.array([1.0, np.nan], np.longdouble)}, "x"),
        ({"x": np.array([np.inf, 1.0])[::-1]}, "x"),
        ({"x": np.frombuffer(np.array([np.nan]).tobytes())}, "x"),  # read-only
        ({"x": nn.Parameter(torch.tensor([torch.nan]))}, "x"),
    ],
)
def test_every_kind_of_entry_is_looked_at(tmp_path, state, name):
    (culprit,) = refused(state, tmp_path / "last.pt").culprits
    assert culprit.name == name
    assert culprit.num_nan + culprit.num_inf == 1


def test_objects_with_a_state_are_looked_into(tmp_path):
    model, optimizer = trained()
    optimizer.state[model[0].bias]["exp_avg"][0] = torch.nan
    assert (
        refused({"all": [model, optimizer]}, tmp_path / "last.pt").culprits[0].name == "all.1.state.1.exp_avg"
    )


def test_what_cannot_be_bad_is_passed_over(tmp_path):
    state = {
        "ids": torch.tensor([2**62]),
        "flag": torch.tensor([True]),
        "names": np.array(["nan"]),
        "none": None,
    }
    state |= {"empty": torch.empty(0), "huge": torch.tensor([3e38, -3e38] * 9)}
    checkpoint.save(state, tmp_path / "last.pt")
    assert names(tmp_path) == ["last.pt"]


def test_entries_that_are_meant_so_are_allowed_by_name(tmp_path):
    file = tmp_path / "last.pt"
    mask = torch.full((2, 2), -torch.inf).triu(1)
    state = {"model": {"layer.0.mask": mask, "layer.1.mask": mask, "layer.1.weight": torch.ones(1)}}
    assert [c.name for c in refused(state, file, allow=["*.0.mask"]).culprits] == ["model.layer.1.mask"]
    assert len(refused(state, file, allow=["*.MASK", "mask"]).culprits) == 2
    checkpoint.save(state, file, allow=["*.mask"])
    checkpoint.save(state, file, allow=["model.layer.0.mask", "model.layer.1.*"])
    state["model"]["layer.1.weight"][0] = torch.nan
    assert [c.name for c in refused(state, file, allow=["*.mask"]).culprits] == ["model.layer.1.weight"]


def test_a_refusal_leaves_the_good_file(tmp_path):
    file = tmp_path / "last.pt"
    checkpoint.save(GOOD, file)
    before = file.read_bytes()
    refused({"weight": torch.tensor([torch.nan])}, file)
    assert file.read_bytes() == before
    assert names(tmp_path) == ["last.pt"]


class Unwilling:
    """Fails in the middle of being saved."""

    def __reduce__(self):
        raise LookupError("not me")


def test_a_state_that_cannot_be_saved_leaves_the_good_file(tmp_path):
    """The hazard: torch.save opens the file first."""
    plain, ours = tmp_path / "plain.pt", tmp_path / "ours.pt"
    for file in (plain, ours):
        torch.save(GOOD, file)
    before = ours.read_bytes()
    with pytest.raises(LookupError):
        torch.save(GOOD | {"other": Unwilling()}, plain)
    assert plain.read_bytes() != before
    with pytest.raises(LookupError, match="not me"):
        checkpoint.save(GOOD | {"other": Unwilling()}, ours)
    assert ours.read_bytes() == before
    assert names(tmp_path) == ["ours.pt", "plain.pt"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # forks on purpose
def test_a_full_disk_leaves_the_good_file(tmp_path):
    """The limit on file sizes stands in for it: the system refuses to write on, in the middle of the file."""
    file = tmp_path / "last.pt"
    checkpoint.save(GOOD, file)
    before = file.read_bytes()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
            try:
                checkpoint.save({"weight": torch.zeros(10_000)}, file)
            except CheckpointError as error:
                code = 0 if "could not be written" in str(error) and error.path == file else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert file.read_bytes() == before
    assert names(tmp_path) == ["last.pt"]


def test_the_name_appears_once_all_is_on_the_disk(tmp_path, monkeypatch):
    file = tmp_path / "last.pt"
    log = []
    sync = os.fsync

    def watched(descriptor):
        log.append(file.exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    checkpoint.save(GOOD, file)
    assert log == [False, True]  # the file under another name, then the folder with its name


def test_a_folder_that_is_not_there(tmp_path):
    error = refused(GOOD, tmp_path / "no" / "last.pt")
    assert "could not be written" in str(error)
    assert error.culprits == ()


def test_permissions_are_those_of_any_new_file(tmp_path):
    torch.save(GOOD, tmp_path / "plain.pt")
    checkpoint.save(GOOD, tmp_path / "ours.pt")
    assert (tmp_path / "ours.pt").stat().st_mode == (tmp_path / "plain.pt").stat().st_mode
