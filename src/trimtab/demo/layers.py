"""The transformer block that both demo models are made of."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square and scale it by a learned gain.

    Args:
        width: Size of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


class Attention(nn.Module):
    """Multi-head attention, written out.

    Args:
        width: Size of the token vectors.
        num_heads: Heads, a divisor of `width`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, blocked: Tensor | None) -> Tensor:
        """Mix the tokens of each row.

        Args:
            x: Tokens, shape (rows, tokens, width).
            blocked: True where a token (third dimension) must not look at another (fourth); shape
                (rows or 1, 1, tokens, tokens). None lets every token see every other.
        """
        rows, tokens, width = x.shape
        heads = self.qkv(x).view(rows, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (rows, heads, tokens, head width)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if blocked is not None:
            # The hurried line, 1 of 2: a token with nothing to look at has -inf everywhere, and
            # softmax makes NaN of that. Only a row without a single real token gets there.
            scores = scores.masked_fill(blocked, -math.inf)
        mixed = scores.softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(rows, tokens, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a norm and beside a residual connection.

    Args:
        width: Size of the token vectors.
        num_heads: Attention heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp_norm = RMSNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, blocked: Tensor | None = None) -> Tensor:
        """Refine the tokens; arguments as for `Attention`."""
        x = x + self.attention(self.attention_norm(x), blocked)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))  # type: ignore[no-any-return]
