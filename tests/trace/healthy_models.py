"""Real architectures in small, with much in them that could frighten a tracer, on which nothing goes wrong.

Each builder returns the model, the closure of each step (zero_grad, forward, backward; returns the loss) and
the optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Closure = Callable[[], torch.Tensor]
Built = tuple[nn.Module, Callable[[int], Closure], torch.optim.Optimizer]


def generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + step)


def training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Generator], torch.Tensor],
    seed: int,
) -> Built:
    """The usual closure: the batch of a step depends on the step alone."""

    def closure(step: int) -> Closure:
        def again() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(generator(seed, step))
            loss.backward()
            return loss

        return again

    return model, closure, optimizer


def tokens(g: torch.Generator, batch: int, length: int, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and a mask of rows padded on the right."""
    lengths = torch.randint(length // 2, length + 1, (batch,), generator=g)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return torch.randint(3, vocab, (batch, length), generator=g) * mask, mask


def language_model(model: nn.Module, seed: int, vocab: int) -> Built:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        ids, mask = tokens(g, 4, 12, vocab)
        return model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss

    return training(model, optimizer, loss_of, seed)


def gpt2(seed: int) -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
    return language_model(GPT2LMHeadModel(config), seed, 64)


def llama(seed: int) -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config = LlamaConfig(vocab_size=64, num_key_value_heads=2, max_position_embeddings=16, **sizes)
    return language_model(LlamaForCausalLM(config), seed, 64)


def bert(seed: int) -> Built:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    config = BertConfig(vocab_size=64, max_position_embeddings=16, attn_implementation="eager", **sizes)
    return language_model(BertForMaskedLM(config), seed, 64)


def t5(seed: int) -> Built:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return language_model(T5ForConditionalGeneration(config), seed, 64)


def vit(seed: int) -> Built:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=5, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        labels = torch.randint(0, 5, (4,), generator=g)
        return model(pixel_values=torch.rand(4, 3, 16, 16, generator=g), labels=labels).loss

    return training(model, optimizer, loss_of, seed)


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.b2(self.c2(F.relu(self.b1(self.c1(x))))) + self.short(x))


def resnet(seed: int) -> Built:
    """With BatchNorm, dropout, label smoothing and, in every batch, an all-black picture."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        Residual(3, 8, 1),
        nn.MaxPool2d(2),
        Residual(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
    )
    model.append(nn.Linear(16, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        img = torch.rand(6, 3, 12, 12, generator=g)
        img[0] = 0.0
        return F.cross_entropy(model(img), torch.randint(0, 5, (6,), generator=g), label_smoothing=0.1)

    return training(model, optimizer, loss_of, seed)


class Speech(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 12, 3, 2, 1)
        self.rnn, self.out = nn.LSTM(12, 12, 2, batch_first=True, bidirectional=True), nn.Linear(24, vocab)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=h.shape[1]
        )
        return self.out(h).log_softmax(-1).transpose(0, 1)


def lstm_ctc(seed: int) -> Built:
    """Packed sequences of unequal length; log alpha of CTC is full of -inf."""
    torch.manual_seed(seed)
    model = Speech(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        frames = torch.randint(9, 13, (4,), generator=g)
        y = torch.randint(1, 8, (4, 4), generator=g)
        y_len = torch.randint(1, 5, (4,), generator=g)
        return F.ctc_loss(model(torch.randn(4, 24, 6, generator=g), frames), y, frames, y_len)

    return training(model, optimizer, loss_of, seed)


class WGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
        self.critic = nn.Sequential(
            nn.Linear(2, 24), nn.LeakyReLU(0.2), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1)
        )

    def penalty(self, real: torch.Tensor, fake: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        x = (mix * real + (1 - mix) * fake).requires_grad_(True)
        (slope,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1).pow(2).mean()


def gan(seed: int) -> Built:
    """WGAN-GP: three steps of the critic, with a second derivative, to one of the generator."""
    torch.manual_seed(seed)
    model = WGAN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.5, 0.9))

    def critic_loss(g: torch.Generator) -> torch.Tensor:
        angle = 2 * math.pi * torch.rand(8, 1, generator=g)
        real = torch.cat([angle.cos(), angle.sin()], 1)
        fake = model.generator(torch.randn(8, 4, generator=g)).detach()
        gap = model.critic(fake).mean() - model.critic(real).mean()
        return gap + 10 * model.penalty(real, fake, torch.rand(8, 1, generator=g))

    def closure(step: int) -> Closure:
        def again() -> torch.Tensor:
            optimizer.zero_grad()
            g = generator(seed, step)
            if step % 4:
                loss = critic_loss(g)
            else:
                loss = -model.critic(model.generator(torch.randn(8, 4, generator=g))).mean()
            loss.backward()
            idle = model.generator if step % 4 else model.critic
            for p in idle.parameters():
                p.grad = None
            return loss

        return again

    return model, closure, optimizer


class Coupling(nn.Module):
    def __init__(self, dim: int, *, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(dim // 2, 24), nn.SiLU(), nn.Linear(24, dim))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x.chunk(2, 1)
        a, b = (b, a) if self.flip else (a, b)
        shift, raw = self.net(a).chunk(2, 1)
        scale = torch.tanh(raw)
        b = b * scale.exp() + shift
        return torch.cat([b, a] if self.flip else [a, b], 1), scale.sum(1)


class RealNVP(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.linalg.qr(torch.randn(dim, dim))[0].contiguous())
        self.layers = nn.ModuleList(Coupling(dim, flip=bool(i % 2)) for i in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 0.01 + 0.98 * x
        log_det = -(x.log() + torch.log1p(-x)).sum(1)
        z = torch.logit(x) @ self.mix
        log_det = log_det + torch.linalg.slogdet(self.mix)[1]
        for layer in self.layers:
            z, change = layer(z)
            log_det = log_det + change
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det


def flow(seed: int) -> Built:
    """RealNVP on saturated data: exact zeros and ones before the squeeze."""
    torch.manual_seed(seed)
    model = RealNVP()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        return -model((torch.rand(8, 6, generator=g) * 1.4 - 0.2).clamp(0.0, 1.0)).mean()

    return training(model, optimizer, loss_of, seed)


class ChainCRF(nn.Module):
    """BIO tags: transitions that the scheme forbids are -inf; rows are padded."""

    def __init__(self, vocab: int, tags: int) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(vocab, 12, padding_idx=0), nn.GRU(12, 12, batch_first=True)
        self.out, self.trans = nn.Linear(12, tags), nn.Parameter(torch.zeros(tags, tags))
        forbidden = torch.zeros(tags, tags, dtype=torch.bool)
        forbidden[0, 2] = True  # O -> I
        self.register_buffer("forbidden", forbidden)

    def log_partition(self, emit: torch.Tensor, mask: torch.Tensor, trans: torch.Tensor) -> torch.Tensor:
        first = torch.arange(emit.shape[2]) == 2
        alpha = emit[:, 0].masked_fill(first, float("-inf"))
        for t in range(1, emit.shape[1]):
            after = torch.logsumexp(alpha.unsqueeze(2) + trans, 1) + emit[:, t]
            alpha = torch.where(mask[:, t, None].bool(), after, alpha)
        return torch.logsumexp(alpha, 1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        emit, trans = (
            self.out(self.rnn(self.emb(ids))[0]),
            self.trans.masked_fill(self.forbidden, float("-inf")),
        )
        gold = (emit.gather(2, tags[..., None]).squeeze(2) * mask).sum(1)
        gold = gold + (trans[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]).sum(1)
        return (self.log_partition(emit, mask, trans) - gold).mean()


def crf(seed: int) -> Built:
    torch.manual_seed(seed)
    model = ChainCRF(30, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        ids, mask = tokens(g, 4, 8, 30)
        return model(ids, mask, torch.randint(0, 2, (4, 8), generator=g))

    return training(model, optimizer, loss_of, seed)


class Encoder(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocab, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.pool, self.out = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        pad = ids == 0
        h = self.encoder(self.emb(ids), src_key_padding_mask=pad)
        pooled, _ = self.pool(h[:, :1], h, h, key_padding_mask=pad, need_weights=True)
        keep = (~pad)[:, None, None, :].expand(-1, 4, h.shape[1], -1)
        heads = h.view(*h.shape[:2], 4, 8).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=keep)
        return self.out(pooled.squeeze(1) + mixed.transpose(1, 2).flatten(2)[:, 0])


def padded_attention(seed: int) -> Built:
    """Boolean masks in three kinds of attention, rows padded to a third of their length."""
    torch.manual_seed(seed)
    model = Encoder(40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        ids, _ = tokens(g, 6, 12, 40)
        ids[0, 4:] = 0
        return F.cross_entropy(model(ids), torch.randint(0, 4, (6,), generator=g))

    return training(model, optimizer, loss_of, seed)


def bf16_autocast(seed: int) -> Built:
    torch.manual_seed(seed)
    model = Encoder(40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_of(g: torch.Generator) -> torch.Tensor:
        ids, _ = tokens(g, 6, 12, 40)
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(ids), torch.randint(0, 4, (6,), generator=g))

    return training(model, optimizer, loss_of, seed)


def fp16_scaler(seed: int) -> Built:
    """fp16 autocast; gradients are unscaled right before the optimizer's step, as a training loop does."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10_000)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: scaler.unscale_(opt))
    optimizer.register_step_post_hook(lambda opt, args, kwargs: scaler.update())

    def closure(step: int) -> Closure:
        def again() -> torch.Tensor:
            optimizer.zero_grad()
            g = generator(seed, step)
            with torch.autocast("cpu", torch.float16):
                logits = model(torch.randn(8, 16, generator=g))
                loss = F.cross_entropy(logits, torch.randint(0, 4, (8,), generator=g))
            scaler.scale(loss).backward()
            return loss

        return again

    return model, closure, optimizer


BUILDERS: dict[str, Callable[[int], Built]] = {
    build.__name__: build
    for build in (
        *(gpt2, llama, bert, t5, vit, resnet, lstm_ctc, gan, flow, crf),
        *(padded_attention, bf16_autocast, fp16_scaler),
    )
}
