"""CONTROL: gradient penalty and distances through torch.norm and torch.linalg.norm, whose slope at 0 is 0 by definition."""

import torch
import torch.nn as nn

META = dict(
    source="pytorch/pytorch#2421, #2534 and #4320 (fixed since)",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="dead critics, identical pairs, std of a constant row: all finite in this torch",
)


class Critic(nn.Module):
    def __init__(self, dim=2, hidden=12):
        super().__init__()
        self.net, self.out = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU()), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(self.net(x)).squeeze(-1)


class Embedder(nn.Module):
    def __init__(self, dim=2):
        super().__init__()
        self.fc = nn.Linear(dim, 6)

    def forward(self, x):
        return torch.tanh(self.fc(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic, self.embedder = Critic(), Embedder()

    def forward(self, x):
        return self.critic(x), self.embedder(x)


def penalty(critic, x):
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (torch.linalg.vector_norm(slope, dim=1) - 1).pow(2).mean()


def loss_fn(model, batch):
    score, z = model(batch)
    apart = torch.norm(z[:3] - z[3:], dim=1) + nn.functional.pairwise_distance(z[:3], z[3:], eps=0.0)
    return score.mean() + penalty(model.critic, batch) + apart.mean() + z.std(1).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = Model()
    with torch.no_grad():
        model.critic.net[0].weight[:, 0].abs_()
        model.embedder.fc.bias.zero_()
    batches = []
    for _ in range(6):
        x = torch.rand(6, 2)
        x[3] = x[0]  # a pair of identical points
        x[1, 0] = -500.0  # the critic is dead here
        x[2], x[5] = 0.0, 0.0
        batches.append(x)
    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-4)
