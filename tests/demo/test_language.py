import dataclasses
import math

import pytest
import torch

from trimtab.demo.corpus import Rows
from trimtab.demo.language import LanguageSize, byte_features, language_task

TINY = LanguageSize(width=16, num_blocks=1, num_heads=2, context=16, batch_rows=4, num_steps=12)


@pytest.fixture(scope="module")
def task():
    return language_task(TINY)


@pytest.fixture
def model(task):
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return task.build_model()


def batch_of(task, *documents):
    values = torch.zeros(len(documents), TINY.context + 1, dtype=torch.long)
    for row, document in enumerate(documents):
        values[row, : len(document)] = torch.tensor(list(document), dtype=torch.long)
    rows = Rows(values, torch.tensor([len(document) for document in documents]))
    return task._tensors(rows)


def test_each_byte_has_features_of_its_own():
    table = byte_features()
    assert len(torch.unique(table[:, :8], dim=0)) == 256
    assert torch.equal(table, byte_features())
    assert table[0b101, :8].tolist() == [1, -1, 1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize("empty", [b"", b"x"])
def test_a_row_without_anything_to_predict_makes_nan_of_loss_and_every_gradient(task, model, empty):
    loss = task.loss(model, batch_of(task, b"import os", empty, b"pass"))
    loss.backward()
    assert loss.isnan()
    assert all(parameter.grad.isnan().any() for parameter in model.parameters())


def test_no_other_row_does(task, model):
    documents = [b"ab", b"import os", bytes(TINY.context + 1), bytes(range(240, 256)), b"\0\0"]
    loss = task.loss(model, batch_of(task, *documents))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_and_the_future_do_not_reach_the_loss_of_a_byte(task, model):
    features, values, lengths = batch_of(task, b"import os", b"ab")
    loss = task.loss(model, (features, values, lengths))
    features[1, 2:] = 7.0
    values[1, 2:] = 9
    assert torch.equal(task.loss(model, (features, values, lengths)), loss)
    is_real = torch.ones(1, TINY.context, dtype=torch.bool)
    inputs = torch.randn(1, TINY.context, features.shape[2], generator=torch.Generator().manual_seed(0))
    logits = model(inputs, is_real)
    inputs[0, 9:] = -1.0
    assert torch.equal(model(inputs, is_real)[0, :9], logits[0, :9])


def test_score_is_in_bits_and_nan_for_a_broken_model(task, model):
    score = task.score(model)
    assert score.value == pytest.approx(score.loss / math.log(2))
    assert 7.0 < score.value < 9.0
    assert task.sample(model, 0).startswith("def ")
    with torch.no_grad():
        model.embed.bias[0] = math.nan
    assert math.isnan(task.score(model).value)
    assert task.sample(model, 0) == ""


def test_troubles_lie_inside_the_run_and_apart(task):
    for num_steps in (40, 1500):
        planned = language_task(dataclasses.replace(TINY, num_steps=num_steps), corpus=task.corpus)
        stretch, worker = planned.recipe.stretch, planned.worker
        assert stretch.first_step + stretch.num_steps < worker.first_step
        assert worker.first_step + worker.num_steps < num_steps
