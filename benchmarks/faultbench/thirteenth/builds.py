"""How the fault operators of the thirteenth suite spoil model, initialization and regularization of a run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from models import Batch, Setup
from third.changes import activations
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class _Gate(nn.Module):
    """What goes in, times how far a gate is open."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


class _Beside(nn.Module):
    """What goes in, and a layer of it on top."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        nn.init.kaiming_normal_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x).relu()


def _deeper(s: Setup, kind: type[nn.Module], depth: float) -> None:
    parts = list(s.model)
    more = [kind(parts[-1].in_features) for _ in range(int(depth))]
    s.model = nn.Sequential(*parts[:-1], *more, parts[-1])


def gates_in_a_row(s: Setup, depth: float) -> None:
    """One gate behind the other, each of which starts half shut and lets half of it through."""
    _deeper(s, _Gate, depth)


def residuals_pile_up(s: Setup, depth: float) -> None:
    """Many layers with a way around, and neither a norm nor a factor keeps their sum in bounds."""
    _deeper(s, _Beside, depth)


def clamp_range_narrow(s: Setup, bound: float) -> None:
    """Hidden values are cut to the range that a calibration on nearly empty inputs had found."""
    for name in activations(s.model):
        s.model.get_submodule(name).register_forward_hook(lambda m, a, out: out.clamp(-bound, bound))


def grown_without_noise(s: Setup, width: float) -> None:
    """Layers were made wider by copying the units of a narrow model, and nothing tells the copies apart."""
    linear = [m for m in s.model if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for index, layer in enumerate(linear):
            if index < len(linear) - 1:
                rows = torch.arange(layer.out_features) % int(width)
                layer.weight.copy_(layer.weight[rows])
                layer.bias.copy_(layer.bias[rows])
            if index > 0:
                layer.weight.copy_(layer.weight[:, torch.arange(layer.in_features) % int(width)])


def gains_zero(s: Setup, _: float) -> None:
    """The gains of all norms start at zero, as is right for the last one of a branch with a way around."""
    for m in s.model.modules():
        if isinstance(m, NORMS):
            nn.init.zeros_(m.weight)


def length_over_rows(s: Setup, _: float) -> None:
    """Hidden values are brought to length one along the rows of the batch, not along the units."""
    for name in activations(s.model):
        s.model.get_submodule(name).register_forward_hook(lambda m, a, out: F.normalize(out, dim=0))


def buffers_left_behind(s: Setup, _: float) -> None:
    """The copy for validation gets the parameters only: its norms have the statistics they were made with."""
    own = s.val

    def val(m: nn.Module) -> float:
        norms = [n for n in m.modules() if isinstance(n, nn.modules.batchnorm._BatchNorm)]
        kept = [{k: v.clone() for k, v in n.state_dict().items()} for n in norms]
        for norm in norms:
            norm.reset_running_stats()
        value = own(m)
        for norm, state in zip(norms, kept, strict=True):
            norm.load_state_dict(state)
        return value

    s.val = val


def places_drown_words(s: Setup, std: float) -> None:
    """The table of places is drawn far wider than that of the words, which do not count any more."""
    nn.init.normal_(s.model.place, std=std)


def drawn_scores(s: Setup, _: float) -> None:
    """A class is drawn by a Gumbel softmax at the end of the model, and the cross entropy takes that."""
    s.model.register_forward_hook(lambda m, a, out: F.gumbel_softmax(out, dim=-1))


def softmax_into_bits(s: Setup, _: float) -> None:
    """The model ends in a softmax, and the loss is that of many yes or no with a sigmoid of its own."""

    def loss(m: nn.Module, b: Batch) -> Tensor:
        out, y = m(b[0]), b[1].reshape(-1)
        out = out.reshape(-1, out.shape[-1])[y >= 0]
        return F.binary_cross_entropy_with_logits(out, F.one_hot(y[y >= 0], out.shape[-1]).float())

    s.model.register_forward_hook(lambda m, a, out: out.softmax(-1))
    s.loss = loss


def held_to_start(s: Setup, by: float) -> None:
    """A penalty on the way from the weights one starts with, as for a trained model, which this is not."""
    own = s.loss
    start = [p.detach().clone() for p in s.model.parameters()]

    def loss(m: nn.Module, b: Batch) -> Tensor:
        way = sum((p - q).square().sum() for p, q in zip(m.parameters(), start, strict=True))
        return own(m, b) + by * way

    s.loss = loss
