"""Tabular model: a missing value was read as NaN and reaches BatchNorm.

source: havakv/pycox#48 ("solved by filling the null values in the data").
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="havakv/pycox#48",
    category="input",
    phase="input",
    phase_alt=["forward"],
    step=1,
    visible="loss",
    first_op="input",
    first_op_alt=["aten.native_batch_norm", "aten._native_batch_norm_legit"],
    module="features.norm",
    module_alt=["features"],
    line_marker="ORIGIN",
    cause="bad_input",
    fix="impute missing values and add an indicator column",
    fix_code="numeric = self.norm(x.nan_to_num(0.0))",
    dtype="float32",
    bad_input="x",
)


class FeatureBlock(nn.Module):
    def __init__(self, numeric, cardinality, dim):
        super().__init__()
        self.norm, self.cats = nn.BatchNorm1d(numeric), nn.Embedding(cardinality, dim)

    def forward(self, x, cat):
        numeric = self.norm(x)  # ORIGIN
        return torch.cat([numeric, self.cats(cat).flatten(1)], 1)


class TabularNet(nn.Module):
    def __init__(self, numeric=6, cardinality=9, dim=4):
        super().__init__()
        self.features = FeatureBlock(numeric, cardinality, dim)
        self.mlp = nn.Sequential(nn.Linear(numeric + 2 * dim, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU())
        self.out = nn.Linear(24, 1)

    def forward(self, x, cat):
        return self.out(self.mlp(self.features(x, cat))).squeeze(1)


def make(seed=0):
    torch.manual_seed(seed)
    model = TabularNet()
    batches = []
    for i in range(3):
        x = torch.randn(8, 6)
        if i == 1:
            x[5, 3] = float("nan")
        batches.append(dict(x=x, cat=torch.randint(0, 9, (8, 2)), y=(torch.rand(8) > 0.5).float()))

    def loss_fn(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch["x"], batch["cat"]), batch["y"])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
