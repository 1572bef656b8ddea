"""SI-SNR of a silent reference: the projection divides by an energy of 0.

source: csteinmetz1/auraloss#25 (SI-SDR is NaN if the target is all zeros).
"""

import torch
import torch.nn as nn

META = dict(
    source="csteinmetz1/auraloss#25",
    category="forward",
    phase="loss",
    step=2,
    visible="loss",
    first_op="aten.div",
    module=None,
    line_marker="ORIGIN",
    cause="div_zero",
    fix="add an epsilon to the energy of the reference",
    fix_code="gain = (est * ref).sum(-1, keepdim=True) / (ref.pow(2).sum(-1, keepdim=True) + 1e-8)",
    dtype="float32",
)


class TCNBlock(nn.Module):
    def __init__(self, dim, dilation):
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 3, padding=dilation, dilation=dilation)
        self.norm, self.act = nn.GroupNorm(1, dim), nn.PReLU()

    def forward(self, x):
        return x + self.norm(self.act(self.conv(x)))


class ConvTasNet(nn.Module):
    def __init__(self, dim=12, sources=2):
        super().__init__()
        self.sources = sources
        self.enc, self.dec = nn.Conv1d(1, dim, 8, 4, bias=False), nn.ConvTranspose1d(dim, 1, 8, 4, bias=False)
        self.sep = nn.Sequential(TCNBlock(dim, 1), TCNBlock(dim, 2), nn.Conv1d(dim, dim * sources, 1))

    def forward(self, mix):
        h = torch.relu(self.enc(mix.unsqueeze(1)))
        masks = torch.sigmoid(self.sep(h)).chunk(self.sources, 1)
        return torch.stack([self.dec(h * m).squeeze(1) for m in masks], 1)


def si_snr(est, ref):
    est, ref = est - est.mean(-1, keepdim=True), ref - ref.mean(-1, keepdim=True)
    gain = (est * ref).sum(-1, keepdim=True) / ref.pow(2).sum(-1, keepdim=True)  # ORIGIN
    target = gain * ref
    ratio = target.pow(2).sum(-1) / ((est - target).pow(2).sum(-1) + 1e-8)
    return 10 * torch.log10(ratio + 1e-8)


def make(seed=0):
    torch.manual_seed(seed)
    model = ConvTasNet()
    batches = []
    for i in range(4):
        sources = torch.randn(3, 2, 64)
        if i == 2:
            sources[0, 1] = 0.0  # the second speaker says nothing in this chunk
        batches.append((sources.sum(1), sources))

    def loss_fn(model, batch):
        mix, sources = batch
        return -si_snr(model(mix), sources).mean()

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
