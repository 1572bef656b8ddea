"""Optimizers made late, over two models, over loose tensors, one within another, and one that grows."""

import gc
import hashlib

import torch
from torch import nn

torch.manual_seed(0)


class Encoder(nn.Linear):
    pass


class Decoder(nn.Linear):
    pass


class Lookahead(torch.optim.Optimizer):
    """Steps another optimizer, then moves half of the way."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self):
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.inner.step()
        with torch.no_grad():
            for p, old in zip((p for g in self.param_groups for p in g["params"]), before, strict=True):
                p.lerp_(old, 0.5)


def train(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def main():
    encoder, decoder, extra = Encoder(3, 2), Decoder(2, 3), nn.Linear(3, 3)
    both = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.1)
    train(both, lambda: decoder(encoder(torch.randn(4, 3))).square().mean(), 3)
    loose = [torch.ones(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    line = torch.optim.Adam(loose, lr=0.1)
    train(line, lambda: (loose[0] * torch.randn(2) + loose[1]).square().sum(), 4)
    ahead = Lookahead(torch.optim.SGD(extra.parameters(), lr=0.1))
    train(ahead, lambda: extra(torch.randn(4, 3)).square().mean(), 5)
    both.add_param_group({"params": list(nn.Linear(1, 1).parameters())})
    train(both, lambda: decoder(encoder(torch.randn(4, 3))).square().mean(), 2)
    values = [*encoder.parameters(), *decoder.parameters(), *extra.parameters(), *loose]
    print(hashlib.sha256(b"".join(v.detach().numpy().tobytes() for v in values)).hexdigest()[:16])


main()
gc.collect()
