"""Log-semiring messages normalised by their maximum: a batch entry without any reachable state is -inf - -inf.

source: pytorch/pytorch#31829 and #49724 (infinite arguments of logsumexp), pattern of lattice-free MMI code.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#31829",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.sub",
    module="lattice",
    line_marker="ORIGIN",
    cause="inf_arithmetic",
    fix="subtract only finite maxima",
    fix_code="alpha = alpha - top.clamp(min=-1e4).detach()",
    dtype="float32",
    notes="the -inf that the forbidden arcs put into alpha are right",
)


class Emissions(nn.Module):
    def __init__(self, feats, states):
        super().__init__()
        self.conv, self.out = nn.Conv1d(feats, 12, 3, padding=1), nn.Linear(12, states)

    def forward(self, x):
        return F.log_softmax(self.out(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)), -1)


class Lattice(nn.Module):
    def __init__(self, states):
        super().__init__()
        self.trans = nn.Parameter(torch.zeros(states, states))

    def forward(self, emit, allowed):
        trans = self.trans.masked_fill(~allowed, float("-inf"))  # LEGIT
        alpha = emit[:, 0].masked_fill(torch.arange(emit.shape[2]) > 0, float("-inf"))  # LEGIT
        total = 0.0
        for t in range(1, emit.shape[1]):
            best = (alpha.unsqueeze(2) + trans).amax(1)  # LEGIT
            alpha = best + emit[:, t]  # LEGIT
            top = alpha.amax(1, keepdim=True)
            alpha = alpha - top.detach()  # ORIGIN
            total = total + top.squeeze(1)
        return total


class Aligner(nn.Module):
    def __init__(self, feats=5, states=4):
        super().__init__()
        self.emissions, self.lattice = Emissions(feats, states), Lattice(states)

    def forward(self, x, allowed):
        return self.lattice(self.emissions(x), allowed)


def viterbi_loss(model, batch):
    score = model(batch["x"], batch["allowed"])
    return -torch.logaddexp(score, torch.tensor(-50.0)).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Aligner()
    batches = []
    for i in range(3):
        allowed = torch.eye(4) + torch.diag(torch.ones(3), 1)
        allowed = (allowed > 0).expand(3, 4, 4).clone()
        if i == 1:
            allowed[2, 0] = False  # the transcript of this utterance is empty: nothing leaves the start state
        batches.append(dict(x=torch.randn(3, 6, 5), allowed=allowed))
    return model, viterbi_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
