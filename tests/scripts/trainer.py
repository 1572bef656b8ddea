"""A trainer as frameworks have it: workers, accumulation, clipping, schedules, checkpoints, resumption."""

import copy
import hashlib
import os
import pickle
import threading
import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


@dataclass
class Arguments:
    accumulate: int = 2
    clip: float = 1.0
    epochs: int = 2


class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randn(4, generator=generator), torch.tensor([float(index % 3)])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.head = nn.Linear(8, 1)
        self.register_buffer("num_seen", torch.zeros(()))

    def forward(self, x):
        self.num_seen += len(x)
        return self.head(self.body(x))


class Trainer:
    def __init__(self, model, arguments):
        self.model, self.arguments = model, arguments
        decay = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.02, total_steps=16)
        self.average = copy.deepcopy(model)

    def train(self, loader):
        for _ in range(self.arguments.epochs):
            for number, (x, y) in enumerate(loader, start=1):
                loss = nn.functional.mse_loss(self.model(x), y) / self.arguments.accumulate
                loss.backward()
                if number % self.arguments.accumulate == 0:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.arguments.clip)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()
            self.save()
        return loss.item()

    def save(self):
        torch.save(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, "checkpoint.pt"
        )
        pickle.loads(pickle.dumps(self.model))
        copy.deepcopy(self.optimizer)


if __name__ == "__main__":
    warnings.simplefilter("error")
    torch.manual_seed(0)
    trainer = Trainer(Net(), Arguments())
    loader = DataLoader(Numbers(), 8, num_workers=2, generator=torch.Generator().manual_seed(0), shuffle=True)
    last = trainer.train(loader)
    thread = threading.Thread(target=trainer.train, args=([next(iter(loader))] * 2,))
    trainer.arguments.epochs = 1
    thread.start()
    thread.join()
    values = list(trainer.model.state_dict().values())
    print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in values)).hexdigest()[:16], f"{last:.9f}")
    print(__name__, os.path.basename(__file__), pickle.loads(pickle.dumps(Arguments())))
