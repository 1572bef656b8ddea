"""Real text that every machine has: the source files of Python's own standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# Tests, vendored and installed packages differ from one machine to the next; what is left is
# nearly the same for everybody with the same Python
SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
)

# One document in twenty is kept for the score: some thirty files of half a megabyte in all
HOLD_OUT_EVERY = 20

# A stripped or zipped standard library leaves a handful of loose files, too few to learn from
MIN_DOCUMENTS = 100


class Rows(NamedTuple):
    """A batch of byte strings, one document per row, padded with zeros on the right.

    Attributes:
        values: The bytes as whole numbers, shape (num_rows, row_bytes).
        lengths: Number of real bytes in each row, shape (num_rows,); 0 for an empty document.
    """

    values: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents to train on and documents to score on.

    Attributes:
        train: What batches are drawn from, with its empty documents left in.
        held_out: What the model never sees; each of at least two bytes, so that each can be scored.
    """

    train: tuple[bytes, ...]
    held_out: tuple[bytes, ...]

    @property
    def num_empty(self) -> int:
        """Training documents without a single byte."""
        return sum(not document for document in self.train)


def source_documents(root: Path) -> tuple[bytes, ...]:
    """Every Python source file below `root`, in the order of its path, read as bytes.

    Args:
        root: The folder to read; `SKIPPED_FOLDERS` below it are left out.
    """
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        # In place, which is how os.walk is told not to descend
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    # is_file: distributions ship links such as sitecustomize.py whose target may be missing
    return tuple(path.read_bytes() for path in paths if path.is_file())


def stdlib_corpus() -> Corpus:
    """The standard library of the running Python, split into training and held-out documents.

    Where the library comes zipped or stripped of its sources, torch's own sources stand in.
    """
    documents = source_documents(Path(sysconfig.get_path("stdlib")))
    if len(documents) < MIN_DOCUMENTS:
        documents = source_documents(Path(torch.__file__).parent)
    return split_documents(documents)


def split_documents(documents: Sequence[bytes]) -> Corpus:
    """Hold out every twentieth document that has something to predict.

    Args:
        documents: All documents, in a fixed order.

    Raises:
        ValueError: There are too few documents to hold one out and keep one.

    Example:
        >>> corpus = split_documents([b"", b"pass", *[b"import os"] * 20])
        >>> len(corpus.train), len(corpus.held_out), corpus.num_empty
        (20, 2, 1)
    """
    # A lone byte has no successor to predict
    scorable = [index for index, document in enumerate(documents) if len(document) > 1]
    chosen = frozenset(scorable[::HOLD_OUT_EVERY])
    if not chosen or len(chosen) == len(documents):
        raise ValueError(
            f"split_documents(): {len(documents)} documents, {len(scorable)} of them of two bytes or "
            "more; expected at least two. Point it at a folder with Python sources."
        )
    return Corpus(
        train=tuple(document for index, document in enumerate(documents) if index not in chosen),
        held_out=tuple(documents[index] for index in sorted(chosen)),
    )


def draw_rows(documents: Sequence[bytes], num_rows: int, row_bytes: int, generator: torch.Generator) -> Rows:
    """Draw documents, each as likely as the other, and take a random window of those that are too long.

    Args:
        documents: What to draw from.
        num_rows: Documents to draw, with replacement.
        row_bytes: Width of a row.
        generator: Where the randomness comes from.
    """
    values = torch.zeros(num_rows, row_bytes, dtype=torch.long)
    lengths = torch.zeros(num_rows, dtype=torch.long)
    for row, index in enumerate(torch.randint(len(documents), (num_rows,), generator=generator).tolist()):
        document = documents[index]
        if len(document) > row_bytes:
            start = int(torch.randint(len(document) - row_bytes + 1, (), generator=generator))
            document = document[start : start + row_bytes]
        lengths[row] = len(document)
        values[row, : len(document)] = torch.tensor(list(document), dtype=torch.long)
    return Rows(values, lengths)
