"""Energy of one inference: mean power of the module's rails over a steady loop, over its rate.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rails import module_mw
from .sampler import Sample, mean_rails

__all__ = ["energy"]


def energy(samples: Sequence[Sample], idle: Sequence[Sample], *, inferences: int, seconds: float) -> dict[str, Any]:
    """Power and energy of a steady loop; empty where the board told no power.

    ``energy = P * t / n``: mW times seconds are mJ. What an idle board takes is in it; without that is a second number.

    Args:
        samples, idle: taken in the loop, and while nothing ran.
        inferences, seconds: of the loop.
    """
    rails, resting = mean_rails(samples), mean_rails(idle)
    power, rest = module_mw(rails), module_mw(resting)
    if power is None or inferences < 1:
        return {}
    one_s = seconds / inferences
    return {
        "of": "module rails, without the carrier board",
        "rails_mw": rails,
        "module_mw": power,
        "idle_module_mw": rest,
        "seconds": seconds,
        "inferences": inferences,
        "samples": len(samples),
        "energy_mj_per_inference": power * one_s,
        "energy_above_idle_mj_per_inference": None if rest is None else (power - rest) * one_s,
    }
