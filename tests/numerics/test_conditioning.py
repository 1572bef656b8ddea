from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from numerics.matrices import spread, with_singular_values
from torch import nn
from torch.nn.utils import prune

from trimtab.numerics import (
    Method,
    check_conditioning,
    condition_lower_bound,
    condition_number,
    estimate_condition,
    to_csr,
)

INF = float("inf")
NORMS = [1, 2, INF, "fro"]


@pytest.mark.parametrize("p", NORMS)
def test_numpy_s_condition_number(p):
    matrix = torch.randn(3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = np.linalg.cond(matrix.numpy(), np.inf if p == INF else p)
    np.testing.assert_allclose(condition_number(matrix, p).numpy(), exact, rtol=1e-10)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_singular_is_infinite(p, dtype):
    singular = [
        torch.diag(torch.tensor([1.0, 0.0])),
        torch.zeros(2, 2),
        torch.tensor([[1.0, 2.0], [2.0, 4.0]]),
        torch.ones(2, 2),
    ]
    assert condition_number(torch.stack(singular).to(dtype), p).tolist() == [INF] * 4
    mixed = torch.stack([torch.eye(2), torch.zeros(2, 2), torch.full((2, 2), math.nan)]).to(dtype)
    first, second, third = condition_number(mixed, p).tolist()
    assert first == pytest.approx(2 if p == "fro" else 1)
    assert second == INF
    assert math.isnan(third)


def test_hilbert_matrix_against_mpmath():
    n = 8
    hilbert = torch.tensor([[1 / (i + j + 1) for j in range(n)] for i in range(n)], dtype=torch.float64)
    with mpmath.workdps(60):
        exact = mpmath.matrix(hilbert.tolist())
        wanted = float(mpmath.mnorm(exact, 1) * mpmath.mnorm(exact**-1, 1))
    assert condition_number(hilbert, 1).item() == pytest.approx(wanted, rel=1e-5)
    assert 0.3 * wanted <= estimate_condition(hilbert) <= 1.0001 * wanted


def test_float32_is_as_good_as_its_numbers():
    # far beyond 1 / eps of float32, where pinv says 1
    assert condition_number(torch.diag(torch.tensor([1.0, 1e-12])), 2).item() == pytest.approx(1e12, rel=1e-6)
    matrix = with_singular_values(spread(30, 1e9)).float()
    assert condition_number(matrix).item() == pytest.approx(np.linalg.cond(matrix.double().numpy()), rel=1e-5)


def test_rectangular_and_empty():
    matrix = torch.randn(6, 3, dtype=torch.float64)
    assert condition_number(matrix).item() == pytest.approx(np.linalg.cond(matrix.numpy()))
    assert condition_number(matrix.T).item() == pytest.approx(np.linalg.cond(matrix.numpy()))
    assert condition_number(torch.ones(5, 3)).item() == INF
    assert condition_number(torch.zeros(0, 0)).item() == 0
    with pytest.raises(ValueError, match="square matrix"):
        condition_number(matrix, 1)
    with pytest.raises(ValueError, match="expected 1, 2"):
        condition_number(matrix, 3)


def test_gradient():
    matrix = with_singular_values(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)).requires_grad_()
    for p in NORMS:
        assert torch.autograd.gradcheck(lambda m, p=p: condition_number(m, p), matrix)
    singular = torch.zeros(2, 2, requires_grad=True)
    condition_number(torch.stack([torch.eye(2), singular]))[0].backward()
    assert singular.grad.isfinite().all()


@pytest.mark.parametrize("p", [1, INF, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimate_is_a_lower_bound_within_a_factor_3(p, dtype):
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        n = int(torch.randint(1, 60, (), generator=generator))
        gaussian = torch.randn(n, n, dtype=torch.float64, generator=generator)
        graded = with_singular_values(spread(n, 1e3), seed)
        lower = torch.randn(n, n, dtype=torch.float64, generator=generator).tril() + 2 * torch.eye(n)
        for matrix in (gaussian, graded, lower / 4):
            exact = condition_number(matrix, p).item()
            if exact < 0.1 / torch.finfo(dtype).eps:
                estimate = estimate_condition(matrix.to(dtype), p)
                assert exact / 3 <= estimate <= exact * (1 + 100 * torch.finfo(dtype).eps * exact), (seed, n)


def test_estimate_of_odd_matrices():
    assert estimate_condition(torch.zeros(3, 3)) == INF
    assert estimate_condition(torch.ones(3, 3)) == INF
    assert math.isnan(estimate_condition(torch.full((3, 3), math.nan)))
    assert estimate_condition(torch.eye(4).to(torch.bfloat16)) == 1
    assert estimate_condition(1e-30 * torch.eye(4)) == pytest.approx(1)
    assert estimate_condition(1e30 * torch.eye(4), 2) == pytest.approx(1)
    tall = torch.randn(50, 20, dtype=torch.float64)
    exact = condition_number(tall).item()
    assert exact / 3 <= estimate_condition(tall, 2) <= exact * 1.0001
    assert exact / 3 <= estimate_condition(tall.T, 2) <= exact * 1.0001
    with pytest.raises(ValueError, match="square"):
        estimate_condition(tall)
    with pytest.raises(ValueError, match="expected 1, 2"):
        estimate_condition(tall, "fro")


def test_lower_bound_is_one_and_says_so_of_large_matrices():
    for seed in range(5):
        matrix = with_singular_values(spread(200, 1e5), seed)
        bound = condition_lower_bound(matrix, steps=30)
        assert 3 < bound <= 1e5 * 1.0001
        assert condition_lower_bound(to_csr(matrix)) == pytest.approx(bound, rel=1e-6)
    small = with_singular_values(spread(10, 100.0))
    assert condition_lower_bound(small) == pytest.approx(100, rel=1e-6)  # 10 steps see all of it
    assert condition_lower_bound(torch.zeros(3, 3)) == INF
    assert condition_lower_bound(torch.eye(5)) == pytest.approx(1, rel=1e-6)
    assert condition_lower_bound(torch.diag(torch.tensor([1.0, 1.0, 0.0]))) > 1e6
    with pytest.raises(ValueError, match="steps >= 1"):
        condition_lower_bound(small, steps=0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 1)
        self.linear.groups = 3  # of a convolution alone


def test_layers_of_a_model():
    model = Model()
    with torch.no_grad():
        model.linear.weight.copy_(with_singular_values(spread(8, 1e6)))
    found = {layer.name: layer for layer in check_conditioning(model)}
    assert list(found) == ["linear.weight", "conv.weight", "head.weight"]
    worst = found["linear.weight"]
    assert worst.digits_lost == pytest.approx(6, abs=0.01)
    assert worst.digits_left == pytest.approx(-math.log10(2**-23) - 6, abs=0.01)
    assert not worst.is_ill_conditioned
    assert worst.method is Method.EXACT
    blocks = model.conv.weight.detach().double().reshape(2, 3, -1)
    values = torch.linalg.svdvals(blocks)
    assert found["conv.weight"].condition == pytest.approx((values.max() / values.min()).item())
    assert found["head.weight"].condition == pytest.approx(1)


@pytest.mark.parametrize(
    ("dtype", "condition", "is_ill"),
    [
        (torch.float64, 2e10, True),
        (torch.float64, 5e9, False),
        (torch.float32, 2e7, True),
        (torch.float32, 1e6, False),
        (torch.bfloat16, 1e3, True),
        (torch.bfloat16, 20.0, False),
    ],
)
def test_the_limit_is_the_type_s_own(dtype, condition, is_ill):
    layer = nn.Linear(2, 2, dtype=dtype)
    layer.weight.data.copy_(torch.diag(torch.tensor([1.0, 1 / condition])))
    (found,) = check_conditioning(layer)
    assert found.is_ill_conditioned is is_ill
    assert found.dtype is dtype


def test_large_and_broken_layers():
    model = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 60), nn.Linear(60, 60))
    model[1].weight.data.fill_(math.nan)
    model[2].weight.data.zero_()
    found = check_conditioning(model, exact_up_to=30)
    assert [layer.name for layer in found] == ["1.weight", "2.weight", "0.weight"]
    assert [layer.is_ill_conditioned for layer in found] == [True, True, False]
    assert found[2].method is Method.ESTIMATE
    exact = condition_number(model[0].weight.detach()).item()
    assert exact / 3 <= found[2].condition <= exact * 1.001


def test_default_initialization_raises_no_alarm():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(96, 96) for _ in range(20)], nn.Conv2d(3, 16, 3), nn.LSTM(8, 16))
    assert not any(layer.is_ill_conditioned for layer in check_conditioning(model))


def test_the_weight_that_is_multiplied_by_is_looked_at():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4), nn.Linear(3, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    prune.custom_from_mask(model[1], "weight", torch.tensor([[1.0] * 4, [0.0] * 4] * 2))
    found = {entry.name: entry for entry in check_conditioning(model)}
    assert set(found) == {"0.weight", "1.weight", "2.weight"}
    assert found["1.weight"].condition == math.inf  # two of its rows are masked
    wanted = torch.linalg.cond(model[0].weight.detach().double())
    assert found["0.weight"].condition == pytest.approx(wanted.item())


@pytest.mark.parametrize("layer", [nn.Linear(2, 2, device="meta"), nn.LazyLinear(2)], ids=["meta", "lazy"])
def test_a_model_without_numbers_is_told(layer):
    with pytest.raises(ValueError, match="weight has no numbers yet"):
        check_conditioning(layer)
