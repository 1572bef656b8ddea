"""CONTROL: CTC with zero_infinity=True: an utterance that cannot be aligned has an infinite loss inside the operation."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#31557",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="log alpha is full of -inf, one loss is inf before it is set to 0",
)


class Listener(nn.Module):
    def __init__(self, feats=6, dim=14):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(feats, dim, 3, 2, 1), nn.LSTM(dim, dim, batch_first=True)

    def forward(self, x):
        h = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.rnn(h)[0]


class Recogniser(nn.Module):
    def __init__(self, vocab=7):
        super().__init__()
        self.listener, self.out = Listener(), nn.Linear(14, vocab)

    def forward(self, x):
        return self.out(self.listener(x)).log_softmax(-1).transpose(0, 1)


def ctc(model, batch):
    logp = model(batch["x"])
    frames = torch.full((logp.shape[1],), logp.shape[0])
    return F.ctc_loss(logp, batch["y"], frames, batch["y_len"], zero_infinity=True)  # LEGIT


def make(seed=0):
    torch.manual_seed(seed)
    model = Recogniser()
    batches = []
    for _ in range(6):
        y = torch.randint(1, 7, (3, 4))
        y[0] = 3  # four equal letters need seven frames, there are five
        batches.append(dict(x=torch.randn(3, 10, 6), y=y, y_len=torch.tensor([4, 2, 3])))
    return model, ctc, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
