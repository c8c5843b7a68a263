"""The tool that times steps of a detector."""

from __future__ import annotations

import pytest

from irepdeploy.bench.tools import detector_step


def test_every_row_has_a_time_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_step, "_NET", "faster_rcnn_vgg6_fpn")
    monkeypatch.setattr(detector_step, "_ROWS", (("plain", None, True), ("live", "acnet", False)))
    found = detector_step.measured(rounds=2, side=32)
    assert {name: len(times) for name, times in found.items()} == {"plain": 2, "live": 2}
    assert all(time > 0 for times in found.values() for time in times)
