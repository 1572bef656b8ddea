"""What is told of plain curves, and above all what is not."""

from __future__ import annotations

import numpy as np
import pytest
from curves import faulty, healthy

from trimtab.diagnose import certificate, diagnose
from trimtab.record import RunLog
from trimtab.types import FindingCause, Severity

SEEDS = range(4)


@pytest.mark.parametrize("name", healthy(0))
def test_healthy_curves_are_silent(name):
    for seed in SEEDS:
        found = diagnose(RunLog.from_arrays(**healthy(seed)[name]))
        assert found == (), f"seed {seed}: {[str(f) for f in found]}"


@pytest.mark.parametrize("name", faulty(0))
def test_faults_are_told_with_their_cause(name):
    for seed in SEEDS:
        columns, causes = faulty(seed)[name]
        found = diagnose(RunLog.from_arrays(**columns))
        assert found, f"seed {seed}"
        assert found[0].cause.value in causes, f"seed {seed}: {[str(f) for f in found]}"


@pytest.mark.slow
def test_false_alarms_over_many_seeds():
    alarms = [
        (seed, name)
        for seed in range(100, 140)
        for name, columns in healthy(seed).items()
        if diagnose(RunLog.from_arrays(**columns))
    ]
    assert len(alarms) <= 0.01 * 40 * len(healthy(0)), alarms


def test_the_scale_of_the_loss_does_not_matter():
    for name, (columns, _) in faulty(1).items():
        if name in ("at chance", "constant", "gradients vanish") or np.nanmin(columns["loss"]) < 0:
            continue  # ln K is a scale, and so is the size of a gradient against its loss
        scaled = {
            k: [None if v is None else 1000 * v for v in x] if "loss" in k else x for k, x in columns.items()
        }
        plain, large = (diagnose(RunLog.from_arrays(**c)) for c in (columns, scaled))
        assert [f.cause for f in plain] == [f.cause for f in large], name


def test_a_finding_holds_numbers_and_advice():
    columns, _ = faulty(2)["explodes at once"]
    finding = diagnose(RunLog.from_arrays(**columns))[0]
    assert finding.severity is Severity.CRITICAL
    assert 0 < finding.confidence <= 1
    assert "0.1" in finding.advice
    assert all(isinstance(e.value, float | int) for e in finding.evidence)
    assert FindingCause.LOSS_EXPLOSION in finding.symptoms
    assert finding.steps[0] <= finding.steps[1]


def test_the_advice_names_the_rate_that_was_stable():
    rate = np.linspace(0.001, 1.0, 200)
    loss = np.where(rate < 0.5, 2.3 - 2 * rate, 1.3 * np.exp((rate - 0.5) * 12))
    finding = diagnose(RunLog.from_arrays(loss=loss, lr=rate))[0]
    assert finding.cause == "lr_too_high"
    assert "from 1 to about 0.2" in finding.advice


def test_one_nan_step_that_was_refused_is_no_finding():
    loss = 2.0 * 0.98 ** np.arange(200.0)
    loss[100] = np.nan
    applied = np.ones(200)
    applied[100] = 0
    assert diagnose(RunLog.from_arrays(loss=loss, applied=applied)) == ()
    assert diagnose(RunLog.from_arrays(loss=loss))[0].cause == "loss_nan"


@pytest.mark.parametrize(
    "columns", [dict(loss=[]), dict(step=[1, 2]), dict(loss=[1.0]), dict(loss=[0.0] * 100)]
)
def test_logs_with_next_to_nothing_are_fine(columns):
    assert diagnose(RunLog.from_arrays(**columns)) == ()
    assert certificate(RunLog.from_arrays(**columns)).num_steps == len(next(iter(columns.values())))


@pytest.mark.filterwarnings("error")
def test_extreme_numbers_give_findings_that_can_be_read():
    rng = np.random.default_rng(0)
    for values in (
        [1e308] * 100,
        [1e-308] * 100,
        [np.inf] * 50,
        [np.nan] * 50,
        [-1e308, 1e308] * 50,
        [5.0, np.inf] * 40,
    ):
        for gradients in (None, rng.random(len(values)), [np.inf] * len(values), [0.0] * len(values)):
            log = RunLog.from_arrays(
                loss=values, grad_norm=gradients, val_loss=values, lr=[1e-3] * len(values)
            )
            found = diagnose(log)
            assert all(0 < f.confidence <= 1 and str(f) and f.advice for f in found)
            if not np.isfinite(values).all():
                assert "loss_nan" in {c.value for f in found for c in (f.cause, *f.symptoms)}


def test_wrong_input_is_told():
    with pytest.raises(TypeError, match="expected a RunLog"):
        diagnose([1.0, 2.0])


def test_certificate_tells_what_was_not_visible():
    plain = certificate(RunLog.from_arrays(loss=2.0 * 0.98 ** np.arange(200.0) + 0.1))
    assert "loss_explosion" in plain.checked
    assert "dead_units" in plain.unseen
    assert "a validation loss" in plain.missing
    assert plain.smallest_drift == pytest.approx(1.5)
    assert "Not visible without" in plain.text
    more = certificate(RunLog.from_arrays(loss=[1.0] * 100, lr=[0.1] * 100, val_loss=[1.0] * 100))
    assert set(plain.checked) < set(more.checked)


def test_the_promised_drift_is_seen():
    rng = np.random.default_rng(3)
    loss = (0.3 + 2 * np.exp(-np.arange(400) / 30)) * np.exp(0.2 * rng.normal(size=400))
    proof = certificate(RunLog.from_arrays(loss=loss))
    assert proof.smallest_drift is not None
    seen = 0
    for _ in range(20):
        noisy = (0.3 + 2 * np.exp(-np.arange(400) / 30)) * np.exp(0.2 * rng.normal(size=400))
        noisy[-2 * proof.steps_to_notice :] *= proof.smallest_drift * 1.3
        seen += bool(diagnose(RunLog.from_arrays(loss=noisy)))
    assert seen >= 18


@pytest.mark.parametrize("comes_back", [True, False])
def test_another_level_is_no_spike(comes_back):
    rng = np.random.default_rng(0)
    loss = np.exp(-np.arange(400) / 60) + 0.2
    loss[200 : 230 if comes_back else 400] *= 4
    found = causes_of(loss * np.exp(0.03 * rng.standard_normal(400)), val=0.21 + np.exp(-np.arange(40) / 6))
    assert found == ({"loss_spike"} if comes_back else set())


def causes_of(loss, val):
    every_tenth = [None] * 400
    every_tenth[9::10] = val.tolist()
    found = diagnose(RunLog.from_arrays(loss=loss, lr=[0.1] * 400, val_loss=every_tenth))
    return {finding.cause.value for finding in found}


@pytest.mark.parametrize("rate", ["constant", "restarts", "unknown"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_loss_that_jumps_up_behind_each_validation(seed, rate):
    """A checkpoint that is loaded there does that; so does a schedule that starts anew."""
    rng, steps = np.random.default_rng(seed), np.arange(400)
    since = steps % 25
    loss = (0.8 + 0.4 * np.exp(-since / 10)) * np.exp(0.1 * rng.normal(size=400))
    lr = {"constant": np.full(400, 0.01), "restarts": 0.01 / (1 + since), "unknown": None}[rate]
    val = [1.0 + 0.01 * rng.normal() if s == 24 else None for s in since]
    found = [f.cause.value for f in diagnose(RunLog.from_arrays(loss=loss, lr=lr, val_loss=val))]
    assert ("step_changes_nothing" in found) == (rate == "constant")
