"""Pure fp16 attention: q @ k.T leaves the range of float16 before it is scaled.

source: pytorch/pytorch#60939 / pull 60940 and plemeri/InSPyReNet#36 (bmm of unnormalised query and key is inf in fp16).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="plemeri/InSPyReNet#36",
    category="forward,inf_first,half",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.bmm",
    module="layers.0.attn",
    line_marker="ORIGIN",
    cause="half_overflow",
    fix="compute the scores in float32, or scale the query before the product",
    fix_code="scores = q.float() @ k.float().transpose(1, 2)",
    dtype="float16",
)


class FrameAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q @ k.transpose(1, 2)  # ORIGIN
        return torch.softmax(scores.float() / math.sqrt(q.shape[-1]), -1).to(v.dtype) @ v


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attn, self.norm, self.ff = FrameAttention(dim), nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x):
        return self.norm(x + self.ff(F.relu(self.attn(x))))


class SaliencyHead(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.layers = nn.ModuleList(Layer(dim) for _ in range(2))
        self.out = nn.Linear(dim, 1)

    def forward(self, img):
        x = self.embed(img).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.out(x).squeeze(-1)


def make(seed=0):
    torch.manual_seed(seed)
    model = SaliencyHead().half()
    with torch.no_grad():
        for name in ("q", "k"):  # trained until attention is sharp
            getattr(model.layers[0].attn, name).weight.copy_(2.0 * torch.eye(64))
    batches = []
    for i in range(3):
        img = torch.rand(2, 3, 8, 8).half()
        if i == 1:
            img = img * 200  # 8-bit values that were never scaled
        batches.append((img, torch.rand(2, 4)))

    def loss_fn(model, batch):
        img, target = batch
        return F.binary_cross_entropy_with_logits(model(img).float(), target)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-3)
