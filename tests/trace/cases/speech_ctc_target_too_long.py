"""CTC: a transcript with repeated letters needs more frames than the sub-sampled utterance has.

source: pytorch/pytorch#31557 and SeanNaren/warp-ctc#29 (infinite loss for targets that cannot be aligned).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#31557",
    category="forward,inf_first",
    phase="loss",
    step=2,
    visible="loss",
    first_op="aten._ctc_loss",
    first_op_alt=["aten.ctc_loss"],
    module=None,
    line_marker="ORIGIN",
    cause="infeasible_target",
    fix="drop utterances that are too short, or zero_infinity=True",
    fix_code="return F.ctc_loss(logp, batch['y'], frames, batch['y_len'], zero_infinity=True)",
    dtype="float32",
    notes="feasible utterances have -inf in log alpha too",
)


class Subsample(nn.Module):
    def __init__(self, feats, dim):
        super().__init__()
        self.c1, self.c2 = nn.Conv1d(feats, dim, 3, 2, 1), nn.Conv1d(dim, dim, 3, 2, 1)

    def forward(self, x):
        return F.relu(self.c2(F.relu(self.c1(x.transpose(1, 2))))).transpose(1, 2)


class AcousticModel(nn.Module):
    def __init__(self, feats=6, dim=16, vocab=8):
        super().__init__()
        self.front, self.rnn = Subsample(feats, dim), nn.LSTM(dim, dim, bidirectional=True, batch_first=True)
        self.out = nn.Linear(2 * dim, vocab)

    def forward(self, x):
        h, _ = self.rnn(self.front(x))
        return self.out(h).log_softmax(-1).transpose(0, 1)


def ctc(model, batch):
    logp = model(batch["x"])
    frames = torch.full((logp.shape[1],), logp.shape[0])
    return F.ctc_loss(logp, batch["y"], frames, batch["y_len"])  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = AcousticModel()
    batches = []
    for i in range(4):
        y = torch.stack([torch.randperm(7)[:5] + 1 for _ in range(3)])
        if i == 2:
            y[1] = 4  # "aaaaa" needs 9 frames, there are 6
        batches.append(dict(x=torch.randn(3, 24, 6), y=y, y_len=torch.tensor([5, 5, 4])))
    return model, ctc, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
