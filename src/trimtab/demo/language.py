"""A small decoder-only language model on bytes, as a hurried person writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.demo.corpus import Corpus, Rows, draw_rows, stdlib_corpus
from trimtab.demo.layers import Block, RMSNorm
from trimtab.demo.train import Recipe, Score, plan_run
from trimtab.demo.troubles import FailingWorker

NUM_BYTES = 256

# 8 bits tell the bytes apart; random directions beside them spare the model the XORs
NUM_RANDOM_FEATURES = 24
NUM_FEATURES = 8 + NUM_RANDOM_FEATURES

# Rows of held-out text behind a score: with 64 bytes each, its standard error is about 0.03 bits
NUM_SCORED_ROWS = 256

PROMPT = b"def "


@final
@dataclass(frozen=True, slots=True)
class LanguageSize:
    """How large the model is and how long it trains.

    The defaults take half a minute on one core that is otherwise idle.

    Attributes:
        width: Size of the token vectors.
        num_blocks: Transformer blocks.
        num_heads: Attention heads in each.
        context: Bytes the model looks back on.
        batch_rows: Documents in a batch.
        num_steps: Training steps.
    """

    width: int = 96
    num_blocks: int = 2
    num_heads: int = 4
    context: int = 64
    batch_rows: int = 12
    num_steps: int = 1500


def byte_features() -> Tensor:
    """What the data worker delivers for each byte: its bits as +-1 and some fixed random numbers.

    Shape:
        (256, NUM_FEATURES)
    """
    values = torch.arange(NUM_BYTES)
    bits = (values[:, None] >> torch.arange(8)) & 1
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(NUM_BYTES, NUM_RANDOM_FEATURES, generator=generator)
    return torch.cat([2.0 * bits - 1.0, noise], dim=1)


class ByteModel(nn.Module):
    """Byte features in, logits for the next byte out.

    Args:
        size: Its dimensions.
    """

    def __init__(self, size: LanguageSize) -> None:
        super().__init__()
        self.embed = nn.Linear(NUM_FEATURES, size.width)
        self.position = nn.Parameter(0.02 * torch.randn(size.context, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.num_heads) for _ in range(size.num_blocks))
        self.norm = RMSNorm(size.width)
        self.head = nn.Linear(size.width, NUM_BYTES)

    def forward(self, features: Tensor, is_real: Tensor) -> Tensor:
        """Predict.

        Args:
            features: Shape (rows, tokens, NUM_FEATURES).
            is_real: False for padding, shape (rows, tokens).
        """
        num_tokens = features.shape[1]
        x = self.embed(features) + self.position[:num_tokens]
        future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
        blocked = future | ~is_real[:, None, None, :]
        for block in self.blocks:
            x = block(x, blocked)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def byte_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every byte in nats, shape (rows, tokens)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


@final
@dataclass(frozen=True, slots=True)
class LanguageTask:
    """Next-byte prediction on Python sources.

    Attributes:
        corpus: The documents.
        size: Dimensions of model and batch.
        recipe: How to train.
        worker: Who delivers the batches.
        table: Features of each byte, shape (256, NUM_FEATURES).
    """

    corpus: Corpus
    size: LanguageSize
    recipe: Recipe
    worker: FailingWorker
    table: Tensor = field(default_factory=byte_features, repr=False, compare=False)
    name: str = "text"

    def build_model(self) -> nn.Module:
        """A fresh model, initialised from torch's global random state."""
        return ByteModel(self.size)

    def draw_batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The batch of one step: features, bytes and lengths, as the worker delivers them."""
        rows = draw_rows(self.corpus.train, self.size.batch_rows, self.size.context + 1, generator)
        features, values, lengths = self._tensors(rows)
        return self.worker.deliver(step, features), values, lengths

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean over the rows of each row's mean loss per byte."""
        features, values, lengths = batch
        position = torch.arange(features.shape[1])
        has_target = position + 1 < lengths[:, None]
        losses = byte_losses(model(features, position < lengths[:, None]), values[:, 1:])
        # The hurried line, 2 of 2: an empty row has no byte to predict, and its mean is 0 / 0
        row_means = (losses * has_target).sum(1) / has_target.sum(1)
        return row_means.mean()

    @torch.no_grad()
    def score(self, model: nn.Module) -> Score:
        """Bits per byte on held-out documents, every byte counted once; NaN from a broken model."""
        generator = torch.Generator().manual_seed(0)
        rows = draw_rows(self.corpus.held_out, NUM_SCORED_ROWS, self.size.context + 1, generator)
        features, values, lengths = self._tensors(rows)
        position = torch.arange(features.shape[1])
        losses = byte_losses(model(features, position < lengths[:, None]), values[:, 1:])
        loss = losses[position + 1 < lengths[:, None]].mean().item()
        return Score(label="bits per byte", value=loss / math.log(2), loss=loss)

    @torch.no_grad()
    def sample(self, model: nn.Module, seed: int) -> str:
        """Let the model continue "def " by 240 bytes; a broken model has nothing to say.

        Args:
            model: The model.
            seed: Where the randomness comes from.
        """
        generator = torch.Generator().manual_seed(seed)
        text = list(PROMPT)
        for _ in range(240):
            window = torch.tensor(text[-self.size.context :])
            logits = model(self.table[window][None], torch.ones(1, len(window), dtype=torch.bool))[0, -1]
            if not logits.isfinite().all():
                return ""
            # A little below 1: the model's doubts in the tail of rare bytes make poor reading
            probabilities = (logits / 0.7).softmax(-1)
            text.append(int(torch.multinomial(probabilities, 1, generator=generator)))
        return bytes(text).decode("utf-8", errors="replace")

    def _tensors(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        return self.table[rows.values[:, :-1]], rows.values, rows.lengths


def language_task(
    size: LanguageSize = LanguageSize(), *, seed: int = 0, corpus: Corpus | None = None
) -> LanguageTask:
    """The text demo: empty documents, a failing worker and a stretch of far too large learning rate.

    Args:
        size: Dimensions and number of steps; the troubles are placed in proportion.
        seed: Which random bits the failing worker delivers.
        corpus: Documents to use instead of the standard library's.
    """
    recipe, worker = plan_run(size.num_steps, seed)
    return LanguageTask(
        corpus=stdlib_corpus() if corpus is None else corpus,
        size=size,
        recipe=recipe,
        worker=worker,
    )
