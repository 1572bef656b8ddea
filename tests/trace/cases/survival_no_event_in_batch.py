"""Cox partial likelihood: a mini-batch in which every patient is censored divides by zero events.

source: havakv/pycox#124 and liupei101/TFDeepSurv#15 (the count of events in a batch is 0).
"""

import torch
import torch.nn as nn

META = dict(
    source="havakv/pycox#124",
    category="forward",
    phase="loss",
    step=2,
    visible="loss",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    cause_alt=["empty_reduction"],
    fix="divide by max(1, number of events)",
    fix_code="return -(per_patient * event).sum() / event.sum().clamp(min=1)",
    dtype="float32",
)


class Covariates(nn.Module):
    def __init__(self, numeric=5, sites=4, dim=8):
        super().__init__()
        self.site, self.norm = nn.Embedding(sites, dim), nn.BatchNorm1d(numeric)

    def forward(self, x, site):
        return torch.cat([self.norm(x), self.site(site)], 1)


class DeepSurv(nn.Module):
    def __init__(self):
        super().__init__()
        self.covariates = Covariates()
        self.risk = nn.Sequential(nn.Linear(13, 16), nn.SELU(), nn.AlphaDropout(0.0), nn.Linear(16, 1))

    def forward(self, x, site):
        return self.risk(self.covariates(x, site)).squeeze(1)


def cox_loss(risk, time, event):
    order = torch.argsort(time, descending=True)
    risk, event = risk[order], event[order]
    per_patient = risk - torch.logcumsumexp(risk, 0)
    return -(per_patient * event).sum() / event.sum()  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = DeepSurv()
    batches = []
    for i in range(4):
        event = (torch.rand(8) > 0.5).float()
        event[0] = 1.0
        if i == 2:
            event.zero_()
        batches.append(
            dict(x=torch.randn(8, 5), site=torch.randint(0, 4, (8,)), time=torch.rand(8), event=event)
        )

    def loss_fn(model, batch):
        return cox_loss(model(batch["x"], batch["site"]), batch["time"], batch["event"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
