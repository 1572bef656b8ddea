from __future__ import annotations

import mpmath
import pytest
import scipy.linalg
import torch
from numerics.matrices import spread, symmetric

from trimtab.numerics import inv_sqrtm_psd, logm_psd, powm_psd, sqrtm_psd

FUNCTIONS = {
    "sqrt": (sqrtm_psd, lambda x: mpmath.sqrt(x)),
    "inv_sqrt": (inv_sqrtm_psd, lambda x: 1 / mpmath.sqrt(x)),
    "log": (logm_psd, lambda x: mpmath.log(x)),
    "pow 0.3": (lambda a: powm_psd(a, 0.3), lambda x: x ** mpmath.mpf(0.3)),
    "pow -1.7": (lambda a: powm_psd(a, -1.7), lambda x: x ** mpmath.mpf(-1.7)),
    "pow 3": (lambda a: powm_psd(a, 3.0), lambda x: x**3),
    "pow 1": (lambda a: powm_psd(a, 1.0), lambda x: x),
    "pow 0": (lambda a: powm_psd(a, 0.0), lambda x: mpmath.mpf(1)),
}
SPECTRA = {
    "identity": [1.0, 1.0, 1.0],
    "repeated": [2.0, 2.0, 5.0],
    "near": [1.0, 1.0 + 1e-9, 1.0 + 3e-5],
    "apart": [1e-3, 0.3, 40.0],
    "edge of the series": [1.0, 1.3, 1.35],
}


def as_diagonal_gradient(function, values: list[float], direction: torch.Tensor, dtype) -> torch.Tensor:
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64)).to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(function(matrix), matrix, direction.to(dtype))
    return gradient.double()


def exact_gradient(f, values: list[float], direction: torch.Tensor) -> torch.Tensor:
    """Divided differences of a diagonal matrix with 60 digits."""
    exact = torch.zeros_like(direction)
    with mpmath.workdps(60):
        for i, a in enumerate(values):
            for j, b in enumerate(values):
                a, b = mpmath.mpf(a), mpmath.mpf(b)
                slope = mpmath.diff(f, a) if a == b else (f(a) - f(b)) / (a - b)
                exact[i, j] = float(slope) * direction[i, j].item()
    return exact


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_gradient_at_equal_near_and_distant_eigenvalues(spectrum, name, dtype, rtol):
    function, f = FUNCTIONS[name]
    values = torch.tensor(spectrum, dtype=torch.float64).to(dtype).double().tolist()
    direction = symmetric(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)).to(dtype).double()
    ours = as_diagonal_gradient(function, values, direction, dtype)
    exact = exact_gradient(f, values, direction)
    scale = exact.abs().max() + 1e-300
    assert (ours - exact).abs().max() / scale <= rtol * 2
    if dtype is torch.float64:  # and not only against the largest: each entry to its last digits
        assert ((ours - exact).abs() / exact.abs().clamp_min(1e-12 * scale)).max() <= 2e-13


@pytest.mark.parametrize(
    ("function", "reference"),
    [
        (sqrtm_psd, scipy.linalg.sqrtm),
        (logm_psd, scipy.linalg.logm),
        (inv_sqrtm_psd, lambda a: scipy.linalg.inv(scipy.linalg.sqrtm(a))),
        (lambda a: powm_psd(a, 0.3), lambda a: scipy.linalg.fractional_matrix_power(a, 0.3)),
    ],
)
def test_values_are_scipy_s(function, reference):
    matrix = symmetric(spread(12, 1e4))
    exact = torch.from_numpy(reference(matrix.numpy()).real)
    torch.testing.assert_close(function(matrix), exact, rtol=1e-9, atol=1e-10)
    batch = torch.stack([matrix, torch.eye(12, dtype=torch.float64)])
    torch.testing.assert_close(function(batch)[0], function(matrix))


@pytest.mark.parametrize("name", ["sqrt", "inv_sqrt", "log", "pow 0.3", "pow -1.7", "pow 3"])
@pytest.mark.parametrize("spectrum", [[0.5, 1.7, 4.0], [1.0, 1.0, 2.0], [1.0, 1.1, 1.15]])
def test_first_and_second_derivative(name, spectrum):
    function, _ = FUNCTIONS[name]
    base = symmetric(torch.tensor(spectrum, dtype=torch.float64))
    offset = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)

    def of(x):
        return function(base + x)

    assert torch.autograd.gradcheck(of, offset)
    assert torch.autograd.gradgradcheck(of, offset, atol=1e-4)


def test_second_derivative_of_more_columns_than_a_chunk(monkeypatch):
    from trimtab.numerics import matrix_functions

    matrix = symmetric(spread(7, 30.0)).requires_grad_()

    def second():
        (first,) = torch.autograd.grad(logm_psd(matrix).square().sum(), matrix, create_graph=True)
        return torch.autograd.grad(first.pow(3).sum(), matrix)[0]

    whole = second()
    monkeypatch.setattr(matrix_functions, "_CHUNK", 2)
    torch.testing.assert_close(second(), whole)


def test_singular_matrices_have_a_root_with_a_finite_gradient():
    matrix = torch.diag(torch.tensor([4.0, 0.0, 0.0])).requires_grad_()
    root = sqrtm_psd(matrix)
    assert root.diagonal().tolist() == [2, 0, 0]
    root.sum().backward()
    assert matrix.grad[0, 0].item() == 0.25
    assert matrix.grad[0, 1].item() == 0.5
    assert matrix.grad[1:, 1:].abs().max() == 0  # infinite in truth; 0 by convention
    low_rank = torch.ones(5, 5)
    torch.testing.assert_close(sqrtm_psd(low_rank) @ sqrtm_psd(low_rank), low_rank, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "matrix", "text"),
    [
        (
            sqrtm_psd,
            torch.diag(torch.tensor([1.0, -1.0])),
            "positive semidefinite matrix, found the eigenvalue -1",
        ),
        (logm_psd, torch.diag(torch.tensor([1.0, 0.0])), "Add a multiple of the identity"),
        (inv_sqrtm_psd, torch.ones(3, 3), "0 to working precision"),
        (sqrtm_psd, torch.full((2, 2), float("nan")), "NaN or Inf"),
        (sqrtm_psd, torch.ones(2, 3), "expected"),
        (lambda a: powm_psd(a, float("inf")), torch.eye(2), "finite number"),
    ],
)
def test_what_they_refuse(function, matrix, text):
    with pytest.raises(ValueError, match=text):
        function(matrix)


def test_half_precision():
    assert sqrtm_psd(torch.eye(3, dtype=torch.bfloat16) * 4).dtype is torch.bfloat16
