"""Poisson loss on a raw network output: the logarithm of a negative rate.

source: pytorch/pytorch#184030 (PoissonNLLLoss with log_input=False returns NaN for negative input).
"""

import torch
import torch.nn as nn

META = dict(
    source="pytorch/pytorch#184030",
    category="forward",
    phase="loss",
    step=0,
    visible="loss",
    first_op="aten.log",
    module=None,
    line_marker="ORIGIN",
    cause="domain_error",
    fix="make the rate positive (softplus), or predict its logarithm with log_input=True",
    fix_code="return self.nll(nn.functional.softplus(rate), spikes)",
    dtype="float32",
    notes="the criterion is a module, but not one of the model",
)


class SpikeEncoder(nn.Module):
    def __init__(self, neurons=8, dim=12):
        super().__init__()
        self.conv = nn.Conv1d(1, dim, 7, padding=3)
        self.readout = nn.Linear(dim, neurons)

    def forward(self, stimulus):
        return self.readout(torch.tanh(self.conv(stimulus.unsqueeze(1))).transpose(1, 2))


class NeuralResponse(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = SpikeEncoder()
        self.gain = nn.Parameter(torch.ones(8))

    def forward(self, stimulus):
        return self.core(stimulus) * self.gain


class Objective:
    def __init__(self):
        self.nll = nn.PoissonNLLLoss(log_input=False)

    def __call__(self, model, batch):
        stimulus, spikes = batch
        return self.score(model(stimulus), spikes) + 1e-4 * model.gain.abs().sum()

    def score(self, rate, spikes):
        return self.nll(rate, spikes)  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = NeuralResponse()
    batches = [(torch.randn(3, 20), torch.poisson(torch.ones(3, 20, 8))) for _ in range(2)]
    return model, Objective(), batches, torch.optim.Adam(model.parameters(), lr=1e-3)
