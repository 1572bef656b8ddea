from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_array, clip_update, stable_adamw
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab as tt
from trimtab.act.updates import UpdateClip, _Moving, _scales, _shrink_

OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value not in (torch.optim.Optimizer, torch.optim.LBFGS)
)
ARGUMENTS = {"SGD": {"momentum": 0.9}}


def rms(values) -> float:
    return math.sqrt(float((np.abs(values) ** 2).mean()))


class Net(nn.Module):
    """Matrices only, or a sparse table, for those optimizers that want them; else a bit of everything."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.is_sparse = name == "SparseAdam"
        if self.is_sparse:
            self.table = nn.Embedding(10, 4, sparse=True)
        else:
            self.first, self.second = nn.Linear(4, 6, bias=name != "Muon"), nn.Linear(6, 3, bias=False)
            self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return self.table(x.long().abs()[:, 0]) if self.is_sparse else self.second(self.first(x))


def build(name, dtype=torch.float64, **arguments):
    torch.manual_seed(0)
    model = Net(name).to(dtype)
    arguments = {"lr": 0.01, **ARGUMENTS.get(name, {}), **arguments}
    return model, getattr(torch.optim, name)(model.parameters(), **arguments)


def backward(model, step, scale=1.0):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    x = x.to(next(model.parameters()).dtype)
    model.zero_grad()
    (model(x).square().sum() * (1 + 1000 * (step == 3)) * scale).backward()


def values(model):
    return {name: as_array(p).copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_update_of_every_optimizer_is_that_update_limited(name):
    model, optimizer = build(name)
    max_rms = 1e-4 if name == "Adadelta" else 0.05  # its updates are far below the rate
    most, num_clipped = max_rms * 0.01, 0
    clip = UpdateClip(optimizer, max_rms=max_rms)
    for step in range(5):
        backward(model, step)
        before = values(model)
        plain, unclipped = copy.deepcopy((model, optimizer))  # which takes no hooks along
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            q.grad = None if p.grad is None else p.grad.clone()
        unclipped.step()
        optimizer.step()
        smallest = 1.0
        for key, after in values(plain).items():
            np.testing.assert_allclose(
                values(model)[key], clip_update(before[key], after, most), rtol=1e-9, atol=1e-14
            )
            moved = rms(after - before[key])
            smallest = min(smallest, most / moved if moved else 1.0)
        assert clip.last_scale.item() == pytest.approx(smallest, rel=1e-9)
        num_clipped += smallest < 1.0
    assert num_clipped > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_within_the_bound_is_left_to_the_bit(name):
    (plain, optimizer), (ours, guarded) = build(name), build(name)
    clip = UpdateClip(guarded, max_rms=1e9)
    for step in range(4):
        for model, o in ((plain, optimizer), (ours, guarded)):
            backward(model, step)
            o.step()
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), ours.parameters(), strict=True))
    assert clip.last_scale.item() == 1.0


def train_adam(num, betas, *, scale=lambda step: 1.0, max_rms=1.0, eps=1e-12, decay=0.0, seed=0):
    """The parameter after each step of AdamW under UpdateClip, and the gradients."""
    generator = torch.Generator().manual_seed(seed)
    parameter = nn.Parameter(torch.randn(40, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=betas, eps=eps, weight_decay=decay)
    clip = UpdateClip(optimizer, max_rms=max_rms)
    start, after, gradients, scales = as_array(parameter).copy(), [], [], []
    for step in range(num):
        parameter.grad = torch.randn(40, generator=generator, dtype=torch.float64) * scale(step)
        optimizer.step()
        gradients.append(as_array(parameter.grad).copy())
        after.append(as_array(parameter).copy())
        scales.append(clip.last_scale.item())
    return start, gradients, after, scales


def spike(step):
    return 100.0 if step == 12 else 1.0


def test_without_a_first_moment_it_is_stable_adamw():
    start, gradients, after, scales = train_adam(30, (0.0, 0.99), scale=spike)
    expected = stable_adamw(start, gradients, lr=0.01, betas=(0.0, 0.99), eps=1e-12)
    np.testing.assert_allclose(after, expected, rtol=1e-9)
    assert min(scales) < 0.5  # the spike was one


def test_with_a_first_moment_it_limits_the_update_and_stable_adamw_the_newest_gradient():
    """A spike that the moments absorb: an update within the rate stays, and StableAdamW cuts it."""
    start, gradients, after, _ = train_adam(13, (0.9, 0.99), scale=spike)
    unclipped = train_adam(13, (0.9, 0.99), scale=spike, max_rms=1e9)[2]
    theirs = stable_adamw(start, gradients, lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    ours, free, stable = (rms(path[12] - path[11]) / 0.01 for path in (after, unclipped, theirs))
    assert 0.3 < ours < 1.0
    assert ours == pytest.approx(free, rel=1e-9)
    assert stable < 0.2


def test_a_spike_that_the_second_moment_has_not_seen_is_clipped_where_gradients_would_not_be():
    """What StableAdamW is about: v underestimates, and Adam's update is many learning rates."""
    _, _, _, scales = train_adam(310, (0.9, 0.999), scale=lambda step: 1e-4 if step < 300 else 1.0)
    assert min(scales[:300]) > 0.95
    assert min(scales[300:]) < 0.8


def test_weight_decay_is_part_of_the_update():
    start, _, after, scales = train_adam(1, (0.9, 0.999), max_rms=0.5, decay=50.0)
    assert scales[0] < 1.0
    assert rms(after[0] - start) == pytest.approx(0.5 * 0.01)


@given(
    update=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30),
    max_rms=st.floats(1e-3, 1e3),
    lr=st.floats(1e-4, 10.0),
)
@settings(max_examples=100, deadline=None)
def test_the_bound_holds_and_the_direction_is_kept(update, max_rms, lr):
    parameter = nn.Parameter(torch.zeros(len(update), dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    parameter.grad = -torch.tensor(update, dtype=torch.float64)
    with UpdateClip(optimizer, max_rms=max_rms):
        optimizer.step()
    moved, wanted = as_array(parameter), lr * np.array(update)
    assert rms(moved) <= lr * max_rms * (1 + 1e-9)
    factor = min(1.0, lr * max_rms / rms(wanted)) if rms(wanted) > 0 else 1.0
    np.testing.assert_allclose(moved, factor * wanted, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_that_is_not_finite_stays_and_does_not_spread(bad):
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([first, second], lr=1.0)
    first.grad, second.grad = torch.tensor([bad, 1.0, 2.0]), torch.full((3,), 10.0)
    with UpdateClip(optimizer) as clip:
        optimizer.step()
    assert torch.equal(first.data.nan_to_num(7.0), torch.tensor([-bad, -1.0, -2.0]).nan_to_num(7.0))
    assert second.tolist() == [-1.0] * 3
    assert clip.last_scale.item() == pytest.approx(0.1)


def test_a_finite_update_whose_squares_are_not_is_clipped():
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    parameter.grad = torch.tensor([1e30, -1e30])
    assert parameter.grad.norm() == math.inf
    with UpdateClip(optimizer):
        optimizer.step()
    assert parameter.tolist() == pytest.approx([-1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_other_types_and_shapes(dtype):
    parameters = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in [(), (0,), (3, 5)]]
    parameters.append(nn.Parameter(torch.ones(4, 6, dtype=dtype).t()))
    optimizer = torch.optim.SGD(parameters, lr=0.25)
    for p in parameters:
        p.grad = torch.full_like(p, 8.0)
    with UpdateClip(optimizer, max_rms=2.0):
        optimizer.step()
    for p in parameters:
        np.testing.assert_allclose(as_array(p), np.full(p.shape, 0.5), rtol=1e-2)
    assert parameters[-1].stride() == (1, 6)


def test_large_tensors_are_measured_exactly():
    """More than one block, in memory that is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.zeros(1500, 1501).t())
    parameter.grad = torch.randn(1501, 1500, generator=generator) * 5
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    with UpdateClip(optimizer) as clip:
        optimizer.step()
    assert clip.last_scale.item() == pytest.approx(1 / rms(as_array(parameter.grad)), rel=1e-9)
    assert rms(as_array(parameter)) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("is_tensor", [False, True])
def test_each_group_has_its_own_rate(is_tensor):
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    rates = [torch.tensor(r) if is_tensor else r for r in (0.5, 0.125)]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for p in parameters:
        p.grad = torch.full((2,), 100.0)
    clip = UpdateClip(optimizer)
    clip.close()
    with CountReads() as counter, torch.no_grad():  # torch's own SGD reads a rate that is a tensor
        clip._before(optimizer, (optimizer,), {})
        for p, lr in zip(parameters, rates, strict=True):
            p.sub_(lr * p.grad)
        clip._after(optimizer, (optimizer,), {})
    assert [p.tolist() for p in parameters] == [[-0.5, -0.5], [-0.125, -0.125]]
    assert counter.reads == 0


def test_a_rate_of_zero_moves_nothing():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    parameter.grad = torch.ones(2)
    with UpdateClip(optimizer) as clip:
        optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]
    assert clip.last_scale.item() == 1.0


class CountReads(TorchDispatchMode):
    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func._schema.name == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def test_it_reads_nothing():
    model, optimizer = build("SGD")
    reads = []
    for _ in range(2):
        backward(model, 3)
        with CountReads() as counter:
            optimizer.step()
        reads.append(counter.reads)
        UpdateClip(optimizer)
    assert reads == [0, 0]
    with CountReads() as counter:
        torch.ones(()).item()
    assert counter.reads == 1


def test_what_an_accelerator_does_is_the_same():
    """There every update is selected for without a branch. Run here on the CPU's memory."""

    class Elsewhere:
        def __init__(self, scales):
            self.scales = scales
            self.device = torch.device("meta")

        def unbind(self):
            return self.scales.unbind()

    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(4, generator=generator) for _ in range(3)]
    after = [
        b + s * torch.randn(4, generator=generator) for b, s in zip(before, (5.0, 0.01, 5.0), strict=True)
    ]
    after[2][0] = math.inf
    after[1][0] = before[1][0] = -0.0
    results = []
    for wrap in (lambda scales: scales, Elsewhere):
        parameters = [a.clone() for a in after]
        moved = _Moving({"lr": 1.0}, 1.0, parameters, before)
        scales = _scales(moved, 1.0)
        _shrink_(moved, wrap(scales))
        results.append(parameters)
    assert (scales < 1.0).tolist() == [True, False, False]
    for one, other, unclipped in zip(*results, after, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()
        assert (one.numpy().tobytes() == unclipped.numpy().tobytes()) == (unclipped is not after[0])


def closure_of(model, optimizer, step):
    def closure():
        backward(model, step)
        return torch.tensor(1.0)

    return closure


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_brings_the_gradients(as_keyword):
    model, optimizer = build("SGD", lr=0.01)
    optimizer.zero_grad()
    with UpdateClip(optimizer, max_rms=0.1) as clip:
        before = values(model)
        closure = closure_of(model, optimizer, 3)
        loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    assert loss.item() == 1.0
    assert clip.last_scale.item() < 1.0
    for key, after in values(model).items():
        assert rms(after - before[key]) <= 0.1 * 0.01 * (1 + 1e-9)
    assert "unused" in before
    assert not np.array_equal(before["first.weight"], values(model)["first.weight"])


def guarded(model, optimizer, order):
    """A guard that is attached and an update clip, in either order; the clip and what closes them."""
    if order == "clip first":
        clip = UpdateClip(optimizer, max_rms=0.1)
        guard = tt.Guard(model, optimizer)
        guard.attach()
    else:
        guard = tt.Guard(model, optimizer)
        guard.attach()
        clip = UpdateClip(optimizer, max_rms=0.1)
    return guard, clip


@pytest.mark.parametrize("order", ["clip first", "guard first"])
@pytest.mark.parametrize("with_closure", [False, True])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_with_an_attached_guard_a_refused_step_changes_nothing(order, with_closure, name):
    model, optimizer = build(name)
    guard, clip = guarded(model, optimizer, order)
    for step, is_bad in enumerate([False, True, False, True, False]):
        scale = math.nan if is_bad else 1.0
        before = copy.deepcopy(model.state_dict())
        if with_closure:

            def closure(step=step, scale=scale):
                backward(model, step, scale)
                return torch.tensor(scale)

            optimizer.step(closure)
        else:
            backward(model, step, scale)
            optimizer.step()
        assert guard.outcome.applied == (not is_bad)
        for key, old in before.items():
            moved = rms(as_array(model.state_dict()[key] - old))
            assert moved <= 0.1 * 0.01 * (1 + 1e-9)
            if key != "unused":
                assert (moved > 0) == (not is_bad)
    guard.close()
    clip.close()


def test_in_a_guarded_step_it_limits_what_the_guard_lets_through():
    model, optimizer = build("SGD")
    with UpdateClip(optimizer, max_rms=0.1), tt.Guard(model, optimizer, clip=tt.NormClip(1e3)) as guard:
        for step in range(3):
            before = values(model)
            backward(model, step, math.nan if step == 1 else 1.0)
            outcome = guard.step(torch.tensor(1.0))
            assert outcome.applied == (step != 1)
            moved = rms(values(model)["first.weight"] - before["first.weight"])
            assert moved == (0.0 if step == 1 else pytest.approx(0.1 * 0.01))


@pytest.mark.parametrize("order", ["clip first", "guard first"])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_a_rate_lowered_for_one_step_counts_in_either_order(order, is_tensor):
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(1.0) if is_tensor else 1.0)

    def lower(*_):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.25

    def put_back(*_):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 4.0

    clip = UpdateClip(optimizer) if order == "clip first" else None
    optimizer.register_step_pre_hook(lower)
    optimizer.register_step_post_hook(put_back)
    clip = clip or UpdateClip(optimizer)
    parameter.grad = torch.full((2,), -100.0)
    optimizer.step()
    assert parameter.tolist() == [0.25, 0.25]
    clip.close()


def test_close_leaves_the_optimizer_as_it_was_found():
    model, optimizer = build("SGD")
    hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    clip = UpdateClip(optimizer)
    assert [len(h) for h in hooks] == [1, 1]
    clip.close()
    clip.close()
    assert [len(h) for h in hooks] == [0, 0]
    assert clip.last_scale is None
    backward(model, 0)
    optimizer.step()


def test_the_memory_of_the_copy_is_used_again():
    model, optimizer = build("SGD")
    clip = UpdateClip(optimizer)
    places = []
    for step in range(3):
        backward(model, step)
        optimizer.step()
        places.append([copied.data_ptr() for copied in clip._copies.values()])
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == 3  # the one without a gradient has none


def test_a_step_that_fails_leaves_nothing_behind():
    model, optimizer = build("SGD")
    clip = UpdateClip(optimizer, max_rms=0.1)

    def broken():
        backward(model, 0)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(broken)
    backward(model, 3)
    before = values(model)
    optimizer.step()
    assert rms(values(model)["first.weight"] - before["first.weight"]) == pytest.approx(0.1 * 0.01)
    clip.close()


def test_what_it_cannot_limit_is_refused():
    parameter = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"UpdateClip\(LBFGS\).*line_search_fn"):
        UpdateClip(torch.optim.LBFGS([parameter]))
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer"):
        UpdateClip(parameter)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for max_rms in (0.0, -1.0, math.inf, math.nan, True):
        with pytest.raises(ValueError, match=r"UpdateClip\(max_rms=.*finite number > 0"):
            UpdateClip(optimizer, max_rms=max_rms)
    optimizer.param_groups[0]["lr"] = None
    with pytest.raises(ValueError, match="no 'lr'"):
        UpdateClip(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
