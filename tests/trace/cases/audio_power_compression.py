"""Power-law compressed spectral loss: |X| ** 0.3 of an empty bin has an infinite slope.

source: speechbrain/speechbrain#181 (spectral magnitude makes NaN when using power=0.5).
"""

import torch
import torch.nn as nn

META = dict(
    source="speechbrain/speechbrain#181",
    category="backward",
    phase="backward",
    step=1,
    visible="grad",
    first_op="PowBackward0",
    module=None,
    line_marker="ORIGIN",
    cause="singular_gradient",
    fix="add an epsilon before the power",
    fix_code="return (spec.abs() + 1e-6).pow(power)",
    dtype="float32",
    notes="the derivative of a complex abs at 0 is 0 in torch: the factor inf comes from the power alone",
)


class BandMask(nn.Module):
    def __init__(self, bins, dim=12):
        super().__init__()
        self.rnn, self.out = nn.GRU(bins, dim, batch_first=True), nn.Linear(dim, bins)

    def forward(self, mag):
        h, _ = self.rnn(mag.transpose(1, 2))
        return torch.sigmoid(self.out(h)).transpose(1, 2)


class ComplexMasker(nn.Module):
    def __init__(self, n_fft=16):
        super().__init__()
        self.n_fft = n_fft
        self.mask = BandMask(n_fft // 2 + 1)
        self.register_buffer("window", torch.hann_window(n_fft))

    def analyse(self, wave):
        return torch.stft(wave, self.n_fft, 8, window=self.window, return_complex=True)

    def forward(self, wave):
        spec = self.analyse(wave)
        return spec * self.mask(spec.abs())


def compressed(spec, power=0.3):
    return spec.abs().pow(power)  # ORIGIN


def compressed_loss(model, batch):
    noisy, clean = batch
    est, ref = model(noisy), model.analyse(clean)
    return (compressed(est) - ref.abs().clamp(min=1e-6).pow(0.3)).pow(2).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = ComplexMasker()
    batches = [(torch.randn(3, 64), torch.randn(3, 64)) for _ in range(3)]
    batches[1][0][2, 24:] = 0.0  # the microphone was switched off
    return model, compressed_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
