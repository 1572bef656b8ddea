"""What is in a batch that enters a model, in what leaves it, and in what the loss sends back to that."""

from __future__ import annotations

import torch
from torch import Tensor

INPUT_STATISTICS = (
    *("rms", "largest", "constant_share", "scale_ratio", "same_rows", "filled_share", "copied_share"),
)
OUTPUT_STATISTICS = ("rms", "batch_spread", "top_class_share", "num_classes", "num_rows", "heard_rows")
_MAX_BATCH, _MAX_COLUMNS = 64, 2048
# A column whose deviation is this part of the largest one does not vary
_STILL = 1e-6
# Columns that agree so far in a sum over their rows are copies: float32 sums round to some 1e-7
_EQUAL = 1e-5


def flow(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square, and which part of it is variance over the batch.

    Args:
        values: What a layer gave, any shape.

    Cost:
        At most 64 rows of 2048 numbers; no host read.
    """
    batch = values[:_MAX_BATCH] if values.dim() > 1 else values.reshape(1, -1)
    flat = batch.reshape(batch.shape[0], -1)
    stride = max(1, flat.shape[1] // _MAX_COLUMNS)
    some = flat[:, :: stride + (stride > 1 and stride % 2 == 0)].float()
    square = some.square().mean()
    spread = some.var(0, unbiased=False).mean() / square if some.shape[0] > 1 else square * float("nan")
    return square, spread


def input_facts(entering: Tensor | None, device: torch.device, *, may_hold_ids: bool = False) -> Tensor:
    """What a batch of inputs looks like.

    `rms` and `largest` are the sizes of its numbers, `constant_share` is the share of columns that do not
    vary over the rows, `scale_ratio` the deviation of the column that varies most over that of the middle
    one, `same_rows` is 1 if all rows are equal. Of tables (two dimensions): `filled_share` is the share of
    columns that hold the same number other than 0 in all rows, `copied_share` that of varying columns that
    repeat another one.

    Args:
        entering: Shape (rows, ...), or None.
        device: Where the numbers go.
        may_hold_ids: The model has tables of vectors: columns of whole numbers may be places in them, and say
            nothing of the scale if there are others.

    Returns:
        Aligned to `INPUT_STATISTICS`; nan for what is not known.

    Cost:
        A few passes over at most 64 rows of 8192 numbers; no host read.
    """
    nothing = torch.full((len(INPUT_STATISTICS),), float("nan"), device=device)
    if entering is None or entering.layout is not torch.strided:
        return nothing
    flat = entering[:_MAX_BATCH].reshape(min(len(entering), _MAX_BATCH), -1)[:, : 4 * _MAX_COLUMNS].float()
    same = (flat == flat[:1]).all().float() if len(flat) > 1 else nothing[0]
    if not entering.is_floating_point():  # the size of a token's number says nothing
        nothing[INPUT_STATISTICS.index("same_rows")] = same
        return nothing
    spread = flat.std(0, unbiased=False)
    is_still = spread <= _STILL * spread.max()
    sizes = flat.abs()
    if may_hold_ids:
        is_number = (flat != flat.round()).any(0)
        is_size = is_number | ~is_number.any()
        spread, sizes = (torch.where(is_size, t, float("nan")) for t in (spread, sizes))
    largest = spread.nan_to_num(0.0).max()
    # to take out what does not move would ask the device how much that is
    typical = torch.where(is_still, float("nan"), spread).nanmedian()
    is_table = entering.dim() == 2 and len(flat) > 1
    facts = (
        sizes.square().nanmean().sqrt(),
        sizes.nan_to_num(0.0, torch.inf).max(),
        is_still.float().mean(),
        largest / typical,
        same,
        (is_still & (flat[0] != 0)).float().mean() if is_table else nothing[0],
        _copied_share(flat, is_still) if is_table else nothing[0],
    )
    return torch.stack([fact.to(device) for fact in facts])


def _copied_share(flat: Tensor, is_still: Tensor) -> Tensor:
    """Share of the varying columns that repeat another one."""
    weights = torch.arange(1, len(flat) + 1, device=flat.device, dtype=flat.dtype).sin()[:, None]
    prints = torch.where(is_still, float("inf"), (flat * weights).sum(0)).sort()[0]
    scale = (flat * weights).abs().sum(0).mean()
    is_copy = (prints[1:] - prints[:-1]) <= _EQUAL * scale  # of two infinities the difference is nan
    return is_copy.sum() / (~is_still).sum()


def output_facts(output: Tensor | None, gradient: Tensor | None, device: torch.device) -> Tensor:
    """What a batch of outputs looks like.

    `rms` is the size of its numbers, `batch_spread` the part of that which depends on the row,
    `top_class_share` is the share of rows whose largest number stands at the same place, `num_classes` and
    `num_rows` are its shape. `heard_rows` is the share of rows that have a say in the gradient: the square of
    the sum of their sizes over the sum of the squares, of those that get any; 1 if all weigh alike.

    Args:
        output: Shape (..., classes), or None.
        gradient: What the loss sent back to some rows of it, shape (rows, classes), or None.
        device: Where the numbers go.

    Returns:
        Aligned to `OUTPUT_STATISTICS`; nan for what is not known.

    Cost:
        A few passes over at most 512 rows; no host read.

    References:
        Kish, "Survey sampling", 1965, section 11.2 (the effective number of weighted samples).
    """
    if output is None:
        return torch.full((len(OUTPUT_STATISTICS),), float("nan"), device=device)
    square, spread = flow(output)
    num_classes = output.shape[-1]
    top = output.reshape(-1, num_classes)[: _MAX_BATCH * 8].float().argmax(-1)
    # bincount would ask the device for the largest class
    counts = torch.zeros(num_classes, device=top.device).scatter_add_(0, top, torch.ones_like(top).float())
    share = counts.max() / max(len(top), 1)
    shape = torch.tensor([float(num_classes), float(output.numel() // max(num_classes, 1))])
    facts = (square.sqrt(), spread, share, *shape, _heard_rows(gradient, square))
    return torch.stack([fact.float().to(device) for fact in facts])


def _heard_rows(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None or not len(gradient):
        return torch.full((), float("nan"), device=like.device)
    gradient = gradient.float()
    # squares of tiny numbers would be 0
    sizes: Tensor = torch.linalg.vector_norm(gradient / gradient.abs().amax(), dim=1)
    share: Tensor = sizes.sum().square() / sizes.square().sum() / (sizes > 0).sum()
    return share
