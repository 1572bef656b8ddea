"""Forward and backward of every part of `trimtab.numerics` that replaces a torch function, against torch.

Goals: cross entropy at most 1.5 times torch, all others at most 3 times. SciPy and JAX/optax are timed
where they are installed (forward only for SciPy, which has no gradients).

Where each large tensor gets fresh pages from the system, these cost more than the arithmetic: with glibc set
MALLOC_MMAP_THRESHOLD_=4000000000 and MALLOC_TRIM_THRESHOLD_=8000000000 to measure the latter.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from _compare import header, line, ratio
from torch import Tensor

from trimtab import numerics

ROWS, CLASSES = 512, 10_000
Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """Two ways of computing the same from the same inputs, the first of which gets a gradient."""

    name: str
    ours: Function
    torch: Function
    inputs: tuple[Tensor, ...]
    goal: float = 3.0


def forward_backward(function: Function, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """One evaluation with its gradient."""

    def work() -> object:
        leaf = inputs[0].detach().requires_grad_()
        result = function(leaf, *inputs[1:])
        return torch.autograd.grad(result, leaf, torch.ones_like(result))

    return work


def torch_kl(p: Tensor, q: Tensor) -> Tensor:
    """The usual way."""
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def torch_js(p: Tensor, q: Tensor) -> Tensor:
    """The usual way."""
    p_log, q_log = p.log_softmax(-1), q.log_softmax(-1)
    middle = ((p_log.exp() + q_log.exp()) / 2).log()
    return (p_log.exp() * (p_log - middle) + q_log.exp() * (q_log - middle)).sum(-1) / 2


def torch_focal(x: Tensor, t: Tensor) -> Tensor:
    """torchvision's formula."""
    p = torch.sigmoid(x)
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    miss = 1 - (p * t + (1 - p) * (1 - t))
    return (0.25 * t + 0.75 * (1 - t)) * loss * miss**2


def torch_entropy(x: Tensor) -> Tensor:
    """The usual way."""
    log = x.log_softmax(-1)
    return -(log.exp() * log).sum(-1)


def cases(dtype: torch.dtype) -> list[Case]:
    """All comparisons in a type."""
    x = torch.randn(ROWS, CLASSES, dtype=dtype)
    y = torch.randint(0, CLASSES, (ROWS,))
    other = x + 0.1 * torch.randn_like(x)
    shares = torch.softmax(torch.randn_like(x), -1)
    hard = (torch.rand_like(x) > 0.5).to(dtype)
    mask = torch.rand(ROWS, CLASSES) > 0.1
    positive, unit = x.abs() + 0.01, torch.rand_like(x) * 0.98 + 0.01
    return [
        Case("cross_entropy, indices", numerics.cross_entropy, F.cross_entropy, (x, y), 1.5),
        Case("cross_entropy, probabilities", numerics.cross_entropy, F.cross_entropy, (x, shares), 1.5),
        Case(
            "cross_entropy, label smoothing",
            lambda x, y: numerics.cross_entropy(x, y, label_smoothing=0.1),
            lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
            (x, y),
            1.5,
        ),
        Case("softmax", numerics.softmax, lambda x: F.softmax(x, -1), (x,)),
        Case("log_softmax", numerics.log_softmax, lambda x: F.log_softmax(x, -1), (x,)),
        Case("logsumexp", numerics.logsumexp, lambda x: torch.logsumexp(x, -1), (x,)),
        Case(
            "masked_softmax",
            numerics.masked_softmax,
            lambda x, m: x.masked_fill(~m, -torch.inf).softmax(-1),
            (x, mask),
        ),
        Case("bce_with_logits", numerics.bce_with_logits, F.binary_cross_entropy_with_logits, (x, hard)),
        Case(
            "bce_with_logits, pos_weight",
            lambda x, t: numerics.bce_with_logits(x, t, pos_weight=x.new_tensor(2.0)),
            lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=x.new_tensor(2.0)),
            (x, hard),
        ),
        Case("sigmoid_focal_loss", numerics.sigmoid_focal_loss, torch_focal, (x, hard)),
        Case("kl_from_logits", numerics.kl_from_logits, torch_kl, (x, other)),
        Case("js_divergence", numerics.js_divergence, torch_js, (x, other)),
        Case("entropy_from_logits", numerics.entropy_from_logits, torch_entropy, (x,)),
        Case("gumbel_softmax", numerics.gumbel_softmax, F.gumbel_softmax, (x,)),
        Case("sigmoid", numerics.sigmoid, torch.sigmoid, (x,)),
        Case("tanh", numerics.tanh, torch.tanh, (x,)),
        Case("expm1", numerics.expm1, torch.expm1, (x,)),
        Case("softplus", numerics.softplus, F.softplus, (x,)),
        Case("silu", numerics.silu, F.silu, (x,)),
        Case("gelu", numerics.gelu, F.gelu, (x,)),
        Case("log_ndtr", numerics.log_ndtr, torch.special.log_ndtr, (x,)),
        Case("ndtr", numerics.ndtr, torch.special.ndtr, (x,)),
        Case("logit", numerics.logit, torch.logit, (unit,)),
        Case("log1mexp", numerics.log1mexp, lambda x: torch.log1p(-torch.exp(x)), (-positive,)),
        Case("log_cosh", numerics.log_cosh, lambda x: x.cosh().log(), (x,)),
        Case("softplus_inverse", numerics.softplus_inverse, lambda x: x.expm1().log(), (positive,)),
        Case("asin", numerics.asin, torch.asin, (unit,)),
        Case("asinh", numerics.asinh, torch.asinh, (x,)),
        Case("atan2", numerics.atan2, torch.atan2, (x, other)),
        Case("hypot", numerics.hypot, torch.hypot, (x, other)),
        Case("logaddexp", numerics.logaddexp, torch.logaddexp, (x, other)),
        Case("safe_sqrt", numerics.safe_sqrt, lambda x: torch.where(x > 0, x.sqrt(), 0.0), (x.abs(),)),
        Case("safe_log", numerics.safe_log, lambda x: torch.where(x > 0, x.log(), 0.0), (x.abs(),)),
        Case("safe_div", numerics.safe_div, torch.div, (x, other)),
        Case("xlogy", numerics.xlogy, torch.xlogy, (positive, unit)),
        Case("safe_norm", numerics.safe_norm, torch.linalg.vector_norm, (x,)),
        Case(
            "safe_norm of rows",
            lambda x: numerics.safe_norm(x, dim=-1),
            lambda x: torch.linalg.vector_norm(x, dim=-1),
            (x,),
        ),
        Case("normalize", numerics.normalize, F.normalize, (x,)),
        Case("cosine_similarity", numerics.cosine_similarity, F.cosine_similarity, (x, other)),
        Case(
            "standardize",
            numerics.standardize,
            lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
            (x,),
        ),
    ]


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        print(header(f"forward + backward, {ROWS} x {CLASSES}, {dtype}"))
        for case in cases(dtype):
            if dtype == torch.bfloat16 and case.name == "log_ndtr":
                continue  # torch has none
            ours = forward_backward(case.ours, case.inputs)
            peer = forward_backward(case.torch, case.inputs)
            print(line(case.name, *ratio(ours, peer, rounds=5), f"<= {case.goal}"), flush=True)
    for name in ("scipy", "optax"):
        if importlib.util.find_spec(name) is not None:
            PEERS[name]()


def against_scipy() -> None:
    """Forward only: SciPy has no gradients."""
    from scipy import special

    x = torch.randn(ROWS, CLASSES)
    array = x.numpy()
    print(header("forward, SciPy as the peer"))
    for name, ours, peer in [
        ("logsumexp", lambda: numerics.logsumexp(x), lambda: special.logsumexp(array, axis=-1)),
        ("log_softmax", lambda: numerics.log_softmax(x), lambda: special.log_softmax(array, axis=-1)),
        ("softmax", lambda: numerics.softmax(x), lambda: special.softmax(array, axis=-1)),
        ("log_ndtr", lambda: numerics.log_ndtr(x), lambda: special.log_ndtr(array)),
        ("sigmoid", lambda: numerics.sigmoid(x), lambda: special.expit(array)),
    ]:
        print(line(name, *ratio(ours, peer, rounds=3), ""), flush=True)


def against_optax() -> None:
    """Forward and backward, compiled by JAX; ours is eager code."""
    import jax
    import optax

    x, y = torch.randn(ROWS, CLASSES), torch.randint(0, CLASSES, (ROWS,))
    other, hard = x + 0.1 * torch.randn_like(x), (torch.rand_like(x) > 0.5).float()
    array = {id(t): jax.numpy.asarray(t.numpy()) for t in (x, y, other, hard)}
    nn = jax.nn
    cases: list[tuple[str, Function, Callable[..., object], tuple[Tensor, ...]]] = [
        (
            "cross_entropy",
            numerics.cross_entropy,
            lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).mean(),
            (x, y),
        ),
        (
            "bce_with_logits",
            numerics.bce_with_logits,
            lambda x, t: optax.sigmoid_binary_cross_entropy(x, t).mean(),
            (x, hard),
        ),
        (
            "kl_from_logits",
            numerics.kl_from_logits,
            lambda p, q: (nn.softmax(p) * (nn.log_softmax(p) - nn.log_softmax(q))).sum(),
            (x, other),
        ),
        ("logsumexp", numerics.logsumexp, lambda x: nn.logsumexp(x, -1).sum(), (x,)),
        ("sigmoid", numerics.sigmoid, lambda x: nn.sigmoid(x).sum(), (x,)),
        ("gelu", numerics.gelu, lambda x: nn.gelu(x, approximate=False).sum(), (x,)),
    ]
    print(header("forward + backward, JAX and optax as the peer"))
    for name, function, peer, inputs in cases:
        compiled, arrays = jax.jit(jax.value_and_grad(peer)), [array[id(t)] for t in inputs]
        ours = forward_backward(function, inputs)
        theirs = lambda run=compiled, of=arrays: jax.block_until_ready(run(*of))  # noqa: E731
        print(line(name, *ratio(ours, theirs, rounds=5), ""), flush=True)


PEERS = {"scipy": against_scipy, "optax": against_optax}


if __name__ == "__main__":
    main()
