"""Part of the device check: the captured forward pass must equal the eager one while weights and shapes change.

It runs the evaluator's `CapturedForward` with two alternating batch shapes and rewrites the weights between replays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from irepdeploy.board.steps import answer
from irepdeploy.errors import CheckFailed, MissingError
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.fold import folded
from irepdeploy.runs.suite import SCALES
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.memory_format import channels_last

from ..evaluation.captured import CapturedForward

__all__ = ["check_captured", "main"]

# Largest difference relative to the largest value; two runs may use different algorithms.
_ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_BATCHES = (64, 48)
_ROUNDS = 3


@torch.inference_mode()
def check_captured(device: torch.device) -> tuple[str, Mapping[str, Any]]:
    """Compare the captured and the eager pass on a device, rewriting the weights in place before every pass.

    Raises:
        CheckFailed: The logits differ.
    """
    figures = {}
    with exact_arithmetic():
        for dtype, allowed in _ALLOWED.items():
            torch.manual_seed(0)
            net = folded(randomize_statistics(build_plain("vgg6", num_classes=10, input_shape=(1, 16, 16)), 0).eval())
            net = channels_last(net.to(device, dtype))
            forward, errors = CapturedForward(net), []
            for _ in range(_ROUNDS):
                for batch in _BATCHES:
                    for parameter in net.parameters():
                        parameter.copy_(torch.randn_like(parameter) * parameter.std().clamp_min(1e-2))
                    images = channels_last(torch.randn(batch, 1, 16, 16, device=device, dtype=dtype))
                    expected, found = net(images).float(), forward(images).float()
                    errors.append((expected - found).abs().max() / expected.abs().max())
            name = str(dtype).rpartition(".")[2]
            # Python's max would ignore NaN.
            figures[name] = worst = float(torch.stack(errors).max())
            if not worst <= allowed:
                raise CheckFailed(f"captured and eager logits differ by {worst:.1e}", where=name)
    return ", ".join(f"{name} {error:.1e}" for name, error in figures.items()), figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and print its result. It takes the options of a suite."""
    parser = argparse.ArgumentParser(prog="captured_check")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="small", help="ignored")
    parser.add_argument("--out", type=Path, help="ignored")
    given = parser.parse_args(arguments)

    def step() -> tuple[str, Mapping[str, Any]]:
        if given.device == "cpu" or not torch.cuda.is_available():
            raise MissingError("needs a GPU")
        return check_captured(torch.device("cuda"))

    print(json.dumps(answer(step)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
