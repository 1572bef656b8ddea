"""A small vision transformer on scikit-learn's digits, with a hurried person's augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimtab.demo.layers import Block, RMSNorm
from trimtab.demo.train import Recipe, Score, plan_run
from trimtab.demo.troubles import FailingWorker
from trimtab.errors import MissingDependencyError

SIDE = 8  # pixels along an edge of a digit
PATCH = 2
NUM_PATCHES = (SIDE // PATCH) ** 2
NUM_CLASSES = 10

# Every fifth image is for the score: 360 of 1797
HOLD_OUT_EVERY = 5

# Digits shown in the sample
NUM_SHOWN = 4


@final
@dataclass(frozen=True, slots=True)
class VisionSize:
    """How large the model is and how long it trains.

    Attributes:
        width: Size of the token vectors.
        num_blocks: Transformer blocks.
        num_heads: Attention heads in each.
        batch_rows: Images in a batch.
        num_steps: Training steps.
        shift_share: Share of the training images that are shifted.
        shift_pixels: Standard deviation of a shift along each axis.
    """

    width: int = 48
    num_blocks: int = 2
    num_heads: int = 4
    batch_rows: int = 32
    num_steps: int = 1200
    shift_share: float = 0.25
    shift_pixels: float = 2.0


class Digits(NamedTuple):
    """Labelled images.

    Attributes:
        images: Shape (num_images, SIDE, SIDE), ink from 0 to 16.
        labels: Shape (num_images,).
    """

    images: Tensor
    labels: Tensor


def load_digits() -> tuple[Digits, Digits]:
    """Scikit-learn's handwritten digits, split into training and held-out images.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingDependencyError("sklearn", extra="digits", purpose="the digits demo") from error
    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)
    labels = torch.tensor(bunch.target, dtype=torch.long)
    is_held_out = torch.arange(len(labels)) % HOLD_OUT_EVERY == 0
    return (
        Digits(images[~is_held_out], labels[~is_held_out]),
        Digits(images[is_held_out], labels[is_held_out]),
    )


def shift_images(images: Tensor, generator: torch.Generator, shift_pixels: float) -> Tensor:
    """Move each image by a random number of pixels along both axes; what leaves the frame is cut off.

    Args:
        images: Shape (num_images, SIDE, SIDE).
        generator: Where the randomness comes from.
        shift_pixels: Standard deviation of the shift along each axis. Nothing bounds it: now and then
            a thin digit leaves the frame altogether.
    """
    num_images = images.shape[0]
    shifts = (shift_pixels * torch.randn(2, num_images, 1, generator=generator)).round().long()
    rows, columns = torch.arange(SIDE) - shifts  # (num_images, SIDE) each: where a pixel comes from
    inside = _is_inside(rows)[:, :, None] & _is_inside(columns)[:, None, :]
    index = torch.arange(num_images)[:, None, None]
    moved = images[index, rows.clamp(0, SIDE - 1)[:, :, None], columns.clamp(0, SIDE - 1)[:, None, :]]
    return moved * inside


def normalize_contrast(images: Tensor) -> Tensor:
    """Stretch the contrast of each image to the range from 0 to 1.

    Args:
        images: Shape (num_images, SIDE, SIDE).
    """
    darkest = images.amin((1, 2), keepdim=True)
    brightest = images.amax((1, 2), keepdim=True)
    # The hurried line: an image that is blank after the shift has no contrast, and becomes 0 / 0
    return (images - darkest) / (brightest - darkest)


class DigitModel(nn.Module):
    """A vision transformer: patches of 2 x 2 pixels in, logits for the ten digits out.

    Args:
        size: Its dimensions.
    """

    def __init__(self, size: VisionSize) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, size.width)
        self.position = nn.Parameter(0.02 * torch.randn(NUM_PATCHES, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.num_heads) for _ in range(size.num_blocks))
        self.norm = RMSNorm(size.width)
        self.head = nn.Linear(size.width, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images of shape (num_images, SIDE, SIDE)."""
        edge = SIDE // PATCH
        patches = images.view(-1, edge, PATCH, edge, PATCH).transpose(2, 3)
        x = self.embed(patches.reshape(-1, NUM_PATCHES, PATCH * PATCH)) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]


@final
@dataclass(frozen=True, slots=True, eq=False)
class VisionTask:
    """Digit recognition.

    Attributes:
        training: Images to train on.
        held_out: Images to score on.
        size: Dimensions of model and batch.
        recipe: How to train.
        worker: Who delivers the batches.
    """

    training: Digits
    held_out: Digits
    size: VisionSize
    recipe: Recipe
    worker: FailingWorker
    name: str = "digits"

    def build_model(self) -> nn.Module:
        """A fresh model, initialised from torch's global random state."""
        return DigitModel(self.size)

    def draw_batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The batch of one step: shifted, normalised images and labels, as the worker delivers them."""
        chosen = torch.randint(len(self.training.labels), (self.size.batch_rows,), generator=generator)
        images = self.training.images[chosen]
        is_shifted = torch.rand(len(chosen), 1, 1, generator=generator) < self.size.shift_share
        images = torch.where(is_shifted, shift_images(images, generator, self.size.shift_pixels), images)
        return self.worker.deliver(step, normalize_contrast(images)), self.training.labels[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Mean cross-entropy."""
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    @torch.no_grad()
    def score(self, model: nn.Module) -> Score:
        """Share of held-out images recognised; NaN from a broken model, whose answers mean nothing."""
        logits = model(normalize_contrast(self.held_out.images))
        loss = F.cross_entropy(logits, self.held_out.labels).item()
        is_right = (logits.argmax(1) == self.held_out.labels).float()
        # argmax of NaN logits is class 0, right for every tenth image: no score, but looks like one
        accuracy = is_right.mean().item() if logits.isfinite().all() else float("nan")
        return Score(label="accuracy", value=accuracy, loss=loss)

    @torch.no_grad()
    def sample(self, model: nn.Module, seed: int) -> str:
        """A few held-out digits as text, each with the model's answer below; "" from a broken model.

        Args:
            model: The model.
            seed: Which digits.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.held_out.labels), (NUM_SHOWN,), generator=generator)
        images = normalize_contrast(self.held_out.images[chosen])
        logits = model(images)
        if not logits.isfinite().all():
            return ""
        inks = (images * 4).round().long().tolist()
        lines = [
            "   ".join("".join(2 * " .:*#"[i] for i in image[row]) for image in inks) for row in range(SIDE)
        ]
        answers = [f"read as {answer}".center(2 * SIDE) for answer in logits.argmax(1).tolist()]
        return "\n".join([*lines, "   ".join(answers)])


def _is_inside(index: Tensor) -> Tensor:
    return (index >= 0) & (index < SIDE)


def vision_task(size: VisionSize = VisionSize(), *, seed: int = 0) -> VisionTask:
    """The digits demo: blank images, a failing worker and a stretch of far too large learning rate.

    Args:
        size: Dimensions and number of steps; the troubles are placed in proportion.
        seed: Which random bits the failing worker delivers.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    training, held_out = load_digits()
    recipe, worker = plan_run(size.num_steps, seed)
    return VisionTask(
        training=training,
        held_out=held_out,
        size=size,
        recipe=recipe,
        worker=worker,
    )
