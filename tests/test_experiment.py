import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import _peer_rules as peers
import _verdicts as verdicts
import policies_under_spikes as experiment

import trimtab as tt


def parameters(*gradients, value=1.0):
    """Parameters of this value with these gradients."""
    made = []
    for gradient in gradients:
        p = torch.nn.Parameter(torch.full_like(torch.tensor(gradient), value))
        p.grad = torch.tensor(gradient)
        made.append(p)
    return made


def grads(own):
    return torch.cat([p.grad.flatten() for p in own])


# The published rules on short sequences, by hand


def test_autoclip_counts_the_norm_it_judges_and_one_nan_ends_it():
    rule = peers.AutoClip(50)
    assert [rule.threshold(n) for n in (1.0, 3.0, 5.0)] == [1.0, 2.0, 3.0]
    assert math.isnan(rule.threshold(math.nan))
    own = parameters([3.0, 4.0])
    rule.clip_(own)
    assert own[0].grad.isnan().all()


def test_zclip_clips_the_larger_spike_harder_and_forgets_how_after_a_nan():
    def spiked(norm):
        rule = peers.ZClip()
        rule.cap = math.inf
        for i in range(25):
            rule.threshold([1.0, 3.0][i % 2])
        return rule.threshold(norm)

    # mean 49 / 25, population variance 25 / 25 - ... by hand
    mean = (13 * 1 + 12 * 3) / 25
    std = math.sqrt((13 * (1 - mean) ** 2 + 12 * (3 - mean) ** 2) / 25)
    z = (20 - mean) / (std + 1e-6)
    assert spiked(20.0) == pytest.approx(mean + 2.5**2 / z * std)
    assert spiked(200.0) < spiked(20.0)
    rule = peers.ZClip()
    for norm in [0.5] * 25 + [math.nan]:
        rule.threshold(norm)
    assert rule.threshold(1e6) == 1.0  # the cap is all that is left
    assert math.isnan(rule.mean)


def test_agc_holds_a_unit_that_began_at_zero_to_a_hundred_thousandth():
    own = parameters([[3.0, 4.0], [0.0, 0.001]], value=0.0)
    peers.AdaptiveGradientClipping().clip_(own)
    assert own[0].grad[0].norm().item() == pytest.approx(1e-5)
    ones = parameters([[3.0, 4.0], [0.0, 0.001]])
    share = peers.AdaptiveGradientClipping().clip_(ones)
    assert ones[0].grad[0].norm().item() == pytest.approx(0.01 * math.sqrt(2))
    assert ones[0].grad[1].tolist() == pytest.approx([0.0, 0.001])
    assert share == 0.5
    exempt = parameters([[3.0, 4.0]], [9.0])
    peers.AdaptiveGradientClipping(exempt[:1]).clip_(exempt)
    assert exempt[0].grad.tolist() == [[3.0, 4.0]]
    assert exempt[1].grad.item() == pytest.approx(0.01)


def test_adagc_keeps_the_smallest_norm_of_its_warm_up_and_divides_zero_by_zero():
    rule = peers.AdaGC()
    rule.warmup = 3
    for norm in (0.5, 0.2):
        rule.clip_(parameters([norm]))
    assert rule.levels == {0: pytest.approx(0.2)}
    own = parameters([2.0])
    rule.clip_(own)
    assert own[0].grad.item() == pytest.approx(1.05 * 0.2)
    assert rule.levels[0] == pytest.approx(0.98 * 0.2 + 0.02 * 1.05 * 0.2)
    still = parameters([0.0])
    rule.clip_(still)
    assert still[0].grad.isnan().all()


def test_adagc_scales_to_a_global_norm_of_one_in_its_warm_up():
    own = parameters([3.0], [4.0])
    assert peers.AdaGC().clip_(own) == 1.0
    assert grads(own).tolist() == pytest.approx([0.6, 0.8])


def test_percentile_clipping_goes_to_the_sixth_smallest_of_a_hundred():
    rule = peers.PercentileClipping()
    factors = []
    for rule.step in range(1, 121):
        factors.append(rule.factor(0, float(rule.step)))
    assert factors[0] == 1.0
    # slot 0 holds the first norm until step 100: after 120 steps the ring holds 21 to 120
    assert factors[-1] == pytest.approx(26.0 / 120.0)


def test_stable_spam_brings_elements_to_the_moving_maximum_and_norms_to_the_usual_one():
    rule = peers.StableSpam()
    first = parameters([0.0, 2.0])
    rule.clip_(first)
    assert first[0].grad.tolist() == pytest.approx([0.0, 1.0])  # 2 / 2 * 2 / sqrt(2^2)
    spike = parameters([0.0, 200.0])
    rule.clip_(spike)
    largest = (0.999 * 0.001 * 2 + 0.001 * 200) / (1 - 0.999**2)
    a = (0.7 * 0.3 * 2 + 0.3 * largest) / (1 - 0.7**2)
    b = (0.9 * 0.1 * 4 + 0.1 * largest**2) / (1 - 0.9**2)
    assert spike[0].grad[1].item() == pytest.approx(a / math.sqrt(b), rel=1e-5)


def test_spam_limits_elements_by_their_second_moment_and_resets_it():
    (p,) = own = parameters([1.0])
    rule = peers.Spam(own)
    for _ in range(19):
        p.grad = torch.tensor([0.01])
        assert rule.step(torch.tensor(0.0)).clipped == 0
    moment = rule.optimizer.state[p]["exp_avg_sq"].item()
    p.grad = torch.tensor([-1e6])
    assert rule.step(torch.tensor(0.0)).clipped == 1
    assert p.grad.item() == pytest.approx(-math.sqrt(5000 * moment))
    rule.t = 499
    p.grad = torch.tensor([1.0])
    lr = rule.optimizer.param_groups[0]["lr"]
    rule.step(torch.tensor(0.0))
    assert rule.optimizer.state[p]["exp_avg_sq"].item() == pytest.approx(0.001)
    assert rule.optimizer.param_groups[0]["lr"] == pytest.approx(lr * 0.01)


def test_stable_adamw_lowers_the_rate_by_the_surprise_of_a_gradient():
    (p,) = own = parameters([1.0])
    rule = peers.StableAdamW(own)
    rule.step(torch.tensor(0.0))
    assert rule.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)
    p.grad = torch.tensor([100.0])
    assert rule.step(torch.tensor(0.0)).clipped == 1
    moment = (0.999 * 0.001 + 0.001 * 1e4) / (1 - 0.999**2)
    assert rule.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / (100 / math.sqrt(moment)))


def test_skip_step_is_adamw_until_a_spike_and_multiplies_nan_by_zero():
    ours, torchs = parameters([0.5, -1.0]), parameters([0.5, -1.0])
    rule, adamw = peers.SkipStep(ours), torch.optim.AdamW(torchs)
    for i in range(70):
        for p in (*ours, *torchs):
            p.grad = torch.tensor([0.5, -1.0 - i % 3])
        assert not rule.step(torch.tensor(1.0 + i % 2)).skipped
        adamw.step()
    torch.testing.assert_close(ours, torchs)
    before = ours[0].detach().clone()
    assert rule.step(torch.tensor(100.0)).skipped
    assert torch.equal(ours[0], before)
    ours[0].grad = torch.tensor([math.nan, 1.0])
    assert rule.step(torch.tensor(1.0)).skipped
    assert ours[0].isnan().any()  # 0 * NaN


def test_loss_ratio_rate_falls_with_the_fourth_power_and_leaves_outliers_out():
    rule = peers.LossRatioRate([torch.nn.Parameter(torch.ones(1))])
    assert rule.factor(1.0) == 1.0
    assert rule.factor(1.5) == pytest.approx(1.5**-4)
    assert rule.average == pytest.approx(1.1)
    assert rule.factor(11.0) == pytest.approx(1e-4)
    assert rule.average == pytest.approx(1.1)


# Where a published rule and ours must agree


@pytest.mark.parametrize(
    ("peer", "clip"),
    [
        (peers.GlobalNorm(), tt.NormClip(1.0)),
        (peers.ZClip(), tt.ZScoreClip()),
        (peers.AdaGC(), experiment.TensorClip()),
        (peers.AdaptiveGradientClipping(), experiment.UnitClip()),
        (peers.Value(), experiment.ValueClip()),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_published_rule_and_ours_give_the_same_run_where_nothing_goes_wrong(peer, clip):
    def trained(make):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        trainer = make(model)
        for _ in range(130):
            x = torch.randn(8, 3)
            trainer.optimizer.zero_grad()
            loss = 3 * (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            trainer.step(loss.detach())
        return list(model.parameters())

    ours = trained(lambda model: experiment.Guarded(model, clip=clip))
    theirs = trained(lambda model: peers.Clipped(list(model.parameters()), peer))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# The experiment


def test_troubles_are_seeded_and_the_finite_ones_do_not_depend_on_the_others():
    finite, all_of_them = (experiment.troubles(plan, 400, 3) for plan in experiment.PARTS.values())
    assert finite == experiment.troubles(experiment.FINITE, 400, 3)
    assert finite != experiment.troubles(experiment.FINITE, 400, 4)
    assert {t.batch for t in all_of_them} >= {"nan", "inf"}
    assert not {t.batch for t in finite} & {"nan", "inf"}
    assert all(a == b or b.batch in ("nan", "inf") for a, b in zip(finite, all_of_them, strict=True))
    planned = [t for seed in range(20) for t in experiment.troubles(experiment.FINITE, 400, seed)]
    share = sum(t.gradient != "" for t in planned) / len(planned)
    assert 0.02 < share < 0.03
    assert {t.gradient for t in planned} == {"", "model", "module", "direction"}
    assert {t.batch for t in planned} == {"", "targets", "noise"}
    assert all(10 <= t.factor <= 1e4 for t in planned)


def test_a_batch_is_spoiled_as_planned():
    batch = torch.zeros(4, 3), torch.arange(8).view(4, 2), torch.ones(4)

    def spoiled(kind):
        return experiment.spoiled(batch, experiment.Trouble(kind, "", 1.0, 5))

    assert all(a is b for a, b in zip(spoiled(""), batch, strict=True))
    inputs, targets, rest = spoiled("targets")
    assert inputs is batch[0]
    assert rest is batch[2]
    assert not torch.equal(targets, batch[1])
    assert sorted(targets.flatten().tolist()) == list(range(8))
    assert spoiled("noise")[0].std() > 5
    assert torch.equal(spoiled("noise")[1], batch[1])
    assert spoiled("nan")[0].isnan().any()
    assert spoiled("inf")[0].isinf().any()
    assert not batch[0].any()


def test_a_gradient_spikes_as_planned():
    def spiked(kind):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        experiment.spike_(model, experiment.Trouble("", kind, 50.0, 5))
        return [p.grad for p in model.parameters()]

    assert all((g == 1).all() for g in spiked(""))
    assert all((g == 50).all() for g in spiked("model"))
    assert sorted({g.mean().item() for g in spiked("module")}) == [1.0, 50.0]
    joint = torch.cat([g.flatten() for g in spiked("direction")])
    assert joint.norm().item() == pytest.approx(50 * math.sqrt(12), rel=1e-5)
    assert (joint < 0).any()


def test_a_gap_is_paired_over_seeds():
    assert verdicts.gap([1.0, 5.0, 9.0], [1.0, 4.0, 7.0]) == (1.0, pytest.approx(1 / math.sqrt(3)))


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([-0.2, -0.1, -0.15, -0.2, -0.1], "better"),
        ([0.0] * 5, "as good"),
        ([0.001, -0.001, 0.002, 0.001, 0.0], "as good"),  # 0.1 % above, and the noise is as small
        ([0.008] * 5, "as good"),
        ([0.05, 0.04, 0.05, 0.06, 0.05], "worse"),
        ([0.155, 0.0, 0.31, 0.0, -0.2], "undecided"),  # a large mean within a large error is not "as good"
        ([0.0, 0.31], "undecided"),
        ([-0.5, 0.1], "undecided"),
    ],
)
def test_a_verdict_says_no_more_than_the_seeds_do(differences, said):
    theirs = [1.0] * len(differences)
    assert verdicts.verdict([1.0 + d for d in differences], theirs) == said


def test_one_arm_for_all_tables_is_judged_by_its_distance_from_the_best_of_each():
    tables = [
        {"a": [1.0, 1.0], "b": [1.5, 1.5], "only here": [0.5, 0.5]},
        {"a": [8.0, 12.0], "b": [4.0, 6.0]},
    ]
    scores = verdicts.overall(tables)
    assert scores == {"a": [(2 + 1.6) / 2, (2 + 2.4) / 2], "b": [(3 + 0.8) / 2, (3 + 1.2) / 2]}
    assert "b, 2.000. Best of 1 of others: a, 2.000" in verdicts.against_the_best(
        {"b": scores["b"]}, {"a": scores["a"]}
    )


def test_every_rule_has_its_origin_among_the_arms():
    arms = experiment.arms_of(experiment.FINITE, ())
    names = {is_ours: {arm.name for arm in arms if arm.is_ours is is_ours} for is_ours in (True, False)}
    assert set(experiment.ORIGINS) <= names[True]
    assert set(experiment.ORIGINS.values()) <= names[False]


MANY_BAD = experiment.Plan(nonfinite_share=0.1)


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    text = experiment.tasks(40)["text"]
    return [experiment.course(text, MANY_BAD, seed) for seed in (0, 1)]


def runs_of(name, tiny):
    arms = {arm.name: arm for arm in experiment.arms_of(MANY_BAD, ())}
    return [experiment.run(arms[name], course) for course in tiny]


def test_the_same_arm_and_seed_give_the_same_run(tiny):
    assert runs_of("NormClip(1.0) + spikes", tiny) == runs_of("NormClip(1.0) + spikes", tiny)


def test_ours_survives_what_ends_a_bare_clip_and_equals_it_behind_a_plain_skip(tiny):
    assert all(any(t.batch in ("nan", "inf") for t in course.planned) for course in tiny)
    for bare in runs_of("clip_grad_norm_(1.0)", tiny):
        assert (bare.ending, bare.loss) == ("lost", experiment.CHANCE["text"])
    ours, spared = runs_of("NormClip(1.0)", tiny), runs_of("clip_grad_norm_(1.0) + skip", tiny)
    for a, b in zip(ours, spared, strict=True):
        assert a.ending == b.ending == ""
        assert a.skipped == b.skipped
        assert a.loss == pytest.approx(b.loss, rel=1e-4)


@pytest.mark.parametrize("arm", experiment.arms_of(experiment.FINITE, ()), ids=lambda arm: arm.name)
def test_every_arm_runs(arm, tiny):
    short = tiny[0]._replace(batches=tiny[0].batches[:6], planned=tiny[0].planned[:6])
    result = experiment.run(arm, short)
    assert math.isfinite(result.loss)
    assert 0 <= result.clipped <= 1
    assert 0 <= result.skipped <= 1


def test_the_table_is_sorted_and_compares_with_the_best_peer():
    def arm(name, is_ours):
        return experiment.Arm(name, experiment.Guarded, is_ours)

    def runs(*losses):
        return [experiment.Run(loss, 0.5, 0.25) for loss in losses]

    ours, good, poor = arm("ours", True), arm("good", False), arm("poor", False)
    lines = experiment.table({ours: runs(1.1, 1.0), poor: runs(3.0, 4.0), good: runs(1.0, 0.9)}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["good", "**ours**", "poor"]
    assert "the best peer" in lines[2]
    assert "+0.100 ± 0.000 worse" in lines[3]
    assert "+2.550 ± 0.550" in lines[4]
    assert "| 25.0% | 50.0% |" in lines[3]
    assert lines[6] == (
        "Best of 1 of ours: ours, 1.050. Best of 2 of others: good, 0.950. Difference +0.100 ± 0.000: worse."
    )
