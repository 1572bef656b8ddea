"""Rules that know the targets of the loss: when they speak, and when not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe, read
from trimtab.diagnose import diagnose
from trimtab.diagnose.engine import clues


def network(inputs=16, outputs=4, *, norm=False, dropout=0.0):
    return nn.Sequential(
        nn.Linear(inputs, 64),
        nn.BatchNorm1d(64) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )


def train(folder, batch, *, model=None, loss=F.cross_entropy, steps=200, lr=3e-3):
    torch.manual_seed(0)
    model = network() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    watch = Diagnose(every=10, budget=1.0)
    with Guard(model, optimizer, remedy=Observe(), record=folder, diagnose=watch) as guard:
        for step in range(steps):
            optimizer.zero_grad()
            x, y = batch(step)
            value = loss(model(x), y)
            value.backward()
            guard.step(value)
    log = read(folder)
    return log, [finding.cause.value for finding in diagnose(log)]


def sums(step, size=48):
    x = torch.randn(size, 16)
    return x, x.reshape(-1, 4, 4).sum(-1).argmax(1)


def numbers(step, *, size=48, scale=1.0, offset=0.0):
    x = torch.randn(size, 16)
    return x, scale * (x[:, :4].sum(1, keepdim=True) + offset)


@pytest.mark.parametrize("is_broadcast", [False, True])
def test_a_regression_that_explains_nothing(tmp_path, is_broadcast):
    def loss(out, y):  # (N, 1) against (N,): all pairs are compared
        return (out - (y[:, 0] if is_broadcast else y)).pow(2).mean()

    def large(step):
        return numbers(step, offset=3.0)

    _, found = train(tmp_path / "run", large, model=network(outputs=1), loss=loss)
    assert found == (["label_trouble"] if is_broadcast else [])


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_targets_of_other_rows_with_a_mean_of_their_own(tmp_path, is_shuffled):
    """The loss falls a hundredfold while the mean is learned: it is not what tells that nothing else was."""

    def batch(step):
        x, y = numbers(step, offset=8.0)
        return x, y.roll(1, 0) if is_shuffled else y

    log, found = train(tmp_path / "run", batch, model=network(outputs=1), loss=F.mse_loss, steps=400)
    assert log.loss[-1] < 0.1 * log.loss[0]
    assert bool(found) == is_shuffled
    assert not is_shuffled or found[0] in ("label_trouble", "at_chance")


def test_targets_in_another_unit(tmp_path):
    def batch(step):
        return numbers(step, scale=1e4)

    _, found = train(tmp_path / "a", batch, model=network(outputs=1), loss=F.mse_loss)
    assert found == ["input_scale"]
    _, found = train(tmp_path / "b", numbers, model=network(outputs=1), loss=F.mse_loss)
    assert found == []


def test_batches_sorted_by_class(tmp_path):
    def batch(step):
        x, y = sums(step, size=400)
        mine = y == step % 4
        return x[mine][:48], y[mine][:48]

    _, found = train(tmp_path / "a", batch)
    assert found[0] == "label_trouble"
    _, found = train(tmp_path / "b", sums)
    assert found == []


def test_a_rare_class_is_not_sorted(tmp_path):
    def batch(step):
        x = torch.randn(48, 16)
        return x, (x[:, 0] > 1.9).long()

    _, found = train(tmp_path / "run", batch, model=network(outputs=2))
    assert found == []


@pytest.mark.parametrize("rate", [0.1, 0.98])
def test_dropout_that_leaves_too_little(tmp_path, rate):
    _, found = train(tmp_path / "run", sums, model=network(dropout=rate))
    assert found == (["over_regularized"] if rate > 0.5 else [])


@pytest.mark.parametrize(("side", "is_told"), [(4, True), (12, False)])
def test_two_samples_for_batchnorm(tmp_path, side, is_told):
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x):
            image = F.interpolate(x.reshape(-1, 1, 4, 4), (side, side))
            return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))

    def batch(step):
        return sums(step, size=2)

    log, _ = train(tmp_path / "run", batch, model=Image(), steps=60)
    clue = next(c for c in clues(log) if c.cause.value == "tiny_batch_batchnorm")
    assert clue.stands_alone == is_told


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.cell, self.head = (
            nn.Embedding(12, 16),
            nn.GRU(16, 32, batch_first=True),
            nn.Linear(32, 12),
        )

    def forward(self, x):
        return self.head(self.cell(self.embed(x))[0])


@pytest.mark.parametrize("is_shifted", [True, False])
def test_labels_that_are_the_input(tmp_path, is_shifted):
    def batch(step):
        start, by = torch.randint(12, (32, 1)), torch.randint(1, 4, (32, 1))
        x = (start + by * torch.arange(9)) % 12
        return x[:, :-1], x[:, 1:] if is_shifted else x[:, :-1]

    def loss(out, y):
        return F.cross_entropy(out.flatten(0, 1), y.flatten())

    _, found = train(tmp_path / "run", batch, model=Tokens(), loss=loss, lr=1e-2)
    assert found == ([] if is_shifted else ["leak"])


@pytest.mark.parametrize("dim", [0, 1])
def test_a_softmax_over_the_batch(tmp_path, dim):
    def loss(out, y):
        return F.nll_loss(out.log_softmax(dim), y)

    _, found = train(tmp_path / "run", sums, loss=loss)
    assert found == ([] if dim == 1 else ["softmax_before_cross_entropy"])


@pytest.mark.parametrize("momentum", [0.9, 0.9999])
def test_momentum_that_adds_up_too_much(tmp_path, momentum):
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum, dampening=momentum)
    with Guard(model, optimizer, record=tmp_path / "run", diagnose=Diagnose(every=10, budget=1.0)) as guard:
        for step in range(200):
            optimizer.zero_grad()
            x, y = sums(step)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            guard.step(loss)
    told = [
        clue for clue in clues(read(tmp_path / "run")) if clue.evidence[:1] and "momentum" in clue.summary
    ]
    assert bool(told) == (momentum > 0.99)


@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.Identity()])
@pytest.mark.parametrize("is_kernel", [True, False])
def test_outputs_kept_away_from_their_targets(tmp_path, last, is_kernel):
    def loss(out, y):
        return F.mse_loss(out, y) if is_kernel else ((out - y) ** 2).mean()

    def inside(step):
        x, y = numbers(step)
        return x, torch.sigmoid(y)

    model = nn.Sequential(network(outputs=1), last)
    _, found = train(tmp_path / "a", numbers, model=model, loss=loss, steps=120)
    assert ("activated_logits" in found) == (not isinstance(last, nn.Identity))
    model = nn.Sequential(network(outputs=1), last)
    _, found = train(tmp_path / "b", inside, model=model, loss=loss, steps=120)
    assert "activated_logits" not in found


def test_a_softmax_over_one_class(tmp_path):
    def loss(out, y):
        return F.cross_entropy(out, y.clamp_max(0))

    _, found = train(tmp_path / "run", sums, model=network(outputs=1), loss=loss)
    assert found == ["softmax_before_cross_entropy"]


def test_batches_sorted_by_a_number(tmp_path):
    def batch(step):
        level = torch.tensor([-1.0, 1.0, 3.0])[step % 3]  # nothing else can be learned than where it is
        return torch.randn(48, 16), level + 0.1 * torch.randn(48, 1)

    log, _ = train(tmp_path / "run", batch, model=network(outputs=1), loss=F.mse_loss)
    assert any("the next batch" in clue.summary for clue in clues(log))


def test_windows_of_a_series_in_order_are_fine(tmp_path):
    torch.manual_seed(1)
    series = [torch.zeros(())]
    for _ in range(200 * 16 + 20):
        series.append(0.98 * series[-1] + 0.2 * torch.randn(()))
    series = torch.stack(series)

    def batch(step):
        rows = series.unfold(0, 17, 1)[step * 16 : step * 16 + 16]
        return rows[:, :16], rows[:, 16:]

    _, found = train(tmp_path / "run", batch, model=network(outputs=1), loss=F.mse_loss, lr=1e-2)
    assert found == []


@pytest.mark.parametrize("is_shared", [False, True])
def test_one_target_for_all_samples_of_a_batch(tmp_path, is_shared):
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))

    def batch(step):
        x = torch.randn(48, 5, 4)
        y = x[..., :3].argmax(-1)
        return x, y[-1:].expand_as(y) if is_shared else y

    def loss(out, y):
        return F.cross_entropy(out.flatten(0, 1), y.flatten())

    log, found = train(tmp_path / "run", batch, model=model, loss=loss)
    assert found == (["label_trouble"] if is_shared else [])
    assert any("the same target" in clue.summary for clue in clues(log)) == is_shared


def test_relative_errors_of_targets_near_zero(tmp_path):
    def relative(out, y):
        return ((out - y).abs() / (y.abs() + 1e-6)).mean()

    log, found = train(tmp_path / "a", numbers, model=network(outputs=1), loss=relative)
    assert "label_trouble" in found
    assert any("a few rows of each batch decide" in clue.summary for clue in clues(log))
    _, found = train(tmp_path / "b", numbers, model=network(outputs=1), loss=F.l1_loss)
    assert found == []


def test_the_number_of_the_class_as_the_target_of_all_outputs(tmp_path):
    log, found = train(tmp_path / "run", sums, loss=lambda out, y: (out - y[:, None].float()).square().mean())
    assert found[0] == "label_trouble"
    assert "broadcast" in next(clue.summary for clue in clues(log) if clue.cause.value == "label_trouble")


@pytest.mark.parametrize("inner", [nn.Softmax(-1), nn.GELU()])
def test_a_softmax_between_layers(tmp_path, inner):
    model = nn.Sequential(nn.Linear(16, 32), inner, nn.Linear(32, 4))
    _, found = train(tmp_path / "run", sums, model=model)
    assert ("saturation" in found) == isinstance(inner, nn.Softmax)


@pytest.mark.parametrize("spoiled", ["filled", "copied", ""])
def test_columns_that_say_nothing(tmp_path, spoiled):
    def batch(step):
        x, y = sums(step)
        if spoiled == "filled":
            x[:, 2:] = 1.0
        elif spoiled == "copied":
            x[:, 2:] = x[:, 1:2]
        return x, y

    _, found = train(tmp_path / "run", batch)
    assert ("constant_features" in found) == bool(spoiled)
