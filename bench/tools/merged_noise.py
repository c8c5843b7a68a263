"""Measure how much the gradient of a merged step differs from the exact one, by the number of sampled positions.

``python -m irepdeploy.bench.tools.merged_noise RECORD FOLDER [RECIPE [KEY=VALUE ...]]`` trains the network of a recipe
(default: ``fashion_mnist``) with merged steps, then computes the gradients of a few batches with both steps. It appends
a line to RECORD for each rule of `RULES` and prints a table.

The error is compared with the noise that every training has anyway: the difference between the exact gradients of two
batches.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.console import table
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.step import set_step
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.training.training import Training

from .harness import keep_line, kept_lines

__all__ = ["BENCHMARK", "COLUMNS", "RULES", "errors_of", "main", "rows_of"]

BENCHMARK = "merged step, noise"
COLUMNS = ("positions of a block", "error of logits, %", "error of the gradient, %", "x noise of a batch")
# Images of a batch and their labels.
Batch = tuple[Tensor, Tensor]
_BATCHES, _DRAWS = 4, 2


def _by_channels(numerator: int, least: int, most: int = 2048) -> Callable[[int, int], int]:
    return lambda channels, positions: min(max(least, min(numerator // channels, most)), positions)


# Functions from output channels and positions to the sample size; None is the default rule.
RULES: dict[str, Callable[[int, int], int] | None] = {
    "65,536 / channels, 256 to 2,048 (default)": None,
    "an eighth, 256 to 2,048": lambda _, positions: min(max(256, min(positions // 8, 2048)), positions),
    "65,536 / channels, 128 to 2,048": _by_channels(65_536, 128),
    "32,768 / channels, 128 to 2,048": _by_channels(32_768, 128),
    "16,384 / channels, 64 to 2,048": _by_channels(16_384, 64),
}


def main(record: str, folder: str, recipe: str = "fashion_mnist", *overrides: str) -> None:
    """Train, measure, and append the results to the record."""
    facts = {"recipe": recipe, "overrides": list(overrides)}
    plan = load_recipe(recipe_path(recipe), ["train.step=merged", *overrides])
    run = Training(plan, Path(folder), None, overwrite=True)
    run.run()
    batches = list(itertools.islice(run.loader, _BATCHES))
    for rule, figures in errors_of(run.net, batches).items():
        keep_line(record, BENCHMARK, rule=rule, **facts, **figures)
    _show(kept_lines(record, BENCHMARK, **facts))


def errors_of(net: nn.Module, batches: Sequence[Batch]) -> dict[str, dict[str, float]]:
    """Return the errors of logits and of the gradient of each rule: shares of the norm, and of the noise of a batch."""
    blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
    positions: list[int] = []
    hooks = [
        block.register_forward_hook(lambda module, args, out: positions.append(len(out) * out[0, 0].numel()))
        for block in blocks
    ]
    net.train()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with torch.no_grad():
        net(batches[0][0])
    for hook in hooks:
        hook.remove()

    def measured(batch: Batch) -> tuple[Tensor, Tensor]:
        net.load_state_dict({**net.state_dict(), **buffers})
        net.zero_grad()
        logits = net(batch[0])
        F.cross_entropy(logits, batch[1]).backward()
        gradients = [each.grad.flatten() for each in net.parameters() if each.grad is not None]
        return logits.detach(), torch.cat(gradients)

    set_step(net, "exact")
    exact = [measured(batch) for batch in batches]
    every = torch.stack([gradient for _, gradient in exact])
    noise = float(every.std(0).norm())
    found = {}
    for name, rule in RULES.items():
        set_step(net, "merged")
        for block, count in zip(blocks, positions, strict=True):
            block.sample = None if rule is None else rule(block.geometry.out_channels, count)
        logits, gradients, shares = [], [], []
        for seed, (batch, (of_logits, of_gradient)) in itertools.product(
            range(_DRAWS), zip(batches, exact, strict=True)
        ):
            torch.manual_seed(seed)
            out, gradient = measured(batch)
            logits.append(float((out - of_logits).norm() / of_logits.norm()))
            error = float((gradient - of_gradient).norm())
            gradients.append(error / float(of_gradient.norm()))
            shares.append(error / noise)
        found[name] = {
            "logits": statistics.fmean(logits),
            "gradient": statistics.fmean(gradients),
            "of_noise": statistics.fmean(shares),
        }
    set_step(net, "merged")
    return found


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row of `COLUMNS` for each rule of a record, from its last line."""
    last = {line["rule"]: line for line in lines}
    return [
        [rule, f"{100 * line['logits']:.1f}", f"{100 * line['gradient']:.0f}", f"{line['of_noise']:.2f}"]
        for rule, line in last.items()
    ]


def _show(lines: Sequence[Mapping[str, Any]]) -> None:
    table("The merged step compared with the exact one, on the same batches", COLUMNS, rows_of(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
