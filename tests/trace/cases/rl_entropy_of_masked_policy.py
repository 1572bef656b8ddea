"""Entropy bonus of a policy with illegal actions: p * log p is 0 * -inf.

source: huggingface/trl#7221 (entropy_from_logits returns NaN for zero-probability tokens).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="huggingface/trl#7221",
    category="forward",
    decoy_legit=True,
    phase="loss",
    step=0,
    visible="loss",
    first_op="aten.mul",
    module=None,
    line_marker="ORIGIN",
    cause="inf_arithmetic",
    fix="give the terms of probability 0 the value 0 before the product",
    fix_code="return -(probs * logp.masked_fill(probs == 0, 0.0)).sum(-1)",
    dtype="float32",
    notes="the -inf logits and log-probabilities are the usual way to forbid an action",
)


class BoardEncoder(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, dim, 3, padding=1), nn.GroupNorm(3, dim)

    def forward(self, board):
        return F.relu(self.norm(self.conv(board))).flatten(1)


class PolicyValueNet(nn.Module):
    def __init__(self, dim=12, actions=10):
        super().__init__()
        self.encoder = BoardEncoder(dim)
        self.policy, self.value = nn.Linear(dim * 9, actions), nn.Linear(dim * 9, 1)

    def forward(self, board, legal):
        h = self.encoder(board)
        logits = self.policy(h).masked_fill(~legal, float("-inf"))  # LEGIT
        return F.log_softmax(logits, -1), torch.tanh(self.value(h)).squeeze(-1)  # LEGIT


def entropy(logp):
    probs = logp.exp()
    return -(probs * logp).sum(-1)  # ORIGIN


def a2c_loss(model, batch):
    logp, value = model(batch["board"], batch["legal"])
    adv = batch["ret"] - value
    picked = logp.gather(1, batch["act"][:, None]).squeeze(1)
    return -(picked * adv.detach()).mean() + adv.pow(2).mean() - 0.01 * entropy(logp).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = PolicyValueNet()
    batches = []
    for _ in range(2):
        legal = torch.rand(6, 10) > 0.4
        legal[:, 0] = True
        act = torch.zeros(6, dtype=torch.long)
        batches.append(dict(board=torch.randn(6, 2, 3, 3), legal=legal, act=act, ret=torch.randn(6).sign()))
    return model, a2c_loss, batches, torch.optim.RMSprop(model.parameters(), lr=1e-3)
