from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from trimtab.act.buffers import BufferMemory
from trimtab.act.master import MasterWeights
from trimtab.act.scaler import LossScaler

HALVES = [torch.bfloat16, torch.float16]
FUSED = [False, True]


class Net(nn.Module):
    """A tied weight, a norm kept in float32, one parameter frozen, one without gradient, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied.weight = self.second.weight
        self.frozen = nn.Linear(8, 2).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        hidden = self.norm(self.first(x).float()).to(self.second.weight.dtype)
        return self.frozen(self.tied(torch.tanh(self.second(hidden))))


def half_net(dtype=torch.bfloat16):
    torch.manual_seed(0)
    model = Net().to(dtype)
    model.norm.float()
    return model


def batch(dtype=torch.bfloat16, seed=0):
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(seed)).to(dtype)


def train(callee, optimizer, num_steps=1, dtype=torch.bfloat16, num_micro=1):
    for step in range(num_steps):
        optimizer.zero_grad()
        for micro in range(num_micro):
            (callee(batch(dtype, seed=step + micro)).float().square().mean() / num_micro).backward()
        optimizer.step()


def is_published(masters) -> bool:
    pairs = zip(masters.named_parameters(), masters.model.named_parameters(), strict=True)
    return all(name == other and m.to(h.dtype).equal(h) for (name, m), (other, h) in pairs)


# ---- what they are for


@pytest.mark.parametrize("dtype", HALVES)
def test_steps_below_the_resolution_add_up_only_in_masters(dtype):
    def weight_after(has_masters: bool) -> float:
        model = nn.Linear(1, 1, bias=False).to(dtype)
        nn.init.ones_(model.weight)
        trained = MasterWeights(model) if has_masters else model
        optimizer = torch.optim.SGD(trained.parameters(), lr=1e-4)  # 2^-13.3: below 2^-9 and below 2^-12
        for _ in range(1000):
            optimizer.zero_grad()
            trained(torch.ones(1, 1, dtype=dtype)).sum().backward()
            optimizer.step()
        model(torch.ones(1, 1, dtype=dtype))
        return model.weight.item()

    assert weight_after(has_masters=False) == 1.0
    assert weight_after(has_masters=True) == pytest.approx(0.9, abs=0.004)


@pytest.mark.parametrize("dtype", HALVES)
def test_equals_the_same_arithmetic_written_out(dtype):
    """Float32 weights, rounded for the forward pass, with the half gradients added up in float32."""
    model = half_net(dtype)
    masters = MasterWeights(model)
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.5, momentum=0.9)
    plain = half_net(dtype)
    weights = {n: p.detach().float() for n, p in plain.named_parameters()}
    moments: dict[str, torch.Tensor] = {}
    for step in range(20):
        optimizer.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        for micro in range(3):
            x = batch(dtype, seed=3 * step + micro)
            masters(x).float().square().mean().backward()
            plain.zero_grad()
            plain(x).float().square().mean().backward()
            for name, parameter in plain.named_parameters():
                if parameter.grad is not None:
                    sums[name] = sums.get(name, 0.0) + parameter.grad.float()
        optimizer.step()
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if name in sums:
                    moments[name] = moments[name] * 0.9 + sums[name] if name in moments else sums[name]
                    weights[name] = weights[name] - 0.5 * moments[name]
                    parameter.copy_(weights[name])
    assert moments.keys() == {n for n, p in plain.named_parameters() if p.requires_grad and n != "unused"}
    for name, master in masters.named_parameters():
        assert torch.allclose(master, weights[name], rtol=1e-5, atol=1e-6), name


def test_is_near_a_float32_run():
    def losses(model, parameters, dtype):
        optimizer, seen = torch.optim.Adam(parameters, lr=1e-2), []
        for _ in range(60):
            optimizer.zero_grad()
            loss = model(batch(dtype)).float().square().mean()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    torch.manual_seed(0)
    full = Net()
    masters = MasterWeights(half_net())
    reference = losses(full, full.parameters(), torch.float32)
    got = losses(masters, masters.parameters(), torch.bfloat16)
    assert reference[-1] < 0.2 * reference[0]
    assert got == pytest.approx(reference, rel=0.05, abs=0.01)


def test_micro_batches_add_up_in_float32():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    masters = MasterWeights(model)
    (weight,) = masters.parameters()
    for _ in range(300):  # in bfloat16 the sum would stop at 256
        masters(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        assert model.weight.grad is None
    assert weight.grad.item() == 300.0
    plain = nn.Linear(1, 1, bias=False).bfloat16()
    for _ in range(300):
        plain(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
    assert plain.weight.grad.item() == 256.0


# ---- the names and the state


def test_parameters_are_the_models_own_by_name():
    model = half_net()
    masters = MasterWeights(model)
    own = dict(masters.named_parameters())
    assert list(own) == [name for name, _ in model.named_parameters()]
    assert {p.dtype for p in own.values()} == {torch.float32}
    assert own["norm.weight"] is model.norm.weight  # needs no master
    assert own["first.weight"] is not model.first.weight
    assert "tied.weight" not in own
    everything = dict(masters.named_parameters(remove_duplicate=False))
    assert everything["tied.weight"] is everything["second.weight"]
    assert not own["frozen.weight"].requires_grad
    assert own["unused"].requires_grad
    assert [(n, b) for n, b in masters.named_buffers()] == [(n, b) for n, b in model.named_buffers()]
    assert all(p is q for p, q in zip(masters.parameters(), own.values(), strict=True))
    assert {n for n, _ in masters.named_parameters("net")} == {f"net.{n}" for n in own}
    assert masters.eval().model.norm.training is False


@pytest.mark.parametrize("is_fused", FUSED)
def test_state_goes_round(is_fused):
    masters = MasterWeights(half_net())
    optimizer = torch.optim.AdamW(masters.parameters(), lr=1e-3, fused=is_fused)
    train(masters, optimizer, 3)
    state = masters.state_dict()
    assert list(state) == list(masters.model.state_dict())
    assert state["tied.weight"].equal(state["second.weight"])
    assert {v.dtype for n, v in state.items() if n != "norm.num_batches_tracked"} == {torch.float32}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = MasterWeights(half_net())
    keys = again.load_state_dict(torch.load(file, weights_only=True))
    assert (keys.missing_keys, keys.unexpected_keys) == ([], [])
    assert all(v.equal(state[n]) for n, v in again.state_dict().items())
    assert is_published(again)
    assert dict(masters.state_dict(keep_vars=True))["unused"] is dict(masters.named_parameters())["unused"]
    assert list(masters.state_dict(prefix="a.")) == [f"a.{name}" for name in state]
    assert masters.state_dict(prefix="a.")["a.first.weight"].dtype is torch.float32


def test_half_states_load_too():
    source = half_net()
    nn.init.constant_(source.first.weight, 0.3)
    masters = MasterWeights(half_net())
    masters.load_state_dict(source.state_dict())
    assert masters.state_dict()["first.weight"].eq(source.first.weight.float()).all()
    assert is_published(masters)


def test_a_state_that_does_not_fit_changes_no_weight():
    masters = MasterWeights(half_net())
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.1)
    train(masters, optimizer, 2)
    before = {n: v.clone() for n, v in masters.state_dict().items()}
    state = {n: torch.zeros_like(v) for n, v in before.items()}
    state["unused"] = torch.zeros(7)
    with pytest.raises(RuntimeError, match="size mismatch for unused"):
        masters.load_state_dict(state)
    half = [n for n in before if not n.startswith("norm.")]
    assert all(masters.state_dict()[n].equal(before[n]) for n in half)
    assert masters.model.first.weight.equal(before["first.weight"].bfloat16())
    with pytest.raises(ValueError, match="assign=True"):
        masters.load_state_dict(before, assign=True)
    del state["unused"]
    assert masters.load_state_dict(state, strict=False).missing_keys == ["unused"]
    assert masters.state_dict()["unused"].equal(before["unused"])
    assert masters.state_dict()["first.weight"].eq(0).all()


# ---- following


@pytest.mark.parametrize("is_fused", FUSED)
@pytest.mark.parametrize("calls", ["wrapper", "model"])
def test_half_parameters_follow_the_optimizer(is_fused, calls):
    masters = MasterWeights(half_net())
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.5, fused=is_fused)
    train(masters, optimizer)
    assert not is_published(masters)
    (masters if calls == "wrapper" else masters.model)(batch())
    assert is_published(masters)
    train(masters, optimizer)
    state = masters.model.state_dict()  # saving a half checkpoint right after a step
    assert state["first.weight"].equal(dict(masters.named_parameters())["first.weight"].bfloat16())


def test_half_parameters_follow_writes_to_masters():
    masters = MasterWeights(half_net())
    own = dict(masters.named_parameters())
    with torch.no_grad():
        own["first.weight"].fill_(0.25)
    masters(batch())
    assert masters.model.first.weight.eq(0.25).all()
    with torch.no_grad():
        torch._foreach_copy_([own["first.weight"]], [torch.full((8, 4), 0.125)])  # as snapshots write back
    masters(batch())
    assert masters.model.first.weight.eq(0.125).all()
    own["unused"].data.fill_(9.0)  # raises no version
    masters(batch())
    assert masters.model.unused.eq(1.0).all()
    masters.publish_()
    assert masters.model.unused.eq(9.0).all()


@pytest.mark.parametrize("is_fused", FUSED)
def test_masters_follow_what_is_loaded_into_the_model_after_a_step(is_fused):
    masters = MasterWeights(half_net())
    own = dict(masters.named_parameters())
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.1, fused=is_fused)
    train(masters, optimizer)
    state = {name: value + 1 for name, value in half_net().state_dict().items()}
    masters.model.load_state_dict(state)
    assert all(own[name].equal(state[name].float()) for name in own)
    train(masters, optimizer)
    stepped = own["second.weight"].detach().clone()
    masters.model.first.load_state_dict({"weight": torch.full((8, 4), 3.0), "bias": torch.zeros(8)})
    assert own["first.weight"].eq(3.0).all()
    assert own["second.weight"].equal(stepped)  # nothing was loaded there
    masters(batch())
    assert own["first.weight"].eq(3.0).all()
    assert is_published(masters)
    before = own["unused"].detach().clone()
    train(masters, optimizer)
    masters.model.load_state_dict({}, strict=False)
    assert own["unused"].equal(before)


@pytest.mark.parametrize("is_fused", FUSED)
def test_masters_follow_what_is_written_into_the_model(is_fused):
    masters = MasterWeights(half_net())
    weight = dict(masters.named_parameters())["first.weight"]
    optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3, fused=is_fused)
    train(masters, optimizer, 3)
    masters(batch())
    before = weight.detach().clone()
    assert not before.equal(before.bfloat16().float())
    with torch.no_grad():
        masters.model.first.weight[0].fill_(7.0)
    masters(batch())
    assert weight[0].eq(7.0).all()
    assert weight[1:].equal(before[1:])  # to the last bit of float32
    train(masters, optimizer)
    with torch.no_grad():
        masters.model.first.weight.clamp_(-0.1, 0.1)  # now the master is ahead
    with pytest.raises(RuntimeError, match=r"first.weight was written to in half precision while its master"):
        masters(batch())
    masters.publish_()
    with torch.no_grad():
        masters.model.first.weight.clamp_(-0.1, 0.1)
    masters(batch())
    assert weight.abs().max() <= 0.1001


def test_a_refused_step_and_a_rewind():
    masters = MasterWeights(half_net())
    optimizer = torch.optim.AdamW(masters.parameters(), lr=0.1)
    train(masters, optimizer, 2)
    masters(batch())
    before = [p.detach().clone() for p in masters.parameters()]
    half = [p.detach().clone() for p in masters.model.parameters()]
    optimizer.zero_grad()
    masters(batch() * float("nan")).float().sum().backward()  # and no step
    masters(batch())
    assert all(p.equal(q) for p, q in zip(masters.model.parameters(), half, strict=True))
    train(masters, optimizer, 2)
    with torch.no_grad():
        for parameter, saved in zip(masters.parameters(), before, strict=True):
            parameter.copy_(saved)
    masters(batch())
    assert all(p.equal(q) for p, q in zip(masters.model.parameters(), half, strict=True))


def test_graphs_of_earlier_passes_stay_valid_while_nothing_is_stepped():
    masters = MasterWeights(half_net())
    early = masters(batch(seed=1)).float().square().mean()
    masters(batch(seed=2)).float().square().mean().backward()
    masters(batch(seed=3))
    early.backward()
    got = dict(masters.named_parameters())["first.weight"].grad
    assert got.isfinite().all()


def test_works_compiled():
    model = half_net()
    masters = MasterWeights(model)
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.5, fused=True)
    compiled = torch.compile(masters, backend="eager")
    plain = MasterWeights(half_net())
    reference = torch.optim.SGD(plain.parameters(), lr=0.5, fused=True)
    train(compiled, optimizer, 3)
    train(plain, reference, 3)
    assert all(p.equal(q) for p, q in zip(masters.parameters(), plain.parameters(), strict=True))


def test_works_with_a_loss_scale_and_float16_gradients():
    masters = MasterWeights(half_net(torch.float16))
    optimizer = torch.optim.AdamW(masters.parameters(), lr=1e-2)
    scaler, losses = LossScaler(2.0**20), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = masters(batch(torch.float16)).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() < 2.0**20
    assert losses[-1] < 0.5 * losses[0]


def test_sparse_gradients():
    table = nn.Embedding(10, 4, sparse=True).bfloat16()
    masters = MasterWeights(table)
    (weight,) = masters.parameters()
    for _ in range(2):
        masters(torch.tensor([1, 1, 3])).sum().backward()
    assert weight.grad.is_sparse
    assert weight.grad.dtype is torch.float32
    assert weight.grad.to_dense()[:, 0].tolist() == [0, 4, 0, 2, 0, 0, 0, 0, 0, 0]


def test_frozen_parameters_may_thaw():
    masters = MasterWeights(half_net())
    own = dict(masters.named_parameters())
    masters(batch()).float().sum().backward()
    assert own["frozen.weight"].grad is None
    masters.model.frozen.requires_grad_(True)
    masters(batch()).float().sum().backward()
    assert own["frozen.weight"].grad is not None
    assert masters.model.frozen.weight.grad is None


def test_buffers_are_those_of_the_model():
    masters = MasterWeights(half_net())
    memory = BufferMemory(masters)
    before = masters.model.norm.running_mean.clone()
    masters(batch() * float("nan"))
    assert not masters.model.norm.running_mean.equal(before)
    memory.restore_()
    assert masters.model.norm.running_mean.equal(before)


# ---- the end, and what is refused


def hooks_of(model) -> list[int]:
    posts = [len(p._post_accumulate_grad_hooks or {}) for p in model.parameters()]
    posts += [len(module._load_state_dict_post_hooks) for module in model.modules()]
    return [*posts, len(model._forward_pre_hooks), len(model._state_dict_pre_hooks)]


@pytest.mark.parametrize("is_fused", FUSED)
def test_close_removes_every_hook_and_leaves_a_plain_model(is_fused):
    model = half_net()
    masters = MasterWeights(model)
    assert sum(hooks_of(model)) > 5
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.5, fused=is_fused)
    train(masters, optimizer)
    masters.close()
    masters.close()
    assert set(hooks_of(model)) == {0}
    assert is_published(masters)
    model(batch()).float().sum().backward()
    assert model.first.weight.grad.dtype is torch.bfloat16
    again = MasterWeights(model)
    assert is_published(again)


def test_copies_of_the_model_have_no_masters():
    model = half_net()
    masters = MasterWeights(model)
    train(masters, torch.optim.SGD(masters.parameters(), lr=0.5))
    model(batch())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.state_dict()["first.weight"].equal(model.first.weight)
        copied(batch()).float().sum().backward()
        assert copied.first.weight.grad.dtype is torch.bfloat16
        copied.load_state_dict(copied.state_dict())
        assert b"trimtab" not in pickle.dumps(
            [
                list(copied._forward_pre_hooks.values()),
                list(copied._state_dict_pre_hooks.values()),
                list(copied.first._load_state_dict_post_hooks.values()),
            ]
        )
    for wrong in (copy.deepcopy, copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"Copy masters.model, or save"):
            wrong(masters)


def test_refusals():
    with pytest.raises(ValueError, match="Linear has no float16 or bfloat16 parameter"):
        MasterWeights(nn.Linear(2, 2))
    model = half_net()
    masters = MasterWeights(model)
    before = hooks_of(model)
    with pytest.raises(RuntimeError, match="this Net has masters already"):
        MasterWeights(model)
    assert hooks_of(model) == before
    for move in (masters.float, masters.cpu, lambda: masters.to(torch.float64)):
        with pytest.raises(RuntimeError, match="Move the model first"):
            move()
