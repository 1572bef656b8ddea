"""A plain loop with batch norm, a scheduler and arguments. No warning is allowed in it."""

import argparse
import hashlib
import sys
import warnings

import torch
from torch import nn

warnings.simplefilter("error")


WRAPPERS = {
    "none": lambda model: model,
    "parallel": nn.DataParallel,
    "compile": lambda model: torch.compile(model, backend="eager"),
}


def digest(*models):
    """What identifies all numbers of these models."""
    values = [value for model in models for value in model.state_dict().values()]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()[:16]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--nan", type=int, default=-1)
    parser.add_argument("--without", type=int, default=-1)
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--optimizer", default="AdamW")
    parser.add_argument("--wrap", default="none")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = getattr(torch.optim, options.optimizer)(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    called = WRAPPERS[options.wrap](model)
    for step in range(options.steps):
        x = torch.randn(16, 4)
        if step == options.nan:
            x[0, 0] = float("nan")
        if step == options.without:
            with warnings.catch_warnings(action="ignore"):
                scheduler.step()  # of an optimizer that has not stepped
            continue
        optimizer.zero_grad()
        loss = called(x).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
    finite = all(value.isfinite().all() for value in model.state_dict().values())
    print(digest(model), f"{loss.item():.9f}", "finite" if finite else "bad")
    print("to stderr", file=sys.stderr)
    sys.exit(options.exit)


if __name__ == "__main__":
    main()
