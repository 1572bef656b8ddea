"""Feature preparation into a reused buffer: torch.log(x, out=buffer) of counts with a zero.

source: pattern of feature pipelines that keep a scratch buffer (TF-IDF, log counts) for speed.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (log of zero counts with out=)",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.log",
    module="features",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="log1p",
    fix_code="torch.log1p(counts, out=self.scratch)",
    dtype="float32",
)


class LogCounts(nn.Module):
    def __init__(self, batch, words):
        super().__init__()
        self.register_buffer("scratch", torch.zeros(batch, words), persistent=False)

    @torch.no_grad()
    def forward(self, counts):
        torch.log(counts, out=self.scratch)  # ORIGIN
        return self.scratch / self.scratch.abs().sum(1, keepdim=True).clamp(min=1.0)


class TopicNet(nn.Module):
    def __init__(self, batch=4, words=12, topics=3):
        super().__init__()
        self.features = LogCounts(batch, words)
        self.hidden, self.out = nn.Linear(words, 16), nn.Linear(16, topics)

    def forward(self, counts):
        return self.out(torch.tanh(self.hidden(self.features(counts))))


def make(seed=0):
    torch.manual_seed(seed)
    model = TopicNet()
    batches = []
    for i in range(3):
        counts = torch.poisson(torch.full((4, 12), 6.0)) + 1
        if i == 1:
            counts[2, 7] = 0.0
        batches.append((counts, torch.randint(0, 3, (4,))))

    def loss_fn(model, batch):
        counts, y = batch
        return F.cross_entropy(model(counts), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
