"""One small failure for each thing that can go wrong: line, operation and cause.

The line of a case carries the comment `# O:name`.
"""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import trimtab as tt

CASES = []


def case(cause, op=None):
    """Register a case with its cause and, where it matters, its operation."""

    def register(function):
        CASES.append((function, cause, op))
        return function

    return register


class Wrap(nn.Module):
    """A linear layer, and what is done with its result."""

    def __init__(self, fn, *mods):
        super().__init__()
        self.lin, self.mods, self.fn = nn.Linear(4, 4), nn.ModuleList(mods), fn

    def forward(self, x):
        return self.fn(self, self.lin(x))


def mean_square(out, batch):
    return out.float().pow(2).mean()


def simple(fn, x=None, mods=(), loss=mean_square, prep=None):
    torch.manual_seed(0)
    model = Wrap(fn, *mods)
    if prep:
        prep(model)
    return model, loss, {"x": torch.randn(5, 4) if x is None else x}


def halved(parts):
    model, loss, batch = parts
    return model.half(), loss, {"x": batch["x"].half()}


@case("log_zero", "aten.log")
def softmax_underflow():
    def fn(s, h):
        p = torch.softmax(h * 1000, -1)
        return torch.log(p)  # O:softmax_underflow

    return simple(fn)


@case("log_zero", "aten.log")
def sigmoid_saturated():
    def fn(s, h):
        p = torch.sigmoid(h * 100)
        y = (h.detach() < 0).float()
        return -(y * p.log() + (1 - y) * (1 - p).log())  # O:sigmoid_saturated

    return simple(fn)


@case("div_zero", "aten.div")
def masked_mean():
    def fn(s, h):
        mask = torch.zeros(5, 4)
        mask[0] = 1
        return (h * mask).sum(1) / mask.sum(1)  # O:masked_mean

    return simple(fn)


@case("div_zero", "aten.pow")
def deg_pow():
    def fn(s, h):
        A = torch.zeros(5, 5)
        A[0, 1] = 1
        d = A.sum(1) ** -0.5  # O:deg_pow
        return (d[:, None] * A * d) @ h

    return simple(fn)


@case("domain_error", "aten.log")
def neg_log():
    def fn(s, h):
        return torch.log(h)  # O:neg_log

    return simple(fn)


@case("domain_error", "aten.sqrt")
def neg_var():
    def fn(s, h):
        v = (h**2).mean(1) - h.mean(1) ** 2 - 1
        return v.sqrt()  # O:neg_var

    return simple(fn)


@case("domain_error", "aten.pow")
def gamma_pow():
    def fn(s, h):
        return h**2.2  # O:gamma_pow

    return simple(fn)


@case("domain_edge", "AcosBackward0")
def acos_one():
    def fn(s, h):
        u = F.normalize(h, dim=-1)
        c = (u * u.detach()).sum(-1)
        c = torch.where(torch.arange(5) == 2, torch.ones(()), c * 0.5) * (1 + 0 * h[:, 0])
        return torch.acos(c)  # O:acos_one

    return simple(fn)


@case("domain_edge", "aten.atanh")
def atanh_one():
    def fn(s, h):
        return torch.atanh(torch.tanh(h * 100))  # O:atanh_one

    return simple(fn)


@case("singular_gradient", "SqrtBackward0")
def sqrt_zero():
    def fn(s, h):
        return (h * 0).sqrt()  # O:sqrt_zero

    return simple(fn)


@case("singular_gradient", "PowBackward0")
def frac_pow():
    def fn(s, h):
        return (h * 0) ** 0.5  # O:frac_pow

    return simple(fn)


@case("singular_gradient", None)
def dist_manual():
    def fn(s, h):
        d = h[:, None] - h[None]
        return ((d**2).sum(-1)).sqrt().mean()  # O:dist_manual

    return simple(fn)


@case("where_grad_trap", None)
def where_sqrt_log():
    def fn(s, h):
        return torch.where(h > 100, torch.log(h * 0), h)  # O:where_sqrt_log

    return simple(fn)


@case("exp_overflow", "aten.exp")
def sig_manual():
    def fn(s, h):
        e = torch.exp(h * 200)  # O:sig_manual
        return e / (1 + e)

    return simple(fn)


@case("exp_overflow", "aten.exp")
def softplus_manual():
    def fn(s, h):
        return torch.log(1 + torch.exp(h * 500))  # O:softplus_manual

    return simple(fn)


@case("half_overflow")
def half_rms():
    def fn(s, h):
        h = h * 1000
        v = h.pow(2).mean(-1, keepdim=True)  # O:half_rms
        return h * torch.rsqrt(v) / (h * torch.rsqrt(v)).norm(dim=-1, keepdim=True)

    return halved(simple(fn))


@case("half_underflow")
def half_eps():
    def fn(s, h):
        h = torch.relu(h * 0)
        return h / (h.sum(-1, keepdim=True) + 1e-8)  # O:half_eps

    return halved(simple(fn))


@case("half_underflow", "aten.log")
def half_log_eps():
    def fn(s, h):
        p = torch.softmax(h * 60, -1)
        return torch.log(p + 1e-9)  # O:half_log_eps

    return halved(simple(fn))


@case("half_overflow")
def half_cast():
    def fn(s, h):
        return (h.float() * 1e6).half()  # O:half_cast

    return halved(simple(fn))


@case("fully_masked_softmax", "aten._softmax")
def mask_add():
    def fn(s, h):
        mask = torch.zeros(5, 5)
        mask[2] = float("-inf")
        a = h @ h.T + mask
        return F.softmax(a, dim=-1) @ h  # O:mask_add

    return simple(fn)


@case("fully_masked_softmax", "aten._softmax")
def mask_log():
    def fn(s, h):
        mask = torch.ones(5, 5)
        mask[2] = 0
        a = h @ h.T + mask.log()
        return F.softmax(a, dim=-1) @ h  # O:mask_log

    return simple(fn)


@case("inf_arithmetic", "aten.mul")
def entropy_masked():
    def fn(s, h):
        lg = h.masked_fill(torch.arange(4) > 2, float("-inf"))
        lp = F.log_softmax(lg, -1)
        return -(lp.exp() * lp).sum(-1)  # O:entropy_masked

    return simple(fn)


@case("inf_arithmetic", "aten.mul")
def zero_times_inf():
    def fn(s, h):
        m = (h > 0).float() * float("-inf")  # O:zero_times_inf
        return (h + m).softmax(-1)

    return simple(fn)


@case("inf_arithmetic", "aten.sub")
def manual_softmax():
    def fn(s, h):
        a = h.masked_fill(torch.arange(5)[:, None] == 2, float("-inf"))
        e = torch.exp(a - a.amax(-1, keepdim=True))  # O:manual_softmax
        return e / e.sum(-1, keepdim=True)

    return simple(fn)


@case("empty_reduction", "aten.mean")
def empty_mean():
    def fn(s, h):
        return h[h > 1e9].mean()  # O:empty_mean

    return simple(fn)


@case("empty_reduction")
def std_one():
    def fn(s, h):
        return h[:1].std(0)  # O:std_one

    return simple(fn)


@case("degenerate_linalg", "LinalgEighBackward0")
def eigh_rep():
    def fn(s, h):
        A = torch.eye(4) * (1 + 0 * h.sum())
        _, v = torch.linalg.eigh(A)  # O:eigh_rep
        return v.sum()

    return simple(fn)


@case("degenerate_linalg")
def svd_rep():
    def fn(s, h):
        A = torch.eye(4) * (1 + 0 * h.sum())
        u, _, v = torch.linalg.svd(A)  # O:svd_rep
        return (u * v.T.roll(1, 0)).sum()

    return simple(fn)


@case("divergence")
def diverge():
    def fn(s, h):
        h = s.mods[0](h)
        return h * h * h  # O:diverge

    def prep(m):
        m.mods[0].weight.data *= 1e15

    return simple(fn, mods=(nn.Linear(4, 4),), prep=prep)


@case("uninitialized_memory")
def empty_mem():
    def fn(s, h):
        out = torch.empty(5, 8)  # O:empty_mem
        out[:, :4] = h
        return out

    return simple(fn)


@case("bad_input", "input")
def nan_in():
    def fn(s, h):
        return h

    x = torch.randn(5, 4)
    x[1, 2] = float("nan")
    return simple(fn, x=x)


@case("bad_parameter", "parameter")
def nan_param():
    def fn(s, h):
        return s.mods[0](h)

    def prep(m):
        m.mods[0].weight.data[0, 1] = float("nan")

    return simple(fn, mods=(nn.Linear(4, 4),), prep=prep)


@case("infeasible_target")
def ctc():
    def fn(s, h):
        return h

    def loss(o, b):
        lp = F.log_softmax(o, -1)[:, None].expand(5, 2, 4)
        y, num_inputs, num_targets = torch.ones(2, 4).long(), torch.tensor([5, 5]), torch.tensor([4, 4])
        return F.ctc_loss(lp, y, num_inputs, num_targets)  # O:ctc

    return simple(fn, loss=loss)


@case("singular_gradient")
def custom_fn():
    class Sq(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.sqrt()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            (y,) = ctx.saved_tensors
            return g / (2 * y)

    def fn(s, h):
        return Sq.apply(h * 0)  # O:custom_fn

    return simple(fn)


@case("div_zero")
def inplace_div():
    def fn(s, h):
        h = torch.relu(h).clone()
        h[:, 1] = 0
        h.div_(h.sum(0))  # O:inplace_div
        return h

    return simple(fn)


@case("exp_overflow", "aten.exp")
def checkpointed():
    def inner(h):
        e = torch.exp(h * 300)  # O:checkpointed
        return 1 / (1 + e)

    def fn(s, h):
        return checkpoint(inner, h, use_reentrant=False)

    return simple(fn)


@case("singular_gradient")
def vmapped():
    def f(v):
        return (v * 0).sum().sqrt()  # O:vmapped

    def fn(s, h):
        return torch.func.vmap(f)(h - 100)

    return simple(fn)


@case("singular_gradient")
def gradpen():
    def fn(s, h):
        x = torch.zeros(5, 4, requires_grad=True)
        y = (s.lin(x) * 0).sum()
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        n = torch.sqrt((g**2).sum(1))  # O:gradpen
        return n - 1

    return simple(fn)


@case("domain_error")
def complex_log():
    def fn(s, h):
        z = torch.complex(h, h)
        return torch.sqrt(z.abs() - 100)  # O:complex_log

    return simple(fn)


@case("log_zero")
def where_logzero():
    def fn(s, h):
        p = torch.relu(h)
        logs = torch.log(p)  # O:where_logzero
        return p * logs

    return simple(fn)


@case("exp_overflow")
def gauss_kl():
    def fn(s, h):
        mu, lv = h[:, :2], h[:, 2:] * 500
        return -0.5 * (1 + lv - mu**2 - lv.exp()).sum()  # O:gauss_kl

    return simple(fn)


@case("div_zero")
def cosine():
    def fn(s, h):
        u = torch.relu(h - 10)
        return (u @ u.T) / (u.norm(dim=1)[:, None] * u.norm(dim=1))  # O:cosine

    return simple(fn)


@case("div_zero")
def norm_div_inf():
    def fn(s, h):
        u = torch.relu(h - 10)
        return u / u.norm(dim=1, keepdim=True)  # O:norm_div_inf

    return simple(fn)


@case("exp_overflow", "aten.exp")
def temperature():
    def fn(s, h):
        u = F.normalize(h, dim=-1)
        sim = torch.exp(u @ u.T / 0.005)  # O:temperature
        return -torch.log(sim.diag() / sim.sum(1))

    return simple(fn)


@case("inf_arithmetic")
def masked_ce_target():
    def fn(s, h):
        return h.masked_fill(torch.tensor([False, False, True, False]), float("-inf"))

    def loss(o, b):
        return F.cross_entropy(o, torch.full((5,), 2))  # O:masked_ce_target

    return simple(fn, loss=loss)


@case("divergence")
def lstm_explode():
    def fn(s, h):
        y = h
        for _ in range(60):
            y = y @ s.mods[0].weight  # O:lstm_explode
        return y

    def prep(m):
        m.mods[0].weight.data = torch.eye(4) * 10

    return simple(fn, mods=(nn.Linear(4, 4),), prep=prep)


@case("where_grad_trap")
def nan_to_num_trap():
    def fn(s, h):
        r = 1 / (h * 0)  # O:nan_to_num_trap
        return torch.nan_to_num(r, posinf=0.0, neginf=0.0)

    return simple(fn)


@case("where_grad_trap")
def masked_index_trap():
    def fn(s, h):
        r = torch.exp(h * 1000)  # O:masked_index_trap
        return r[h < 0].sum()

    return simple(fn)


@case("bad_input", "input")
def nan_target():
    def fn(s, h):
        return h

    def loss(o, b):
        return F.mse_loss(o, b["y"])  # O:nan_target

    model, loss, batch = simple(fn, loss=loss)
    return model, loss, {**batch, "y": torch.full((5, 4), float("nan"))}


@case("div_zero")
def dropout_p1():
    def fn(s, h):
        h = F.dropout(h, 1.0)
        return h / h.abs().sum(1, keepdim=True)  # O:dropout_p1

    return simple(fn)


@case("exp_overflow")
def prob_ratio():
    def fn(s, h):
        lp = F.log_softmax(h, -1)[:, 0]
        r = (lp - (-500)).exp()  # O:prob_ratio
        return torch.min(r * -1, r.clamp(0.8, 1.2) * -1)

    return simple(fn)


@case("singular_gradient")
def std_channel():
    def fn(s, h):
        v = (h * 0).var(0)
        return torch.sqrt(v)  # O:std_channel

    return simple(fn)


@case("domain_error")
def logdet_neg():
    def fn(s, h):
        A = -torch.eye(3) * (1 + h.mean() ** 2)
        return torch.logdet(A)  # O:logdet_neg

    return simple(fn)


@case("log_zero")
def logdet_sing():
    def fn(s, h):
        A = torch.ones(3, 3) * h.mean()
        return torch.log(torch.det(A).abs())  # O:logdet_sing

    return simple(fn)


@case("div_zero")
def iou():
    def fn(s, h):
        b = torch.relu(h - 50)
        inter = b.prod(-1)
        union = b.sum(-1) - inter
        return inter / union  # O:iou

    return simple(fn)


@case("domain_error")
def norm_flow_log():
    def fn(s, h):
        return (1 - h.tanh() ** 2 * 2).log().sum(-1)  # O:norm_flow_log

    return simple(fn)


@case("inf_arithmetic")
def max_empty_mask():
    def fn(s, h):
        m = h.masked_fill(torch.arange(5)[:, None] == 1, float("-inf")).max(1).values
        return m * torch.relu(h[:, 0] * 0)  # O:max_empty_mask

    return simple(fn)


@case("singular_gradient")
def hook_case():
    def fn(s, h):
        y = h * 0
        y.register_hook(lambda g: g)
        return y.norm(dim=1).sqrt()  # O:hook_case

    return simple(fn)


@case("half_overflow")
def half_scores():
    def fn(s, h):
        q = h * 300
        a = q @ q.T  # O:half_scores
        return torch.softmax(a, -1)

    return halved(simple(fn))


@case("bad_parameter", "parameter")
def bad_running_var():
    def fn(s, h):
        return s.mods[0](h)

    def prep(m):
        m.mods[0].running_var[1] = float("nan")
        m.mods[0].eval()

    return simple(fn, mods=(nn.BatchNorm1d(4),), prep=prep)


@case("exp_overflow", "aten.exp")
def param_rebound():
    class P(nn.Module):
        def forward(s, w):
            return torch.exp(w)  # O:param_rebound

    def fn(s, h):
        return s.mods[0](h)

    def prep(m):
        parametrize.register_parametrization(m.mods[0], "weight", P())
        m.mods[0].parametrizations.weight.original.data += 200

    return simple(fn, mods=(nn.Linear(4, 4),), prep=prep)


@case("log_zero", "aten.log")
def gumbel():
    def fn(s, h):
        u = torch.zeros_like(h)
        return F.softmax(h - torch.log(-torch.log(u + 0)), -1)  # O:gumbel

    return simple(fn)


@case("divergence")
def lr_huge():
    def fn(s, h):
        return h

    def loss(o, b):
        return (o**2).mean()  # O:lr_huge

    def prep(m):
        m.lin.weight.data *= 1e25

    return simple(fn, loss=loss, prep=prep)


@case("exp_overflow")
def poisson():
    def fn(s, h):
        return h * 1000

    def loss(o, b):
        return F.poisson_nll_loss(o, torch.ones(5, 4))  # O:poisson

    return simple(fn, loss=loss)


@case("log_zero")
def kl_target():
    def fn(s, h):
        return torch.softmax(h * 1000, -1).log()  # O:kl_target

    def loss(o, b):
        return F.kl_div(o, torch.full((5, 4), 0.25))

    return simple(fn, loss=loss)


@case("singular_gradient")
def cumprod_pow():
    def fn(s, h):
        t = torch.cumprod(h * 0, -1)
        return t.pow(0.3)  # O:cumprod_pow

    return simple(fn)


@case("div_zero")
def quant():
    def fn(s, h):
        z = h * 0
        return z / (z.quantile(0.9) - z.quantile(0.1))  # O:quant

    return simple(fn)


@case("degenerate_linalg")
def chol():
    def fn(s, h):
        A = torch.eye(4) + 0 * h.sum()
        return torch.linalg.eigh(A)[1][0, 1] * 2  # O:chol

    return simple(fn)


def marked_line(name):
    lines, start = inspect.getsourcelines(inspect.getmodule(case)), 1
    return next(i for i, line in enumerate(lines[0], start) if line.rstrip().endswith(f"# O:{name}"))


@pytest.mark.filterwarnings("ignore:std():UserWarning")
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
@pytest.mark.parametrize(("build", "cause", "op"), CASES, ids=[c[0].__name__ for c in CASES])
def test_origin(build, cause, op):
    model, loss_of, batch = build()

    def closure():
        model.zero_grad()
        loss = loss_of(model(batch["x"]), batch).mean()
        loss.backward()
        return loss

    origin = tt.trace(model, closure, torch.optim.SGD(model.parameters(), lr=0.01))
    assert origin is not None
    assert origin.cause == cause, str(origin)
    assert op is None or origin.op == op, str(origin)
    if cause not in ("bad_parameter", "bad_input"):
        assert origin.line == marked_line(build.__name__), str(origin)
    assert tt.Origin.from_json(origin.to_json()) == origin
