"""A checkpoint averaged over a diverged run: one recurrent weight of the LSTM is NaN before the first step.

source: pattern of resumed runs (average of checkpoints with one bad file; CorentinJ/Real-Time-Voice-Cloning#797 for data).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (corrupt checkpoint)",
    category="parameter",
    phase="parameter",
    phase_alt=["forward"],
    step=0,
    visible="loss",
    first_op="parameter",
    first_op_alt=["aten.lstm", "aten.mkldnn_rnn_layer", "aten.addmm", "aten.linear", "aten.mm"],
    module="decoder.rnn",
    line_marker="ORIGIN",
    cause="bad_parameter",
    fix="load a finite checkpoint",
    fix_code="self.rnn.weight_hh_l0.data.nan_to_num_(0.0); h, _ = self.rnn(x)",
    dtype="float32",
    param="decoder.rnn.weight_hh_l0",
)


class Prenet(nn.Module):
    def __init__(self, mels, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(mels, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class Decoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.rnn, self.norm = nn.LSTM(dim, dim, batch_first=True), nn.LayerNorm(dim)

    def forward(self, x):
        h, _ = self.rnn(x)  # ORIGIN
        return self.norm(h)


class MelPredictor(nn.Module):
    def __init__(self, mels=6, dim=12):
        super().__init__()
        self.prenet, self.decoder, self.out = Prenet(mels, dim), Decoder(dim), nn.Linear(dim, mels)

    def forward(self, mel):
        return self.out(self.decoder(self.prenet(mel)))


def average(state, other, weight):
    return {k: torch.lerp(v, other[k], weight) for k, v in state.items()}


def make(seed=0):
    torch.manual_seed(seed)
    model, diverged = MelPredictor(), MelPredictor()
    with torch.no_grad():
        diverged.decoder.rnn.weight_hh_l0[3, 5] = float("inf")
        diverged.decoder.rnn.weight_hh_l0[7, 1] = float("nan")
    model.load_state_dict(average(model.state_dict(), diverged.state_dict(), 0.5))
    batches = [torch.randn(3, 7, 6) for _ in range(2)]

    def loss_fn(model, batch):
        return F.l1_loss(model(batch[:, :-1]), batch[:, 1:])

    return model, loss_fn, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
