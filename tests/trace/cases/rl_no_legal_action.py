"""A terminal state slips into the batch: no action is legal, log_softmax of a row of -inf.

source: ray-project/ray and hill-a/stable-baselines#505 (action masks of -inf; a state without any legal action).
"""

import torch
import torch.nn as nn

META = dict(
    source="hill-a/stable-baselines#505",
    category="forward",
    decoy_legit=True,
    phase="forward",
    step=2,
    visible="loss",
    first_op="aten._log_softmax",
    module="actor",
    line_marker="ORIGIN",
    cause="fully_masked_softmax",
    fix="leave terminal states out of the policy loss, or keep one action legal",
    fix_code="return torch.log_softmax(scores.masked_fill(~legal.any(-1, keepdim=True), 0.0), dim=-1)",
    dtype="float32",
)


class Embed(nn.Module):
    def __init__(self, cards=30, dim=8):
        super().__init__()
        self.card = nn.EmbeddingBag(cards, dim, mode="mean")
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    def forward(self, hand):
        return self.mix(self.card(hand))


class Actor(nn.Module):
    def __init__(self, dim=8, actions=6):
        super().__init__()
        self.out = nn.Linear(dim, actions)

    def forward(self, h, legal):
        scores = self.out(h).masked_fill(~legal, float("-inf"))  # LEGIT
        return torch.log_softmax(scores, dim=-1)  # ORIGIN


class CardAgent(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.actor = Embed(), Actor()

    def forward(self, hand, legal):
        return self.actor(self.embed(hand), legal)


def reinforce(model, batch):
    logp = model(batch["hand"], batch["legal"])
    return -(logp.gather(1, batch["act"][:, None]).squeeze(1) * batch["gain"]).mean()


def make(seed=0):
    torch.manual_seed(seed)
    model = CardAgent()
    batches = []
    for i in range(4):
        legal = torch.rand(5, 6) > 0.3
        legal[:, 2] = True
        if i == 2:
            legal[4] = False
        act = torch.full((5,), 2)
        batches.append(dict(hand=torch.randint(0, 30, (5, 4)), legal=legal, act=act, gain=torch.randn(5)))
    return model, reinforce, batches, torch.optim.SGD(model.parameters(), lr=0.01)
