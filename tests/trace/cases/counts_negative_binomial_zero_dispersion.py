"""Negative binomial likelihood: a dispersion of exactly 0 sits on a pole of lgamma.

source: OmicsML/dance#166 (zero total counts in torch.lgamma, called by NegativeBinomial) and scverse/scvi-tools#2965.
"""

import torch
import torch.nn as nn

META = dict(
    source="OmicsML/dance#166",
    category="forward,inf_first",
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten.lgamma",
    module="likelihood",
    line_marker="ORIGIN",
    cause="domain_edge",
    cause_alt=["domain_error", "inf_arithmetic"],
    fix="keep the dispersion above a small positive number",
    fix_code="theta = theta.clamp(min=1e-4); norm = torch.lgamma(y + theta) - torch.lgamma(theta)",
    dtype="float32",
)


class NegativeBinomialNLL(nn.Module):
    def forward(self, y, mu, theta):
        norm = torch.lgamma(y + theta) - torch.lgamma(theta)  # ORIGIN
        log_total = torch.log(theta + mu + 1e-8)
        ll = norm - torch.lgamma(y + 1)
        ll = ll + theta * (torch.log(theta + 1e-8) - log_total) + y * (torch.log(mu + 1e-8) - log_total)
        return -ll.sum(-1).mean()


class Decoder(nn.Module):
    def __init__(self, z, genes):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(z, 16), nn.ReLU())
        self.scale, self.theta = nn.Linear(16, genes), nn.Linear(16, genes)

    def forward(self, z, depth):
        h = self.net(z)
        return torch.softmax(self.scale(h), -1) * depth, torch.relu(self.theta(h))


class SingleCellVAE(nn.Module):
    def __init__(self, genes=10, z=3):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(genes, 16), nn.ReLU(), nn.Linear(16, z))
        self.decoder, self.likelihood = Decoder(z, genes), NegativeBinomialNLL()

    def forward(self, y):
        mu, theta = self.decoder(self.encoder(torch.log1p(y)), y.sum(-1, keepdim=True))
        return self.likelihood(y, mu, theta)


def make(seed=0):
    torch.manual_seed(seed)
    model = SingleCellVAE()
    with torch.no_grad():  # the dispersion of gene 4 falls with depth
        for layer in (model.encoder[0], model.encoder[2], model.decoder.net[0]):
            layer.weight.abs_()
        model.decoder.theta.weight.zero_()
        model.decoder.theta.weight[4] = -0.01
        model.decoder.theta.bias.fill_(2.0)
    batches = [torch.poisson(torch.full((5, 10), 2.0)) + 1 for _ in range(4)]
    batches[2][3] *= 1e5  # a doublet with an absurd depth

    def loss_fn(model, batch):
        return model(batch)

    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-6)
