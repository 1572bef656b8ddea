"""What a cheap learner makes of the rows that a model was given."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from trimtab.measure import StepProbe
from trimtab.measure.fingerprint import are_judged, fingerprints_of
from trimtab.measure.yardstick import STATISTICS, Answers, Yardstick

CURVE = 1.5


def looks_at(draw, model, loss_of, num_looks=20):
    """The yardstick's statistics of the last look, by name."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probe = StepProbe(model, optimizer)
    for _ in range(num_looks):
        x, y = draw()
        probe.open()
        loss = loss_of(model(x), y)
        loss.backward()
        probe.before_update(loss)
        found = probe.after_update()
        optimizer.zero_grad()
    probe.close()
    names, values = found["yardstick"]
    return dict(zip(names, values.tolist(), strict=True))


def share(found):
    return 1 - found["plain_error"] / found["baseline"]


def test_it_learns_a_curve_and_not_the_noise():
    torch.manual_seed(0)

    def draw(noise):
        x = torch.randn(64, 6)
        return x, torch.sin(CURVE * x[:, :1]) + x[:, 1:2].abs() + noise * torch.randn(64, 1)

    assert share(looks_at(lambda: draw(0.0), nn.Linear(6, 1), F.mse_loss)) > 0.7
    noisy = looks_at(lambda: draw(1.0), nn.Linear(6, 1), F.mse_loss)
    assert share(noisy) < 0.55  # half of the targets is noise
    assert looks_at(lambda: (torch.randn(64, 6), torch.randn(64, 1)), nn.Linear(6, 1), F.mse_loss)[
        "plain_error"
    ] == pytest.approx(1.0, abs=0.35)


def test_its_error_is_that_of_a_ridge_regression_worked_out_by_hand():
    torch.manual_seed(0)
    yardstick, rows = Yardstick(), [(torch.randn(64, 3), torch.randn(64, 2)) for _ in range(3)]
    for x, y in rows:
        found = yardstick.look(x, Answers(torch.zeros(64, 2), y, torch.ones(64), torch.Size((64, 2))))
    frame = yardstick._known.frame
    known = torch.cat([x for x, _ in rows[:2]])
    is_learned = ~are_judged(fingerprints_of(known))
    before = frame.features(known[is_learned]).double()
    targets = torch.cat([y for _, y in rows[:2]])[is_learned].double()
    solution = torch.linalg.solve(before.T @ before + 10 * torch.eye(before.shape[1]), before.T @ targets)
    x, y = (t[are_judged(fingerprints_of(rows[2][0]))] for t in rows[2])
    expected = (frame.features(x).double() @ solution - y).square().mean()
    assert float(found[1]) == pytest.approx(float(expected), rel=1e-3)
    assert float(found[0]) == pytest.approx(float(y.square().mean()), rel=1e-5)
    assert float(found[2]) == pytest.approx(float(y.var(0).mean()), rel=1e-5)
    assert float(found[3]) == int(is_learned.sum())
    assert 0.3 < float(is_learned.float().mean()) < 0.7


def test_it_learns_which_token_follows_which():
    torch.manual_seed(0)
    follows = torch.randperm(20)

    def draw():
        start = torch.randint(20, (16, 1))
        tokens = [start]
        for _ in range(8):
            is_random = torch.rand(16, 1) < 0.1
            tokens.append(torch.where(is_random, torch.randint(20, (16, 1)), follows[tokens[-1]]))
        text = torch.cat(tokens, 1)
        return text[:, :-1], text[:, 1:]

    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
    found = looks_at(draw, model, lambda o, y: F.cross_entropy(o.flatten(0, 1), y.flatten()))
    assert 0.7 < share(found) < 0.9  # a tenth of the words is random
    assert found["error"] > 0.9 * found["baseline"]


def test_it_counts_words():
    torch.manual_seed(0)

    def draw():
        words = torch.randint(50, (64, 12))
        return words, ((words < 10).sum(1, keepdim=True) > 2).float()

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(50, 4), nn.Linear(4, 1)

        def forward(self, words):
            return self.head(self.table(words).mean(1))

    assert share(looks_at(draw, Bag(), F.binary_cross_entropy_with_logits, 40)) > 0.3


@pytest.mark.parametrize("classes", [300])
def test_many_classes_are_added_up_with_signs(classes):
    torch.manual_seed(0)
    means = torch.randn(classes, 32)

    def draw():
        labels = torch.randint(10, (256,))
        return means[labels] + 0.1 * torch.randn(256, 32), labels

    assert share(looks_at(draw, nn.Linear(32, classes), F.cross_entropy)) > 0.9


def test_an_autoencoder_is_not_held_against_a_copy():
    def draw():
        x = torch.randn(32, 5)
        return x, x

    found = looks_at(draw, nn.Linear(5, 5), F.mse_loss)
    assert all(math.isnan(value) for value in found.values())


def test_losses_that_do_not_tell_their_targets_are_left_alone():
    found = looks_at(
        lambda: (torch.randn(32, 5), torch.randn(32, 1)), nn.Linear(5, 1), lambda o, y: (o - y).abs().mean()
    )
    assert set(found) == set(STATISTICS)
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("spoil", ["nan_inputs", "other_width", "huge"])
def test_odd_rows_do_not_spoil_what_is_known(spoil):
    torch.manual_seed(0)
    yardstick, weights = Yardstick(), torch.randn(4, 1)

    def look(x, y):
        return yardstick.look(x, Answers(torch.zeros_like(y), y, torch.ones(len(y)), torch.Size((len(y), 1))))

    for _ in range(5):
        x = torch.randn(64, 4)
        look(x, x @ weights)
    if spoil == "nan_inputs":
        look(torch.full((64, 4), math.nan), torch.ones(64, 1))
        look(torch.randn(64, 4), torch.full((64, 1), math.inf))
    elif spoil == "huge":
        look(torch.full((64, 4), 1e30), torch.zeros(64, 1))
    else:
        assert look(torch.randn(64, 9), torch.randn(64, 1)).isnan().all()
    x = torch.randn(64, 4)
    _, plain, baseline, _ = look(x, x @ weights).tolist()
    assert plain < 0.1 * baseline


def test_the_numbers_of_the_run_stay_what_they_are():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    looks_at(lambda: (torch.ones(8, 200), torch.ones(8, 1)), nn.Linear(200, 1, bias=False), F.mse_loss, 1)
    torch.manual_seed(3)
    model = nn.Linear(2, 1)
    with tt.Guard(model, torch.optim.SGD(model.parameters(), lr=0.1), diagnose=tt.Diagnose()):
        torch.manual_seed(3)
        assert torch.equal(torch.rand(3), expected)


def test_rows_that_come_again_are_not_known_by_heart():
    torch.manual_seed(0)
    yardstick, x, y = Yardstick(), torch.randn(100, 10), torch.randn(100, 1)
    answers = Answers(torch.zeros(100, 1), y, torch.ones(100), torch.Size((100, 1)))
    for _ in range(50):
        _, plain, baseline, _ = yardstick.look(x, answers).tolist()
    assert plain > baseline  # all of it is noise


@pytest.mark.parametrize("shape", [(4, 21, 32, 64), (2, 1, 1024, 64), (2, 600, 4)])
def test_outputs_of_which_no_whole_sample_is_kept(shape):
    x = torch.randn(shape[0], 8)
    weight = torch.randn(8, torch.Size(shape[1:]).numel(), requires_grad=True)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, x):
            return (x @ self.weight).view(shape)

    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.long)
    found = looks_at(lambda: (x, labels), Wide(), F.cross_entropy, 3)
    assert set(found) == set(STATISTICS)
