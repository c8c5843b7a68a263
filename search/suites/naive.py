"""The naive evaluation of a candidate that Table 1 compares with: a forward pass through every branch that it keeps."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.data import Split
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.structure import replaced

from ..evaluation.fitness import Fitness
from ..supernet.space import Bits, SearchSpace

__all__ = ["NaiveEvaluator"]


class NaiveBlock(nn.Module):
    """Literal implementation of Eq. 6, with one module per branch."""

    def __init__(self, block: RepBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        out = block.fixed(x)
        if not block.active:
            return out
        assert block.beta is not None
        branches = [torch.sigmoid(block.alpha[name]) * block.branches[name](x) for name in block.active]
        return torch.sigmoid(block.beta) * sum(branches[1:], branches[0]) + out


class NaiveEvaluator:
    """Scores candidates one by one with a copy of the supernet in torch's default memory format."""

    def __init__(self, model: nn.Module, space: SearchSpace, data: Split, batch_size: int) -> None:
        blocks = [block for block in model.modules() if isinstance(block, RepBlock)]
        self._blocks = [NaiveBlock(copy.deepcopy(block)) for block in blocks]
        self.network = replaced(model, dict(zip(blocks, self._blocks, strict=True)), {}).eval()
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs lack it
        self._space = space
        self._data = data
        self._batch_size = batch_size

    def in_batches_of(self, size: int) -> NaiveEvaluator:
        """Return the same evaluator with another batch size."""
        other = copy.copy(self)
        other._batch_size = size
        return other

    def select(self, bits: Bits) -> None:
        """Activate the branches of a candidate."""
        for naive, names in zip(self._blocks, self._space.kept(bits), strict=True):
            naive.block.active = names

    @torch.inference_mode()
    def evaluate(self, population: Sequence[Bits]) -> list[Fitness]:
        """Score each candidate."""
        found = []
        for bits in population:
            self.select(bits)
            correct, loss = 0, 0.0
            for start in range(0, len(self._data), self._batch_size):
                images = self._data.images[start : start + self._batch_size]
                labels = self._data.labels[start : start + self._batch_size]
                logits = self.network(images)
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            found.append(Fitness(correct / len(self._data), -loss / len(self._data)))
        return found
