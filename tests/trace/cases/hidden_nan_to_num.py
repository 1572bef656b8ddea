"""NaN of an empty group hidden by nan_to_num: it comes back in backward as 0 / 0.

source: pytorch/pytorch#17455 (no reassignment removes the NaN gradient), pattern of nan_to_num after a group mean.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#17455",
    category="forward",
    phase="forward",
    phase_alt=["backward"],
    step=1,
    visible="grad",
    first_op="aten.div",
    first_op_alt=["DivBackward0"],
    module="speakers",
    line_marker="ORIGIN",
    cause="where_grad_trap",
    cause_alt=["div_zero", "empty_reduction"],
    fix="divide by max(1, count) instead of repairing the quotient",
    fix_code="mean = total / count.clamp(min=1)",
    dtype="float32",
    notes="the loss is finite",
)


class SpeakerMeans(nn.Module):
    """Mean frame of each of the speakers of a meeting."""

    def forward(self, h, turns):
        total = turns.transpose(1, 2) @ h
        count = turns.sum(1).unsqueeze(-1) * self.gain(h)
        mean = total / count  # ORIGIN
        return torch.nan_to_num(mean)

    def gain(self, h):
        """Frames of low energy count less."""
        return torch.sigmoid(h.pow(2).mean((1, 2), keepdim=True))


class Diarizer(nn.Module):
    def __init__(self, feats=5, dim=10):
        super().__init__()
        self.rnn, self.speakers = nn.GRU(feats, dim, batch_first=True), SpeakerMeans()
        self.out = nn.Linear(dim, 6)

    def forward(self, x, turns):
        return self.out(self.speakers(self.rnn(x)[0], turns))


def identity_loss(model, batch):
    logits = model(batch["x"], batch["turns"])
    return F.cross_entropy(logits[batch["spoke"]], batch["who"][batch["spoke"]])


def make(seed=0):
    torch.manual_seed(seed)
    model = Diarizer()
    batches = []
    for i in range(3):
        turns = F.one_hot(torch.arange(9).remainder(3).expand(2, 9), 3).float()
        if i == 1:
            turns[1, :, 2] = 0.0  # the third speaker is silent in this chunk
        who = torch.randint(0, 6, (2, 3))
        batches.append(dict(x=torch.randn(2, 9, 5), turns=turns, who=who, spoke=turns.sum(1) > 0))
    return model, identity_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
