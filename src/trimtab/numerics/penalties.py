"""Terms to add to a loss: spectral norms, activations, gradients of a critic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor, nn

from trimtab.numerics._exact import floating
from trimtab.numerics.error_free import full_precision, wide
from trimtab.numerics.norms import normalize


@final
class SpectralPenalty:
    """Sum of the squared spectral norms of a model's weights, by power iteration that starts warm.

    A singular value decomposition of a 2048 x 2048 weight takes 1.5 s; a step of power iteration 1 ms.
    The vectors are kept from call to call, so that one step per call follows the weights through
    training: the estimate is never above the norm, and below it by a few percent while the weights
    move, by more where the two largest singular values lie close together.

    The gradient is that of the norm: u v', with u and v held fixed.

    Args:
        model: Its floating-point parameters of two dimensions or more take part: convolutions as
            outputs by the rest; embeddings too.
        weight: Factor of the penalty, finite and >= 0.
        steps: Steps of power iteration per call, >= 1.
        warm_up: Steps before the first call returns.
        seed: Seed of the first vectors.

    Raises:
        ValueError: A value is out of range, or the model has no such parameter.

    Cost:
        2 products of each weight with a vector per step, no host read. The penalty is differentiable
        once more in the weights; twice as if u and v were constants.

    Example:
        >>> from trimtab.numerics import SpectralPenalty
        >>> layer = torch.nn.Linear(3, 3, bias=False)
        >>> _ = layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.0])))
        >>> penalty = SpectralPenalty(layer, weight=0.5)
        >>> penalty().backward()
        >>> round(penalty().item(), 3), round(layer.weight.grad[0, 0].item(), 3)
        (4.5, 3.0)

    References:
        Yoshida and Miyato, "Spectral norm regularization for improving the generalizability of deep
        learning", 2017, arXiv:1705.10941.
    """

    def __init__(
        self, model: nn.Module, *, weight: float = 0.01, steps: int = 1, warm_up: int = 20, seed: int = 0
    ) -> None:
        if not 0 <= weight < float("inf") or steps < 1 or warm_up < 0:
            raise ValueError(
                f"SpectralPenalty(weight={weight}, steps={steps}, warm_up={warm_up}): expected a finite"
                " weight >= 0, steps >= 1 and warm_up >= 0."
            )
        self.weight, self.steps = weight, steps
        self._weights = [
            (n, p) for n, p in model.named_parameters() if p.dim() >= 2 and p.is_floating_point()
        ]
        if not self._weights:
            raise ValueError("SpectralPenalty(model): expected a parameter with two dimensions or more.")
        self._vectors: dict[str, Tensor] = {}
        for index, (name, parameter) in enumerate(self._weights):
            generator = torch.Generator().manual_seed(seed + index)
            matrix = _as_matrix(parameter)
            start = torch.randn(matrix.shape[1], generator=generator).to(matrix.device, matrix.dtype)
            self._vectors[name] = normalize(start, dim=0)
            for _ in range(warm_up):
                self._advance(name, matrix)

    def __call__(self) -> Tensor:
        """The penalty, 0-dim; moves the power iteration on by `steps`."""
        squares = [norm.square() for norm in self.norms().values()]
        return self.weight * torch.stack([s.to(squares[0].device, torch.float32) for s in squares]).sum()

    def norms(self) -> dict[str, Tensor]:
        """Estimate of each weight's spectral norm by the parameter's name, differentiable."""
        found = {}
        for name, parameter in self._weights:
            matrix = _as_matrix(parameter)
            for _ in range(self.steps):
                self._advance(name, matrix)
            found[name] = _rayleigh(matrix, self._vectors[name])
        return found

    @torch.no_grad()
    @full_precision
    def _advance(self, name: str, matrix: Tensor) -> None:
        # kept at its start where the weight is 0: a zero vector could never grow again
        start = self._vectors[name].to(matrix.device, matrix.dtype)
        direction = normalize(matrix.T @ normalize(matrix @ start, dim=0), dim=0)
        self._vectors[name] = torch.where((direction != 0).any(), direction, start)

    def state_dict(self) -> dict[str, Tensor]:
        """The vectors, so that a resumed run goes on with the same estimate."""
        return {name: vector.clone() for name, vector in self._vectors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up saved vectors.

        Raises:
            ValueError: They are not those of this model.
        """
        shapes = {name: vector.shape for name, vector in self._vectors.items()}
        if {name: vector.shape for name, vector in state.items()} != shapes:
            raise ValueError(
                "SpectralPenalty.load_state_dict: expected one vector for each weight of this model, of its"
                " number of columns."
            )
        self._vectors = {n: state[n].to(v.device, v.dtype).clone() for n, v in self._vectors.items()}


def activation_penalty(activations: Tensor | Iterable[Tensor], *, p: float = 2.0) -> Tensor:
    """Mean p-th power of the activations' magnitude, averaged over layers.

    Means, and not sums: the penalty does not depend on batch size or width.

    Args:
        activations: One tensor or several, at least one.
        p: 1 for sparse activations, 2 for small ones; finite and >= 1.

    Returns:
        0-dim, float32 at least.

    Raises:
        ValueError: No activations, an empty one, or p out of range.

    Cost:
        One pass, no host read. float16 and bfloat16 are averaged in float32.

    Example:
        >>> from trimtab.numerics import activation_penalty
        >>> activation_penalty([torch.full((2, 3), 2.0), torch.zeros(4)])
        tensor(2.)
    """
    if not 1 <= p < float("inf"):
        raise ValueError(f"activation_penalty(p={p}): expected a finite number >= 1.")
    tensors = [activations] if isinstance(activations, Tensor) else list(activations)
    if not tensors or not all(t.numel() for t in tensors):
        raise ValueError("activation_penalty: expected at least one activation, and none empty.")
    means = [(wide(t).square() if p == 2 else wide(t).abs().pow(p)).mean() for t in tensors]
    return torch.stack([m.to(means[0].device, means[0].dtype) for m in means]).mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    target: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """WGAN-GP: mean of (norm of the critic's gradient - target)^2 between real and fake samples.

    Args:
        critic: Takes samples; its output is summed, so any shape with one row per sample does. A batch
            norm inside makes the gradient of a sample depend on the others: the penalty is then another.
        real: Shape (batch, ...), any rank from 1 on.
        fake: The same shape.
        target: Norm that is aimed at; 0 for a penalty centered at zero.
        generator: Source of the points between; on the device of `real`.

    Returns:
        0-dim, float32 at least; differentiable in the critic's parameters, finite where its gradient is 0.

    Raises:
        ValueError: Shapes differ, or the critic's output does not depend on its input.

    Cost:
        One forward and backward pass of the critic, with a graph for another; no host read.

    Example:
        >>> from trimtab.numerics import gradient_penalty
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
        >>> real, fake = torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 2)
        >>> gradient_penalty(critic, real, fake).backward()
        >>> critic[1].weight.grad.isfinite().all()
        tensor(True)

    References:
        Gulrajani et al., "Improved training of Wasserstein GANs", 2017, arXiv:1704.00028.
    """
    real, fake = floating(real, "gradient_penalty"), floating(fake, "gradient_penalty")
    if real.shape != fake.shape or real.dim() < 1 or not real.numel():
        raise ValueError(
            f"gradient_penalty(real of shape {tuple(real.shape)}, fake of shape {tuple(fake.shape)}):"
            " expected the same shape (batch, ...), not empty."
        )
    # one weight per sample, whatever the rank: (batch, 1) would vary along the rows of an image
    shape = (real.shape[0],) + (1,) * (real.dim() - 1)
    share = torch.rand(shape, dtype=torch.float32, device=real.device, generator=generator).to(real.dtype)
    points = torch.lerp(fake.detach(), real.detach(), share.expand_as(real)).requires_grad_()
    with torch.enable_grad():
        scores = critic(points)
        if not scores.requires_grad:
            raise ValueError("gradient_penalty(critic): its output does not depend on its input.")
        (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("gradient_penalty(critic): its output does not depend on its input.")
    # torch's norm has gradient 0 at 0; sqrt of a sum of squares has NaN
    norms = torch.linalg.vector_norm(
        wide(gradient).flatten(1) if gradient.dim() > 1 else wide(gradient)[:, None], dim=1
    )
    penalty: Tensor = (norms - target).square().mean()
    return penalty


@full_precision
def _rayleigh(matrix: Tensor, right: Tensor) -> Tensor:
    """The product u' W v with u along W v: its gradient is u v'."""
    image = matrix @ right
    return torch.dot(normalize(image.detach(), dim=0), image)


def _as_matrix(parameter: Tensor) -> Tensor:
    return wide(parameter).flatten(1)
