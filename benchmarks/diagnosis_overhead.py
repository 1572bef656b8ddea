"""Claim: watching a run with Diagnose() costs at most 5 % of a CPU step of a model with 10M parameters.

A step that is looked at is timed against a plain one, in turn, and spread over the steps in between. The
early looks (six in the first 20 steps) and the verdicts of the rules are counted for a run of 1,000 steps.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from trimtab.diagnose.live import _EARLY_STEPS

NUM_STEPS, ROUNDS = 1000, 12


def model() -> nn.Module:
    """A transformer of 10M parameters."""
    layer = nn.TransformerEncoderLayer(384, 6, 1536, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Embedding(2000, 384),
        nn.TransformerEncoder(layer, 5, enable_nested_tensor=False),
        nn.Linear(384, 2000),
    )


def main() -> None:  # noqa: PLR0915 - one script, read from top to bottom
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = model()
    num = sum(p.numel() for p in net.parameters())
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    policy = tt.Diagnose()
    tokens = torch.randint(2000, (8, 65))
    with tt.Guard(net, optimizer, clip=tt.NormClip(1.0), diagnose=policy) as guard:
        watch = guard._watch
        times: dict[bool, list[float]] = {False: [], True: []}
        for step in range(2 * ROUNDS + 4):
            watch._is_looking = step % 2 == 1
            if watch._is_looking:
                watch._probe.open()
            else:
                watch._probe.close()
            was_looking = watch._is_looking
            # processor time: a busy machine does not count
            start = time.process_time()
            optimizer.zero_grad()
            loss = F.cross_entropy(net(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            guard.step(loss)
            took = time.process_time() - start
            if step >= 4:
                times[was_looking].append(took)
        log = watch.log()
    long = tt.RunLog.from_arrays(
        loss=torch.linspace(3, 1, NUM_STEPS),
        grad_norm=torch.ones(NUM_STEPS),
        lr=torch.ones(NUM_STEPS),
        signals=log.signals,
    )
    start = time.process_time()
    tt.diagnose(long)
    verdict = time.process_time() - start
    plain, looked = statistics.median(times[False]), statistics.median(times[True])
    looks = len(_EARLY_STEPS) + NUM_STEPS // policy.every - 1
    # a verdict each tenth of the run: 20 to 30 for a run of 1,000 steps
    verdicts = 25
    share = (looks * (looked - plain) + verdicts * verdict) / (NUM_STEPS * plain)
    print(f"{num / 1e6:.1f}M parameters, torch {torch.__version__}, 1 thread, {tokens.shape[0]} x 64 tokens")
    more = looked / plain - 1
    print(f"plain step {plain * 1e3:.1f} ms, step that is looked at {looked * 1e3:.1f} ms (+{more:.1%})")
    print(f"a verdict of all rules {verdict * 1e3:.1f} ms")
    print(f"{looks} looks and {verdicts} verdicts in {NUM_STEPS} steps")
    print(f"share of the run {share:.2%}   budget 5 %")


if __name__ == "__main__":
    main()
