from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import as_array
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from trimtab import measure
from trimtab.measure import tensor_norms
from trimtab.measure.units import units_and_norms

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def reference(tensor: torch.Tensor, dim: int | None) -> np.ndarray:
    values = np.abs(as_array(tensor))
    others = tuple(d for d in range(values.ndim) if d != dim)
    return np.sqrt((values**2).sum(axis=others, keepdims=True))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((), None),
        ((5,), None),
        ((5,), 0),
        ((3, 4), 0),
        ((3, 4), 1),
        ((3, 4), None),
        ((2, 3, 4, 5), 0),
        ((2, 3, 4, 5), 1),
        ((0, 4), 0),
        ((4, 0), 0),
        ((0,), None),
    ],
    ids=str,
)
def test_norm_of_each_unit(shape, dim, dtype):
    parameter = nn.Parameter(torch.randn(shape).to(dtype))
    parameter.grad = torch.randn(shape).to(dtype)
    found = measure.units([parameter], [dim])
    for got, tensor in ((found.gradients[0], parameter.grad), (found.parameters[0], parameter)):
        expected = reference(tensor, dim)
        assert got.shape == expected.shape
        assert got.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
        torch.broadcast_to(got, shape)  # it can multiply the gradient
        np.testing.assert_allclose(got.detach().numpy(), expected, rtol=1e-6)


def test_no_finite_element_gives_an_infinite_norm():
    parameter = nn.Parameter(torch.full((2, 3), 1e30))
    parameter.grad = torch.tensor([[1e25, 1e25, 1e25], [3.0, 4.0, 0.0]])
    assert torch.linalg.vector_norm(parameter.grad, dim=1)[0] == math.inf
    found = measure.units([parameter], [0])
    np.testing.assert_allclose(found.gradients[0], reference(parameter.grad, 0), rtol=1e-6)
    np.testing.assert_allclose(found.parameters[0].detach(), reference(parameter, 0), rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_element_spoils_its_own_unit(bad):
    parameter = nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.ones(3, 2)
    parameter.grad[1, 0] = bad
    norms = measure.units([parameter], [0]).gradients[0].flatten()
    assert norms.isfinite().tolist() == [True, False, True]
    assert norms[0].item() == pytest.approx(math.sqrt(2))


def test_rows_of_a_sparse_gradient_with_duplicates_added_up():
    table = nn.Parameter(torch.randn(5, 2))
    table.grad = torch.sparse_coo_tensor(
        [[1, 1, 4]], torch.tensor([[1.0, 2.0], [2.0, 2.0], [0.0, 7.0]]), (5, 2), check_invariants=True
    )
    assert measure.units([table], [0]).gradients[0].flatten().tolist() == [0.0, 5.0, 0.0, 0.0, 7.0]


def test_a_parameter_without_a_gradient_is_passed_over():
    with_gradient, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with_gradient.grad = torch.ones(2)
    found = measure.units([without, with_gradient], [None, None])
    assert found.gradients[0] is found.parameters[0] is None
    assert found.gradients[1] is not None


def test_units_carry_no_history():
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    assert not measure.units([parameter], [0]).parameters[0].requires_grad


class Conv1D(nn.Module):
    """The linear layer of the GPT-2 code: (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.zeros(8))


@pytest.mark.parametrize(
    ("module", "dim"),
    [
        (nn.Linear(3, 8), None),
        (nn.Conv1d(3, 8, 2), None),
        (nn.Conv2d(4, 8, 2, groups=2), None),
        (nn.Embedding(8, 3), None),
        (nn.MultiheadAttention(4, 2), None),
        (nn.LSTM(3, 4), None),
        (nn.LayerNorm(3), None),
        (nn.ConvTranspose1d(3, 8, 2), 1),
        (nn.ConvTranspose2d(3, 8, 2), 1),
        (nn.ConvTranspose3d(3, 8, 2), 1),
        (nn.ConvTranspose2d(4, 8, 2, groups=2), 1),
        (nn.ConvTranspose2d(8, 8, 2, groups=8), None),
        (nn.ConvTranspose2d(1, 8, 2), 1),
        (Conv1D(), 1),
    ],
    ids=repr,
)
def test_where_the_units_of_a_layer_lie_if_not_first(module, dim):
    found = measure.unit_dims(nn.Sequential(module))
    assert found == ({} if dim is None else {module.weight: dim})


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 8), nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(4, 8, 3), nn.ConvTranspose2d(8, 8, 3, groups=8)],
    ids=repr,
)
def test_a_unit_is_what_feeds_one_output(layer):
    """The gradient of one output channel reaches one unit and no other."""
    x = torch.randn(1, 3) if isinstance(layer, nn.Linear) else torch.randn(1, layer.in_channels, 5, 5)
    layer(x)[:, 2].sum().backward()
    dim = measure.unit_dims(layer).get(layer.weight, 0)
    norms = measure.units([layer.weight], [dim]).gradients[0].flatten()
    assert (norms > 0).tolist() == [i == 2 for i in range(8)]


def test_a_parametrization_is_not_run():
    layer = weight_norm(nn.ConvTranspose2d(3, 8, 2))
    calls = []
    layer.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    assert measure.unit_dims(layer) == {}
    assert not calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_of_tensors_from_those_of_their_units(dtype):
    torch.manual_seed(0)
    shapes = [(7, 5), (3,), (2, 40_000), (4, 3, 3, 3), (), (1,)]
    dims = [0, None, 0, 1, None, None]
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]
    for parameter in parameters[1:]:
        parameter.grad = torch.randn_like(parameter) * 10
    for chosen in (range(6), (1, 4, 5), (0, 2)):  # with others, whole tensors alone, matrices alone
        some = [parameters[i] for i in chosen]
        found, norms = units_and_norms(some, [dims[i] for i in chosen])
        gradients = [p.grad for p in some if p.grad is not None]
        torch.testing.assert_close(norms.double(), tensor_norms(gradients).double(), rtol=1e-6, atol=0)
        again = measure.units(some, [dims[i] for i in chosen])
        for a, b in zip(found.gradients + found.parameters, again.gradients + again.parameters, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_norms_of_tensors_with_bad_and_huge_elements():
    bad = torch.nn.Parameter(torch.ones(2, 2))
    bad.grad = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])
    huge = torch.nn.Parameter(torch.ones(2, 2))
    huge.grad = torch.full((2, 2), 2.0**120)
    _, norms = units_and_norms([bad, huge], [0, 0])
    assert norms.isnan().tolist() == [True, False]
    assert norms[1] == 2.0**121
