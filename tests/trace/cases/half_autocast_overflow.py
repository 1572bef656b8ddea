"""fp16 autocast: float32 activations of a few thousand overflow inside an autocast matmul.

source: huggingface/transformers#12225 and many AMP threads (bf16-pretrained weights fine-tuned in fp16).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="huggingface/transformers#12225",
    category="forward,inf_first,half",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.addmm",
    first_op_alt=["aten.linear", "aten.mm"],
    module="ff.up",
    module_alt=["ff"],
    line_marker="ORIGIN",
    cause="half_overflow",
    fix="bfloat16 autocast, or run these layers in float32",
    fix_code="with torch.autocast('cpu', torch.bfloat16):",
    dtype="float16",
    notes="parameters and input are float32: autocast makes the float16",
)


class GatedFeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        h = self.up(x)  # ORIGIN
        return self.down(F.gelu(h))


class Scorer(nn.Module):
    def __init__(self, feats=6, dim=12):
        super().__init__()
        self.inp, self.ff, self.out = nn.Linear(feats, dim), GatedFeedForward(dim), nn.Linear(dim, 1)

    def forward(self, x):
        h = self.inp(x)
        return self.out(h + self.ff(h)).squeeze(1)


def make(seed=0):
    torch.manual_seed(seed)
    model = Scorer()
    with torch.no_grad():
        model.ff.up.weight.abs_().mul_(8.0)
        model.inp.weight.abs_()
    batches = []
    for i in range(3):
        x = torch.rand(6, 6)
        if i == 1:
            x = x * 2e4  # prices in cents
        batches.append((x, torch.randn(6)))

    def loss_fn(model, batch):
        x, y = batch
        with torch.autocast("cpu", torch.float16):  # FIXHERE
            pred = model(x)
        return F.smooth_l1_loss(pred.float(), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
