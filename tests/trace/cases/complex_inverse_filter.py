"""Deconvolution in the Fourier domain: division by a transfer function with an exact zero.

source: pattern of learned Wiener filters (regulariser of 0 at the start), deblurring code in torch.fft.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (inverse filter without regulariser)",
    category="forward",
    phase="forward",
    step=1,
    visible="loss",
    first_op="aten.div",
    module="deblur.wiener",
    line_marker="ORIGIN",
    cause="div_zero",
    fix="the Wiener form with a positive noise level",
    fix_code="spectrum = torch.fft.rfft2(img) * kernel.conj() / (kernel.abs().pow(2) + 1e-2)",
    dtype="float32",
    notes="complex64",
)


class InverseFilter(nn.Module):
    def forward(self, img, psf):
        kernel = torch.fft.rfft2(psf, s=img.shape[-2:])
        spectrum = torch.fft.rfft2(img) / kernel  # ORIGIN
        return torch.fft.irfft2(spectrum, s=img.shape[-2:])


class Refine(nn.Module):
    def __init__(self, dim=6):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, dim, 3, padding=1), nn.Conv2d(dim, 1, 3, padding=1)

    def forward(self, x):
        return x + self.b(F.relu(self.a(x)))


class Deblur(nn.Module):
    def __init__(self):
        super().__init__()
        self.wiener, self.refine = InverseFilter(), Refine()

    def forward(self, img, psf):
        return self.refine(torch.tanh(self.wiener(img, psf)))


class Telescope(nn.Module):
    def __init__(self):
        super().__init__()
        self.deblur = Deblur()

    def forward(self, img, psf):
        return self.deblur(img, psf)


def make(seed=0):
    torch.manual_seed(seed)
    model = Telescope()
    batches = []
    for i in range(3):
        psf = torch.zeros(3, 1, 3, 3)
        psf[:, :, 1, 1], psf[:, :, 0, 1] = 1.0, 0.3
        if i == 1:
            psf[2] = 0.0  # the shutter did not open: no point spread was recorded
        batches.append((torch.rand(3, 1, 8, 8), psf, torch.rand(3, 1, 8, 8)))

    def loss_fn(model, batch):
        img, psf, sharp = batch
        return F.l1_loss(model(img, psf), sharp)

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
