"""Small real data that comes with scikit-learn and with Python itself, plus two that are simulated."""

from __future__ import annotations

import functools
import keyword
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor


class Split(NamedTuple):
    """Inputs and targets for training and for validation."""

    x: Tensor
    y: Tensor
    val_x: Tensor
    val_y: Tensor


def cut(x: np.ndarray, y: np.ndarray, *, classes: bool = False, tokens: bool = False) -> Split:
    """The last fifth is for validation."""
    inputs = torch.tensor(x, dtype=torch.long if tokens else torch.float32)
    targets = torch.tensor(y, dtype=torch.long if classes else torch.float32)
    train = len(x) * 4 // 5
    return Split(inputs[:train], targets[:train], inputs[train:], targets[train:])


def unit(y: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and deviation 1."""
    return (y - y.mean(0)) / y.std(0)


def _split(x: np.ndarray, y: np.ndarray, *, classes: bool) -> Split:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    num_val = len(x) // 4
    inputs = torch.tensor(x, dtype=torch.float32)
    targets = torch.tensor(y, dtype=torch.long if classes else torch.float32)
    return Split(inputs[num_val:], targets[num_val:], inputs[:num_val], targets[:num_val])


@functools.cache
def digits() -> Split:
    """1,797 digits of 8 x 8 pixels, standardized as a whole."""
    x, y = datasets.load_digits(return_X_y=True)
    return _split((x - x.mean()) / x.std(), y, classes=True)


@functools.cache
def table(name: str) -> Split:
    """A table of standardized features: wine, breast_cancer (classes) or diabetes (a number)."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    if name == "diabetes":
        y = ((y - y.mean()) / y.std())[:, None]
    return _split(x, y, classes=name != "diabetes")


@functools.cache
def source_text() -> tuple[Tensor, Tensor, int]:
    """Python's own library as bytes of a small alphabet: training part, validation part, alphabet size."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = ("argparse.py", "ast.py", "calendar.py", "decimal.py", "inspect.py", "shutil.py", "textwrap.py")
    text = "".join((folder / n).read_text(encoding="utf-8") for n in names if (folder / n).exists())
    codes = np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8)[:200_000]
    codes = np.clip(codes, 31, 126) - 31  # line breaks and all that is rare share a code
    tokens = torch.tensor(codes.astype(np.int64))
    cut = len(tokens) * 9 // 10
    return tokens[:cut], tokens[cut:], 96


@functools.cache
def token_lines() -> Split:
    """Lines of source as 24 token ids; the class is whether the line holds a keyword."""
    tokens, _, _ = source_text()
    text = "".join(chr(31 + c) for c in tokens.tolist())
    lines = [line.strip() for line in text.split(chr(31)) if len(line.strip()) >= 8][:4000]
    y = np.array([any(w in keyword.kwlist for w in line.split()) for line in lines], dtype=np.int64)
    x = np.zeros((len(lines), 24), dtype=np.int64)
    for row, line in enumerate(lines):
        codes = [ord(c) - 31 for c in line[:24] if 31 <= ord(c) < 127]
        x[row, : len(codes)] = codes
    split = _split(x, y, classes=True)
    return Split(split.x.long(), split.y, split.val_x.long(), split.val_y)


@functools.cache
def graph() -> tuple[Tensor, Split]:
    """A random graph of four communities: normalized adjacency, features and labels of its nodes."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 400)
    chance = np.where(y[:, None] == y[None, :], 0.06, 0.01)
    adjacency = np.triu(rng.random((400, 400)) < chance, 1).astype(float)
    adjacency = adjacency + adjacency.T + np.eye(400)
    root = 1 / np.sqrt(adjacency.sum(1))
    x = rng.normal(size=(400, 16)) + 0.7 * np.eye(16)[y]
    nodes = torch.tensor(x, dtype=torch.float32)
    labels = torch.tensor(y)
    part = torch.arange(400)
    split = Split(part[:300], labels[:300], part[300:], labels[300:])
    matrix = torch.tensor(root[:, None] * adjacency * root[None, :], dtype=torch.float32)
    return torch.cat([matrix, nodes], dim=1), split


def shuffled(split: Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, reshuffled in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(split.x), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield split.x[rows], split.y[rows]


def windows(size: int, length: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Stretches of the source text without end, and the same shifted by one."""
    tokens, _, _ = source_text()
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(tokens) - length - 1, (size,), generator=generator)
        rows = starts[:, None] + torch.arange(length + 1)
        part = tokens[rows]
        yield part[:, :-1], part[:, 1:]


def mapped(
    batches: Iterator[tuple[Tensor, Tensor]], change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch, changed."""
    for x, y in batches:
        yield change(x, y)
