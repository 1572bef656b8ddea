"""Real loops with a bug in them, watched by a guard: each is told, and the same loop without it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trimtab import Diagnose, Guard, Observe, read
from trimtab.diagnose import diagnose

STEPS = 80


class Loop:
    """A small classifier that learns which of four sums is the largest; a bug changes some of it."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model: nn.Module = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)
        )
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.size = 48
        self.loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy
        self.zeroes = True
        self.policy = Diagnose(every=10, budget=1.0)
        self.after_start: Callable[[], None] = lambda: None
        self.before_step: Callable[[], None] = lambda: None

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(self.size, 16)
        return x, x.reshape(-1, 4, 4).sum(-1).argmax(1)

    def run(self, folder=None) -> tuple[str, ...]:
        with Guard(
            self.model, self.optimizer, remedy=Observe(), record=folder, diagnose=self.policy
        ) as guard:
            self.after_start()
            for _ in range(STEPS):
                if self.zeroes:
                    self.optimizer.zero_grad()
                x, y = self.batch()
                loss = self.loss(self.model(x), y)
                loss.backward()
                self.before_step()
                guard.step(loss)
            live = guard._watch.log()
        self.live, self.found = guard.findings, diagnose(read(folder) if folder else live)
        return tuple(f.cause.value for f in self.found)


def test_the_loop_itself_is_silent(tmp_path):
    loop = Loop()
    assert loop.run(tmp_path / "run") == ()
    assert loop.live == ()


def no_zero_grad(loop: Loop) -> None:
    loop.zeroes = False


def forgotten_head(loop: Loop) -> None:
    loop.optimizer = torch.optim.SGD(loop.model[:3].parameters(), lr=0.1)


def renewed_head(loop: Loop) -> None:
    loop.after_start = lambda: loop.model.__setitem__(3, nn.Linear(32, 4))


def cut_graph(loop: Loop) -> None:
    loop.model[3].register_forward_pre_hook(lambda m, a: (a[0].detach(),))


def eval_mode(loop: Loop) -> None:
    loop.model.eval()


def tiny_batches(loop: Loop) -> None:
    loop.size = 2


def softmax_twice(loop: Loop) -> None:
    loop.loss = lambda out, y: F.cross_entropy(out.softmax(-1), y)


def sigmoid_twice(loop: Loop) -> None:
    loop.loss = lambda out, y: F.binary_cross_entropy_with_logits(out.sigmoid(), F.one_hot(y, 4).float())


def relu_logits(loop: Loop) -> None:
    loop.loss = lambda out, y: F.cross_entropy(out.relu(), y)


def equal_weights(loop: Loop) -> None:
    for p in loop.model.parameters():
        if p.dim() > 1:
            nn.init.constant_(p, 0.1)


def weights_put_back(loop: Loop) -> None:
    saved = [p.detach().clone() for p in loop.model.parameters()]
    taken = loop.optimizer.step

    def step(*args, **kwargs):
        result = taken(*args, **kwargs)
        with torch.no_grad():
            for p, old in zip(loop.model.parameters(), saved, strict=True):
                p.copy_(old)
        return result

    loop.optimizer.step = step


def same_samples(loop: Loop) -> None:
    own = loop.batch

    def batch():
        x, y = own()
        return x[:1].expand_as(x).clone(), y

    loop.batch = batch


def rate_far_too_high(loop: Loop) -> None:
    loop.model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=300.0)


BUGS = {
    no_zero_grad: "zero_grad_missing",
    forgotten_head: "parameter_not_in_optimizer",
    renewed_head: "stale_optimizer",
    cut_graph: "detached",
    eval_mode: "wrong_mode",
    tiny_batches: "tiny_batch_batchnorm",
    softmax_twice: "softmax_before_cross_entropy",
    sigmoid_twice: "sigmoid_before_bce",
    relu_logits: "activated_logits",
    equal_weights: "symmetric_init",
    weights_put_back: "step_changes_nothing",
    same_samples: "constant_features",
    rate_far_too_high: "lr_too_high",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.__name__)
def test_bugs_are_told(bug):
    loop = Loop()
    bug(loop)
    assert BUGS[bug] in loop.run()[:1]


def frozen_part(loop: Loop) -> None:
    loop.model[0].requires_grad_(False)
    loop.optimizer = torch.optim.SGD([p for p in loop.model.parameters() if p.requires_grad], lr=0.1)


def zero_head(loop: Loop) -> None:
    nn.init.zeros_(loop.model[3].weight)


def own_clipping(loop: Loop) -> None:
    loop.before_step = lambda: nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)


def frozen_norm(loop: Loop) -> None:
    loop.model[1].eval()


def nll(loop: Loop) -> None:
    loop.loss = lambda out, y: F.nll_loss(out.softmax(-1).log(), y)


def two_passes(loop: Loop) -> None:
    def loss(out, y):
        x, other = loop.batch()
        (0.5 * F.cross_entropy(loop.model(x), other)).backward()
        return 0.5 * F.cross_entropy(out, y)

    loop.loss = loss


def unused_part(loop: Loop) -> None:
    body = loop.model
    loop.model = nn.ModuleDict({"body": body, "spare": nn.Linear(3, 3)})
    loop.model.forward = body.forward
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1)


def another_optimizer(loop: Loop) -> None:
    head = torch.optim.SGD(loop.model[3].parameters(), lr=0.1)
    loop.optimizer = torch.optim.SGD(loop.model[:3].parameters(), lr=0.1)
    loop.before_step = head.step
    zero = loop.optimizer.zero_grad
    loop.optimizer.zero_grad = lambda *a, **k: (zero(*a, **k), head.zero_grad())


FINE = (frozen_part, zero_head, own_clipping, frozen_norm, nll, two_passes, unused_part, another_optimizer)


@pytest.mark.parametrize("change", FINE, ids=lambda c: c.__name__)
def test_what_looks_like_a_bug_is_not_told(change):
    loop = Loop()
    change(loop)
    assert loop.run() == ()


def test_live_findings_are_logged_once(caplog):
    loop = Loop()
    forgotten_head(loop)
    with caplog.at_level(logging.WARNING, "trimtab.diagnose.live"):
        loop.run()
    assert [f.cause.value for f in loop.live] == ["parameter_not_in_optimizer"]
    told = [r for r in caplog.records if "parameter_not_in_optimizer" in r.getMessage()]
    assert len(told) == 1
    assert "3.weight" in told[0].getMessage()


def test_no_hook_is_left_and_training_is_untouched():
    plain, watched = Loop(), Loop()
    for loop, policy in ((plain, None), (watched, Diagnose(every=3, budget=1.0))):
        torch.manual_seed(5)
        with Guard(loop.model, loop.optimizer, diagnose=policy) as guard:
            for _ in range(12):
                loop.optimizer.zero_grad()
                x, y = loop.batch()
                loss = F.cross_entropy(loop.model(x), y)
                loss.backward()
                guard.step(loss)
    for p, q in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert q._backward_hooks is None or not q._backward_hooks
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in watched.model.modules())


def test_validation_passes_between_steps_are_not_looked_at():
    loop = Loop()
    with Guard(loop.model, loop.optimizer, diagnose=Diagnose(every=1, budget=1.0)) as guard:
        for _ in range(4):
            loop.optimizer.zero_grad()
            x, y = loop.batch()
            loss = F.cross_entropy(loop.model(x), y)
            loss.backward()
            with torch.no_grad():
                loop.model.eval()(torch.zeros_like(x))
                loop.model.train()
            guard.step(loss)
        log = guard._watch.log()
    assert log.signals["input"].of("rms").min() > 0.5
    assert log.signals["mode"].of("is_training").min() == 1


def test_attached_guards_are_watched_too():
    loop = Loop()
    with Guard(loop.model, loop.optimizer, diagnose=Diagnose(every=5, budget=1.0)) as guard, guard.attach():
        for _ in range(12):
            loop.optimizer.zero_grad()
            x, y = loop.batch()
            F.cross_entropy(loop.model(x), y).backward()
            loop.optimizer.step()
        log = guard._watch.log()
    assert len(log.signals["update_ratio"].steps) >= 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(dict(every=0), "every=0"), (dict(every="x"), "every='x'"), (dict(budget=0.0), "budget=0.0")],
)
def test_wrong_policies(arguments, text):
    with pytest.raises(ValueError, match=text):
        Diagnose(**arguments)


def test_a_tight_budget_leaves_looks_out():
    loop = Loop()
    with Guard(loop.model, loop.optimizer, diagnose=Diagnose(every=1, budget=1e-6)) as guard:
        for _ in range(60):
            loop.optimizer.zero_grad()
            x, y = loop.batch()
            loss = F.cross_entropy(loop.model(x), y)
            loss.backward()
            guard.step(loss)
        log = guard._watch.log()
    assert len(log.signals["update_ratio"].steps) < 30


def test_complex_parameters_are_looked_at(tmp_path):
    torch.manual_seed(0)
    model = ComplexLayer()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Guard(model, optimizer, record=tmp_path, diagnose=Diagnose(every=5, budget=1.0)) as guard:
        for _ in range(60):
            optimizer.zero_grad()
            x = torch.randn(16, 4)
            loss = (model(x) - x.abs()).square().mean()
            loss.backward()
            guard.step(loss)
    log = read(tmp_path)
    assert diagnose(log) == ()
    size = torch.view_as_real(model.weight.detach()).square().mean().sqrt()
    assert log.signals["weight_rms"].of("weight")[-1] == pytest.approx(float(size), rel=0.02)


class ComplexLayer(nn.Module):
    """How large the sums are that complex weights give."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(4, 4, dtype=torch.cfloat))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(torch.cfloat) @ self.weight).abs()
