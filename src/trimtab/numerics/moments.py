"""Standardizing, and spreads that are defined for constant and for single values."""

from __future__ import annotations

from torch import Tensor

from trimtab.numerics._exact import floating, widened
from trimtab.numerics.normalizers import Dims, one_dim, restored
from trimtab.numerics.norms import normalize, safe_norm


def standardize(x: Tensor, dim: Dims = -1, *, correction: int = 1, eps: float = 0.0) -> Tensor:
    """`(x - mean) / std`; a constant row gives 0 with gradient 0, at any scale and offset.

    Differences, and their sum, must not overflow: that is for sizes up to `finfo.max / (2 n)`.

    The usual `(x - mean) / (std + 1e-8)` is 0 / 0 in float16 and 0 for small values. Here the deviations
    are normalized as a vector and multiplied by `sqrt(n - correction)`.

    Args:
        x: Any real tensor.
        dim: One dim or several.
        correction: 1 for the sample's deviation, 0 for the population's.
        eps: Added to the variance, as in a layer norm; 0 for none.

    Returns:
        Shape and type of `x`. A row of at most `correction` elements gives 0.

    Example:
        >>> numerics.standardize(torch.tensor([[1.0, 3.0], [0.1, 0.1]]))
        tensor([[-0.7071,  0.7071],
                [ 0.0000,  0.0000]])
    """
    x = floating(x, "standardize")
    flat, _ = one_dim(x, dim)
    count = flat.shape[-1]
    deviations = _deviations(widened(flat))
    freedom = max(count - correction, 0)
    if eps > 0:
        spread = (deviations.square().sum(-1, keepdim=True) / max(freedom, 1) + eps).sqrt()
        result = deviations / spread
    else:
        result = normalize(deviations, dim=-1) * freedom**0.5
    return restored(result, x, dim).to(x.dtype)


def safe_std(x: Tensor, dim: Dims = -1, *, correction: int = 1, keepdim: bool = False) -> Tensor:
    """Standard deviation; 0 with gradient 0 for a constant row and for too few elements (torch: NaN).

    Args:
        x: Any real tensor.
        dim: One dim or several.
        correction: 1 for the sample's deviation, 0 for the population's.
        keepdim: Keep reduced dims with size 1.

    Returns:
        Type of `x`.

    Example:
        >>> numerics.safe_std(torch.tensor([[5.0], [7.0]]))
        tensor([0., 0.])
    """
    x = floating(x, "safe_std")
    flat, kept = one_dim(x, dim)
    freedom = flat.shape[-1] - correction
    scale = freedom**-0.5 if freedom > 0 else 0.0
    result = (safe_norm(_deviations(widened(flat)), dim=-1) * scale).to(x.dtype)
    return result.reshape(kept) if keepdim else result


def _deviations(x: Tensor) -> Tensor:
    """Deviations from the mean of the last dim, taken from the first element: exactly 0 if all are equal."""
    if not x.shape[-1]:
        return x
    # A shift of all elements changes nothing, so it needs no gradient
    shifted = x - x[..., :1].detach()
    return shifted - shifted.mean(-1, keepdim=True)
