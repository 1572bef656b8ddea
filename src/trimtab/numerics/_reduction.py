"""What becomes of the losses of many elements: one convention for all losses."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trimtab.numerics._exact import widened

Reduction = Literal["none", "mean", "sum"]


def chosen_reduction(
    reduction: Reduction, name: str, *, size_average: bool | None, reduce: bool | None
) -> Reduction:
    """The reduction, from torch's three arguments for it: the deprecated two win, as in torch.

    Raises:
        ValueError: `reduction` is unknown.
    """
    if size_average is not None or reduce is not None:
        if reduce is False:
            return "none"
        return "sum" if size_average is False else "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name}(reduction={reduction!r}): expected 'none', 'mean' or 'sum'.")
    return reduction


def reduced(loss: Tensor, reduction: str, name: str) -> Tensor:
    """Loss of all elements together; half precision is added up in float32. The mean of nothing is 0.

    Raises:
        ValueError: `reduction` is unknown.
    """
    if reduction == "sum" or (reduction == "mean" and not loss.numel()):
        return widened(loss).sum()
    if reduction == "mean":
        return widened(loss).mean()
    if reduction != "none":
        raise ValueError(f"{name}(reduction={reduction!r}): expected 'none', 'mean' or 'sum'.")
    return loss
