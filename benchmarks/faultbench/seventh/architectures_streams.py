"""Streams of the seventh suite's architectures, which never repeat."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seventh.architectures_data import Pairs


def sessions(size: int, seed: int) -> Pairs:
    """Items of a session; each target comes with forty others drawn by how popular they are."""
    rng = np.random.default_rng(seed)
    popular = 1 / (np.arange(240) + 8.0)
    popular /= popular.sum()
    while True:
        items = np.zeros((size, 11), dtype=np.int64)
        anywhere = rng.choice(240, (size, 11), p=popular)
        items[:, 0] = anywhere[:, 0]
        for at in range(1, 11):
            follows = (items[:, at - 1] * 7 + 3 + rng.integers(0, 3, size)) % 240
            items[:, at] = np.where(rng.random(size) < 0.25, anywhere[:, at], follows)
        drawn = np.broadcast_to(rng.choice(240, 40, p=popular), (size, 40))
        yield torch.tensor(items[:, :-1]), torch.tensor(np.concatenate([items[:, 1:], drawn], 1))


def purchases(size: int, seed: int) -> Pairs:
    """A user, an item bought and one that was not; the second of the pair holds the features of both items."""
    fixed = np.random.default_rng(190)
    users, items = fixed.normal(size=(150, 6)), fixed.normal(size=(6, 8))
    generator = torch.Generator().manual_seed(seed)
    taste, mix = torch.tensor(users, dtype=torch.float32), torch.tensor(items, dtype=torch.float32)
    while True:
        user = torch.randint(150, (size,), generator=generator)
        hidden = torch.randn(size, 2, 6, generator=generator)
        likes = torch.einsum("bd,bnd->bn", taste[user], hidden)
        bought = torch.rand(size, generator=generator) < (1.5 * (likes[:, 0] - likes[:, 1])).sigmoid()
        hidden = torch.where(bought[:, None, None], hidden, hidden.flip(1))
        yield user, hidden @ mix + 0.1 * torch.randn(size, 2, 8, generator=generator)


def offers(size: int, seed: int) -> Pairs:
    """Contexts; what each of five offers would bring on average, the noise of that, and chance for the choice."""
    weights = torch.tensor(np.random.default_rng(191).normal(size=(2, 8, 5)), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(size, 8, generator=generator)
        pays = (x @ weights[0] / 1.5 + (x.abs() @ weights[1]) / 3).sigmoid()
        noise = 0.1 * torch.randn(size, 1, generator=generator)
        chance = torch.rand(size, 5, generator=generator).clamp(1e-6, 1 - 1e-6)
        yield x, torch.cat([pays, noise, chance], 1)


def visitors(size: int, seed: int) -> Pairs:
    """Two ids of very many and three numbers; whether there was a click."""
    fixed = np.random.default_rng(192)
    effects = [fixed.normal(size=n) * 1.3 for n in (1500, 900)]
    rng = np.random.default_rng(seed)
    while True:
        ids = [np.minimum(rng.zipf(1.3, size), n) - 1 for n in (1500, 900)]
        numbers = rng.normal(size=(size, 3))
        score = effects[0][ids[0]] + effects[1][ids[1]] + numbers[:, 0] * numbers[:, 1] - 0.5
        rows = np.concatenate([np.stack(ids, 1), numbers], 1)
        clicked = rng.logistic(size=size) < score
        yield torch.tensor(rows, dtype=torch.float32), torch.tensor(clicked, dtype=torch.float32)


def lately(size: int, seed: int, length: int = 20) -> Pairs:
    """Tokens of six letters, and at each place which of three pairs of letters came up most of late."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randint(6, (size, length), generator=generator)
        kinds, sums = torch.nn.functional.one_hot(x // 2, 3).float(), [torch.zeros(size, 3)]
        for at in range(length):
            sums.append(0.8 * sums[-1] + kinds[:, at])
        yield x, torch.stack(sums[1:], 1).argmax(-1)


def brackets(size: int, seed: int, length: int = 20) -> Pairs:
    """Three kinds of brackets, properly nested and at most five deep."""
    rng = np.random.default_rng(seed)
    while True:
        rows = np.zeros((size, length + 1), dtype=np.int64)
        for row in rows:
            opened: list[int] = []
            for at in range(length + 1):
                if opened and (len(opened) == 5 or rng.random() < 0.5):
                    row[at] = 3 + opened.pop()
                else:
                    opened.append(int(rng.integers(0, 3)))
                    row[at] = opened[-1]
        yield torch.tensor(rows[:, :-1]), torch.tensor(rows[:, 1:])


def points_and_noise(size: int, seed: int) -> Pairs:
    """Half of the points from three blobs on an arc, the other half from a wide normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        angle = 2.1 * torch.randint(3, (size, 1), generator=generator)
        real = 1.6 * torch.cat([angle.cos(), angle.sin()], 1)
        real = real + 0.3 * torch.randn(size, 2, generator=generator)
        fake = 1.6 * torch.randn(size, 2, generator=generator)
        y = torch.arange(2).repeat_interleave(size).float()
        yield torch.cat([fake, real]), y


def rings(size: int, seed: int) -> Pairs:
    """Noise to start from, and points of a ring to come to."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        angle = 2 * torch.pi * torch.rand(size, 1, generator=generator)
        ring = torch.cat([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(size, 2, generator=generator)
        yield torch.randn(size, 4, generator=generator), ring


def facts(size: int, seed: int) -> Pairs:
    """Facts (who, relation, whom) of a hidden order on a circle, and ten false answers to each."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.tensor([1, 5, 11, 17, 23])
    while True:
        who = torch.randint(80, (size, 1), generator=generator)
        relation = torch.randint(5, (size, 1), generator=generator)
        whom = (who + steps[relation] + torch.randint(2, (size, 1), generator=generator)) % 80
        false: Tensor = torch.randint(80, (size, 10), generator=generator)
        yield torch.cat([who, relation], 1), torch.cat([whom, false], 1)
