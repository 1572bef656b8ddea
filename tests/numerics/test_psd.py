from __future__ import annotations

import pytest
import scipy.stats
import torch
from numerics.matrices import rbf, spread, symmetric

from trimtab.numerics import cholesky_psd, inv_quad_logdet, logdet_psd, sample_gaussian, solve_psd


@pytest.mark.parametrize("scale", [1e-10, 1e-3, 1.0, 1e5, 1e10])
@pytest.mark.parametrize(
    ("dtype", "backward", "jitter"), [(torch.float32, 1e-6, 1e-4), (torch.float64, 1e-13, 1e-11)]
)
def test_works_over_twenty_orders_of_magnitude(scale, dtype, backward, jitter):
    matrix = rbf(400, scale, dtype)
    found = cholesky_psd(matrix)
    product = (found.factor.double() @ found.factor.double().T).sub(matrix.double())
    assert product.norm() / matrix.double().norm() <= backward
    assert 0 < found.jitter / matrix.diagonal().mean() <= jitter


def test_positive_definite_matrices_are_left_alone():
    matrix = symmetric(spread(50, 1e6))
    found = cholesky_psd(matrix)
    assert found.jitter.item() == 0
    assert torch.equal(found.factor, torch.linalg.cholesky(matrix))


def test_each_matrix_of_a_batch_has_its_own_jitter():
    matrices = torch.stack([torch.eye(60, dtype=torch.float64), rbf(60), 1e6 * rbf(60)])
    found = cholesky_psd(matrices)
    relative = found.jitter / torch.tensor([1.0, 1.0, 1e6])
    assert relative[0] == 0
    assert 0 < relative[1] < 1e-11
    assert relative[2].item() == pytest.approx(relative[1].item())
    assert torch.equal(found.factor[0], torch.eye(60, dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "not positive semidefinite"),
        (-torch.eye(2), "not positive semidefinite"),
        (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "not positive semidefinite"),
        (torch.tensor([[1.0, 0.5], [0.4, 1.0]]), "symmetric"),
        (torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), "NaN or Inf"),
        (torch.diag(torch.tensor([1.0, float("inf")])), "NaN or Inf"),
        (torch.ones(2, 3), "expected"),
        (torch.zeros(0, 0), "n >= 1"),
    ],
)
def test_what_it_refuses(matrix, text):
    with pytest.raises(ValueError, match=text):
        cholesky_psd(matrix)


def count_factorizations(monkeypatch):
    calls = []
    plain = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda x: calls.append(x.shape) or plain(x))
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_factorizations_whatever_the_jitter(monkeypatch, dtype):
    calls = count_factorizations(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.qr(torch.randn(30, 30, dtype=dtype, generator=generator))[0]
    eps = torch.finfo(dtype).eps
    for size in (1e-2, 1.0, 3.0, 30.0, 1e3, eps**-0.5):
        values = torch.ones(30, dtype=dtype)
        values[0] = -size * 5 * eps
        matrix = (root * values) @ root.T
        calls.clear()
        found = cholesky_psd((matrix + matrix.T) / 2)
        assert len(calls) <= 10
        assert found.jitter <= max(2**0.5 * 1.1 * size * 5 * eps, 10.1 * eps)
    calls.clear()
    with pytest.raises(ValueError, match="1 matrices not positive semidefinite"):
        cholesky_psd(torch.diag(torch.tensor([1.0, 1.0, -0.1], dtype=dtype)))
    assert len(calls) == 3


def test_only_the_matrices_that_failed_are_factorized_again(monkeypatch):
    calls = count_factorizations(monkeypatch)
    matrices = torch.stack([torch.eye(60, dtype=torch.float64)] * 5 + [rbf(60)])
    cholesky_psd(matrices)
    assert {shape[0] for shape in calls[1:-1]} == {1}


def test_a_matrix_of_zeros_is_its_own_factor():
    zero = torch.zeros(3, 3, requires_grad=True)
    found = cholesky_psd(torch.stack([zero, torch.eye(3), torch.ones(3, 3)]))
    assert torch.equal(found.factor[0], torch.zeros(3, 3))
    assert torch.equal(found.factor[1], torch.eye(3))
    assert found.jitter[0] == found.jitter[1] == 0 < found.jitter[2]
    assert found.logdet()[0] == -torch.inf
    (grad,) = torch.autograd.grad(found.factor.sum(), zero)
    assert torch.equal(grad, torch.zeros(3, 3))
    mean = torch.arange(3.0)
    assert torch.equal(sample_gaussian(mean, torch.zeros(3, 3), 4), mean.expand(4, 3))


def test_a_larger_jitter_on_request():
    matrix = torch.tensor([[1.0, 1.01], [1.01, 1.0]])
    with pytest.raises(ValueError, match="not positive semidefinite"):
        cholesky_psd(matrix)
    assert 0.01 < cholesky_psd(matrix, max_jitter=0.5).jitter.item() <= 0.5


def test_half_precision_products_are_taken():
    x = torch.randn(40, 10, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = cholesky_psd(x @ x.T + torch.eye(40, dtype=torch.bfloat16))
    assert found.factor.dtype is torch.float32


def test_logdet_solve_and_quadratic_form_against_float64():
    matrix = symmetric(spread(30, 1e4))
    b = torch.randn(30, 3, dtype=torch.float64)
    assert logdet_psd(matrix).item() == pytest.approx(
        torch.linalg.slogdet(matrix).logabsdet.item(), rel=1e-12
    )
    torch.testing.assert_close(solve_psd(matrix, b), torch.linalg.solve(matrix, b))
    torch.testing.assert_close(solve_psd(matrix, b[:, 0]), torch.linalg.solve(matrix, b[:, 0]))
    quad, logdet = inv_quad_logdet(matrix, b)
    torch.testing.assert_close(quad, (b * torch.linalg.solve(matrix, b)).sum())
    torch.testing.assert_close(logdet, logdet_psd(matrix))
    mean = torch.zeros(30, dtype=torch.float64)
    density = scipy.stats.multivariate_normal(mean.numpy(), matrix.numpy()).logpdf(b[:, 0].numpy())
    quad, logdet = inv_quad_logdet(matrix, b[:, 0])
    ours = -0.5 * (quad + logdet + 30 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)))
    assert ours.item() == pytest.approx(density, rel=1e-10)


def test_logdet_where_the_determinant_is_zero():
    matrix = (1e-3 * torch.eye(200)).requires_grad_()
    value = logdet_psd(matrix)
    assert value.item() == pytest.approx(-1381.55, rel=1e-5)
    assert torch.linalg.det(matrix).item() == 0
    value.backward()
    torch.testing.assert_close(matrix.grad, 1e3 * torch.eye(200), rtol=1e-5, atol=1e-3)


def test_derivatives():
    root = torch.randn(
        4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    b = torch.randn(4, dtype=torch.float64, requires_grad=True)

    def functions(r, b):
        matrix = r @ r.T + 0.5 * torch.eye(4, dtype=torch.float64)
        return logdet_psd(matrix), solve_psd(matrix, b), inv_quad_logdet(matrix, b)[0]

    assert torch.autograd.gradcheck(functions, (root, b))
    assert torch.autograd.gradgradcheck(functions, (root, b))


def test_samples_have_the_covariance_even_a_singular_one():
    covariance = torch.tensor(
        [[2.0, 1.0, 3.0], [1.0, 1.0, 2.0], [3.0, 2.0, 5.0]], dtype=torch.float64
    )  # rank 2
    mean = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    x = sample_gaussian(mean, covariance, 40_000, generator=torch.Generator().manual_seed(0))
    assert x.shape == (40_000, 3)
    assert (torch.cov(x.T) - covariance).abs().max() < 0.1
    assert (x.mean(0) - mean).abs().max() < 0.05
    assert (x[:, 0] + x[:, 1] - x[:, 2]).abs().max() < 1e-4
    batch = sample_gaussian(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), 5)
    assert batch.shape == (5, 2, 3)
    with pytest.raises(ValueError, match="num_samples=-1"):
        sample_gaussian(mean, covariance, -1)


def test_torch_refuses_a_kernel_matrix_that_rounding_made_indefinite():
    kernel = rbf(200, dtype=torch.float32)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(kernel)
    assert cholesky_psd(kernel).jitter > 0
