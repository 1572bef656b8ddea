"""CTC with an entropy bonus on probabilities: exp of a log-probability underflows, its logarithm is -inf.

source: pattern of maximum-entropy CTC (EnCTC) code that works on exp(log_probs).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (entropy of exp(log_probs))",
    category="forward,inf_first",
    decoy_legit=True,
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.log",
    module=None,
    line_marker="ORIGIN",
    cause="log_zero",
    fix="use the log-probabilities that are there",
    fix_code="return -(logp.exp() * logp.clamp(min=-80.0)).sum(-1).mean()",
    dtype="float32",
    notes="CTC's own log alpha is full of -inf, one utterance cannot be aligned and is zeroed by zero_infinity",
)


class Encoder(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.proj, self.rnn = nn.Linear(feats, dim), nn.LSTM(dim, dim, batch_first=True)

    def forward(self, x):
        return self.rnn(torch.tanh(self.proj(x)))[0]


class Recogniser(nn.Module):
    def __init__(self, feats=5, dim=12, vocab=6):
        super().__init__()
        self.encoder, self.out = Encoder(feats, dim), nn.Linear(dim, vocab)

    def forward(self, x, bias):
        return (self.out(self.encoder(x)) + bias[:, None]).log_softmax(-1)


def entropy(logp):
    p = logp.exp()
    return -(p * torch.log(p)).sum(-1).mean()  # ORIGIN


def regularised(model, batch):
    logp = model(batch["x"], batch["bias"])
    frames = torch.full((len(logp),), logp.shape[1])
    ctc = F.ctc_loss(logp.transpose(0, 1), batch["y"], frames, batch["y_len"], zero_infinity=True)  # LEGIT
    return ctc - 0.1 * entropy(logp)


def make(seed=0):
    torch.manual_seed(seed)
    model = Recogniser()
    batches = []
    for i in range(3):
        y, bias = torch.randint(1, 6, (3, 4)), torch.zeros(3, 6)
        y[0] = 2
        if i == 1:
            bias[1, 5] = -150.0  # a word list rules one unit out
        batches.append(dict(x=torch.randn(3, 6, 5), bias=bias, y=y, y_len=torch.tensor([4, 3, 2])))
    return model, regularised, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
