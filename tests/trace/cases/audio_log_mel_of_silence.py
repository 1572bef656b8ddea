"""Log-mel front end without a floor: a silent clip has log(0) = -inf.

source: SeanNaren/deepspeech.pytorch#272 (audio whose samples are all 0 gives a nan loss).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="SeanNaren/deepspeech.pytorch#272",
    category="forward,inf_first",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.log10",
    module="frontend.db",
    line_marker="ORIGIN",
    cause="log_zero",
    fix="clamp the power before the logarithm",
    fix_code="return 10.0 * torch.log10(power.clamp(min=1e-10))",
    dtype="float32",
)


class MelBank(nn.Module):
    def __init__(self, n_fft=32, mels=8):
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft))
        self.register_buffer("bank", torch.rand(n_fft // 2 + 1, mels))

    def forward(self, wave):
        spec = torch.stft(wave, self.n_fft, 16, window=self.window, return_complex=True, center=False)
        return spec.abs().pow(2).transpose(1, 2) @ self.bank


class AmplitudeToDB(nn.Module):
    def forward(self, power):
        return 10.0 * torch.log10(power)  # ORIGIN


class Frontend(nn.Module):
    def __init__(self):
        super().__init__()
        self.mel, self.db = MelBank(), AmplitudeToDB()

    def forward(self, wave):
        db = self.db(self.mel(wave))
        return (db - db.mean((1, 2), keepdim=True)) / (db.std((1, 2), keepdim=True) + 1e-5)


class KeywordSpotter(nn.Module):
    def __init__(self, words=4):
        super().__init__()
        self.frontend, self.rnn, self.out = Frontend(), nn.GRU(8, 12, batch_first=True), nn.Linear(12, words)

    def forward(self, wave):
        return self.out(self.rnn(self.frontend(wave))[1][0])


def make(seed=0):
    torch.manual_seed(seed)
    model = KeywordSpotter()
    batches = []
    for i in range(3):
        wave = torch.randn(4, 160)
        if i == 1:
            wave[3] = 0.0
        batches.append((wave, torch.randint(0, 4, (4,))))

    def loss_fn(model, batch):
        wave, y = batch
        return F.cross_entropy(model(wave), y)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
