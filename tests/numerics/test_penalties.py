from __future__ import annotations

import pytest
import torch
from numerics.matrices import with_singular_values
from torch import nn

from trimtab.numerics import SpectralPenalty, activation_penalty, gradient_penalty


def test_spectral_norms_follow_the_weights_through_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    penalty = SpectralPenalty(model, weight=0.1, steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 30)).square().mean() + penalty()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for name, estimate in penalty.norms().items():
            exact = torch.linalg.matrix_norm(model.get_parameter(name), 2)
            assert 0.9 * exact <= estimate <= exact * (1 + 1e-6)


def test_gradient_is_that_of_the_norm():
    values = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64)
    layer = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    layer.weight.data.copy_(with_singular_values(values))
    SpectralPenalty(layer, weight=1.0, warm_up=200)().backward()
    exact = layer.weight.detach().clone().requires_grad_()
    torch.linalg.matrix_norm(exact, 2).square().backward()
    torch.testing.assert_close(layer.weight.grad, exact.grad, rtol=1e-6, atol=1e-6)


def test_convolutions_zero_weights_and_half_precision():
    conv = nn.Conv2d(3, 5, 3)
    penalty = SpectralPenalty(conv, weight=1.0, warm_up=200)
    exact = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)
    assert penalty.norms()["weight"].item() == pytest.approx(exact.item(), rel=1e-4)
    conv.weight.data.zero_()
    penalty().backward()
    assert penalty().item() == 0
    assert conv.weight.grad.isfinite().all()
    conv.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    for _ in range(100):
        penalty()
    exact = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)
    assert penalty.norms()["weight"].item() == pytest.approx(exact.item(), rel=1e-3)  # it grows again
    half = nn.Linear(4, 4).to(torch.bfloat16)
    SpectralPenalty(half)().backward()
    assert half.weight.grad.dtype is torch.bfloat16


def test_saved_vectors_give_the_same_penalty():
    model = nn.Linear(8, 8)
    first, second = SpectralPenalty(model, warm_up=0), SpectralPenalty(model, warm_up=0, seed=5)
    first()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(), second())
    with pytest.raises(ValueError, match="number of columns"):
        second.load_state_dict({"weight": torch.ones(3)})


@pytest.mark.parametrize(
    "arguments", [{"weight": -1.0}, {"weight": float("nan")}, {"steps": 0}, {"warm_up": -1}]
)
def test_wrong_arguments_of_the_spectral_penalty(arguments):
    with pytest.raises(ValueError, match="finite weight"):
        SpectralPenalty(nn.Linear(2, 2), **arguments)
    with pytest.raises(ValueError, match="two dimensions"):
        SpectralPenalty(nn.LayerNorm(3))


def test_activation_penalty_does_not_depend_on_batch_or_width():
    x = torch.full((4, 3), -2.0)
    assert activation_penalty(x).item() == 4
    assert activation_penalty([x, torch.full((100, 7), 2.0)], p=1).item() == 2
    assert activation_penalty(iter([x])).item() == 4
    overflowing = torch.full((4,), 300.0, dtype=torch.float16)  # its square is Inf in float16
    assert activation_penalty(overflowing).item() == 90_000
    leaf = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: activation_penalty([v, v.sin()], p=3), leaf)
    assert torch.autograd.gradgradcheck(lambda v: activation_penalty(v), leaf)
    for bad in ([], [torch.zeros(0)]):
        with pytest.raises(ValueError, match="at least one activation"):
            activation_penalty(bad)
    with pytest.raises(ValueError, match=r"p=0\.5"):
        activation_penalty(x, p=0.5)


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 2, 4), (4, 3, 4, 4), (3, 2, 2, 2, 2)])
def test_gradient_penalty_of_a_linear_critic_is_known(shape):
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(shape[1:], dtype=torch.float64, generator=generator)

    def critic(x):
        return (x * direction).reshape(x.shape[0], -1).sum(1)

    real, fake = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    penalty = gradient_penalty(critic, real, fake, generator=generator)
    assert penalty.item() == pytest.approx((direction.norm().item() - 1) ** 2)
    assert gradient_penalty(critic, real, fake, target=0.0).item() == pytest.approx(
        direction.norm().item() ** 2
    )


def test_points_lie_between_the_samples_with_one_weight_each():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.ones(32, 3, 32, 32), torch.zeros(32, 3, 32, 32)  # height = batch: an old trap
    gradient_penalty(critic, real, fake)
    shares = seen[0].flatten(1)
    assert torch.equal(shares.min(1).values, shares.max(1).values)
    assert 0 < shares.min() < 0.3
    assert 0.7 < shares.max() < 1


def test_dead_critic_has_a_finite_gradient():
    critic = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    nn.init.constant_(critic[0].bias, -100.0)
    penalty = gradient_penalty(critic, torch.randn(16, 4), torch.randn(16, 4))
    assert penalty.item() == 1
    penalty.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in critic.parameters())


def test_gradient_penalty_trains_a_critic_and_is_right():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    real, fake = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def of(weight):
        copy = {**dict(critic.named_parameters()), "0.weight": weight}

        def function(x):
            return torch.func.functional_call(critic, copy, (x,))

        return gradient_penalty(function, real, fake, generator=torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(of, critic[0].weight.detach().clone().requires_grad_())
    with torch.no_grad():  # also where gradients are off around it
        assert of(critic[0].weight).item() > 0


def test_wrong_critics_and_shapes():
    with pytest.raises(ValueError, match="the same shape"):
        gradient_penalty(lambda x: x.sum(), torch.ones(2, 3), torch.ones(2, 4))
    for critic in (lambda x: torch.ones(2), lambda x: torch.ones(2, requires_grad=True)):
        with pytest.raises(ValueError, match="does not depend on its input"):
            gradient_penalty(critic, torch.ones(2, 3), torch.ones(2, 3))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_spectral_norms_at_any_scale(scale):
    layer = nn.Linear(6, 4)
    with torch.no_grad():
        layer.weight.mul_(scale)
    (norm,) = SpectralPenalty(layer, warm_up=50).norms().values()
    wanted = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    assert norm.item() == pytest.approx(wanted, rel=1e-4)
    (grad,) = torch.autograd.grad(norm, layer.weight)
    assert torch.linalg.matrix_norm(grad).item() == pytest.approx(1.0, rel=1e-5)


def test_the_model_may_change_its_type_and_images_be_bytes():
    layer = nn.Linear(6, 4)
    penalty = SpectralPenalty(layer)
    layer.double()
    assert next(iter(penalty.norms().values())).dtype == torch.float64
    images = torch.arange(96, dtype=torch.uint8).reshape(2, 3, 4, 4)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(48, 1))
    assert gradient_penalty(critic, images, images.flip(0)).isfinite()
