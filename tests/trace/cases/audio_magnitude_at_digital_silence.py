"""Magnitude spectrogram as sqrt(re ** 2 + im ** 2): the slope at digital silence is infinite.

source: pytorch/audio#993 (Spectrogram with power=1 can easily NaN) and KinWaiCheuk/nnAudio#138.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/audio#993",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="SqrtBackward0",
    module="critic.stft",
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="add an epsilon under the root",
    fix_code="return torch.sqrt(re.pow(2) + im.pow(2) + 1e-8)",
    dtype="float32",
)


class TrainableSTFT(nn.Module):
    def __init__(self, n_fft=16):
        super().__init__()
        t = torch.arange(n_fft).float()
        basis = 2 * torch.pi * t[:, None] * t[None, : n_fft // 2 + 1] / n_fft
        self.register_buffer("cos", basis.cos().t().unsqueeze(1))
        self.register_buffer("sin", basis.sin().t().unsqueeze(1))

    def forward(self, wave):
        re = F.conv1d(wave.unsqueeze(1), self.cos, stride=8)
        im = F.conv1d(wave.unsqueeze(1), self.sin, stride=8)
        return torch.sqrt(re.pow(2) + im.pow(2))  # ORIGIN


class SpectralCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.stft = TrainableSTFT()

    def forward(self, wave):
        return torch.log1p(self.stft(wave))


class Enhancer(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(1, dim, 5, padding=2, bias=False),
            nn.PReLU(),
            nn.Conv1d(dim, 1, 5, padding=2, bias=False),
        )

    def forward(self, wave):
        return self.net(wave.unsqueeze(1)).squeeze(1)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.enhancer, self.critic = Enhancer(), SpectralCritic()

    def forward(self, noisy):
        clean = self.enhancer(noisy)
        return clean, self.critic(clean)


def make(seed=0):
    torch.manual_seed(seed)
    model = Denoiser()
    batches = []
    for i in range(3):
        noisy = torch.randn(3, 64)
        if i == 1:
            noisy[1, 20:] = 0.0  # zero padding of a short clip
        batches.append((noisy, torch.rand(3, 9, 7)))

    def loss_fn(model, batch):
        noisy, target = batch
        clean, spec = model(noisy)
        return (spec - target).abs().mean() + 0.1 * clean.pow(2).mean()

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
