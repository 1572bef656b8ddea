import math

import pytest
import torch

from trimtab.decide import Observe
from trimtab.demo import LanguageSize, VisionSize, compare, language_task, run_demo, train, vision_task
from trimtab.demo.corpus import Corpus, stdlib_corpus
from trimtab.demo.train import LOST_STEPS
from trimtab.guard import Guard

LANGUAGE = LanguageSize(width=16, num_blocks=1, num_heads=2, context=16, batch_rows=4, num_steps=60)
VISION = VisionSize(width=16, num_blocks=1, num_heads=2, batch_rows=16, num_steps=60)


@pytest.fixture(scope="module")
def full_corpus():
    return stdlib_corpus()


@pytest.fixture(scope="module")
def clean_corpus(full_corpus):
    # Without documents that are NaN by themselves, so that the planted troubles can be seen alone
    return Corpus(tuple(d for d in full_corpus.train if len(d) > 1), full_corpus.held_out)


def make_task(name, corpus):
    return language_task(LANGUAGE, corpus=corpus) if name == "text" else vision_task(VISION)


def parameters_of(model):
    return [parameter.detach() for parameter in model.parameters()]


def observe(model, optimizer):
    return Guard(model, optimizer, remedy=Observe())


def train_by_hand(task, seed, num_steps):
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = task.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = task.recipe.rate(step)
        batch = task.draw_batch(step, generator)
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_the_unguarded_run_is_the_plain_loop_bit_for_bit(full_corpus, seed):
    task = make_task("text", full_corpus)
    result = train(task, observe, seed=seed)
    by_hand = train_by_hand(task, seed, result.num_steps)
    for ours, theirs in zip(parameters_of(result.model), parameters_of(by_hand), strict=True):
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))


def test_up_to_the_burst_a_clean_unguarded_run_is_healthy(clean_corpus):
    task = make_task("text", clean_corpus)
    result = train(task, observe)
    burst = task.worker.first_step
    assert result.lost_at_step == burst
    assert result.num_steps == burst + LOST_STEPS + 1
    assert not any(outcome.faults for outcome in result.outcomes[:burst])


@pytest.mark.parametrize("name", ["text", "digits"])
def test_unguarded_ends_in_nan_and_guarded_does_not(name, full_corpus, tmp_path):
    if name == "digits":
        pytest.importorskip("sklearn")
    task = make_task(name, full_corpus)
    progress = []
    demo = compare(task, tmp_path, on_step=progress.append)

    assert demo.unguarded.lost_at_step is not None
    assert demo.unguarded.num_steps == min(60, demo.unguarded.lost_at_step + LOST_STEPS + 1)
    assert math.isnan(demo.unguarded.score.value)
    assert demo.unguarded.sample == ""
    assert all(outcome.applied for outcome in demo.unguarded.outcomes)

    assert demo.guarded.lost_at_step is None
    assert demo.guarded.num_steps == 60
    assert math.isfinite(demo.guarded.score.value)
    assert demo.guarded.sample
    assert all(parameter.isfinite().all() for parameter in parameters_of(demo.guarded.model))
    refused = {outcome.step for outcome in demo.guarded.outcomes if not outcome.applied}
    burst = range(task.worker.first_step, task.worker.first_step + task.worker.num_steps)
    assert refused >= set(burst)
    assert demo.guarded.num_refused == len(refused)

    runs = [step.run for step in progress]
    assert runs == ["unguarded"] * demo.unguarded.num_steps + ["guarded"] * 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guarded", "unguarded"]
    assert any(demo.guarded_folder.iterdir())
    assert any(demo.unguarded_folder.iterdir())


def test_both_runs_take_the_same_path_up_to_the_first_trouble(clean_corpus, tmp_path):
    demo = compare(make_task("text", clean_corpus), tmp_path)
    first, second = demo.unguarded.outcomes[0], demo.guarded.outcomes[0]
    assert (first.loss, first.grad_norm) == (second.loss, second.grad_norm)
    assert demo.unguarded.rates == demo.guarded.rates[: demo.unguarded.num_steps]


def test_the_same_seed_gives_the_same_run_and_another_another(full_corpus, tmp_path):
    task = make_task("text", full_corpus)
    one, two, other = (
        compare(task, tmp_path / str(i), seed=seed).guarded for i, seed in enumerate((0, 0, 1))
    )
    for ours, theirs, different in zip(*(parameters_of(r.model) for r in (one, two, other)), strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, different)
    assert (one.score, one.sample) == (two.score, two.sample)


def test_torchs_random_state_and_threads_are_left_alone(clean_corpus, tmp_path):
    state, num_threads = torch.get_rng_state(), torch.get_num_threads()
    compare(make_task("text", clean_corpus), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == num_threads


def test_the_guard_is_closed_when_a_callback_raises(clean_corpus):
    closed = []

    class Spy(Guard):
        def close(self):
            closed.append(True)
            super().close()

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_task("text", clean_corpus), lambda m, o: Spy(m, o), on_step=interrupt)
    assert closed


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'text', 'digits'"):
        run_demo("images", tmp_path)
