"""CONTROL: a left-to-right HMM in the log semiring: -inf everywhere, but every logsumexp has a finite term."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#49724, done right",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="the last states are reached late; alphas of unreached states are set to -inf by a mask",
)


NEG = float("-inf")


class Emissions(nn.Module):
    def __init__(self, feats, states):
        super().__init__()
        self.rnn, self.out = nn.GRU(feats, 12, batch_first=True), nn.Linear(12, states)

    def forward(self, x):
        return F.log_softmax(self.out(self.rnn(x)[0]), -1)


class Chain(nn.Module):
    def __init__(self, states):
        super().__init__()
        self.stay = nn.Parameter(torch.zeros(states))
        self.register_buffer("index", torch.arange(states))

    def forward(self, emit):
        stay, move = F.logsigmoid(self.stay), F.logsigmoid(-self.stay)
        alpha = emit[:, 0].masked_fill(self.index > 0, NEG)  # LEGIT
        for t in range(1, emit.shape[1]):
            came = F.pad(alpha[:, :-1] + move[:-1], (1, 0), value=NEG)  # LEGIT
            both = torch.stack([alpha + stay, came])  # LEGIT
            reached = self.index <= t
            both = torch.where(reached, both, torch.zeros(()))  # LEGIT
            alpha = torch.logsumexp(both, 0).masked_fill(~reached, NEG)  # LEGIT
            alpha = alpha + emit[:, t]  # LEGIT
        return alpha[:, -1]


class Aligner(nn.Module):
    def __init__(self, feats=5, states=4):
        super().__init__()
        self.emissions, self.chain = Emissions(feats, states), Chain(states)

    def forward(self, x):
        return self.chain(self.emissions(x))


def make(seed=0):
    torch.manual_seed(seed)
    model = Aligner()
    batches = [torch.randn(3, 7, 5) for _ in range(6)]

    def loss_fn(model, batch):
        return -model(batch).mean()

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-2)
