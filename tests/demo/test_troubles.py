import torch

from trimtab.demo.troubles import FailingWorker, RateStretch


def test_the_worker_fails_in_its_burst_only_and_in_half_of_the_batch():
    worker = FailingWorker(first_step=5, num_steps=3)
    values = torch.ones(8, 256, 64)
    for step in (0, 4, 8, 100):
        assert worker.deliver(step, values) is values
    for step in (5, 6, 7):
        delivered = worker.deliver(step, values)
        assert delivered.shape == values.shape
        assert delivered.dtype == values.dtype
        assert torch.equal(delivered[:4], values[:4])
        bad = delivered[4:]
        assert bad.isnan().any()
        assert bad[bad.isfinite()].abs().max() > 1e30
        share = 1.0 - bad.isfinite().double().mean().item()
        assert 0.5 / 256 < share < 2 / 256
    assert torch.equal(values, torch.ones(8, 256, 64))


def test_the_bits_depend_on_seed_and_step_alone():
    values = torch.zeros(4, 16)
    first = FailingWorker(0, 2, seed=1).deliver(0, values).view(torch.int32)
    assert torch.equal(first, FailingWorker(0, 2, seed=1).deliver(0, values).view(torch.int32))
    assert not torch.equal(first, FailingWorker(0, 2, seed=1).deliver(1, values).view(torch.int32))
    assert not torch.equal(first, FailingWorker(0, 2, seed=9).deliver(0, values).view(torch.int32))


def test_the_stretch_multiplies_its_steps_only():
    stretch = RateStretch(first_step=3, num_steps=2, factor=20.0)
    assert [stretch.at(step) for step in range(7)] == [1, 1, 1, 20, 20, 1, 1]
