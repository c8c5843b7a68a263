"""Energy per inference: mean power of the module's rails during a steady loop, divided by its rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .rails import module_mw
from .sampler import Sample, mean_rails

__all__ = ["energy"]


def energy(samples: Sequence[Sample], idle: Sequence[Sample], *, inferences: int, seconds: float) -> dict[str, Any]:
    """Compute power in mW and energy in mJ of a steady loop; empty if the board reported no power.

    ``energy = P * t / n`` includes the power of an idle board; a second number excludes it.
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
