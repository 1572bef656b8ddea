"""CLIP-like model that loads a logit_scale of 100 as if it were the logarithm of the scale: exp(100) overflows.

source: kornia/kornia#3481 (logit_scale of 100.0 gives NaN), openai/CLIP#530 and #46 (it must be clipped).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="kornia/kornia#3481",
    category="forward,inf_first",
    phase="forward",
    step=0,
    visible="loss",
    first_op="aten.exp",
    module=None,
    line_marker="ORIGIN",
    cause="exp_overflow",
    fix="clamp the logarithm of the scale at log(100), as the paper does",
    fix_code="scale = self.logit_scale.clamp(max=math.log(100)).exp()",
    dtype="float32",
    notes="the operation belongs to the root module",
)


class TextTower(nn.Module):
    def __init__(self, vocab=40, dim=16):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(vocab, dim), nn.GRU(dim, dim, batch_first=True)

    def forward(self, ids):
        return self.rnn(self.emb(ids))[1][0]


class ImageTower(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.patch, self.mix = nn.Conv2d(3, dim, 4, 4), nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, img):
        return self.mix(self.patch(img).flatten(2).mean(-1))


class CLIP(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = ImageTower(), TextTower()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, img, ids):
        a, b = F.normalize(self.image(img), dim=-1), F.normalize(self.text(ids), dim=-1)
        scale = self.logit_scale.exp()  # ORIGIN
        return scale * a @ b.t()


def clip_loss(model, batch):
    logits = model(*batch)
    target = torch.arange(len(logits))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))


def make(seed=0):
    torch.manual_seed(seed)
    model = CLIP()
    batches = [(torch.rand(6, 3, 8, 8), torch.randint(0, 40, (6, 5))) for _ in range(3)]
    with torch.no_grad():
        model.logit_scale.fill_(100.0)  # the checkpoint stores the scale, the code expects its logarithm
    return model, clip_loss, batches, torch.optim.AdamW(model.parameters(), lr=1e-3)
