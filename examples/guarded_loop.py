"""One line changed: `optimizer.step()` becomes `guard.step(loss)`. A bad batch costs one step."""

from __future__ import annotations

import torch

import trimtab as tt


def main() -> None:
    """Fit a line through data in which every 40th batch holds a NaN."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    with tt.Guard(model, optimizer, clip=tt.NormClip(1.0), record="runs/guarded_loop") as guard:
        for step in range(200):
            x = torch.randn(32, 3)
            y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
            if step % 40 == 39:
                x[5, 1] = float("nan")
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            guard.step(loss)  # warns about the bad ones through `logging`
    log = tt.read("runs/guarded_loop")
    print(f"{int(log.applied.sum())} of {log.num_steps} steps applied")
    print(f"loss {log.loss[0]:.3f} at first, {log.loss[-2]:.2g} at last")


if __name__ == "__main__":
    main()
