"""Clipping inside `backward()` by a forecast norm, against exact clipping: the error and the loss.

Two small transformers are trained, AdamW and SGD, several seeds. In 3 % of the steps the loss, in 2 % the
gradient of one random parameter, is multiplied by a heavy-tailed factor (3 / U and 9 / U with U uniform in
(0, 1): infinite mean). The error of a step is the distance of what was applied from the exactly clipped
gradients over the norm of these. How far two runs drift apart for no good reason is what "random bound"
shows: exact clipping whose bound wobbles by 10 % from step to step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimtab.act import forecast as forecast_module
from trimtab.act.forecast import NormForecast
from trimtab.act.in_backward import BackwardOptimizer
from trimtab.demo.corpus import Corpus
from trimtab.demo.language import LanguageSize, language_task
from trimtab.demo.train import Task
from trimtab.demo.troubles import FailingWorker, RateStretch
from trimtab.demo.vision import VisionSize, vision_task

NUM_STEPS = 400
SEEDS = range(6)
MAX_NORM = 0.5
NUM_KEPT = 9
EPS = 1e-6
FIRST_STEPS = 5  # the forecast has not seen the network yet

WAYS = ("exact", "random bound", "forecast", "none")

CALM, NETWORK, TENSOR = "calm", "network spikes", "one tensor spikes"
Array = NDArray[np.float64]


class Trouble(NamedTuple):
    """What is planted in a step: its kind, the factor, and which parameter."""

    kind: str
    amount: float
    where: int


class Rows(NamedTuple):
    """Tensor norms of one run in the order of arrival, shape (num_steps, num_tensors), and the kinds."""

    norms: Array
    kinds: NDArray[np.str_]


def without_demo_troubles(task: Task) -> Task:
    """The task alone: neither failing worker nor wrong learning rate."""
    recipe = dataclasses.replace(task.recipe, stretch=RateStretch(NUM_STEPS, 0, 1.0))
    return dataclasses.replace(task, worker=FailingWorker(NUM_STEPS, 0), recipe=recipe)


def tasks() -> dict[str, Task]:
    """The two demos in a small size."""
    size = LanguageSize(width=64, num_blocks=3, context=48, batch_rows=8, num_steps=NUM_STEPS)
    text = without_demo_troubles(language_task(size))
    corpus = Corpus(tuple(d for d in text.corpus.train if len(d) > 1), text.corpus.held_out)
    digits = vision_task(VisionSize(width=32, num_blocks=3, num_steps=NUM_STEPS, shift_share=0.0))
    return {"text": dataclasses.replace(text, corpus=corpus), "digits": without_demo_troubles(digits)}


OPTIMIZERS: dict[str, tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], float]] = {
    "AdamW": (lambda params: torch.optim.AdamW(params, fused=True), 1.0),
    "SGD": (lambda params: torch.optim.SGD(params, momentum=0.9, fused=True), 20.0),
}


def troubles(num_parameters: int, seed: int) -> list[Trouble]:
    """What is planted where in a run."""
    rng = np.random.default_rng(seed)
    planned = []
    for _ in range(NUM_STEPS):
        chance, amount, where = rng.random(), 3 / (1 - rng.random()), int(rng.integers(num_parameters))
        kind = NETWORK if chance < 0.03 else TENSOR if chance < 0.05 else CALM
        planned.append(Trouble(kind, amount * (3 if kind == TENSOR else 1), where))
    return planned


@contextmanager
def planted(trouble: Trouble, parameters: list[nn.Parameter]) -> Iterator[float]:
    """Multiply one gradient on its way to the parameter; yields the factor for the loss."""
    if trouble.kind != TENSOR:
        yield trouble.amount if trouble.kind == NETWORK else 1.0
        return
    handle = parameters[trouble.where].register_hook(lambda gradient: gradient * trouble.amount)
    yield 1.0
    handle.remove()


def run(
    task: Task,
    seed: int,
    name: str,
    way: str,
    observe: Callable[[Trouble, list[nn.Parameter], BackwardOptimizer | None], None] = lambda *_: None,
) -> float:
    """Train one model in one of three ways; its loss on held-out data."""
    torch.manual_seed(seed)
    model = task.build_model()
    make, rate = OPTIMIZERS[name]
    parameters = list(model.parameters())
    ours = BackwardOptimizer(model, make, max_norm=MAX_NORM) if way == "forecast" else None
    optimizer = ours or make(parameters)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for step, trouble in enumerate(troubles(len(parameters), seed)):
        for group in optimizer.param_groups:
            group["lr"] = rate * task.recipe.rate(step)
        loss = task.loss(model, task.draw_batch(step, generator))
        with planted(trouble, parameters) as factor:
            (loss * factor).backward()
        observe(trouble, parameters, ours)
        if way in ("exact", "random bound"):
            wobble = 0.1 * rng.standard_normal() if way == "random bound" else 0.0
            nn.utils.clip_grad_norm_(parameters, MAX_NORM * np.exp(wobble))
        optimizer.step()
        optimizer.zero_grad()
    return task.score(model).loss


def arrival_order(task: Task) -> list[int]:
    """In which order gradients become ready."""
    model = task.build_model()
    order: list[int] = []
    for index, parameter in enumerate(model.parameters()):
        parameter.register_post_accumulate_grad_hook(lambda _, index=index: order.append(index))
    task.loss(model, task.draw_batch(0, torch.Generator().manual_seed(0))).backward()
    return order


def recorded(task: Task, seed: int, name: str) -> Rows:
    """The tensor norms of a run with exact clipping, in the order in which they arrive."""
    order = arrival_order(task)
    rows: list[list[float]] = []
    kinds: list[str] = []

    def observe(trouble: Trouble, parameters: list[nn.Parameter], _: object) -> None:
        gradients = [parameters[i].grad for i in order]
        rows.append(
            [torch.linalg.vector_norm(g, dtype=torch.float64).item() for g in gradients if g is not None]
        )
        kinds.append(trouble.kind)

    run(task, seed, name, "exact", observe)
    return Rows(np.array(rows), np.array(kinds))


# Rules: the forecast at each arrival of one step, from the norms of the last passes (num_passes, num_tensors)
# and of this one


def last_norm(past: Array, _: Array) -> Array:
    """The global norm of the last step, as asynchronous clipping takes it."""
    return np.full(past.shape[1], np.linalg.norm(past[-1]))


def usual_norm(past: Array, _: Array) -> Array:
    """The median global norm of the last steps: robust, and blind to what this step shows."""
    return np.full(past.shape[1], np.median(np.linalg.norm(past, axis=1)))


def extrapolated(past: Array, now: Array) -> Array:
    """What has arrived, over its usual share."""
    seen_before = np.cumsum(past**2, axis=1)
    return np.sqrt(np.cumsum(now**2) / np.median(seen_before / seen_before[:, -1:], axis=0))


def larger(past: Array, now: Array) -> Array:
    """The larger of the usual norm and the extrapolated one."""
    return np.maximum(usual_norm(past, now), extrapolated(past, now))


def log_mean(past: Array, now: Array) -> Array:
    """Their geometric mean, weighted by the usual share of what has arrived."""
    seen_before = np.cumsum(past**2, axis=1)
    share = np.median(seen_before / seen_before[:, -1:], axis=0)
    return usual_norm(past, now) ** (1 - share) * extrapolated(past, now) ** share


RULES = {
    "norm of the last step": last_norm,
    "median norm of 9 steps": usual_norm,
    "log mean of median and extrapolation": log_mean,
    "larger of median and extrapolation": larger,
    "extrapolation by usual share": extrapolated,
}


# The constants of ours, and others
VARIANTS: dict[str, dict[str, float]] = {
    "claims (NormForecast)": {},
    "claims, last 3 passes": {"_NUM_KEPT": 3},
    "claims, last 5 passes": {"_NUM_KEPT": 5},
    "claims, last 15 passes": {"_NUM_KEPT": 15},
    "claims, weight of the prior 0.0001": {"_PRIOR_WEIGHT": 1e-4},
    "claims, weight of the prior 0.003": {"_PRIOR_WEIGHT": 3e-3},
    "claims, weight of the prior 0.01": {"_PRIOR_WEIGHT": 1e-2},
    "claims, weight of the prior 0.1": {"_PRIOR_WEIGHT": 1e-1},
    "claims, 4 squared bounds": {"_BUDGET": 4.0},
}


def factors_by(rule: Callable[[Array, Array], Array], norms: Array) -> Array:
    """Factors of all steps under a rule, with the same hard limit on what a pass may apply as ours."""
    factors = np.ones_like(norms)
    for step in range(1, len(norms)):
        now = norms[step]
        floor = np.sqrt(np.cumsum(now**2))
        forecast = np.maximum(rule(norms[max(0, step - NUM_KEPT) : step], now), floor)
        left = 2.0 * MAX_NORM**2
        for i, norm in enumerate(now):
            factors[step, i] = min(1.0, MAX_NORM / (forecast[i] + EPS), np.sqrt(left / 2) / norm)
            left -= (factors[step, i] * norm) ** 2
    return factors


def factors_of_ours(norms: Array, constants: dict[str, float]) -> Array:
    """Factors of all steps under `NormForecast`."""
    factors = []
    with mock.patch.dict(vars(forecast_module), constants):
        forecast = NormForecast(norms.shape[1], max_norm=MAX_NORM, device=torch.device("cpu"))
        for now in torch.from_numpy(norms):
            factors.append([forecast.arrive(index, norm).item() for index, norm in enumerate(now)])
            forecast.end_pass()
    return np.array(factors)


def judged(norms: Array, factors: Array) -> tuple[Array, Array, Array]:
    """For each step: error, applied norm over the bound, largest factor over or under the true one."""
    totals = np.linalg.norm(norms, axis=1)
    true = np.minimum(1.0, MAX_NORM / (totals + EPS))[:, None]
    error = np.linalg.norm((factors - true) * norms, axis=1) / (true[:, 0] * totals)
    excess = np.linalg.norm(factors * norms, axis=1) / MAX_NORM
    return error, excess, np.exp(np.abs(np.log(factors / true)).max(axis=1))


def quantiles(values: Array, digits: int = 2) -> str:
    """Median, 95th percentile and worst."""
    return " ".join(f"{v:>8.{digits}f}" for v in np.quantile(values, [0.5, 0.95, 1.0]))


def compare_rules(runs: list[Rows]) -> None:
    """Print how each rule would have clipped the recorded runs."""
    print(
        f"{'median, 95 %, worst of a step':<38} {'error':^27} {'applied / bound':^27} {'factor off by':^27}"
    )
    by_rule = {name: [factors_by(rule, r.norms) for r in runs] for name, rule in RULES.items()}
    for name, constants in VARIANTS.items():
        by_rule[name] = [factors_of_ours(r.norms, constants) for r in runs]
    for kind in (CALM, NETWORK, TENSOR):
        num = sum(int((r.kinds[FIRST_STEPS:] == kind).sum()) for r in runs)
        print(f"{kind}, {num} steps")
        for name, factors in by_rule.items():
            parts = [judged(r.norms, f) for r, f in zip(runs, factors, strict=True)]
            chosen = [r.kinds[FIRST_STEPS:] == kind for r in runs]
            columns = [
                np.concatenate([part[c][FIRST_STEPS:][k] for part, k in zip(parts, chosen, strict=True)])
                for c in range(3)
            ]
            print(f"  {name:<36} " + " ".join(quantiles(column) for column in columns), flush=True)


def compare_runs(all_tasks: dict[str, Task]) -> None:
    """Print what training with the forecast comes to, next to exact clipping and none."""
    print(f"\n{'held-out loss, mean of seeds':<28}" + "".join(f"{way:>18}" for way in WAYS))
    errors: list[float] = []
    excesses: list[float] = []

    def observe(_: Trouble, __: object, ours: BackwardOptimizer | None) -> None:
        if ours is not None:
            errors.append(ours.last_forecast_error.item())
            excesses.append(ours.last_applied_norm.item() / MAX_NORM)

    for task_name, task in all_tasks.items():
        for name in OPTIMIZERS:
            losses = np.array([[run(task, seed, name, way, observe) for way in WAYS] for seed in SEEDS])
            means = "".join(f"{mean:>18.3f}" for mean in losses.mean(0))
            print(f"  {task_name + ', ' + name:<26}{means}", flush=True)
            for column in (1, 2):
                gaps = " ".join(f"{gap:+.3f}" for gap in losses[:, column] - losses[:, 0])
                print(f"    {WAYS[column]} - exact, by seed: {gaps}", flush=True)
    print(f"{len(errors)} steps in training, median, 95 %, worst")
    print(f"  error {quantiles(np.array(errors))}   applied / bound {quantiles(np.array(excesses), 3)}")


def peak_gradient_bytes(task: Task, *, in_backward: bool) -> int:
    """Most bytes of gradients that are alive at once in a backward pass."""
    model = task.build_model()
    parameters = list(model.parameters())
    peak = 0

    def look(_: Tensor) -> None:
        nonlocal peak
        alive = [p.grad for p in parameters if p.grad is not None]
        peak = max(peak, sum(g.numel() * g.element_size() for g in alive))

    for parameter in parameters:  # before ours, so that it sees each gradient before it is freed
        parameter.register_post_accumulate_grad_hook(look)
    ours = BackwardOptimizer(model, OPTIMIZERS["SGD"][0]) if in_backward else None
    task.loss(model, task.draw_batch(0, torch.Generator().manual_seed(0))).backward()
    del ours
    return peak


def compare_memory(all_tasks: dict[str, Task]) -> None:
    """Print the peak memory of gradients."""
    print("\npeak memory of gradients, KiB: all at the end of backward / stepped in backward")
    for name, task in all_tasks.items():
        peaks = [peak_gradient_bytes(task, in_backward=in_backward) / 1024 for in_backward in (False, True)]
        print(f"  {name:<26} {peaks[0]:.0f} / {peaks[1]:.0f}")


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    all_tasks = tasks()
    runs = [
        recorded(task, seed, name) for task in all_tasks.values() for name in OPTIMIZERS for seed in SEEDS
    ]
    compare_rules(runs)
    compare_runs(all_tasks)
    compare_memory(all_tasks)


if __name__ == "__main__":
    main()
