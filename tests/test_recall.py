from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from trimtab.recall import Recall


class Named(nn.Module):
    """A model that takes keywords and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x, *, scale=1.0):
        y = self.inner(x) * scale
        return {"logits": y, "name": "y", "aside": y.detach()}


def test_inputs_are_kept_by_reference_and_output_gradients_are_those_of_autograd():
    model, x = Named(), torch.randn(4, 3)
    recall = Recall(model)
    logits = model(x, scale=2.0)["logits"]
    logits.square().sum().backward()
    (call,) = recall.calls
    assert call.args[0] is x
    assert call.kwargs == {"scale": 2.0}
    assert call.output_gradients[1] is None
    assert torch.equal(call.output_gradients[0], 2 * logits.detach())
    assert call.output_nodes == {(logits.grad_fn._sequence_nr(), "MulBackward0")}


def test_generators_are_kept_as_the_pass_found_them():
    model = nn.Dropout(0.5)
    recall = Recall(model)
    x = torch.ones(64, requires_grad=True)
    first = model(x)
    from trimtab.act import rng

    with recall.paused():
        rng.restore_(recall.calls[0].rng)
        assert torch.equal(model(x), first)
    assert len(recall.calls) == 1


def test_gradients_are_kept_of_the_last_of_many_passes_only():
    model = nn.Linear(3, 2)
    recall = Recall(model)
    for _ in range(11):
        model(torch.randn(4, 3)).sum().backward()
    assert len(recall.calls) == 8
    assert [len(call.output_gradients) for call in recall.calls] == [0] * 7 + [1]


def test_a_pass_that_is_walked_back_twice_adds_up():
    model = nn.Linear(3, 2)
    recall = Recall(model)
    out = model(torch.randn(4, 3))
    out.sum().backward(retain_graph=True)
    (2 * out).sum().backward()
    assert torch.equal(recall.calls[0].output_gradients[0], torch.full((4, 2), 3.0))


def test_a_gradient_that_is_part_of_a_loss_is_not_what_backward_brings():
    model, x = nn.Sequential(nn.Linear(3, 1), nn.Tanh()), torch.randn(4, 3, requires_grad=True)
    recall = Recall(model)
    out = model(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (out.mean() + slope.square().sum()).backward()
    assert not recall.calls[0].output_gradients[0].requires_grad
    assert not torch.equal(recall.calls[0].output_gradients[0], torch.ones(4, 1))


def test_a_call_whose_input_was_written_to_is_no_more_use():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    recall = Recall(model)
    model(x).sum().backward()
    assert len(recall.calls) == 1
    x.zero_()
    assert recall.calls == ()


def test_passes_without_autograd_are_no_part_of_a_step():
    model = nn.Linear(3, 2)
    recall = Recall(model)
    with torch.no_grad():
        model(torch.randn(4, 3))
    with torch.inference_mode():
        model(torch.randn(4, 3))
    assert recall.calls == ()


def test_nothing_is_held_once_the_step_is_over():
    model = nn.Linear(3, 2)
    recall = Recall(model)
    x = torch.randn(4, 3)
    seen = weakref.ref(x)
    model(x).sum().backward()
    recall.forget()
    del x
    gc.collect()
    assert seen() is None


def test_copies_and_pickles_carry_an_idle_hook():
    model = Named()
    recall = Recall(model)
    clone = copy.deepcopy(model)
    clone(torch.randn(4, 3))["logits"].sum().backward()
    assert recall.calls == ()
    inner = nn.Linear(2, 2)
    hooked = Recall(inner)
    written = pickle.dumps(inner)
    assert b"trimtab" not in written
    assert pickle.loads(written)(torch.ones(1, 2)).shape == (1, 2)
    hooked.close()


class Flow(nn.Module):
    """A model that is called by its own methods."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(2))
        self.prior = nn.ModuleDict({"mean": nn.Linear(2, 1)})

    def log_prob(self, x):
        for step in self.steps:
            x = step(x)
        return self.prior["mean"](x)


def test_a_model_that_is_called_by_its_parts_is_seen_there_once_that_shows():
    model, x = Flow(), torch.randn(3, 2)
    recall = Recall(model)
    model.log_prob(x).sum().backward()
    assert recall.num_calls == 0
    recall.look_at_parts()
    model.log_prob(x).sum().backward()
    assert [call.part for call in recall.calls] == ["steps.0", "steps.1", "prior.mean"]
    assert all(len(call.output_gradients) == 1 for call in recall.calls)
    assert [call.is_fed for call in recall.calls] == [False, True, True]
    assert [call.replayed(model, is_lost=False) for call in recall.calls] == [None] * 3
    recall.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_calls_within_function_transforms_are_no_part_of_a_step():
    model = nn.Linear(2, 1)
    recall = Recall(model)
    parameters = dict(model.named_parameters())
    slopes = torch.func.vmap(
        torch.func.grad(lambda p, x: torch.func.functional_call(model, p, (x,)).sum()), in_dims=(None, 0)
    )(parameters, torch.ones(3, 2))
    assert slopes["weight"].shape == (3, 1, 2)
    assert recall.calls == ()


def test_a_forward_pass_that_raises_leaves_the_next_one_seen():
    model = nn.Linear(2, 1)
    recall = Recall(model)
    with pytest.raises(RuntimeError):
        model(torch.ones(3, 5))
    model(torch.ones(3, 2)).sum().backward()
    assert [len(call.output_gradients) for call in recall.calls] == [0, 1]


def test_close_leaves_the_module_as_it_was():
    model = nn.Linear(3, 2)
    recall = Recall(model)
    assert model._forward_pre_hooks
    recall.close()
    recall.close()
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_has_no_graph_break(in_place):
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(4, 3)
    recall = Recall(model)
    if in_place:
        model.compile(backend="eager", fullgraph=True)
        called = model
    else:
        called = torch.compile(model, backend="eager", fullgraph=True)
    expected = model(x) if in_place else called(x)
    assert torch.allclose(called(x), expected)
    recall.close()
