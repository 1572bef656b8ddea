"""Targets read from the gradient of the output, against the targets that the loss was given."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trimtab.measure.loss_graph import loss_facts
from trimtab.measure.targets import STATISTICS, OutputGradient, target_facts


def seen_of(output, loss_of):
    """Statistics by name, as a probe gets them after backward."""
    output = output.clone().requires_grad_()
    loss = loss_of(output)
    facts = loss_facts(loss)
    (gradient,) = torch.autograd.grad(loss, output)
    seen = OutputGradient.of(output.detach(), gradient)
    found = target_facts(seen, loss.detach(), facts).statistics
    return dict(zip(STATISTICS, found.tolist(), strict=True))


def entropy_of(shares):
    return -sum(p * math.log(p) for p in shares if p > 0)


@given(st.integers(0, 1000), st.sampled_from([0.01, 1.0, 20.0]))
def test_a_squared_error_gives_its_targets_away(seed, scale):
    torch.manual_seed(seed)
    out, targets = torch.randn(16, 3), scale * torch.randn(16, 3) + 5
    found = seen_of(out, lambda o: F.mse_loss(o, targets))
    assert found["baseline"] == pytest.approx(float(targets.var(0).mean()), rel=1e-3)
    assert found["error"] == pytest.approx(float((out - targets).square().mean()), rel=1e-4)
    assert found["rms"] == pytest.approx(float(targets.square().mean().sqrt()), rel=1e-4)
    assert found["mean"] == pytest.approx(float(targets.mean()), rel=1e-3)


def test_the_mean_of_a_square_is_a_squared_error():
    targets = torch.randn(16, 3)
    found = seen_of(torch.randn(16, 3), lambda o: (o - targets).pow(2).mean())
    assert found["baseline"] == pytest.approx(float(targets.var(0).mean()), rel=1e-3)


@pytest.mark.parametrize("change", ["times", "over", "plus"])
def test_a_squared_error_with_a_number_is_understood(change):
    torch.manual_seed(0)
    out, targets = torch.randn(64, 3), torch.randn(64, 3)
    change_of = {
        "times": lambda o: 4 * F.mse_loss(o, targets),
        "over": lambda o: (o - targets).square().mean() / 8,
        "plus": lambda o: F.mse_loss(o, targets) + 40,
    }
    found = seen_of(out, change_of[change])
    assert found["error"] == pytest.approx(float(F.mse_loss(out, targets)), rel=1e-3)
    assert found["baseline"] == pytest.approx(float(targets.var(0).mean()), rel=1e-3)


def test_a_squared_error_of_something_else_says_nothing():
    targets, penalty = torch.randn(16, 3), torch.ones(2, requires_grad=True)
    for loss_of in (
        lambda o: F.mse_loss(o.tanh(), targets),
        lambda o: F.mse_loss(o, targets) + penalty.square().sum(),
        lambda o: F.l1_loss(o, targets),
    ):
        assert math.isnan(seen_of(torch.randn(16, 3), loss_of)["baseline"])


@given(st.integers(0, 1000), st.integers(2, 12), st.sampled_from([0.1, 1.0, 8.0]))
def test_a_cross_entropy_gives_its_labels_away(seed, num_classes, scale):
    torch.manual_seed(seed)
    out, labels = scale * torch.randn(40, num_classes), torch.randint(num_classes, (40,))
    found = seen_of(out, lambda o: F.cross_entropy(o, labels))
    counts = torch.bincount(labels).tolist()
    expected = entropy_of([n / 40 for n in counts]) + (sum(n > 0 for n in counts) - 1) / 80
    if sum(n == 1 for n in counts) >= 4:  # the batch does not show all classes
        expected = max(expected, math.log(num_classes))
    assert found["baseline"] == pytest.approx(expected, abs=2e-3)
    assert found["error"] == pytest.approx(float(F.cross_entropy(out, labels)), rel=1e-3, abs=2e-3)
    assert found["accuracy"] == pytest.approx(float((out.argmax(1) == labels).float().mean()), abs=1e-6)
    assert found["mean"] == pytest.approx(float(labels.float().mean()), rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_soft_labels_leave_no_floor(reduction):
    labels = torch.arange(40) % 4
    smooth = 0.9 * F.one_hot(labels, 4) + 0.025
    right = seen_of(
        smooth.log(), lambda o: F.cross_entropy(o, labels, label_smoothing=0.1, reduction=reduction)
    )
    assert right["error"] == pytest.approx(0.0, abs=1e-4)
    assert right["accuracy"] == 1
    floor = entropy_of([0.925, *[0.025] * 3])
    assert right["baseline"] == pytest.approx(math.log(4) + 3 / 80 - floor, abs=1e-3)


def test_what_is_right_beyond_rounding_counts():
    labels = torch.arange(32) % 4
    found = seen_of(200.0 * F.one_hot(labels, 4), lambda o: F.cross_entropy(o, labels))
    assert found["error"] == pytest.approx(0.0, abs=1e-6)
    assert found["accuracy"] == 1


def test_masked_rows_are_understood():
    torch.manual_seed(0)
    out, labels = torch.randn(64, 5), torch.randint(5, (64,))
    masked = torch.where(torch.arange(64) % 4 == 0, -100, labels)
    kept = labels[masked >= 0]
    found = seen_of(out, lambda o: F.cross_entropy(o, masked))
    assert found["accuracy"] == pytest.approx(
        float((out.argmax(1)[masked >= 0] == kept).float().mean()), abs=1e-6
    )
    assert found["mean"] == pytest.approx(float(kept.float().mean()), rel=1e-5)


def _focal(o, labels):
    entropy = F.cross_entropy(o, labels, reduction="none")
    return ((1 - (-entropy).exp()) ** 2 * entropy).mean()


@pytest.mark.parametrize("kind", ["focal", "rows", "rewards", "classes"])
def test_rows_with_weights_of_their_own_say_nothing(kind):
    torch.manual_seed(0)
    out, labels = torch.randn(64, 5), torch.randint(5, (64,))
    weights = torch.rand(64) if kind == "rows" else torch.randn(64)

    def loss_of(o):
        if kind == "focal":
            return _focal(o, labels)
        if kind == "classes":  # a constant answer would be weighted too
            return F.cross_entropy(o, labels, weight=torch.arange(1.0, 6.0))
        return (F.cross_entropy(o, labels, reduction="none") * weights).mean()

    assert math.isnan(seen_of(out, loss_of)["baseline"])


def test_a_loss_added_elsewhere_does_not_hide_the_labels():
    torch.manual_seed(0)
    out, labels, other = torch.randn(64, 5), torch.randint(5, (64,)), torch.randn(8, 3, requires_grad=True)

    def loss_of(o):
        return 0.3 * F.cross_entropy(o, labels) + 2 * F.mse_loss(other, torch.zeros(8, 3))

    found = seen_of(out, loss_of)
    assert found["error"] == pytest.approx(float(F.cross_entropy(out, labels)), rel=1e-4)
    right = (out.argmax(1) == labels).float().mean()
    assert found["accuracy"] == pytest.approx(float(right), abs=1e-6)


def test_a_log_softmax_in_the_model_is_understood():
    torch.manual_seed(0)
    out, labels = torch.randn(64, 5).log_softmax(1), torch.randint(5, (64,))
    found = seen_of(out, lambda o: F.nll_loss(o, labels))
    assert found["error"] == pytest.approx(float(F.nll_loss(out, labels)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((out.argmax(1) == labels).float().mean()), abs=1e-6)


def test_outputs_that_are_no_logits_say_nothing():
    torch.manual_seed(0)
    labels = torch.arange(16)
    found = seen_of(torch.randn(16, 8), lambda o: F.cross_entropy(o @ o.T.detach() + 1, labels))
    assert math.isnan(found["baseline"])


@given(st.integers(0, 1000))
def test_a_binary_cross_entropy_gives_its_labels_away(seed):
    torch.manual_seed(seed)
    out, targets = torch.randn(50, 2), (torch.rand(50, 2) < 0.3).float()
    found = seen_of(out, lambda o: F.binary_cross_entropy_with_logits(o, targets))
    assert found["error"] == pytest.approx(float(F.binary_cross_entropy_with_logits(out, targets)), rel=1e-4)
    assert found["mean"] == pytest.approx(float(targets.mean()), abs=1e-5)
    assert found["accuracy"] == pytest.approx(float(((out > 0) == (targets > 0)).float().mean()), abs=1e-6)
    rate = float(targets.mean())
    assert found["baseline"] == pytest.approx(entropy_of([rate, 1 - rate]), abs=1e-3)


@pytest.mark.parametrize("kind", ["pos_weight", "weight", "masked", "embedding"])
def test_a_binary_cross_entropy_of_something_else_says_nothing(kind):
    torch.manual_seed(0)
    out, targets = torch.randn(50, 2), (torch.rand(50, 2) < 0.3).float()
    given = {
        "pos_weight": lambda o: F.binary_cross_entropy_with_logits(o, targets, pos_weight=torch.tensor(9.0)),
        "weight": lambda o: F.binary_cross_entropy_with_logits(o, targets, weight=torch.rand(50, 2)),
        "masked": lambda o: F.binary_cross_entropy_with_logits(o[:, 0], targets[:, 0]),
        "embedding": lambda o: F.binary_cross_entropy_with_logits((o @ o.T)[:2, :].T, targets),
    }
    assert math.isnan(seen_of(out, given[kind])["baseline"])


def test_many_classes_and_few_rows_leave_as_much_as_guessing():
    torch.manual_seed(0)
    labels = torch.randint(200, (16,))
    found = seen_of(torch.randn(16, 200), lambda o: F.cross_entropy(o, labels))
    assert found["baseline"] == pytest.approx(math.log(200), abs=1e-4)


def test_of_a_large_output_a_part_is_kept():
    out = torch.zeros(8, 64, 5000, requires_grad=True)
    gradient = torch.zeros_like(out)
    kept = OutputGradient.of(out.detach(), gradient)
    assert kept.output.numel() <= 1 << 20
    rows, _ = kept.rows()
    assert rows.shape == (209, 5000)


def test_a_sum_of_losses_of_the_same_output_says_nothing():
    torch.manual_seed(0)
    out, labels = torch.randn(32, 5), torch.randint(5, (32,))
    teacher = torch.randn(32, 5).softmax(1)

    def distilled(o):
        return F.cross_entropy(o, labels) + F.kl_div(o.log_softmax(1), teacher, reduction="batchmean")

    assert math.isnan(seen_of(out, distilled)["baseline"])


def test_a_loss_times_a_number_is_understood():
    torch.manual_seed(0)
    out, labels = torch.randn(32, 5), torch.randint(5, (32,))
    found = seen_of(out, lambda o: 1e-3 * F.cross_entropy(o, labels))
    assert found["error"] == pytest.approx(float(F.cross_entropy(out, labels)), rel=1e-5)


def test_the_ends_of_the_targets():
    torch.manual_seed(0)
    targets = torch.randn(32, 3)
    found = seen_of(torch.randn(32, 3), lambda o: F.mse_loss(o, targets))
    assert found["smallest"] == pytest.approx(float(targets.min()), abs=1e-4)
    assert found["largest"] == pytest.approx(float(targets.max()), abs=1e-4)


def test_a_binary_cross_entropy_that_is_one_term_of_a_sum():
    torch.manual_seed(0)
    out, labels = torch.randn(200, 3), (torch.rand(200, 3) < 0.2).float()
    other = torch.randn(8, 3, requires_grad=True)

    def loss_of(o):
        return 0.1 * F.binary_cross_entropy_with_logits(o, labels) + other.square().mean()

    found = seen_of(out, loss_of)
    assert found["error"] == pytest.approx(float(F.binary_cross_entropy_with_logits(out, labels)), rel=1e-4)
    share = float(labels.mean())
    assert found["baseline"] == pytest.approx(entropy_of([share, 1 - share]), rel=1e-4)


def test_elements_with_weights_of_their_own_say_nothing():
    torch.manual_seed(0)
    out, labels, weights = torch.randn(64, 3), (torch.rand(64, 3) < 0.2).float(), torch.rand(64, 3)
    found = seen_of(out, lambda o: F.binary_cross_entropy_with_logits(o, labels, weights))
    assert math.isnan(found["baseline"])


@pytest.mark.parametrize("loss_of", [F.huber_loss, lambda o, y: F.smooth_l1_loss(o, y, beta=0.5)])
def test_a_huber_loss_gives_its_targets_away_while_differences_are_small(loss_of):
    torch.manual_seed(0)
    out, targets = torch.randn(64, 2), torch.randn(64, 2)
    near = out + 0.1 * torch.randn(64, 2)
    found = seen_of(out, lambda o: loss_of(o, near))
    assert found["error"] == pytest.approx(float((out - near).square().mean()), rel=0.01)
    assert found["baseline"] == pytest.approx(float(near.var(0).mean()), rel=0.01)
    assert math.isnan(seen_of(out, lambda o: loss_of(o, 10 * targets))["baseline"])


def test_targets_that_all_samples_share():
    torch.manual_seed(0)
    labels, places = torch.randint(5, (8,)), torch.randint(5, (1, 6)).expand(8, 6)

    def of_places(o, y):
        return F.cross_entropy(o.flatten(0, 1), y.flatten())

    assert seen_of(torch.randn(8, 5), lambda o: F.cross_entropy(o, labels * 0 + 3))["alike"] == 1
    assert seen_of(torch.randn(8, 5), lambda o: F.cross_entropy(o, labels))["alike"] == pytest.approx(
        float((labels == labels[0]).float().mean())
    )
    assert seen_of(torch.randn(8, 6, 5), lambda o: of_places(o, places))["alike"] == 1
    own = torch.randint(5, (8, 6))
    assert seen_of(torch.randn(8, 6, 5), lambda o: of_places(o, own))["alike"] == 1 / 8
    row = torch.randn(1, 3)
    assert seen_of(torch.randn(8, 3), lambda o: F.mse_loss(o, row.expand(8, 3)))["alike"] == 1


def test_one_target_for_all_outputs():
    numbers = torch.arange(4.0)[:, None]
    found = seen_of(torch.randn(4, 4), lambda o: (o - numbers).square().mean())
    assert found["one_for_all"] == 1
    assert (found["smallest"], found["largest"]) == pytest.approx((0, 3), abs=1e-5)
    assert seen_of(torch.randn(4, 4), lambda o: F.mse_loss(o, torch.eye(4)))["one_for_all"] == 0
    assert math.isnan(seen_of(torch.randn(4, 1), lambda o: F.mse_loss(o, numbers))["one_for_all"])
