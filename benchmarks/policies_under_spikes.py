"""Final loss under gradient spikes and bad batches: every policy of ours and the published rules of others.

Two small models are trained, a language model and a vision transformer, with AdamW and one schedule. In
2.5 % of the steps the gradient of the whole model or of one module is multiplied by a heavy-tailed factor
(10 / u^2 with u uniform, at most 10,000), or replaced by a random direction of that size. Bursts of 2 to 5
batches have shuffled targets or noise for inputs. Part (i) has no more than that; in part (ii) some
batches hold NaN or Inf besides. Data, initial weights, schedule and troubles of a seed are the same for
every arm.

    python benchmarks/policies_under_spikes.py [--quick] [--seeds 0 1 2 3 4] [--only TEXT ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import fmean, median, stdev
from typing import Any, NamedTuple, Protocol

import _peer_rules as peers
import numpy as np
import torch
from _peer_rules import Did
from _verdicts import against_the_best, gap, overall, verdict
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import trimtab as tt
from trimtab.act import Snapshots
from trimtab.act.updates import UpdateClip
from trimtab.decide.elementwise import ValueClip
from trimtab.decide.grouping import Grouped
from trimtab.decide.tensors import TensorClip
from trimtab.decide.units import UnitClip
from trimtab.demo.corpus import Corpus
from trimtab.demo.language import LanguageSize, language_task
from trimtab.demo.train import Recipe, Task
from trimtab.demo.troubles import FailingWorker, RateStretch
from trimtab.demo.vision import VisionSize, vision_task

SEEDS = (0, 1, 2, 3, 4)
NUM_STEPS = 400

# Which published rule each of ours comes from, or what it is like where it comes from none
ORIGINS = {
    "no clip": "no clipping",
    "NormClip(1.0)": "clip_grad_norm_(1.0)",
    "ValueClip()": "clip_grad_value_(1.0)",
    "QuantileClip(10)": "AutoClip(10)",
    "ZScoreClip()": "ZClip",
    "UnitClip(exclude=('head',))": "AGC",
    "TensorClip()": "AdaGC",
    "Grouped(QuantileClip(5))": "bitsandbytes percentile (5)",
    "UpdateClip()": "StableAdamW",
    "NormClip(1.0) + spikes": "OLMo SkipStep, clip 1.0",
}

PEER = "peer: "

# What a model that knows nothing says: the loss of a run that ended in NaN
CHANCE = {"text": math.log(256), "digits": math.log(10)}


# --- Troubles ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """How often what goes wrong.

    Attributes:
        spike_share: Share of steps whose gradient spikes.
        burst_every: Bursts of bad batches: one in so many steps on average, 0 for none.
        nonfinite_share: Share of batches with NaN or Inf in them.
        tail: Exponent of the spike's tail, P(factor > x) = (x / 10)^-tail.
    """

    spike_share: float = 0.025
    burst_every: int = 100
    nonfinite_share: float = 0.0
    tail: float = 0.5


FINITE = Plan()
PARTS = {
    "(i) finite troubles": FINITE,
    "(ii) and NaN, Inf in batches": dataclasses.replace(FINITE, nonfinite_share=0.0125),
}


class Trouble(NamedTuple):
    """What happens in one step; "" for nothing.

    Attributes:
        batch: "targets" shuffled, "noise" for inputs, "nan" or "inf" in them.
        gradient: "model" or "module" is multiplied, "direction" replaces it.
        factor: By how much.
        seed: Where the randomness comes from.
    """

    batch: str
    gradient: str
    factor: float
    seed: int


def troubles(plan: Plan, num_steps: int, seed: int) -> list[Trouble]:
    """What happens in each step. The finite troubles are the same with and without the others."""
    rng = np.random.default_rng([seed, 7])
    batches = [""] * num_steps
    num_bursts = num_steps // plan.burst_every if plan.burst_every else 0
    for start, length, kind in zip(
        rng.integers(num_steps // 10, num_steps, num_bursts),
        rng.integers(2, 6, num_bursts),
        rng.permutation(["targets", "noise"] * num_bursts),
        strict=False,
    ):
        batches[start : start + length] = [str(kind)] * len(batches[start : start + length])
    planned = []
    for step in range(num_steps):
        chance, u, kind_, other = rng.random(), 1 - rng.random(), rng.choice(3), rng.random()
        if other < plan.nonfinite_share:
            batches[step] = "nan" if other < plan.nonfinite_share / 2 else "inf"
        gradient = ("model", "module", "direction")[kind_] if chance < plan.spike_share else ""
        factor = min(10 * u ** (-1 / plan.tail), 1e4)
        planned.append(Trouble(batches[step], gradient, factor, int(rng.integers(2**31))))
    return planned


def spoiled(batch: tuple[Tensor, ...], trouble: Trouble) -> tuple[Tensor, ...]:
    """A batch as it arrives: the inputs come first, the targets second."""
    inputs, targets, *rest = batch
    generator = torch.Generator().manual_seed(trouble.seed)
    match trouble.batch:
        case "targets":
            order = torch.randperm(targets.numel(), generator=generator)
            targets = targets.flatten()[order].view_as(targets)
        case "noise":
            inputs = 10 * torch.randn(inputs.shape, generator=generator)
        case "nan" | "inf":
            inputs = inputs.clone()
            where = torch.randint(inputs.numel(), (4,), generator=generator)
            inputs.view(-1)[where] = float(trouble.batch)
    return inputs, targets, *rest


@torch.no_grad()
def spike_(model: nn.Module, trouble: Trouble) -> None:
    """Spoil the gradients of a step as planned."""
    generator = torch.Generator().manual_seed(trouble.seed)
    match trouble.gradient:
        case "model":
            _multiply_(model.parameters(), trouble.factor)
        case "module":
            leaves = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
            chosen = leaves[int(torch.randint(len(leaves), (), generator=generator))]
            _multiply_(chosen.parameters(recurse=False), trouble.factor)
        case "direction":
            own = peers.gradients(model.parameters())
            norm = float(nn.utils.get_total_norm(own))
            for gradient in own:
                gradient.copy_(torch.randn(gradient.shape, generator=generator))
            _multiply_(model.parameters(), trouble.factor * norm / float(nn.utils.get_total_norm(own)))


def _multiply_(parameters: Iterable[nn.Parameter], factor: float) -> None:
    for gradient in peers.gradients(parameters):
        gradient.mul_(factor)


# --- Arms -------------------------------------------------------------------------------------------


class Trainer(Protocol):
    """What takes the steps of a run."""

    optimizer: Optimizer

    def step(self, loss: Tensor) -> Did:
        """One step after backward."""
        ...


class Guarded:
    """Ours: a guard with these policies."""

    def __init__(self, model: nn.Module, *, max_rms: float | None = None, **policies: Any) -> None:
        self.optimizer: Optimizer = AdamW(model.parameters(), fused=True)
        self.updates = None if max_rms is None else UpdateClip(self.optimizer, max_rms=max_rms)
        self.guard = tt.Guard(model, self.optimizer, **policies)

    def step(self, loss: Tensor) -> Did:
        """Guard the step."""
        outcome = self.guard.step(loss)
        if not outcome.applied:
            return Did(skipped=True)
        if self.updates is not None and self.updates.last_scale is not None:
            return Did(float(self.updates.last_scale < 1))
        return Did(outcome.clip_share)


class Skipping:
    """A peer behind a plain "skip when anything is non-finite"."""

    def __init__(self, model: nn.Module, peer: Trainer) -> None:
        self.model, self.peer, self.optimizer = model, peer, peer.optimizer

    def step(self, loss: Tensor) -> Did:
        """Step unless the loss or a gradient is bad."""
        if not math.isfinite(float(loss)) or not math.isfinite(peers.global_norm(self.model.parameters())):
            return Did(skipped=True)
        return self.peer.step(loss)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: What the table calls it.
        make: Makes what takes the steps.
        is_ours: Whose it is.
    """

    name: str
    make: Callable[[nn.Module], Trainer]
    is_ours: bool = True


def spikes() -> list[Any]:
    """The detectors of spikes."""
    return [tt.LossSpike(), tt.NormSpike()]


def our_arms() -> list[Arm]:
    """Every policy of ours at its defaults, and two with the settings of others."""
    clips: dict[str, tt.decide.Clip[Any] | None] = {
        "no clip": None,
        "NormClip(1.0)": tt.NormClip(1.0),
        "ValueClip()": ValueClip(),
        "QuantileClip()": tt.QuantileClip(),
        "MeanClip()": tt.MeanClip(),
        "EmaClip()": tt.EmaClip(),
        "ZScoreClip()": tt.ZScoreClip(),
        "ZScoreClip(mode='mean')": tt.ZScoreClip(mode="mean"),
        "ZScoreClip(mode='percentile')": tt.ZScoreClip(mode="percentile"),
        "UnitClip(exclude=('head',))": UnitClip(exclude=("head",)),
        "TensorClip()": TensorClip(),
        "Grouped(QuantileClip())": Grouped(tt.QuantileClip(), by="tensor"),
        # not our defaults but those of the published rules, to compare rule with rule
        "QuantileClip(10)": tt.QuantileClip(10.0),
        "Grouped(QuantileClip(5))": Grouped(tt.QuantileClip(5.0), by="tensor"),
    }
    arms = [Arm(name, partial(Guarded, clip=clip)) for name, clip in clips.items()]
    arms += [
        Arm(f"{name} + spikes", lambda model, clip=clip: Guarded(model, clip=clip, detect=spikes()))
        for name, clip in clips.items()
    ]
    norm = tt.NormClip(1.0)
    mending = {"ZeroBad()": tt.ZeroBad(), "ReplaceBad()": tt.ReplaceBad(), "RescaleBad()": tt.RescaleBad()}
    arms += [
        Arm(f"NormClip(1.0), {name}", partial(Guarded, clip=norm, remedy=remedy, detect=(tt.Overflow(1e6),)))
        for name, remedy in mending.items()
    ]
    arms += [
        Arm("UpdateClip()", partial(Guarded, max_rms=1.0)),
        Arm("NormClip(1.0), UpdateClip()", partial(Guarded, clip=norm, max_rms=1.0)),
        Arm("NormClip(1.0), Rewind() + spikes", rewinding),
    ]
    return arms


def rewinding(model: nn.Module) -> Guarded:
    """Back to the last snapshot at each spike."""
    return Guarded(
        model, clip=tt.NormClip(1.0), detect=spikes(), remedy=tt.Rewind(), snapshots=Snapshots(every=20)
    )


def peer_arms() -> list[Arm]:
    """The published rules at their defaults."""
    rules: dict[str, Callable[[nn.Module], peers.Clipping]] = {
        "no clipping": lambda _: peers.NoClipping(),
        "clip_grad_norm_(1.0)": lambda _: peers.GlobalNorm(),
        "clip_grad_value_(1.0)": lambda _: peers.Value(),
        "AutoClip(10)": lambda _: peers.AutoClip(),
        "ZClip": lambda _: peers.ZClip(),
        "AGC": lambda model: peers.AdaptiveGradientClipping(model.get_submodule("head").parameters()),
        "AdaGC": lambda _: peers.AdaGC(),
        "bitsandbytes percentile (5)": lambda _: peers.PercentileClipping(),
        "StableSPAM": lambda _: peers.StableSpam(),
    }
    makers: dict[str, Callable[[nn.Module], Trainer]] = {
        name: lambda model, rule=rule: peers.Clipped(list(model.parameters()), rule(model))
        for name, rule in rules.items()
    }
    makers |= {
        "SPAM": lambda model: peers.Spam(list(model.parameters())),
        "StableAdamW": lambda model: peers.StableAdamW(list(model.parameters())),
        "OLMo SkipStep": lambda model: peers.SkipStep(list(model.parameters())),
        "OLMo SkipStep, clip 1.0": lambda model: peers.SkipStep(list(model.parameters()), max_norm=1.0),
        "metaseq loss-ratio rate": lambda model: peers.LossRatioRate(list(model.parameters())),
    }
    return [Arm(name, make, is_ours=False) for name, make in makers.items()]


def with_skip(arm: Arm) -> Arm:
    """A peer that is spared the non-finite steps."""
    return Arm(f"{arm.name} + skip", lambda model: Skipping(model, arm.make(model)), is_ours=False)


# --- Runs -------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """How one run ended.

    Attributes:
        loss: Loss on held-out data.
        clipped: Mean share of what was clipped in the steps that were applied.
        skipped: Share of the steps that were not.
        ending: "" at the last step, "stopped" by an error of the guard, "lost" in NaN.
    """

    loss: float
    clipped: float
    skipped: float
    ending: str = ""


def tasks(num_steps: int) -> dict[str, Task]:
    """The two demos in a small size, without their own troubles."""
    text = language_task(LanguageSize(width=32, num_blocks=1, context=24, batch_rows=8, num_steps=num_steps))
    size = VisionSize(width=32, num_blocks=1, batch_rows=32, num_steps=num_steps, shift_share=0.0)
    # the rate at which a healthy run does best, clipped or not: of 0.003, 0.01, 0.02
    recipe = Recipe(num_steps, num_steps // 10, peak_rate=0.01, stretch=RateStretch(num_steps, 0, 1.0))
    return {
        "text": dataclasses.replace(
            text,
            corpus=Corpus(tuple(d for d in text.corpus.train if len(d) > 1), text.corpus.held_out),
            worker=FailingWorker(num_steps, 0),
            recipe=recipe,
        ),
        "digits": dataclasses.replace(vision_task(size), worker=FailingWorker(num_steps, 0), recipe=recipe),
    }


class Course(NamedTuple):
    """All that is the same for every arm: the task, the seed, each step's batch and trouble."""

    task: Task
    seed: int
    batches: list[tuple[Tensor, ...]]
    planned: list[Trouble]


def course(task: Task, plan: Plan, seed: int) -> Course:
    """Draw the batches of a seed and plan its troubles."""
    planned = troubles(plan, task.recipe.num_steps, seed)
    generator = torch.Generator().manual_seed(seed)
    batches = [spoiled(task.draw_batch(step, generator), trouble) for step, trouble in enumerate(planned)]
    return Course(task, seed, batches, planned)


def run(arm: Arm, course: Course) -> Run:
    """Train one model."""
    task = course.task
    torch.manual_seed(course.seed)
    model = task.build_model()
    trainer = arm.make(model)
    done: list[Did] = []
    ending = ""
    for step, (batch, trouble) in enumerate(zip(course.batches, course.planned, strict=True)):
        for group in trainer.optimizer.param_groups:
            group["lr"] = task.recipe.rate(step)
        trainer.optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        spike_(model, trouble)
        try:
            done.append(trainer.step(loss.detach()))
        except tt.NonFiniteError:
            ending = "stopped"
            break
        if not loss.isfinite() and not all(bool(p.isfinite().all()) for p in model.parameters()):
            break
    clipped = [did.clipped for did in done if not did.skipped]
    score = task.score(model).loss
    if not math.isfinite(score):
        score, ending = CHANCE[task.name], "lost"
    skipped = sum(did.skipped for did in done) / max(len(done), 1)
    return Run(score, fmean(clipped) if clipped else 0.0, skipped, ending)


def table(runs: dict[Arm, list[Run]]) -> str:
    """The arms, the best first, each compared with the best peer by the same seeds; then ours with theirs."""
    losses = {arm: [r.loss for r in own] for arm, own in runs.items()}
    best = min((arm for arm in runs if not arm.is_ours), key=lambda arm: fmean(losses[arm]))
    lines = [
        "| arm | mean | sd | median | worst | lost, stopped | skipped | clipped | against the best peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in sorted(runs, key=lambda arm: fmean(losses[arm])):
        own, values = runs[arm], losses[arm]
        mean, error = gap(values, losses[best])
        said = "the best peer"
        if arm is not best:
            said = f"{mean:+.3f} ± {error:.3f} {verdict(values, losses[best])}"
        ends = [sum(r.ending == ending for r in own) for ending in ("lost", "stopped")]
        name = f"**{arm.name}**" if arm.is_ours else arm.name
        lines.append(
            f"| {name} | {fmean(values):.3f} | {stdev(values):.3f} | {median(values):.3f} "
            f"| {max(values):.3f} | {ends[0]}, {ends[1]} | {fmean(r.skipped for r in own):.1%} "
            f"| {fmean(r.clipped for r in own):.1%} | {said} |"
        )
    return "\n".join([*lines, "", *conclusions(*by_owner(runs))])


def by_owner(runs: dict[Arm, list[Run]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Losses by the name of the arm, ours and theirs."""
    ours, theirs = (
        {arm.name: [r.loss for r in own] for arm, own in runs.items() if arm.is_ours is is_ours}
        for is_ours in (True, False)
    )
    return ours, theirs


def conclusions(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> list[str]:
    """The best of ours and of theirs, and each of ours next to the rule it comes from."""
    lines = [against_the_best(ours, theirs), ""] if ours and theirs else []
    for name, origin in ORIGINS.items():
        peer = next((p for p in (f"{origin} + skip", origin) if p in theirs), None)
        if name in ours and peer is not None:
            mean, error = gap(ours[name], theirs[peer])
            said = verdict(ours[name], theirs[peer])
            lines.append(f"- {name} against {peer}: {mean:+.3f} ± {error:.3f}, {said}")
    return lines


def in_all(parts: Sequence[dict[Arm, list[Run]]]) -> str:
    """One arm for all tables: how far it is above the best of each, on average."""
    tables = []
    for runs in parts:
        ours, theirs = by_owner(runs)
        if any(name.endswith(" + skip") for name in theirs):
            theirs = {n.removesuffix(" + skip"): v for n, v in theirs.items() if n.endswith(" + skip")}
        tables.append(ours | {f"{PEER}{name}": losses for name, losses in theirs.items()})
    scores = overall(tables)
    ours = {name: own for name, own in scores.items() if not name.startswith(PEER)}
    theirs = {name.removeprefix(PEER): own for name, own in scores.items() if name.startswith(PEER)}
    lines = ["| arm | loss over the best of each table, mean over tables |", "|---|---|"]
    for name in sorted(scores, key=lambda name: fmean(scores[name]))[:12]:
        bold = name.removeprefix(PEER) if name.startswith(PEER) else f"**{name}**"
        lines.append(f"| {bold} | {fmean(scores[name]):.3f} ± {stdev(scores[name]):.3f} |")
    return "\n".join([*lines, "", against_the_best(ours, theirs)])


def arms_of(plan: Plan, only: Sequence[str]) -> list[Arm]:
    """Ours and the peers; under non-finite batches each peer with a plain skip as well."""
    theirs = peer_arms()
    if plan.nonfinite_share:
        theirs += [with_skip(arm) for arm in theirs]
    return [arm for arm in our_arms() + theirs if not only or any(text in arm.name for text in only)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, 150 steps, few arms")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=[], help="arms whose name holds one of these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("trimtab").setLevel(logging.ERROR)
    quick = ["NormClip(1.0)", "clip_grad_norm_", "no clipping"]
    seeds, num_steps, only = options.seeds, NUM_STEPS, options.only
    if options.quick:
        seeds, num_steps, only = seeds[:2], 150, only or quick
    start_sec = time.perf_counter()
    shown = []
    for part, plan in PARTS.items():
        for name, task in tasks(num_steps).items():
            courses = [course(task, plan, seed) for seed in seeds]
            runs = {arm: [run(arm, c) for c in courses] for arm in arms_of(plan, only)}
            shown.append(runs)
            print(f"\n### {part}: {name}, held-out loss of {len(seeds)} seeds\n\n{table(runs)}", flush=True)
    print(f"\n### One arm for all: the peers with a plain skip in part (ii)\n\n{in_all(shown)}")
    print(f"\n{time.perf_counter() - start_sec:.0f} s")


if __name__ == "__main__":
    main()
