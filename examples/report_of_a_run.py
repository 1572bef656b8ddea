"""From a run log to a page, figures and tables."""

from __future__ import annotations

import torch

import trimtab as tt


def main() -> None:
    """Train with a learning rate that is too large, and write down what that looked like."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    with tt.Guard(model, optimizer, remedy=tt.Observe(), record="runs/too_fast") as guard:
        for _ in range(60):
            x = torch.randn(64, 2)
            optimizer.zero_grad()
            loss = (model(x) - x.prod(1, keepdim=True)).square().mean()
            loss.backward()
            guard.step(loss)
    log = tt.read("runs/too_fast")
    print(tt.report(log, "runs/too_fast/report.html", title="Too fast"))
    log.plot_norms().savefig("runs/too_fast/norms.png")
    log.to_csv("runs/too_fast/run.csv")
    first = next((fault for fault in log.faults), None)
    print(f"first fault: {first}")


if __name__ == "__main__":
    main()
