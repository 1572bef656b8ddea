"""What holds for every clip, on real gradients: bound, direction, order, bad numbers, reads, resuming."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import as_array, norm
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import trimtab as tt
from trimtab import act, measure
from trimtab.decide import pack, unpack
from trimtab.decide.elementwise import ValueClip
from trimtab.decide.grouping import ByName, Grouped
from trimtab.decide.layers import LayerClip
from trimtab.decide.tensors import TensorClip
from trimtab.decide.units import UnitClip
from trimtab.decide.wrappers import AfterWarmup, EveryNth, First, LossAbove, NormAbove, When
from trimtab.types import Layout, Needs

QUANTILE = tt.QuantileClip(percentile=50.0, history=5, min_history=2, initial=1.0)
WHOLE = [tt.NormClip(1.0), QUANTILE, tt.MeanClip(window=2), tt.EmaClip(), tt.ZScoreClip(warmup=3)]
PER_TENSOR = [
    LayerClip({"0": 0.5, "*.bias": 0.1}, default=1.0),
    TensorClip(warmup=3, rebaseline_steps=2),
    *(Grouped(QUANTILE, by=by) for by in ("tensor", "module", "group")),
    ByName({"0": tt.NormClip(0.5), "2.bias": None}, rest=Grouped(tt.NormClip(0.25))),
    First(tt.NormClip(0.5), 2, then=QUANTILE),
    When(tt.NormClip(0.5), NormAbove(1.0)),
    When(LayerClip({}, default=0.5), LossAbove(0.0)),
]
OTHERS = [
    ValueClip(0.05),
    ValueClip(0.05, min_value=-0.01),
    UnitClip(max_ratio=0.05),
    ByName({"0": ValueClip(0.05), "2.weight": UnitClip(max_ratio=0.05)}, rest=tt.NormClip(0.1)),
    When(ValueClip(0.05), NormAbove(1.0)),
    When(UnitClip(max_ratio=0.05), EveryNth(2)),
]
QUIET = [AfterWarmup(QUANTILE, 2, before=UnitClip(max_ratio=0.05)), AfterWarmup(TensorClip(), 3)]
CLIPS = [*WHOLE, *PER_TENSOR, *OTHERS, *QUIET]
every_clip = pytest.mark.parametrize("clip", CLIPS, ids=repr)
WORLDS = st.tuples(st.integers(0, 1000), st.floats(1e-2, 1e3))


@dataclass
class World:
    """Parameters by name with gradients."""

    parameters: dict[str, Tensor]
    loss: Tensor

    @classmethod
    def of(cls, seed: int, scale: float) -> World:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,), "gain": ()}
        parameters = {}
        for name, shape in shapes.items():
            parameters[name] = torch.randn(shape, generator=generator)
            parameters[name].grad = torch.randn(shape, generator=generator) * scale
        return cls(parameters, torch.tensor(1.0))

    @property
    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values()]

    def layout(self) -> Layout:
        return Layout(
            next(iter(self.parameters.values())).device,
            names=tuple(self.parameters),
            shapes=tuple(tuple(p.shape) for p in self.parameters.values()),
            unit_dims=tuple(0 if p.dim() > 1 else None for p in self.parameters.values()),
            groups=tuple(int(name.startswith("2")) for name in self.parameters),
        )

    def decide(self, clip, state):
        stats = measure.step_stats(self.gradients, self.loss, norm_type=clip.norm_type)
        if Needs.UNITS in clip.needs:
            units = measure.units(list(self.parameters.values()), self.layout().unit_dims)
            stats = replace(stats, units=units)
        return clip.rescale(stats, state)

    def clip_(self, clip, state=None):
        """Clip the gradients, and return the state after it."""
        decision, state = self.decide(clip, clip.init(self.layout()) if state is None else state)
        act.rescale_grads_(self.gradients, decision)
        return state

    def copy(self) -> World:
        parameters = {name: p.clone() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            parameters[name].grad = p.grad.clone()
        return World(parameters, self.loss)


def trained_state(clip, num, seed=0, scale=1.0):
    """The state after some steps."""
    state = clip.init(World.of(0, 1.0).layout())
    for step in range(num):
        state = World.of(seed + step, scale).clip_(clip, state)
    return state


def play(clip, worlds, state):
    """All clipped gradients, and the state."""
    clipped = []
    for world in worlds:
        world = world.copy()
        state = world.clip_(clip, state)
        clipped.append(torch.cat([g.flatten() for g in world.gradients]))
    return torch.stack(clipped) if clipped else torch.zeros(0, 0), state


@every_clip
@given(world=WORLDS, num=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_no_element_grows_or_changes_its_sign(clip, world, num):
    before, after = World.of(*world), World.of(*world)
    after.clip_(clip, trained_state(clip, num))
    for old, new in zip(before.gradients, after.gradients, strict=True):
        assert bool((new.abs() <= old.abs()).all())
        assert bool((new * old >= 0).all())


@pytest.mark.parametrize("clip", [*WHOLE, *PER_TENSOR], ids=repr)
@given(world=WORLDS, num=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_each_tensor_keeps_its_direction_and_with_one_factor_all_do(clip, world, num):
    before, after = World.of(*world), World.of(*world)
    after.clip_(clip, trained_state(clip, num))
    ratios = [
        (as_array(new) / as_array(old)).reshape(-1)
        for old, new in zip(before.gradients, after.gradients, strict=True)
    ]
    for ratio in [np.concatenate(ratios)] if clip in WHOLE else ratios:
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


@every_clip
@given(world=WORLDS, num=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_clipping_twice_is_clipping_once(clip, world, num):
    once, state = World.of(*world), trained_state(clip, num)
    once.clip_(clip, state)
    twice = once.copy()
    twice.clip_(clip, state)
    for one, two in zip(once.gradients, twice.gradients, strict=True):
        # what is clipped to a bound is taken by torch's constant in the factor to just below it again
        torch.testing.assert_close(one, two, rtol=2e-4, atol=0.0)


NEVER_ACT = [
    tt.NormClip(1e3),
    ValueClip(1e3),
    LayerClip({"0": 1e3}, default=1e3),
    UnitClip(max_ratio=1e6),
    TensorClip(max_norm=1e3),
    Grouped(tt.NormClip(1e3), by="module"),
    ByName({"0": ValueClip(1e3)}, rest=LayerClip({}, default=1e3)),
    AfterWarmup(tt.NormClip(1e-3), 5),
    First(tt.NormClip(1e3), 5, then=tt.NormClip(1e-3)),
    When(tt.NormClip(1e-3), NormAbove(1e3)),
    When(ValueClip(1e-3), LossAbove(1e3)),
    When(UnitClip(), EveryNth(2)),
]


@pytest.mark.parametrize("clip", NEVER_ACT, ids=repr)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 10.0))
@settings(max_examples=15, deadline=None)
def test_below_the_bound_nothing_changes_to_the_bit(clip, seed, scale):
    before, after = World.of(seed, scale), World.of(seed, scale)
    after.clip_(clip)
    assert all(torch.equal(a, b) for a, b in zip(before.gradients, after.gradients, strict=True))


@every_clip
@given(world=WORLDS, order=st.permutations(range(5)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_the_parameters_does_not_matter(clip, world, order):
    straight = World.of(*world)
    names = list(straight.parameters)
    shuffled = straight.copy()
    shuffled.parameters = {names[i]: shuffled.parameters[names[i]] for i in order}
    states = [clip.init(w.layout()) for w in (straight, shuffled)]
    for _ in range(3):
        for k, each in enumerate((straight, shuffled)):
            states[k] = each.clip_(clip, states[k])
    for name in names:
        torch.testing.assert_close(
            straight.parameters[name].grad, shuffled.parameters[name].grad, rtol=1e-5, atol=0.0
        )


@every_clip
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@given(world=WORLDS, tensor=st.integers(0, 4), num=st.integers(0, 4))
@settings(max_examples=10, deadline=None)
def test_a_bad_gradient_is_never_made_to_look_clean(clip, bad, world, tensor, num):
    poisoned = World.of(*world)
    poisoned.gradients[tensor].view(-1)[0] = bad
    poisoned.clip_(clip, trained_state(clip, num))
    assert not math.isfinite(
        norm([g for g in poisoned.gradients if not _may_clamp(clip, bad)] or [torch.tensor(bad)])
    )


def _may_clamp(clip, bad):
    """A bound on elements takes an infinite one to the bound, as torch does; the step's norm tells."""
    return math.isinf(bad) and "ValueClip" in repr(clip)


@every_clip
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@given(position=st.integers(0, 7))
@settings(max_examples=4, deadline=None)
def test_a_bad_step_leaves_what_is_learned_alone(clip, bad, position):
    """Wrappers that count steps count applied ones: within a guard the whole state is left alone."""
    if isinstance(clip, (AfterWarmup, First, When)):
        return
    worlds = [World.of(seed, 1.0 + seed % 3) for seed in range(8)]
    odd = World.of(99, 1.0)
    for gradient in odd.gradients:
        gradient.fill_(bad)
    clean, _ = play(clip, worlds, trained_state(clip, 1))
    poisoned, _ = play(clip, [*worlds[:position], odd, *worlds[position:]], trained_state(clip, 1))
    assert torch.equal(torch.cat([poisoned[:position], poisoned[position + 1 :]]), clean)


def model_and_guard(clip):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model.register_parameter("gain", nn.Parameter(torch.tensor(1.0)))
    optimizer = torch.optim.SGD(
        [{"params": [*model[0].parameters(), model.gain]}, {"params": model[2].parameters()}], lr=0.1
    )
    return model, tt.Guard(model, optimizer, clip=clip)


def train(clip, steps):
    """Parameters after guarded steps; a step of None has a NaN in its batch."""
    model, guard = model_and_guard(clip)
    for step in steps:
        generator = torch.Generator().manual_seed(0 if step is None else step)
        x = torch.randn(5, 3, generator=generator) * (20.0 if step == 3 else 1.0)
        if step is None:
            x[0, 0] = math.nan
        guard.optimizer.zero_grad()
        loss = (model(x) * model.gain).square().sum()
        loss.backward()
        guard.step(loss)
    guard.close()
    return [p.detach().clone() for p in model.parameters()]


@every_clip
def test_in_a_guard_a_bad_step_is_as_if_it_never_was(clip):
    clean, poisoned = train(clip, [0, 1, 2, 3, 4, 5]), train(clip, [0, 1, None, 2, 3, None, 4, 5])
    assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))
    assert all(p.isfinite().all() for p in clean)


@every_clip
@given(at=st.integers(0, 8))
@settings(max_examples=4, deadline=None)
def test_resumed_equals_uninterrupted(clip, at):
    worlds = [World.of(seed, 1.0 + seed % 3) for seed in range(8)]
    straight, final = play(clip, worlds, clip.init(worlds[0].layout()))
    first, state = play(clip, worlds[:at], clip.init(worlds[0].layout()))
    stored = io.BytesIO()
    torch.save(pack(state), stored)
    stored.seek(0)
    state = unpack(torch.load(stored, weights_only=True), clip.init(worlds[0].layout()))
    second, resumed = play(clip, worlds[at:], state)
    assert torch.equal(torch.cat([part for part in (first, second) if len(part)]), straight)
    assert repr(resumed) == repr(final)  # types, containers and numbers


class CountReads(TorchDispatchMode):
    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func._schema.name == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@every_clip
def test_a_decision_reads_nothing(clip):
    state = clip.init(World.of(0, 1.0).layout())
    for seed in range(5):
        world = World.of(seed, 1.0)
        if seed == 2:
            world.gradients[0].fill_(math.nan)
        with CountReads() as counter:
            decision, state = world.decide(clip, state)
            act.rescale_grads_(world.gradients, decision)
        assert counter.reads == 0


def test_the_counter_counts():
    with CountReads() as counter:
        torch.ones(()).item()
    assert counter.reads == 1


@every_clip
def test_an_accelerator_is_never_read(clip):
    """Fake CUDA tensors have no data: any read of one is an error, and so is a mix of devices."""
    with FakeTensorMode():
        world = World.of(0, 1.0)
        parameters = {}
        for name, p in world.parameters.items():
            parameters[name] = torch.empty(p.shape, device="cuda")
            parameters[name].grad = torch.empty(p.shape, device="cuda")
        world = World(parameters, torch.empty((), device="cuda"))
        state = clip.init(world.layout())
        for _ in range(4):
            decision, state = world.decide(clip, state)
            measure.with_clipping(
                measure.step_stats(world.gradients, norm_type=clip.norm_type), decision, world.gradients
            )
            act.rescale_grads_(world.gradients, decision)


def test_a_read_of_an_accelerator_would_be_an_error():
    with FakeTensorMode(), pytest.raises(Exception, match="_local_scalar_dense"):
        torch.empty((), device="cuda").item()
