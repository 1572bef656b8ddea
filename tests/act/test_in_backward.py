from __future__ import annotations

import copy
import gc
import io
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from trimtab.act.forecast import NormForecast
from trimtab.act.in_backward import BackwardOptimizer, _gradient_norm
from trimtab.act.optimizer import SMALLEST_IN_KERNEL, fused_inputs
from trimtab.errors import NonFiniteError
from trimtab.types import Kind

LIMIT = math.sqrt(2.0)

KINDS = {
    "sgd": lambda p, **how: torch.optim.SGD(p, lr=0.1, **how),
    "momentum": lambda p, **how: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, **how),
    "adamw": lambda p, **how: torch.optim.AdamW(p, lr=0.01, **how),
    "adagrad": lambda p, **how: torch.optim.Adagrad(p, lr=0.01, **how),
}
WAYS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}
OPTIMIZERS = {
    f"{kind}, {way}": lambda p, make=make, how=how: make(p, **how)
    for kind, make in KINDS.items()
    for way, how in WAYS.items()
} | {"rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01)}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


# --- norms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradient",
    [
        torch.linspace(-1, 1, 3_000_000).view(1000, 3000),
        torch.linspace(-1, 1, 3_000_000).view(1000, 3000).t(),
        torch.full((7,), 1e30),
        torch.full((4096,), 3.0, dtype=torch.bfloat16),
        torch.tensor([3 + 4j, 12 - 5j]).conj(),
        torch.tensor(-2.0),
        torch.zeros(0),
    ],
    ids=["large", "strided", "beyond float32", "bfloat16", "conjugated", "scalar", "empty"],
)
def test_norm_of_a_gradient(gradient):
    expected = math.sqrt(gradient.to(torch.complex128).abs().square().sum().item())
    assert _gradient_norm(gradient).item() == pytest.approx(expected, rel=1e-12)
    assert _gradient_norm(gradient).dtype is torch.float64


def test_norm_of_a_sparse_gradient_adds_duplicates_first():
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0]]), torch.tensor([3.0, 1.0]), (5,), check_invariants=True
    )
    assert _gradient_norm(sparse).item() == 4.0


# --- the optimizer ------------------------------------------------------------------------------------


class Net(nn.Module):
    """Five tensors; the head arrives first."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def batch(step, size=1.0):
    return size * torch.randn(6, 3, generator=torch.Generator().manual_seed(step))


def snapshot(model, optimizer):
    """Copies of all parameters and of all tensors in the optimizers' state."""
    states = {n: copy.deepcopy(o.state_dict()["state"]) for n, o in optimizer.optimizers.items()}
    return {n: p.detach().clone() for n, p in model.named_parameters()}, states


def same(a, b):
    """Whether two nested containers are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@every_optimizer
def test_far_below_the_bound_it_is_plain_stepping_bit_for_bit(make):
    plain, ours = net(), net()
    optimizers = [make([p]) for p in plain.parameters()]
    optimizer = BackwardOptimizer(ours, make, max_norm=1e6)
    for step in range(5):
        for model in (plain, ours):
            model(batch(step)).square().mean().backward()
        for each in optimizers:
            each.step()
            each.zero_grad()
        assert all(p.grad is None for p in ours.parameters())
    assert same(snapshot(ours, optimizer)[0], dict(plain.named_parameters()))
    assert optimizer.last_forecast_error.item() == 0.0
    assert optimizer.num_passes == 5


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_constant_gradients_give_the_result_of_torch_clipping(way):
    weights = {n: torch.randn(p.shape) for n, p in net().named_parameters()}

    def linear_loss(model):
        return sum((p * weights[n]).sum() for n, p in model.named_parameters())

    def make(p):
        return torch.optim.SGD(p, lr=0.0, momentum=0.9, **way)

    theirs, ours = net(), net()
    plain = make(theirs.parameters())
    optimizer = BackwardOptimizer(ours, make, max_norm=0.7)
    linear_loss(ours).backward()  # learn the shares, and forget the momentum of it
    for each in optimizer.optimizers.values():
        each.state.clear()
    for group in (*plain.param_groups, *optimizer.param_groups):
        group["lr"] = 0.1
    for _ in range(5):
        linear_loss(theirs).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
        plain.step()
        plain.zero_grad()
        linear_loss(ours).backward()
        assert optimizer.last_norm.item() == pytest.approx(norm.item(), rel=1e-6)
        assert optimizer.last_applied_norm.item() == pytest.approx(0.7, rel=1e-5)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@given(sizes=st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6), max_norm=st.sampled_from([0.01, 1.0]))
@settings(max_examples=15, deadline=None)
def test_parameters_move_by_the_applied_norm_and_never_beyond_the_bound(way, sizes, max_norm):
    model = net().double()
    with BackwardOptimizer(
        model, lambda p: torch.optim.SGD(p, lr=1.0, **way), max_norm=max_norm
    ) as optimizer:
        for step, size in enumerate(sizes):
            before = [p.detach().clone() for p in model.parameters()]
            model(batch(step, size).double()).square().mean().backward()
            moved = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
            distance = math.hypot(*(torch.linalg.vector_norm(m).item() for m in moved))
            assert distance < LIMIT * max_norm * (1 + 1e-6)
            assert optimizer.last_applied_norm.item() == pytest.approx(distance, rel=1e-5)


def test_the_published_way_of_stepping_in_backward_never_clips():
    model = net()
    steppers = {p: torch.optim.SGD([p], lr=1.0) for p in model.parameters()}

    def step(parameter):
        steppers[parameter].step()
        steppers[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    before = [p.detach().clone() for p in model.parameters()]
    (1e4 * model(batch(0)).square().mean()).backward()
    assert (
        nn.utils.clip_grad_norm_(model.parameters(), 1.0).item() == 0.0
    )  # it sees no gradient, and is silent
    moved = [(p - b).norm().item() for p, b in zip(model.parameters(), before, strict=True)]
    assert math.hypot(*moved) > 100


def poison(parameter, value=math.nan):
    return parameter.register_hook(lambda g: torch.full_like(g, value))


@every_optimizer
@pytest.mark.parametrize("num_before", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_gradient_stops_the_pass_and_leaves_no_trace(make, num_before, value):
    model = net()
    optimizer = BackwardOptimizer(model, make)
    for step in range(num_before):
        model(batch(step)).square().mean().backward()
    parameters, states = snapshot(model, optimizer)
    handle = poison(model.second.weight, value)
    model(batch(7)).square().mean().backward()
    handle.remove()
    parameters_after, states_after = snapshot(model, optimizer)
    for name in parameters:
        is_before_it = name.startswith("head")
        assert same(parameters[name], parameters_after[name]) != is_before_it, name
        if not is_before_it:
            assert same(states[name], states_after[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert optimizer.num_refused.item() == 3
    assert not optimizer.last_norm.isfinite()
    with pytest.raises(NonFiniteError, match=r"second\.weight \((nan|inf)\).*cannot be taken back") as caught:
        optimizer.check()
    assert caught.value.step == num_before
    assert [f.kind for f in caught.value.outcome.faults] == [Kind.NAN if math.isnan(value) else Kind.INF]
    assert "first" not in str(caught.value)  # refused for what came before it, not at fault
    optimizer.check()  # nothing new


@every_optimizer
def test_after_a_bad_pass_training_goes_on_as_if_it_never_was(make):
    """The bad gradient is the very first, so that all of the pass is refused."""

    def train(*, with_bad_pass):
        model = net()
        optimizer = BackwardOptimizer(model, make, max_norm=0.1)
        for step in range(6):
            if with_bad_pass and step in (0, 3):
                (math.nan * model(batch(99)).square().mean()).backward()
                assert optimizer.num_refused.item() == 5 * (1 + step // 3)
            model(batch(step)).square().mean().backward()
        return snapshot(model, optimizer)

    assert same(train(with_bad_pass=True), train(with_bad_pass=False))


@every_optimizer
def test_resumed_equals_uninterrupted(make):
    def go_on(model, optimizer, steps):
        for step in steps:
            if step == 4:
                (math.nan * model(batch(99)).square().mean()).backward()
            model(batch(step, 10.0 if step % 3 == 2 else 1.0)).square().mean().backward()
        return snapshot(model, optimizer)

    straight_model = net()
    straight = BackwardOptimizer(straight_model, make, max_norm=0.1)
    expected = go_on(straight_model, straight, range(12))

    model = net()
    optimizer = BackwardOptimizer(model, make, max_norm=0.1)
    go_on(model, optimizer, range(6))
    stored = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], stored)
    stored.seek(0)
    model_state, state = torch.load(stored, weights_only=True)
    resumed_model = net(seed=1)
    resumed_model.load_state_dict(model_state)
    resumed = BackwardOptimizer(resumed_model, make, max_norm=0.1)
    resumed.load_state_dict(state)
    got = go_on(resumed_model, resumed, range(6, 12))
    assert same(got, expected)
    for name in ("last_norm", "last_applied_norm", "last_forecast_error", "num_refused"):
        assert getattr(resumed, name).equal(getattr(straight, name)), name
    assert resumed.num_passes == straight.num_passes == 13
    with pytest.raises(NonFiniteError, match=r"head\.bias \(nan\)"):
        resumed.check()  # what happened before the checkpoint is still to be told


def sgd(p):
    return torch.optim.SGD(p, lr=0.1)


def test_a_state_that_does_not_fit_changes_nothing():
    model = net()
    optimizer = BackwardOptimizer(model, sgd)
    model(batch(0)).square().mean().backward()
    before = copy.deepcopy(optimizer.state_dict())
    other = BackwardOptimizer(nn.Linear(2, 2), sgd).state_dict()
    with pytest.raises(ValueError, match="expected the 5 parameters"):
        optimizer.load_state_dict(other)
    with pytest.raises(ValueError, match=r"no state of a BackwardOptimizer: .*norms"):
        optimizer.load_state_dict({"optimizers": before["optimizers"]})
    assert same(optimizer.state_dict(), before)


def test_at_most_one_gradient_is_alive():
    model = net()
    most = 0

    def look(_):
        nonlocal most
        most = max(most, sum(p.grad is not None for p in model.parameters()))

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(look)
    optimizer = BackwardOptimizer(model, sgd)
    model(batch(0)).sum().backward()
    assert most == 1
    optimizer.close()
    model(batch(0)).sum().backward()
    assert most == 5  # the count can be larger


def hooks_of(model):
    return [len(p._post_accumulate_grad_hooks or {}) for p in model.parameters()]


def test_close_removes_the_hooks_and_step_then_says_so():
    model = net()
    with BackwardOptimizer(model, sgd) as optimizer:
        assert hooks_of(model) == [1] * 5
        assert optimizer.step() is None
    assert hooks_of(model) == [0] * 5
    optimizer.close()
    before = copy.deepcopy(model.state_dict())
    model(batch(0)).sum().backward()
    assert same(dict(model.state_dict()), dict(before))
    with pytest.raises(RuntimeError, match="closed"):
        optimizer.step()
    model.zero_grad()
    BackwardOptimizer(model, sgd)


def test_hooks_go_with_the_last_reference_and_keep_nothing_alive():
    model = net()
    optimizer = BackwardOptimizer(model, sgd)
    model(batch(0)).sum().backward()
    assert hooks_of(copy.deepcopy(model)) == [0] * 5
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert hooks_of(model) == [0] * 5
    optimizer = BackwardOptimizer(model, sgd)
    gone = weakref.ref(model)
    del optimizer, model
    gc.collect()
    assert gone() is None


def test_frozen_parameters_are_left_alone_and_tied_ones_stepped_once():
    model = net()
    model.first.weight.requires_grad_(False)
    model.again = model.second
    optimizer = BackwardOptimizer(model, sgd, max_norm=1e6)
    assert list(optimizer.optimizers) == ["first.bias", "second.weight", "head.weight", "head.bias"]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x = batch(0)
    hidden = torch.tanh(model.again(torch.tanh(model.second(torch.tanh(model.first(x))))))
    loss = model.head(hidden).square().mean()
    expected = torch.autograd.grad(loss, model.second.weight, retain_graph=True)[0]  # fires no hook
    loss.backward()
    assert optimizer.num_passes == 1
    assert model.first.weight.equal(before["first.weight"])
    torch.testing.assert_close(model.second.weight, before["second.weight"] - 0.1 * expected)


def wrong_models():
    has_gradient = net()
    has_gradient(batch(0)).sum().backward()
    frozen = net().requires_grad_(False)
    split = net()
    split.head.to("meta")
    return {"zero_grad": has_gradient, "no parameter": frozen, "one device": split}


@pytest.mark.parametrize(("message", "model"), wrong_models().items(), ids=str)
def test_models_it_cannot_step_are_refused(message, model):
    with pytest.raises(ValueError, match=message):
        BackwardOptimizer(model, sgd)
    assert hooks_of(model) == [0] * 5


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(max_norm):
    with pytest.raises(ValueError, match=r"max_norm.*expected a finite number > 0"):
        BackwardOptimizer(net(), sgd, max_norm=max_norm)


def test_optimizers_it_cannot_run_are_refused_and_two_at_once_as_well():
    model = net()
    with pytest.raises(ValueError, match="LBFGS"):
        BackwardOptimizer(model, lambda p: torch.optim.LBFGS(p))
    with pytest.raises(ValueError, match="of that parameter alone"):
        BackwardOptimizer(model, lambda _: sgd(model.parameters()))
    assert hooks_of(model) == [0] * 5
    optimizer = BackwardOptimizer(model, sgd)
    with pytest.raises(RuntimeError, match=r"first\.weight is stepped by another"):
        BackwardOptimizer(model, sgd)
    with pytest.raises(RuntimeError, match="from the model"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


# --- where a pass begins and ends ---------------------------------------------------------------------


class Checkpointed(Net):
    def __init__(self, *, use_reentrant, shares=False):
        super().__init__()
        self.use_reentrant, self.shares = use_reentrant, shares

    def forward(self, x):
        hidden = torch.tanh(checkpoint(self.first, x, use_reentrant=self.use_reentrant))
        hidden = torch.tanh(checkpoint(self.second, hidden, use_reentrant=self.use_reentrant))
        if self.shares:
            hidden = torch.tanh(checkpoint(self.second, hidden, use_reentrant=self.use_reentrant))
        return self.head(hidden)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpoints_do_not_split_a_pass(use_reentrant):
    plain, model = net(), Checkpointed(use_reentrant=use_reentrant)
    model.load_state_dict(plain.state_dict())
    expected = BackwardOptimizer(plain, sgd, max_norm=0.1)
    optimizer = BackwardOptimizer(model, sgd, max_norm=0.1)
    for step in range(3):
        plain(batch(step)).square().mean().backward()
        model(batch(step).requires_grad_()).square().mean().backward()
        assert optimizer.num_passes == step + 1
        assert optimizer.last_norm.equal(expected.last_norm)
    assert same(dict(model.state_dict()), dict(plain.state_dict()))


def test_a_parameter_in_two_reentrant_checkpoints_is_an_error_and_not_in_two_others():
    model = Checkpointed(use_reentrant=False, shares=True)
    optimizer = BackwardOptimizer(model, sgd)
    model(batch(0)).sum().backward()
    model.use_reentrant = True
    with pytest.raises(RuntimeError, match=r"second\.weight got a gradient twice.*use_reentrant=False"):
        model(batch(0).requires_grad_()).sum().backward()
    model.zero_grad()
    model.use_reentrant = False
    model(batch(0)).sum().backward()
    assert optimizer.num_passes == 2


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("planted")


def test_a_backward_that_fails_is_no_pass():
    def train(*, fails):
        model = net()
        optimizer = BackwardOptimizer(model, sgd, max_norm=0.1)
        for step in range(4):
            model(batch(step)).square().mean().backward()
        saved = copy.deepcopy(model.state_dict())
        if fails:
            with pytest.raises(ArithmeticError):
                model.head(Failing.apply(model.second(torch.tanh(model.first(batch(9)))))).sum().backward()
            assert not same(dict(model.state_dict()), dict(saved))  # the head has been stepped
            model.load_state_dict(saved)
        model(batch(5)).square().mean().backward()
        assert optimizer.num_passes == 5
        return [optimizer.last_norm.item(), optimizer.last_applied_norm.item()], dict(model.state_dict())

    with_failure, without = train(fails=True), train(fails=False)
    assert with_failure[0] == without[0]
    assert same(with_failure[1], without[1])


def test_every_backward_is_a_step_and_a_graph_that_was_stepped_under_cannot_be_used_again():
    model = net()
    optimizer = BackwardOptimizer(model, sgd)
    for _ in range(2):
        model(batch(0)).square().mean().backward()
    assert optimizer.num_passes == 2
    prediction = model(batch(0))
    prediction.square().mean().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        prediction.sum().backward()


def test_a_pass_over_some_of_the_parameters():
    model = net()
    optimizer = BackwardOptimizer(model, sgd, max_norm=1e6)
    expected = torch.autograd.grad(model(batch(0)).sum(), model.head.weight)[0]
    model(batch(0)).sum().backward(inputs=[model.head.weight])
    assert optimizer.num_passes == 1
    assert optimizer.last_norm.item() == pytest.approx(expected.norm().item(), rel=1e-6)
    assert optimizer.num_refused.item() == 0


def test_a_graph_of_the_gradients_does_not_grow_into_the_state():
    model = net()
    optimizer = BackwardOptimizer(model, sgd, max_norm=0.1)
    with pytest.warns(UserWarning, match="create_graph"):
        model(batch(0)).square().mean().backward(create_graph=True)
    assert not optimizer.last_norm.requires_grad
    assert not optimizer.state_dict()["norms"].requires_grad


def test_a_compiled_model_is_stepped_the_same():
    plain, ours = net(), net()
    expected = BackwardOptimizer(plain, sgd, max_norm=1e6)
    optimizer = BackwardOptimizer(ours, sgd, max_norm=1e6)
    compiled = torch.compile(ours, backend="aot_eager")
    for step in range(3):
        plain(batch(step)).square().mean().backward()
        compiled(batch(step)).square().mean().backward()
    assert optimizer.num_passes == 3
    torch.testing.assert_close(optimizer.last_norm, expected.last_norm)
    torch.testing.assert_close(dict(ours.state_dict()), dict(plain.state_dict()))


# --- learning rates -----------------------------------------------------------------------------------


def test_every_scheduler_of_torch_sees_one_optimizer():
    from torch.optim import lr_scheduler

    model = net()
    optimizer = BackwardOptimizer(model, lambda p: torch.optim.AdamW(p, lr=1.0))
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for step in range(3):
        assert {o.param_groups[0]["lr"] for o in optimizer.optimizers.values()} == {0.5**step}
        optimizer.zero_grad()
        model(batch(step)).sum().backward()
        optimizer.step()
        scheduler.step()
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    plateau.step(1.0)
    plateau.step(2.0)
    assert {g["lr"] for o in optimizer.optimizers.values() for g in o.param_groups} == {0.0125}
    lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)


def test_rates_reach_the_optimizers_after_loading_too():
    model = net()
    optimizer = BackwardOptimizer(model, sgd)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(dict(model.state_dict()))
    model(batch(0)).sum().backward()
    assert same(dict(model.state_dict()), before)


def test_a_closure_is_a_step():
    model = net()
    optimizer = BackwardOptimizer(model, sgd)

    def closure():
        loss = model(batch(0)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert optimizer.num_passes == 1


# --- host reads ---------------------------------------------------------------------------------------


class CountReads(TorchDispatchMode):
    """Counts item(), float() and bool() of tensors."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "way"), [(k, w) for k in KINDS for w in WAYS])
def test_fused_optimizers_are_stepped_without_a_host_read_from_the_second_pass_on(kind, way):
    model = net()
    optimizer = BackwardOptimizer(model, lambda p: KINDS[kind](p, **WAYS[way]), max_norm=0.1)
    reads = []
    for step in range(3):
        loss = model(batch(step)).square().mean()
        with CountReads() as counter:
            loss.backward()
            optimizer.step()
        reads.append(counter.reads)
    assert reads[0] >= 5
    assert reads[1:] == [0, 0] if way == "fused" else min(reads) >= 5


def test_nothing_reads_an_accelerator():
    """Fake CUDA tensors have no data: any read of one is an error."""
    with FakeTensorMode():
        device = torch.device("cuda")
        forecast = NormForecast(3, max_norm=1.0, device=device)
        optimizer = torch.optim.AdamW([nn.Parameter(torch.empty(3, device=device))])
        for _ in range(2):
            for index, dtype in enumerate((torch.float32, torch.bfloat16, torch.float64)):
                norm = _gradient_norm(torch.empty(3_000_000, device=device, dtype=dtype))
                factor = forecast.arrive(index, norm)
                assert factor.device.type == "cuda"
                with fused_inputs(
                    optimizer, factor=factor, refuse=factor.ge(SMALLEST_IN_KERNEL).logical_not()
                ):
                    assert vars(optimizer)["found_inf"].device.type == "cuda"
            stats = forecast.end_pass()
        assert {x.device.type for x in stats} == {"cuda"}
        with pytest.raises(RuntimeError):
            float(stats.norm)  # that a read would have been seen
