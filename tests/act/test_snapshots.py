"""Going back and continuing gives what an uninterrupted run gives, bit for bit; and what is held when."""

from __future__ import annotations

import functools
import logging
from collections import Counter

import pytest
import torch
from act.exact_run import Run
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.act import tree
from trimtab.act.batches import Batches
from trimtab.act.snapshots import Snapshots
from trimtab.errors import SnapshotError

NUM_STEPS = 300


@functools.cache
def straight():
    """Without any snapshot."""
    run = Run().train(NUM_STEPS)
    return run.trail, run.digests()


@pytest.mark.parametrize(
    ("wrong_at", "back", "to"),
    [(150, 1, 150), (149, 1, 100), (199, 2, 100), (103, 1, 100), (101, 3, 0), (294, 1, 250)],
)
def test_rewind_and_replay_is_the_straight_run(wrong_at, back, to):
    run = Run(every=50, keep=10)
    run.keep_snapshots()

    def rewind():
        if run.step in run.snapshots.steps or run.snapshots.wants(run.step):
            run.take_if_due()  # in mid-loop, right after the step, is a good moment as well
        run.spoil()
        run.go_on_from(run.snapshots.restore_(back))
        assert run.step == to
        assert run.snapshots.steps == tuple(range(0, to + 1, 50))

    run.events[wrong_at] = rewind
    run.train(NUM_STEPS)
    trail, digests = straight()
    assert run.trail == trail
    assert run.digests() == digests


def test_the_comparison_sees_one_bit_and_one_draw():
    _, digests = straight()
    run = Run()
    run.events[17] = lambda: torch.rand(1)
    assert run.train(NUM_STEPS).digests() != digests
    run = Run().train(NUM_STEPS)
    with torch.no_grad():
        bits = run.model[4].bias.view(torch.int32)
        bits[0] ^= 1
    changed = {name for name, value in run.digests().items() if value != digests[name]}
    assert changed == {"model"}


def test_many_rewinds_to_the_same_snapshot():
    run = Run(every=50)
    run.keep_snapshots()

    def rewind(again):
        def event():
            run.spoil()
            run.go_on_from(run.snapshots.restore_())
            if again:
                run.events[run.step + again] = rewind(again - 1)

        return event

    run.events[130] = rewind(4)
    run.train(NUM_STEPS)
    assert (run.trail, run.digests()) == straight()


def test_a_rewind_may_leave_the_data_where_they_are():
    run = Run(every=50)
    run.keep_snapshots()
    assert run.snapshots.data == ("batches",)

    def rewind():
        run.spoil()
        run.go_on_from(run.snapshots.restore_(except_for=run.snapshots.data))
        run.batches.skip(2)

    run.events[102] = rewind
    run.train(110)
    trail, _ = straight()
    # step 101 of the second try sees what step 105 of the straight run saw; the epoch ends after step 107
    assert [run.trail[step][0] for step in (101, 102, 103)] == [trail[step][0] for step in (105, 106, 107)]
    assert run.trail[100] == trail[100]
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


# What comes back, and in which memory


def adam(model=None, **kwargs):
    model = model or nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), **kwargs)
    return model, optimizer


def step(model, optimizer, x=None):
    optimizer.zero_grad()
    model(torch.ones(4, 3) if x is None else x).square().sum().backward()
    optimizer.step()


def bound(model, optimizer, **kwargs):
    snapshots = Snapshots(**kwargs)
    snapshots.bind(model, optimizer)
    return snapshots


def test_tensors_stay_the_objects_they_are():
    model, optimizer = adam(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    step(model, optimizer)
    snapshots = bound(model, optimizer)
    before = [*model.parameters(), *model.buffers()]
    before += [x for s in optimizer.state.values() for x in s.values()]
    values = [x.clone() for x in before]
    snapshots.take(0, None)
    step(model, optimizer)
    snapshots.restore_()
    after = [*model.parameters(), *model.buffers()]
    after += [x for s in optimizer.state.values() for x in s.values()]
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert all(a.equal(b) for a, b in zip(after, values, strict=True))


def test_state_that_was_not_there_is_gone_again():
    model, optimizer = adam()
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    step(model, optimizer)
    model.register_buffer("late", torch.ones(2), persistent=False)
    optimizer.param_groups[0]["late"] = 1
    optimizer.state["note"] = torch.ones(1)
    snapshots.restore_()
    assert not optimizer.state
    assert "late" not in optimizer.param_groups[0]
    assert not list(model.buffers())


def test_state_that_is_gone_is_there_again():
    model, optimizer = adam()
    model.register_buffer("mask", torch.tensor([1.0, -torch.inf]), persistent=False)
    model.register_buffer("none", None)
    step(model, optimizer)
    optimizer.state["note"] = {"seen": [torch.ones(1), 2]}
    moments = {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    optimizer.state.clear()
    model.mask = torch.zeros(7)
    model.none = torch.zeros(1)
    snapshots.restore_()
    assert {k: v.equal(moments[k]) for k, v in optimizer.state[model.weight].items()} == dict.fromkeys(
        moments, True
    )
    assert optimizer.state["note"] == {"seen": [torch.ones(1), 2]}
    assert model.mask.tolist() == [1.0, -torch.inf]
    assert model.none is None


def test_moments_keep_their_own_type_where_torch_casts_them():
    model = nn.Linear(3, 2).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    exact = torch.full((2, 3), 1.0 + 2.0**-20)
    optimizer.state[model.weight]["momentum_buffer"] = exact.clone()
    # the hazard: torch's own round trip
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[model.weight]["momentum_buffer"].dtype == torch.bfloat16

    optimizer.state[model.weight]["momentum_buffer"] = exact.clone()
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    optimizer.state.clear()
    snapshots.restore_()
    assert optimizer.state[model.weight]["momentum_buffer"].dtype == torch.float32
    assert optimizer.state[model.weight]["momentum_buffer"].equal(exact)


def test_hyperparameters_come_back_and_tensors_among_them_in_place():
    lr = torch.tensor(0.25)
    model, optimizer = adam(lr=lr, capturable=True, foreach=True)
    group = optimizer.param_groups[0]
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    lr.fill_(9.0)
    group["betas"], group["weight_decay"] = (0.0, 0.0), 5.0
    snapshots.restore_()
    assert group["lr"] is lr
    assert lr.item() == 0.25
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0)
    assert group["params"] == [model.weight, model.bias]


def sequential(optimizer):
    parts = [lrs.ConstantLR(optimizer, total_iters=3), lrs.MultiStepLR(optimizer, [3, 5])]
    return lrs.SequentialLR(optimizer, parts, milestones=[4])


SCHEDULERS = {
    "StepLR": lambda o: lrs.StepLR(o, 3),
    "MultiStepLR": lambda o: lrs.MultiStepLR(o, [2, 2, 5]),
    "LinearLR": lrs.LinearLR,
    "ExponentialLR": lambda o: lrs.ExponentialLR(o, 0.9),
    "PolynomialLR": lrs.PolynomialLR,
    "LambdaLR": lambda o: lrs.LambdaLR(o, lambda step: 0.9**step),
    "OneCycleLR": lambda o: lrs.OneCycleLR(o, 1.0, 20),
    "CyclicLR": lambda o: lrs.CyclicLR(o, 0.1, 1.0, step_size_up=3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lrs.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: lrs.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": sequential,
    "ChainedScheduler": lambda o: lrs.ChainedScheduler([lrs.StepLR(o, 3), lrs.ConstantLR(o)]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch_comes_back(name):
    model, optimizer = adam(lr=0.5)
    scheduler = SCHEDULERS[name](optimizer)
    optimizer.step()  # schedulers want it first
    arguments = (1.0,) if name == "ReduceLROnPlateau" else ()

    def next_rates():
        found = []
        for _ in range(6):
            scheduler.step(*arguments)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    scheduler.step(*arguments)
    snapshots = bound(model, optimizer, also={"scheduler": scheduler})
    snapshots.take(0, None)
    rates = next_rates()
    assert len(set(rates)) > 1
    for _ in range(2):  # the second time shows that the scheduler did not go on in the snapshot's own lists
        snapshots.restore_()
        assert next_rates() == rates


class Versioned(nn.Linear):
    """Version 1 held half the weight, as modules of torch.ao.quantization change what they hold."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get("version", 1) < 2:
            state_dict[prefix + "weight"] = state_dict[prefix + "weight"] * 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_the_versions_of_modules_come_back_with_their_state():
    ema = AveragedModel(Versioned(3, 2))
    weight = ema.module.weight.detach().clone()
    # the hazard: a plain copy of a state_dict has lost its versions
    ema.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    assert ema.module.weight.equal(2 * weight)

    weight = ema.module.weight.detach().clone()
    snapshots = bound(*adam(), also={"ema": ema})
    snapshots.take(0, None)
    snapshots.restore_()
    assert ema.module.weight.equal(weight)


class Holder:
    """Gives its state itself, not a copy, and keeps what it is given, as schedulers do."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state_dict):
        self.state = state_dict


def test_what_an_object_does_to_its_state_later_does_not_reach_the_snapshot():
    held = Holder({"seen": [1], "mean": torch.zeros(2)})
    snapshots = bound(*adam(), also={"held": held})
    snapshots.take(0, {"ema": torch.tensor(1.0)})
    for _ in range(2):
        held.state["seen"].append(2)
        held.state["mean"] += 1.0
        restored = snapshots.restore_()
        assert held.state["seen"] == [1]
        assert held.state["mean"].equal(torch.zeros(2))
        assert restored.policies["ema"].item() == 1.0
        restored.policies["ema"].fill_(5.0)


def test_a_state_that_cannot_be_held_is_named():
    snapshots = bound(*adam(), also={"scheduler": Holder({"foo": [1, {"bar": lambda: 0}]})})
    with pytest.raises(
        TypeError, match=r"state\['also'\]\['scheduler'\]\['foo'\]\[1\]\['bar'\] is of type function"
    ):
        snapshots.take(0, None)
    assert snapshots.steps == ()


def test_a_group_that_was_added_later_stays_without_state():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    optimizer = torch.optim.Adam(model[0].parameters())
    snapshots = bound(model, optimizer)
    step(model, optimizer)
    snapshots.take(0, None)
    second = model[1].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.5})
    step(model, optimizer)
    snapshots.restore_()
    assert len(optimizer.param_groups) == 2
    assert set(optimizer.state) == set(model[0].parameters())
    assert model[1].weight.equal(second)


@pytest.mark.parametrize("change", ["name", "shape", "dtype", "groups"])
def test_another_model_is_refused_and_nothing_changes(change):
    model, optimizer = adam()
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    with torch.no_grad():
        model.weight.fill_(5.0)
    if change == "name":
        model.extra = nn.Parameter(torch.ones(1))
        text = r"of other names in the model's parameters: the snapshot has no \['extra'\]"
    elif change == "shape":
        model.bias = nn.Parameter(torch.ones(7))
        text = r"parameter bias is \(7,\) float32 on cpu, but in the snapshot of step 0 it is \(2,\) float32"
    elif change == "dtype":
        model.bias.data = model.bias.data.double()
        text = r"parameter bias is \(2,\) float64 on cpu"
    else:
        optimizer.param_groups[0]["params"].pop()
        text = r"the optimizer's groups have \[1\] parameters, but in the snapshot of step 0 they have \[2\]"
    with pytest.raises(SnapshotError, match=text):
        snapshots.restore_()
    assert model.weight.eq(5.0).all()


# Which are held


def test_cadence():
    snapshots = Snapshots(every=4)
    assert [n for n in range(13) if snapshots.wants(n)] == [0, 4, 8, 12]


def test_the_newest_are_held_and_the_proven_one_besides():
    snapshots = bound(*adam(), keep=2)
    assert snapshots.proven is None
    for n in (0, 10, 20, 30):
        snapshots.take(n, n)
    assert (snapshots.steps, snapshots.proven) == ((20, 30), 20)
    for n in (40, 50, 60, 70):  # faults in every stretch from here on
        snapshots.note_fault()
        snapshots.take(n, n)
    assert (snapshots.steps, snapshots.proven) == ((20, 60, 70), 20)
    snapshots.take(80, 80)  # a healthy stretch proves 70, and 20 may go
    assert (snapshots.steps, snapshots.proven) == ((70, 80), 70)
    assert snapshots.restore_(2).policies == 70


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_proven_snapshot_is_there_whatever_happens(keep):
    generator = torch.Generator().manual_seed(keep)
    snapshots = bound(*adam(), keep=keep)
    last_proven = None
    for n in range(200):
        is_faulty = bool(torch.rand((), generator=generator) < 0.6)
        if is_faulty:
            snapshots.note_fault()
        elif n:
            last_proven = n - 1
        snapshots.take(n, n)
        assert snapshots.proven == last_proven
        newest = tuple(range(max(0, n + 1 - keep), n + 1))
        older = () if last_proven is None or last_proven in newest else (last_proven,)
        assert snapshots.steps == older + newest


def test_going_back_drops_the_future_and_begins_a_healthy_stretch():
    snapshots = bound(*adam(), keep=5)
    for n in range(5):
        snapshots.take(n, n)
    snapshots.note_fault()
    assert snapshots.restore_(3) == (2, 2)
    assert snapshots.steps == (0, 1, 2)
    snapshots.take(3, 3)
    assert snapshots.proven == 2


def test_memory_of_the_one_that_goes_is_used_again():
    snapshots = bound(*adam(), keep=1)
    pointers = []
    for n in range(6):
        snapshots.take(n, None)
        pointers.append(snapshots._held[-1].copy.tensors[0].data_ptr())
    assert pointers == pointers[:2] * 3


def one_snapshot_bytes(model, optimizer):
    snapshots = bound(model, optimizer)
    snapshots.take(0, None)
    return snapshots._held[0].copy.num_bytes


def test_the_budget_limits_how_many_are_held(caplog):
    model, optimizer = adam()
    step(model, optimizer)
    size = one_snapshot_bytes(model, optimizer)
    state = 4 * (3 * (6 + 2) + 2)  # weight, bias and two moments of each in float32, two step counters
    assert size - state == torch.get_rng_state().numel()

    for budget, held in ((2 * size, (3, 4)), (3 * size + 5, (2, 3, 4)), (100 * size, (0, 1, 2, 3, 4))):
        snapshots = bound(model, optimizer, keep=5, memory_budget_bytes=budget)
        for n in range(5):
            snapshots.take(n, None)
        assert snapshots.steps == held
    assert not caplog.records
    snapshots = bound(model, optimizer, keep=5, memory_budget_bytes=size)
    with caplog.at_level(logging.WARNING):
        for n in range(3):
            snapshots.take(n, None)
    assert snapshots.steps == (2,)
    assert "has room for one snapshot" in caplog.text

    snapshots = bound(model, optimizer, memory_budget_bytes=size - 1)
    with pytest.raises(ValueError, match=rf"memory_budget_bytes={size - 1}.*takes {size} bytes"):
        snapshots.take(0, None)
    assert snapshots.steps == ()


def test_the_budget_spares_the_proven_one():
    model, optimizer = adam()
    size = one_snapshot_bytes(model, optimizer)
    snapshots = bound(model, optimizer, keep=5, memory_budget_bytes=2 * size)
    for n in range(6):
        if n > 1:
            snapshots.note_fault()
        snapshots.take(n, None)
    assert (snapshots.steps, snapshots.proven) == ((0, 5), 0)


def test_a_state_that_grows_pushes_out_more_than_one():
    held = Holder({})
    model, optimizer = adam()
    size = one_snapshot_bytes(model, optimizer)
    snapshots = bound(model, optimizer, keep=5, also={"held": held}, memory_budget_bytes=4 * size)
    for n in range(4):
        snapshots.take(n, None)
    held.state = {"memory": torch.zeros(2 * size, dtype=torch.uint8)}
    snapshots.take(4, None)
    assert snapshots.steps == (3, 4)


# Wrong use


@pytest.mark.parametrize("name", ["every", "keep", "memory_budget_bytes"])
@pytest.mark.parametrize("value", [0, 1.5, True, "a", float("nan")])
def test_numbers_are_checked(name, value):
    with pytest.raises(ValueError, match=rf"Snapshots\({name}={value!r}\): expected a whole number >= 1"):
        Snapshots(**{name: value})


class Loader:
    """A loader that keeps its position itself."""

    def __iter__(self):
        return iter([1])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        assert state == {}


def test_what_is_no_state_or_must_be_wrapped_is_told():
    with pytest.raises(TypeError, match=r"also=\[1\]\): expected a dict"):
        Snapshots(also=[1])
    with pytest.raises(TypeError, match="StepLR has no state_dict"):
        Snapshots(also={"scheduler": torch.optim.lr_scheduler.StepLR})
    with pytest.raises(TypeError, match=r"loop over Loader would not be moved.*Wrap it in Batches"):
        Snapshots(also={"data": Loader()})
    Snapshots(also={"data": Batches(Loader()), "averages": nn.ModuleList()})


def test_wrong_use_is_told():
    with pytest.raises(
        TypeError, match=r"also=\{'loader': ...\}\): list has no state_dict.*Wrap a loader in Batches"
    ):
        Snapshots(also={"loader": [1, 2]})
    snapshots = Snapshots()
    for use in (lambda: snapshots.take(0, None), snapshots.restore_, snapshots.load_):
        with pytest.raises(RuntimeError, match="not bound yet"):
            use()
    pair = adam()
    snapshots.bind(*pair)
    with pytest.raises(RuntimeError, match="another guard already"):
        snapshots.bind(*pair)
    with pytest.raises(SnapshotError, match=r"restore_\(back=1\): 0 snapshots are held, of steps \(\)"):
        snapshots.restore_()
    with pytest.raises(RuntimeError, match="needs a folder"):
        snapshots.load_()
    snapshots.take(5, None)
    with pytest.raises(ValueError, match=r"take\(5\): the newest snapshot is of step 5 already"):
        snapshots.take(5, None)
    with pytest.raises(ValueError, match=r"restore_\(back=0\)"):
        snapshots.restore_(0)
    with pytest.raises(ValueError, match=r"except_for=\['data'\]\): also has \[\]"):
        snapshots.restore_(except_for=("data",))


def test_repr_says_what_was_asked_for():
    snapshots = Snapshots(every=5, also={"batches": Batches([1])})
    assert repr(snapshots) == (
        "Snapshots(every=5, keep=3, folder=None, also=['batches'], memory_budget_bytes=None)"
    )


# On an accelerator


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func).split(".")[1]] += 1
        return func(*args, **(kwargs or {}))


def test_taking_one_reads_nothing_and_copies_once():
    model, optimizer = adam()
    step(model, optimizer)
    snapshots = bound(model, optimizer, keep=1)
    for n in range(2):
        snapshots.take(n, None)
    with Ops() as counted:
        snapshots.take(2, None)
    assert counted.ops["_foreach_copy_"] == 1
    assert counted.ops["_local_scalar_dense"] == counted.ops["_to_copy"] == counted.ops["clone"] == 0


class Event:
    def __init__(self):
        self.num_waits = 0

    def synchronize(self):
        self.num_waits += 1


def test_a_copy_of_an_accelerator_is_waited_for_only_when_it_is_used(monkeypatch):
    """Fake CUDA tensors have no data: any read of one is an error."""
    events, pinned = [], []

    def record(device):
        assert device.type == "cuda"
        events.append(Event())
        return events[-1]

    def host_memory(tensor, device):
        pinned.append(device.type == "cuda")
        return torch.empty_like(tensor, device="cpu")

    monkeypatch.setattr(tree, "_record_event", record)
    monkeypatch.setattr(tree, "_host_memory", host_memory)
    with FakeTensorMode():
        state = {
            "w": torch.empty(3, 2, device="cuda"),
            "step": torch.empty(()),
            "m": torch.empty(3, device="cuda"),
        }
        with Ops() as counted:
            first = tree.TreeCopy(tree.flatten(state))
            second = tree.TreeCopy(tree.flatten(state))
        assert counted.ops["_local_scalar_dense"] == counted.ops["item"] == 0
        assert counted.ops["_foreach_copy_"] == 4  # a device each, twice
        assert [e.num_waits for e in events] == [0, 0]
        assert first.devices == [torch.device("cuda", 0), torch.device("cpu"), torch.device("cuda", 0)]
        assert all(t.device.type == "cpu" for t in first.tensors)
        assert pinned == [True, False, True] * 2

        third = tree.TreeCopy(tree.flatten(state), memory=first)
        assert [e.num_waits for e in events] == [1, 0, 0]
        assert third.tensors is first.tensors
        back = tree.WriteBack(second, {})
        assert [e.num_waits for e in events] == [1, 1, 0]
        restored = back.into(state, second.structure)
        back.run()
        assert restored["w"] is state["w"]
        assert len(pinned) == 6
