"""One normaliser shared by two branches: its second call, on an absent modality, divides 0 by 0.

source: pattern of multi-modal code (one module instance for all branches).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (shared module, absent modality)",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="text.unit",
    module_alt=["audio.unit"],
    line_marker="ORIGIN",
    cause="div_zero",
    fix="clamp the norm",
    fix_code="return h / torch.linalg.vector_norm(h, dim=-1, keepdim=True).clamp(min=1e-6)",
    dtype="float32",
    notes="the module has two names; the first one is the one of named_modules()",
)


class Unit(nn.Module):
    def forward(self, h):
        return h / torch.linalg.vector_norm(h, dim=-1, keepdim=True)  # ORIGIN


class Branch(nn.Module):
    def __init__(self, feats, dim, unit):
        super().__init__()
        self.fc, self.unit = nn.Linear(feats, dim, bias=False), unit

    def forward(self, x):
        return self.unit(self.fc(x))


class MultiModal(nn.Module):
    def __init__(self, dim=10):
        super().__init__()
        unit = Unit()
        self.text, self.audio = Branch(8, dim, unit), Branch(5, dim, unit)
        self.out = nn.Linear(2 * dim, 3)

    def forward(self, text, audio):
        return self.out(torch.cat([self.text(text), self.audio(audio)], 1))


def make(seed=0):
    torch.manual_seed(seed)
    model = MultiModal()
    batches = []
    for i in range(3):
        audio = torch.randn(6, 5)
        if i == 1:
            audio[4] = 0.0  # a clip without sound
        batches.append((torch.randn(6, 8), audio, torch.randint(0, 3, (6,))))

    def loss_fn(model, batch):
        text, audio, y = batch
        return F.cross_entropy(model(text, audio), y)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=0.05)
