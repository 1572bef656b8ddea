"""torch.where(total > 0, part / total, 0): the division by 0 is not used and poisons the gradient all the same.

source: pytorch/pytorch#108618 (backward bypassing for torch.where) and #52248.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pytorch/pytorch#108618",
    category="forward",
    phase="forward",
    phase_alt=["backward"],
    step=1,
    visible="grad",
    first_op="aten.div",
    first_op_alt=["DivBackward0"],
    module="share",
    line_marker="ORIGIN",
    cause="where_grad_trap",
    cause_alt=["div_zero"],
    fix="make the divisor 1 where it is 0 (the double where)",
    fix_code="ratio = part / torch.where(total > 0, total, 1.0)",
    dtype="float32",
)


class Share(nn.Module):
    """Share of each channel in the energy of a pixel."""

    def forward(self, part):
        total = part.sum(1, keepdim=True)
        ratio = part / total  # ORIGIN
        return torch.where(total > 0, ratio, torch.zeros(()))


class Unmix(nn.Module):
    def __init__(self, bands=6, materials=4, dim=12):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(bands, dim, 1, bias=False), nn.ReLU())
        self.abundance, self.share = nn.Conv2d(dim, materials, 1, bias=False), Share()
        self.spectra = nn.Conv2d(materials, bands, 1, bias=False)

    def forward(self, cube, valid):
        return self.spectra(self.share(F.softplus(self.abundance(self.enc(cube))) * valid))


def spectral_loss(model, batch):
    cube, valid = batch
    return F.mse_loss(model(cube, valid), cube)


def make(seed=0):
    torch.manual_seed(seed)
    model = Unmix()
    batches = [(torch.rand(2, 6, 5, 5), torch.ones(2, 1, 5, 5)) for _ in range(3)]
    batches[1][1][0, :, 4] = 0.0  # a line of dead pixels
    return model, spectral_loss, batches, torch.optim.SGD(model.parameters(), lr=1e-2)
