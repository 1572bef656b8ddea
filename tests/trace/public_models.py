"""Public projects, as installed from packages, each with one line spoiled or one input broken.

A spoiled project is a copy of one of its files, outside site-packages as a developer of it would have it,
with an epsilon or a guard taken out. It is loaded as a part of the installed package, so that everything
else of it stays.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

HERE = Path(__file__)
Built = tuple[nn.Module, Callable[[], torch.Tensor], torch.optim.Optimizer]


@dataclass(frozen=True)
class Spoiled:
    """One line of a public project and what the tracer must say when it is gone."""

    name: str
    submodule: str
    old: str
    new: str
    build: Callable[[ModuleType], Built]
    op: set[str]
    cause: set[str]
    phase: set[str] = field(default_factory=lambda: {"forward"})
    module: str | None = None
    origin: str | None = None  # text of the line to be named; without it the new one

    def copy(self, folder: Path, text: str) -> tuple[ModuleType, Path]:
        spec = importlib.util.find_spec(self.submodule)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text()
        assert self.old in source, f"{self.submodule} has changed"
        path = folder / f"{Path(spec.origin).stem}_spoiled.py"
        path.write_text(source.replace(self.old, text))
        name = f"{self.submodule}_spoiled"
        loaded = importlib.util.spec_from_file_location(name, path)
        assert loaded is not None
        assert loaded.loader is not None
        module = importlib.util.module_from_spec(loaded)
        sys.modules[name] = module  # dataclasses and type hints look their module up by name
        loaded.loader.exec_module(module)
        return module, path

    def line(self, path: Path) -> int:
        wanted = self.origin or self.new
        lines = [i for i, text in enumerate(path.read_text().splitlines(), 1) if wanted in text]
        assert len(lines) == 1, (wanted, lines)
        return lines[0]


def step_of(model: nn.Module, loss_of: Callable[[], torch.Tensor]) -> Built:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    return model, closure, optimizer


def llama(module: ModuleType) -> Built:
    from transformers import LlamaConfig

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config = LlamaConfig(
        vocab_size=64, num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0, **sizes
    )
    model = module.LlamaForCausalLM(config)
    ids = torch.randint(1, 64, (2, 8))
    ids[1, 5:] = 0
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = 0.0
    return step_of(model, lambda: model(input_ids=ids, labels=ids).loss)


def t5(module: ModuleType) -> Built:
    from transformers import T5Config

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model = module.T5ForConditionalGeneration(config)
    with torch.no_grad():
        model.shared.weight[0] = 0.0
    ids = torch.randint(1, 64, (2, 8))
    return step_of(model, lambda: model(input_ids=ids, labels=ids).loss)


def x_transformer(module: ModuleType) -> Built:
    torch.manual_seed(0)
    layers = module.Decoder(dim=32, depth=2, heads=2, attn_dim_head=16, attn_qk_norm=True)
    model = module.TransformerWrapper(
        num_tokens=30, max_seq_len=16, attn_layers=layers, use_abs_pos_emb=False
    )
    with torch.no_grad():
        model.token_emb.emb.weight[0] = 0.0
    ids = torch.randint(1, 30, (2, 9))
    ids[1, 6:] = 0
    return step_of(model, lambda: F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:]))


class Tokenizer(nn.Module):
    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.enc, self.quantizer, self.dec = nn.Linear(6, 4), quantizer, nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, _, aux = self.quantizer(self.enc(x))
        return F.mse_loss(self.dec(q), x) + aux


def lookup_free_quantizer(module: ModuleType) -> Built:
    torch.manual_seed(0)
    model = Tokenizer(module.LFQ(codebook_size=16, dim=4, entropy_loss_weight=0.1, diversity_gamma=1.0))
    x = torch.randn(2, 10, 6)
    return step_of(model, lambda: model(x))


def metric_learning(module: ModuleType) -> Built:
    torch.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8)), module.NTXentLoss(0.004)
    x, y = torch.randn(8, 6), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    x[1] = -x[0]  # a pair of the same label that looks the opposite
    return step_of(model, lambda: criterion(model(x), y))


class Flow(nn.Module):
    def __init__(self, logit: nn.Module) -> None:
        super().__init__()
        import normflows

        nets = [normflows.nets.MLP([2, 16, 4], init_zeros=True) for _ in range(2)]
        self.logit = logit
        self.steps = nn.ModuleList(normflows.flows.AffineCouplingBlock(net) for net in nets)
        self.base = normflows.distributions.DiagGaussian(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, log_det = self.logit.inverse(x)
        for step in self.steps:
            z, change = step.inverse(z)
            log_det = log_det + change
        return -(self.base.log_prob(z) + log_det).mean()


def normalizing_flow(module: ModuleType) -> Built:
    torch.manual_seed(0)
    model = Flow(module.Logit())
    x = torch.rand(6, 4)
    x[2, 1] = 0.0
    return step_of(model, lambda: model(x))


def spectral_loss(module: ModuleType) -> Built:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(1, 8, 9, padding=4, bias=False), nn.Tanh(), nn.Conv1d(8, 1, 9, padding=4, bias=False)
    )
    criterion = module.STFTLoss(fft_size=64, hop_size=32, win_length=64, w_log_mag=0.0, w_lin_mag=1.0)
    noisy, clean = torch.randn(2, 1, 512), torch.randn(2, 1, 512)
    noisy[1, :, 200:] = 0.0
    return step_of(model, lambda: criterion(model(noisy), clean))


class DeepGP(nn.Module):
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__()
        import gpytorch

        class GP(gpytorch.models.ExactGP):
            def __init__(self, likelihood: Any) -> None:
                super().__init__(x, y, likelihood)
                self.mean = gpytorch.means.ConstantMean()
                self.cov = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=2))

            def forward(self, x: torch.Tensor) -> Any:
                return gpytorch.distributions.MultivariateNormal(self.mean(x), self.cov(x))

        self.likelihood = gpytorch.likelihoods.GaussianLikelihood()
        self.gp = GP(self.likelihood)
        self.mll = gpytorch.mlls.ExactMarginalLogLikelihood(self.likelihood, self.gp)


def gaussian_process(module: ModuleType) -> Built:
    torch.manual_seed(0)
    x, y = torch.rand(10, 2), torch.randn(10)
    model = DeepGP(x, y)

    def loss_of() -> torch.Tensor:
        with mock.patch("gpytorch.kernels.kernel.dist", module.dist):
            return -model.mll(model.gp(x), y)

    return step_of(model, loss_of)


def info_nce(module: ModuleType) -> Built:
    torch.manual_seed(0)
    model, criterion = (
        nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False)),
        module.InfoNCE(),
    )
    query, key = torch.randn(6, 6), torch.randn(6, 6)
    query[3] = 0.0
    return step_of(model, lambda: criterion(model(query), model(key)))


SPOILED = (
    Spoiled(
        "transformers, Llama without the epsilon of RMSNorm",
        "transformers.models.llama.modeling_llama",
        "torch.rsqrt(variance + self.variance_epsilon)",
        "torch.rsqrt(variance)",
        llama,
        {"aten.rsqrt"},
        {"div_zero", "domain_edge"},
        module="model.layers.0.input_layernorm",
    ),
    Spoiled(
        "transformers, T5 without the epsilon of its norm",
        "transformers.models.t5.modeling_t5",
        "torch.rsqrt(variance + self.variance_epsilon)",
        "torch.rsqrt(variance)",
        t5,
        {"aten.rsqrt"},
        {"div_zero", "domain_edge"},
        module="decoder.block.0.layer.0.layer_norm",
    ),
    Spoiled(
        "x-transformers, norm of queries and keys without a clamp",
        "x_transformers.x_transformers",
        "t = F.normalize(t, p = 2, dim = -1)",
        "t = t / t.norm(p = 2, dim = -1, keepdim = True)",
        x_transformer,
        {"aten.div"},
        {"div_zero"},
        module="attn_layers.layers.0.1",
    ),
    Spoiled(
        "vector-quantize-pytorch, entropy of LFQ without the clamp",
        "vector_quantize_pytorch.lookup_free_quantization",
        "return t.clamp(min = eps).log()",
        "return t.log()",
        lookup_free_quantizer,
        {"aten.log"},
        {"log_zero"},
        module="quantizer",
    ),
    Spoiled(
        "pytorch-metric-learning, NT-Xent without the small value",
        "pytorch_metric_learning.losses.ntxent_loss",
        "torch.log((numerator / denominator) + c_f.small_val(dtype))",
        "torch.log(numerator / denominator)",
        metric_learning,
        {"aten.log"},
        {"log_zero"},
        {"loss"},
    ),
    Spoiled(
        "normflows, logit transform without alpha",
        "normflows.transforms",
        "z = self.alpha + beta * z",
        "z = z + 0.0",
        normalizing_flow,
        {"aten.log"},
        {"log_zero"},
        origin="logz = torch.log(z)",
    ),
    Spoiled(
        "auraloss, magnitude without the clamp",
        "auraloss.freq",
        "min=self.eps)",
        "min=0.0)",
        spectral_loss,
        {"SqrtBackward0"},
        {"singular_gradient"},
        {"backward"},
        origin="x_mag = torch.sqrt(",
    ),
    Spoiled(
        "gpytorch, Matern distance without the clamp",
        "gpytorch.kernels.kernel",
        "return res.clamp_min_(1e-30).sqrt_()",
        "return res.clamp_min_(0.0).sqrt_()",
        gaussian_process,
        {"SqrtBackward0"},
        {"singular_gradient"},
        {"backward"},
    ),
    Spoiled(
        "info-nce-pytorch, plain normalization",
        "info_nce",
        "F.normalize(x, dim=-1)",
        "x / x.norm(dim=-1, keepdim=True)",
        info_nce,
        {"aten.div"},
        {"div_zero"},
        {"loss"},
    ),
)


class Dynamics(nn.Module):
    """A field of unit speed: no direction at rest."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2, bias=False))

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        drift = self.net(y) * y
        return drift / drift.norm(dim=-1, keepdim=True)  # ORIGIN of neural_ode


def neural_ode() -> Built:
    """torchdiffeq: the solver is the package's, the line is the user's."""
    from torchdiffeq import odeint

    torch.manual_seed(0)
    model, y0 = Dynamics(), torch.randn(4, 2)
    y0[2] = 0.0
    t = torch.linspace(0.0, 1.0, 3)
    return step_of(model, lambda: odeint(model, y0, t, method="rk4")[-1].pow(2).mean())


def vision_transformer() -> Built:
    """transformers, ViT: a NaN pixel. Its first use is in the package, under the user's call."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=5, **sizes))
    pixels, labels = torch.rand(4, 3, 16, 16), torch.randint(0, 5, (4,))
    pixels[1, 0, 3, 3] = float("nan")

    def loss() -> Any:
        return model(pixel_values=pixels, labels=labels).loss  # ORIGIN of vision_transformer

    return step_of(model, loss)


@dataclass(frozen=True)
class Broken:
    """An unchanged public model with a broken input; the line to be named is in this file."""

    build: Callable[[], Built]
    op: set[str]
    cause: set[str]
    phase: set[str]
    module: str | None

    @property
    def line(self) -> int:
        lines = HERE.read_text().splitlines()
        (line,) = [
            i for i, text in enumerate(lines, 1) if text.endswith(f"# ORIGIN of {self.build.__name__}")
        ]
        return line


BROKEN = (
    Broken(neural_ode, {"aten.div"}, {"div_zero"}, {"forward"}, None),
    Broken(
        vision_transformer,
        {"input", "aten.convolution"},
        {"bad_input"},
        {"input", "forward"},
        "vit.embeddings.patch_embeddings.projection",
    ),
)
