"""Losses and normalizers of rows against mpmath: confident, tied, shifted, huge, four types."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from mpmath import mpf
from numerics.grid import DTYPES

from trimtab import numerics

# Relative error: rounding of the result for half precision, the goals of the package for the others
RTOL = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1 / 256, torch.float16: 1 / 2048}


def rows(dtype, sizes=(2, 5, 33)):
    generator = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 5.0, 20.0, 80.0):
        for size in sizes:
            for offset in (0.0, -30.0, 75.0, 150.0, -500.0):
                row = torch.randn(size, generator=generator, dtype=torch.float64) * spread + offset
                yield row.to(dtype)


class Exact:
    """Shares of a row and their complements, with 60 digits."""

    def __init__(self, row):
        self.logits = [mpf(v) for v in row.double().tolist()]
        self.top = self.logits.index(max(self.logits))
        terms = [mpmath.exp(v - self.logits[self.top]) for v in self.logits]
        self.total = sum(terms)
        self.shares = [t / self.total for t in terms]
        self.others = [sum(terms[:j] + terms[j + 1 :]) / self.total for j in range(len(terms))]
        self.logs = [
            mpmath.log1p(-other) if other < 0.5 else v - self.logits[self.top] - mpmath.log(self.total)
            for other, v in zip(self.others, self.logits, strict=True)
        ]


def close(value, exact, dtype, scale=1.0):
    """Relative error within the goal, down to where results become subnormal."""
    allowed = RTOL[dtype] * max(abs(exact), torch.finfo(dtype).smallest_normal) * scale
    return all(abs(mpf(v) - e) <= allowed for v, e in [(value, exact)])


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(60):
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cross_entropy_and_its_gradient(dtype):
    for row in rows(dtype):
        exact = Exact(row)
        for target in {0, exact.top}:
            x = row.clone().requires_grad_()
            loss = numerics.cross_entropy(x, torch.tensor(target))
            (grad,) = torch.autograd.grad(loss, x)
            assert close(loss.item(), -exact.logs[target], dtype), (row, target)
            for j, value in enumerate(grad.tolist()):
                wanted = -exact.others[j] if j == target else exact.shares[j]
                assert close(value, wanted, dtype), (row, target, j)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalizers_and_the_gradient_of_a_dominant_entry(dtype):
    for row in rows(dtype):
        exact = Exact(row)
        x = row.clone().requires_grad_()
        share, log = numerics.softmax(x), numerics.log_softmax(x)
        assert all(close(v, e, dtype) for v, e in zip(share.tolist(), exact.shares, strict=True)), row
        assert all(close(v, e, dtype) for v, e in zip(log.tolist(), exact.logs, strict=True)), row
        k = exact.top
        (grad,) = torch.autograd.grad(share[k], x)
        assert close(grad[k].item(), exact.shares[k] * exact.others[k], dtype), row
        (grad,) = torch.autograd.grad(log[k], x)
        assert close(grad[k].item(), exact.others[k], dtype), row
        total = numerics.logsumexp(x)
        scale = float(max(abs(exact.logits[k]), 1))  # it may pass 0
        wanted = exact.logits[k] - exact.logs[k]
        assert abs(total.item() - wanted) <= RTOL[dtype] * max(abs(wanted), scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_target_probabilities(dtype):
    generator = torch.Generator().manual_seed(1)
    for row in rows(dtype):
        exact = Exact(row)
        target = torch.rand(len(row), generator=generator, dtype=torch.float64).to(dtype)
        target[0] = 0
        weights = [mpf(t) for t in target.double().tolist()]
        x = row.clone().requires_grad_()
        loss = numerics.cross_entropy(x, target)
        (grad,) = torch.autograd.grad(loss, x)
        wanted = -sum(t * log for t, log in zip(weights, exact.logs, strict=True))
        assert close(loss.item(), wanted, dtype), row
        for value, t, share in zip(grad.tolist(), weights, exact.shares, strict=True):
            scale = max(t, share * sum(weights))  # the gradient is their difference
            assert abs(mpf(value) - (share * sum(weights) - t)) <= RTOL[dtype] * max(
                scale, torch.finfo(dtype).smallest_normal
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entropy(dtype):
    for row in rows(dtype):
        exact = Exact(row)
        wanted = -sum(p * log for p, log in zip(exact.shares, exact.logs, strict=True))
        assert close(numerics.entropy_from_logits(row).item(), wanted, dtype, scale=10), row


def divergences(first, second):
    a, b = Exact(first), Exact(second)
    ratio = [x - y for x, y in zip(a.logs, b.logs, strict=True)]
    kl = sum(p * r for p, r in zip(a.shares, ratio, strict=True))
    mixture = [mpmath.log((p + q) / 2) for p, q in zip(a.shares, b.shares, strict=True)]
    js = sum(p * (x - m) for p, x, m in zip(a.shares, a.logs, mixture, strict=True))
    js += sum(q * (y - m) for q, y, m in zip(b.shares, b.logs, mixture, strict=True))
    return a, b, ratio, kl, js / 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_divergences(dtype):
    generator = torch.Generator().manual_seed(2)
    for spread in (0.1, 1.0, 5.0, 20.0):
        for gap in (1e-6, 1e-4, 1e-2, 0.3, 1.0, 5.0, 30.0):
            for offset in (0.0, 7.0):
                first = (torch.randn(9, generator=generator, dtype=torch.float64) * spread).to(dtype)
                noise = gap * torch.randn(9, generator=generator, dtype=torch.float64)
                second = (first.double() + offset + noise).to(dtype)
                p, q, ratio, kl, js = divergences(first, second)
                a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
                value = numerics.kl_from_logits(a, b)
                to_a, to_b = torch.autograd.grad(value, (a, b))
                assert value >= 0
                assert close(value.item(), kl, dtype), (first, second)
                other = numerics.js_divergence(a, b).item()
                assert 0 <= other <= math.log(2) * (1 + RTOL[dtype])
                assert close(other, js, dtype), (first, second)
                for j in range(9):  # gradients pass 0: measured against what their terms cancel from
                    size = max(p.shares[j], q.shares[j]) * max(1, abs(ratio[j]), kl)
                    allowed = 4 * RTOL[dtype] * min(1, max(map(abs, ratio))) * size
                    allowed += torch.finfo(dtype).smallest_normal
                    assert abs(to_b[j].item() - (q.shares[j] - p.shares[j])) <= allowed
                    assert abs(to_a[j].item() - p.shares[j] * (ratio[j] - kl)) <= allowed


def test_divergence_of_distributions_with_holes():
    inf = math.inf
    p = torch.tensor([[0.0, 0.0, -inf], [0.0, -inf, -inf], [0.0, 0.0, 0.0], [-inf, -inf, 0.0]])
    q = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -inf], [0.0, 0.0, -inf], [0.0, 0.0, -inf]])
    p.requires_grad_()
    q.requires_grad_()
    kl = numerics.kl_from_logits(p, q)
    assert torch.allclose(kl, torch.tensor([math.log(1.5), math.log(2), inf, inf]))
    js = numerics.js_divergence(p, q)
    assert js.isfinite().all()
    assert js[3].item() == pytest.approx(math.log(2))
    for grad in torch.autograd.grad(kl[:2].sum() + js.sum(), (p, q)):
        assert grad.isfinite().all()


@pytest.mark.parametrize("divergence", [numerics.kl_from_logits, numerics.js_divergence])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_no_divergence_where_a_logit_is_no_number(divergence, bad):
    rows = torch.tensor([[bad, 0.0], [0.0, bad], [1.0, 0.0]])
    fine = torch.zeros(3, 2)
    for result in (divergence(rows, fine), divergence(fine, rows), divergence(rows, rows)):
        assert result.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("bad", ["logits", "target"])
def test_a_given_nan_is_not_taken_for_nothing(bad):
    logits, target = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    (logits if bad == "logits" else target)[0] = math.nan
    assert numerics.cross_entropy(logits, target).isnan()
