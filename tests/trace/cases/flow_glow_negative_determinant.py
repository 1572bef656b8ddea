"""Glow's invertible 1x1 convolution: logdet of a matrix whose determinant became negative.

source: jaywalnut310/glow-tts#17 (logdet is fine only while the determinant stays positive; slogdet is meant).
"""

import torch
import torch.nn as nn

META = dict(
    source="jaywalnut310/glow-tts#17",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.where",
    first_op_alt=["aten.logdet", "aten.scalar_tensor"],
    module="steps.0.mix",
    module_alt=["steps.1.mix"],  # both determinants are negative, the first one by a rounding error
    line_marker="ORIGIN",
    cause="domain_error",
    fix="use the logarithm of the absolute determinant",
    notes="torch makes the NaN as a scalar in every logdet; where picks it for a negative determinant",
    fix_code="log_det = torch.linalg.slogdet(self.weight)[1] * x.shape[-1]",
    dtype="float32",
)


class InvertibleMix(nn.Module):
    def __init__(self, channels):
        super().__init__()
        q, _ = torch.linalg.qr(torch.randn(channels, channels))
        if torch.det(q) < 0:
            q[:, 0] = -q[:, 0]
        self.weight = nn.Parameter(q.contiguous())

    def forward(self, x):
        log_det = torch.logdet(self.weight) * x.shape[-1]  # ORIGIN
        return torch.einsum("oc,bct->bot", self.weight, x), log_det


class Coupling(nn.Module):
    def __init__(self, channels, hidden=12):
        super().__init__()
        half = channels // 2
        self.wn = nn.Sequential(
            nn.Conv1d(half, hidden, 3, padding=1), nn.ReLU(), nn.Conv1d(hidden, 2 * half, 1)
        )

    def forward(self, x):
        a, b = x.chunk(2, 1)
        shift, raw = self.wn(a).chunk(2, 1)
        log_s = torch.tanh(raw)
        return torch.cat([a, (b + shift) * log_s.exp()], 1), log_s.sum((1, 2))


class Step(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mix, self.coupling = InvertibleMix(channels), Coupling(channels)

    def forward(self, x):
        x, a = self.mix(x)
        x, b = self.coupling(x)
        return x, a + b


class GlowDecoder(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.steps = nn.ModuleList(Step(channels) for _ in range(2))

    def forward(self, mel):
        total = 0.0
        for step in self.steps:
            mel, log_det = step(mel)
            total = total + log_det
        return mel, total


def make(seed=0):
    torch.manual_seed(seed)
    model = GlowDecoder()
    with torch.no_grad():  # trained until one matrix is close to singular
        u, s, v = torch.linalg.svd(model.steps[1].mix.weight)
        s[-1] = 1e-3
        model.steps[1].mix.weight.copy_(u @ torch.diag(s) @ v)
    batches = [torch.randn(3, 4, 10) for _ in range(3)]
    opt = torch.optim.SGD(model.parameters(), lr=1e-5)

    def loss_fn(model, batch):
        z, log_det = model(batch)
        volume = sum(step.mix.weight.det() for step in model.steps)  # a penalty that pulls it through 0
        return (0.5 * z.pow(2).sum((1, 2)) - log_det).mean() + 1e5 * volume

    return model, loss_fn, batches, opt
