"""bfloat16: a probability close to 1 rounds to 1, log(1 - p) is log(0).

source: pattern of bf16 fine-tuning (unlikelihood and DPO-style losses that take log(1 - exp(logp)) in bfloat16).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (log(1 - p) in bfloat16)",
    category="forward,inf_first,half",
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.log",
    module=None,
    line_marker="ORIGIN",
    cause="half_underflow",
    cause_alt=["log_zero"],
    fix="compute log(1 - p) in float32, from the logits",
    fix_code="return -torch.log(1 - probs.float().clamp(max=1 - 1e-6))",
    dtype="bfloat16",
    notes="p is 0.9985: 1 - p is fine in float32",
)


class LM(nn.Module):
    def __init__(self, vocab=16, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.rnn, self.head = nn.GRU(dim, dim, batch_first=True), nn.Linear(dim, vocab)

    def forward(self, ids):
        return self.head(self.rnn(self.emb(ids))[0])


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.lm = LM()
        self.sharpness = nn.Parameter(torch.tensor(1.0))

    def forward(self, ids, known):
        logits = self.lm(ids)[:, :-1] * self.sharpness
        return logits + 9.2 * F.one_hot(ids[:, 1:], 16).to(logits.dtype) * known[:, None, None]


def unlikelihood(probs):
    return -torch.log(1 - probs)  # ORIGIN


def loss_fn(model, batch):
    logits = model(batch["ids"], batch["known"])
    probs = torch.softmax(logits, -1).gather(-1, batch["ids"][:, 1:, None])
    return unlikelihood(probs).mean().float()


def make(seed=0):
    torch.manual_seed(seed)
    model = Policy().to(torch.bfloat16)
    batches = []
    for i in range(3):
        known = torch.zeros(3, dtype=torch.bfloat16)
        if i == 1:
            known[1] = 1.0  # a memorised sample
        batches.append(dict(ids=torch.randint(0, 16, (3, 6)), known=known))
    return model, loss_fn, batches, torch.optim.SGD(model.parameters(), lr=1e-2)
