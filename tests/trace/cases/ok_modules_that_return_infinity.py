"""CONTROL: modules whose outputs are infinite on purpose: a mask builder, a distance layer, a pointer head."""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern of routing and pointer networks",
    category="control",
    phase="none",
    step=None,
    first_op=None,
    module=None,
    line_marker="ORIGIN",
    cause="none",
    fix=None,
    dtype="float32",
    notes="three submodules return inf or -inf in every step; topk, softmax and log_softmax take them",
)


class VisitedMask(nn.Module):
    def forward(self, visited):
        return torch.zeros(visited.shape).masked_fill(visited, float("-inf"))  # LEGIT


class PaddedDistance(nn.Module):
    def forward(self, pts, pad):
        gap = torch.cdist(pts, pts)
        both = pad[:, None] | pad[:, :, None] | torch.eye(pts.shape[1], dtype=torch.bool)
        return gap.masked_fill(both, float("inf"))  # LEGIT


class PointerHead(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, h, mask):
        scores = (self.q(h.mean(1, keepdim=True)) @ self.k(h).transpose(1, 2)).squeeze(1)
        return torch.tanh(scores) * 10 + mask  # LEGIT


class TourNet(nn.Module):
    def __init__(self, dim=12, near=2):
        super().__init__()
        self.near, self.inp = near, nn.Linear(2 + near, dim)
        self.distance, self.mask, self.head = PaddedDistance(), VisitedMask(), PointerHead(dim)

    def forward(self, pts, pad, visited):
        gap = self.distance(pts, pad)
        closest = torch.exp(-gap.topk(self.near, -1, largest=False).values)  # LEGIT
        h = torch.relu(self.inp(torch.cat([pts, closest], -1)))
        return self.head(h, self.mask(visited | pad))


def tour_loss(model, batch):
    logits = model(batch["pts"], batch["pad"], batch["visited"])
    return F.cross_entropy(logits, batch["next"])


def make(seed=0):
    torch.manual_seed(seed)
    model = TourNet()
    batches = []
    for _ in range(6):
        pad, visited = torch.zeros(4, 7, dtype=torch.bool), torch.rand(4, 7) > 0.7
        pad[1, 5:] = True
        visited[:, 0] = False
        batches.append(dict(pts=torch.rand(4, 7, 2), pad=pad, visited=visited, next=torch.zeros(4).long()))
    return model, tour_loss, batches, torch.optim.Adam(model.parameters(), lr=1e-3)
