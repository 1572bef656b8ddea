"""VQ-VAE with an EMA codebook: an unused code's average was 0 / 0 in the last step; now its buffer is NaN.

source: pattern of VQ-VAE code bases (embed_avg / cluster_size without Laplace smoothing).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (EMA codebook without smoothing)",
    category="parameter",
    phase="parameter",
    phase_alt=["forward"],
    step=1,
    visible="loss",
    first_op="parameter",
    first_op_alt=["aten.sub", "aten.index", "aten.embedding"],
    module="quantizer",
    line_marker="ORIGIN",
    # the distances meet the bad row first, but only the lookup passes it on
    line_alt_marker="ALSO",
    cause="bad_parameter",
    fix="smooth the cluster sizes (add an epsilon)",
    fix_code="self.codebook.copy_(self.total / self.size.clamp(min=1e-5).unsqueeze(1))",
    dtype="float32",
    param="quantizer.codebook",
    notes="step 0 ends with finite loss, gradients and parameters: only the buffer is bad",
)


class EMAQuantizer(nn.Module):
    def __init__(self, codes, dim, decay=0.0):
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("size", torch.ones(codes))
        self.register_buffer("total", self.codebook.clone())

    def nearest(self, z):
        gap = (z[:, None] - self.codebook).pow(2).sum(-1)  # ORIGIN
        return gap.argmin(1)

    @torch.no_grad()
    def update(self, z, code):
        hot = F.one_hot(code, len(self.size)).float()
        self.size.mul_(self.decay).add_(hot.sum(0), alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(hot.t() @ z, alpha=1 - self.decay)
        self.codebook.copy_(self.total / self.size.unsqueeze(1))  # FIXHERE

    def forward(self, z):
        code = self.nearest(z)
        q = self.codebook[code]  # ALSO
        self.update(z.detach(), code)
        return z + (q - z).detach(), F.mse_loss(z, q)


class VQVAE(nn.Module):
    def __init__(self, feats=8, dim=4, codes=6):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(feats, 16), nn.ReLU(), nn.Linear(16, dim))
        self.quantizer, self.dec = EMAQuantizer(codes, dim), nn.Linear(dim, feats)

    def forward(self, x):
        q, commit = self.quantizer(self.enc(x))
        return self.dec(q), commit


def make(seed=0):
    torch.manual_seed(seed)
    model = VQVAE()
    batches = [torch.randn(5, 8) for _ in range(2)]

    def loss_fn(model, batch):
        recon, commit = model(batch)
        return F.mse_loss(recon, batch) + 0.25 * commit

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
