"""A user's network, data and tasks, which are not in our registry and small enough to search in a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

__all__ = ["DictSamples", "Restless", "Samples", "TinyNet", "halves", "labelled", "maps", "pairs"]


class TinyNet(nn.Module):
    """Two 3x3 convolutions that give a map of class scores, or with `pool` one row of scores."""

    def __init__(self, outputs: int = 3, *, pool: bool = False, as_dict: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, outputs, 1)
        self.pool, self.as_dict = pool, as_dict

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.body(self.stem(x)))
        x = x.mean((2, 3)) if self.pool else x
        return {"out": x} if self.as_dict else x


class Restless(nn.Module):
    """Draws random numbers and changes its own buffers in every forward pass."""

    mean: Tensor
    passes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.norm, self.drop, self.head = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 10)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x).mean((2, 3)))
        if self.training:
            self.mean = self.mean.lerp(x.detach().square().mean(0), 0.1)
            self.passes += 1
        return torch.as_tensor(self.head(self.drop(x - self.mean)))


def maps(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 6, 6), and labels of their pixels by brightness."""
    images = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return images, (images[:, 0] > 0.4).long() + (images[:, 0] > -0.4).long()


def pairs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 6, 6), and a label for each."""
    images, labels = maps(count, seed)
    return images, labels.flatten(1).sum(1) % 3


def labelled(count: int = 16, dense: bool = False) -> dict[str, Any]:
    """A data.factory: training, search-validation and test images, with their labels or maps of labels."""
    make = maps if dense else pairs
    return {"train": make(count), "val": make(10, 1), "test": make(12, 2)}


def halves(**options: Any) -> tuple[Any, ...]:
    """A data.factory without a test set."""
    found = labelled(**options)
    return found["train"], found["val"]


class Samples(Dataset[Any]):
    """A map-style Dataset of a pair of tensors."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.images, self.targets = data

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.targets[index]


class DictSamples(Samples):
    """The same samples, as dictionaries with numpy arrays."""

    def __getitem__(self, index: int) -> Any:
        return {"image": self.images[index].numpy(), "mask": self.targets[index].numpy(), "name": f"{index}.png"}
