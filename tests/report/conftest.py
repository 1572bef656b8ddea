"""A fabricated run: decaying loss, a NaN burst, scattered Inf steps, a strongly clipped stretch."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab.record import RunHeader, RunLog, RunWriter, read
from trimtab.types import Action, Culprit, Fault, Kind, Place, StepOutcome, StepStats

NAN, INF = float("nan"), float("inf")
NAMES = ("embed.weight", *(f"blocks.{i}.weight" for i in range(24)), "head.weight<script>alert(1)</script>")
NAN_STEPS, INF_STEPS, BURST = range(212, 215), (23, 57, 91, 160, 199, 250, 270), range(120, 140)


def faults_of(step: int) -> tuple[Fault, ...]:
    if step in NAN_STEPS:
        culprits = tuple(Culprit(n, Place.GRADIENT, (256, 32), 512, 0, 0, (0, 0), 3.0) for n in NAMES)
        loss = Culprit("loss", Place.LOSS, (), 1, 0, 0, (), NAN)
        return Fault(Kind.NAN, Place.LOSS, (loss,)), Fault(Kind.NAN, Place.GRADIENT, culprits)
    if step in INF_STEPS:
        culprit = Culprit("head.weight<script>alert(1)</script>", Place.GRADIENT, (8,), 0, 1, 0, (2,), 3.0)
        return (Fault(Kind.INF, Place.GRADIENT, (culprit,)),)
    return ()


@pytest.fixture(scope="session")
def eventful(tmp_path_factory) -> RunLog:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("run")
    header = RunHeader.create(
        policies={"clip": "NormClip(max_norm=1.0)", "remedy": "Skip(budget=10)"},
        layer_names=NAMES,
        layer_shapes=((256, 32),) * len(NAMES),
        notes={"<b>note</b>": "x & y"},
    )
    with RunWriter(folder) as writer:
        writer.open(header)
        for step in range(300):
            faults = faults_of(step)
            is_nan, is_inf = step in NAN_STEPS, step in INF_STEPS
            norm = float((1.4 + 6 * np.exp(-step / 15)) * np.exp(rng.normal(0, 0.2)))
            norm = NAN if is_nan else INF if is_inf else norm * 40 if step in BURST else norm
            layers = None
            if step % 10 == 0 or faults:
                layers = rng.lognormal(size=len(NAMES)) * (40.0 if step in BURST else 1.0)
                layers[3] = -1 if step < 30 else 0 if step > 250 else layers[3]
                layers[7] = 500.0 if step == 130 else layers[7]
                layers[-1] = INF if is_inf else layers[-1]
                layers[:] = NAN if is_nan else layers
            stats = StepStats(
                loss=NAN if is_nan else float(2 * np.exp(-step / 90) + 0.3),
                grad_norm=norm,
                clip_factor=NAN if is_nan else min(1.0, 1.0 / norm),
                tensor_norms=layers,
            )
            outcome = StepOutcome(
                step=step,
                stats=stats,
                applied=not faults,
                action=Action.SKIP if faults else Action.APPLY,
                faults=faults,
                reason="within the budget" if faults else "",
            )
            writer.append(outcome, lr=1e-2 if step in BURST else 1e-3)
        writer.log(299, val_loss=0.5)
    return read(folder)


def edge_logs() -> dict[str, RunLog]:
    layers = {"layer_names": ("a", "b$x$"), "layer_steps": [0, 1, 2]}
    return {
        "empty": RunLog.from_arrays(loss=[], grad_norm=[], clip_factor=[]),
        "nothing given": RunLog.from_arrays(step=[0, 1, 2]),
        "all nan": RunLog.from_arrays(
            loss=[NAN] * 3,
            grad_norm=[NAN] * 3,
            clip_factor=[NAN] * 3,
            layer_norms=np.full((3, 2), NAN),
            **layers,
        ),
        "all inf": RunLog.from_arrays(
            loss=[INF] * 3,
            grad_norm=[INF] * 3,
            clip_factor=[0.0] * 3,
            layer_norms=np.full((3, 2), INF),
            **layers,
        ),
        "one step": RunLog.from_arrays(
            loss=[1.0],
            grad_norm=[2.0],
            clip_factor=[0.5],
            layer_norms=np.array([[1.0]]),
            layer_names=("a",),
        ),
        "one nan step": RunLog.from_arrays(loss=[NAN], grad_norm=[NAN], clip_factor=[NAN]),
        "zeros": RunLog.from_arrays(
            loss=[0.0] * 3,
            grad_norm=[0.0] * 3,
            clip_factor=[1.0] * 3,
            layer_norms=np.zeros((3, 2)),
            **layers,
        ),
        "no gradient": RunLog.from_arrays(loss=[1.0] * 3, layer_norms=np.full((3, 2), -1.0), **layers),
        "extremes": RunLog.from_arrays(
            loss=[1.7e308, 5e-324, -1.7e308, NAN],
            grad_norm=[1.7e308, 5e-324, 0.0, INF],
            clip_factor=[5e-324, 1.0, 1.0, 0.0],
            step=[0, 10**12, 10**15, 2**62],
        ),
        "alternating": RunLog.from_arrays(
            loss=[1.0, NAN] * 40, grad_norm=[0.0, INF] * 40, clip_factor=[1.0, 0.0] * 40
        ),
        "negative loss": RunLog.from_arrays(loss=[-1.0, -50.0, 3.0]),
    }


@pytest.fixture(params=edge_logs(), ids=lambda name: name.replace(" ", "-"))
def edge_log(request) -> RunLog:
    return edge_logs()[request.param]
