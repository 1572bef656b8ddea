"""Pointer-generator summariser: a target word that is neither in the vocabulary nor in the source has probability 0.

source: abisee/pointer-generator (loss becomes nan: log of a zero final distribution; coverage training).
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

META = dict(
    source="pattern, no thread (pointer-generator, log of a zero mixture)",
    category="forward,inf_first",
    decoy_legit=True,
    phase="loss",
    step=1,
    visible="loss",
    first_op="aten.log",
    module=None,
    line_marker="ORIGIN",
    cause="log_zero",
    fix="clamp the mixture before the logarithm",
    fix_code="return -torch.log(picked.clamp(min=1e-8)).mean()",
    dtype="float32",
    notes="attention masks and the banned word are -inf before that, in every step",
)


class CopyAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.gate = nn.Linear(dim, dim), nn.Linear(dim, 1)

    def forward(self, state, memory, pad):
        scores = self.q(state) @ memory.transpose(1, 2)
        attn = torch.softmax(scores.masked_fill(pad[:, None], float("-inf")), -1)  # LEGIT
        return attn, torch.sigmoid(self.gate(state))


class Summariser(nn.Module):
    def __init__(self, vocab=20, dim=12):
        super().__init__()
        self.emb, self.rnn = nn.Embedding(vocab + 3, dim), nn.GRU(dim, dim, batch_first=True)
        self.copy, self.out, self.vocab = CopyAttention(dim), nn.Linear(dim, vocab), vocab
        self.register_buffer("banned", torch.arange(vocab) == 1)

    def forward(self, source, target):
        pad = source == 0
        memory, _ = self.rnn(self.emb(source))
        state, _ = self.rnn(self.emb(target[:, :-1]))
        attn, gate = self.copy(state, memory, pad)
        words = torch.softmax(self.out(state).masked_fill(self.banned, float("-inf")), -1)  # LEGIT
        mixture = F.pad(gate * words, (0, 3))
        index = source[:, None].expand(-1, state.shape[1], -1)
        return mixture.scatter_add(2, index, (1 - gate) * attn)


def copy_loss(model, batch):
    mixture = model(batch["source"], batch["target"])
    return nll(mixture.gather(2, batch["target"][:, 1:, None]))


def nll(picked):
    return -torch.log(picked).mean()  # ORIGIN


def make(seed=0):
    torch.manual_seed(seed)
    model = Summariser()
    batches = []
    for i in range(3):
        source, target = torch.randint(2, 20, (3, 8)), torch.randint(2, 20, (3, 5))
        source[1, 6:] = 0
        if i == 1:
            target[2, 3] = 21  # an out-of-vocabulary word that the truncated source lost
        batches.append(dict(source=source, target=target))
    return model, copy_loss, batches, torch.optim.Adagrad(model.parameters(), lr=0.05)
