"""Suites of the installed stages, found as entry points of the group `irepdeploy.suites`."""

from __future__ import annotations

from importlib.metadata import entry_points

import torch

from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError, MissingError, choices
from irepdeploy.runs.suite import Suite, SuiteReport, SuiteRequest

__all__ = ["run_suite"]

_GROUP = "irepdeploy.suites"


def run_suite(name: str, request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Run a suite and return its report.

    Raises:
        InputError: The suite does not exist.
        MissingError: The device is not available.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise MissingError("torch finds no CUDA device here", where="--device cuda", hint="irepdeploy doctor tells why")
    points = {point.name: point for point in entry_points(group=_GROUP)}
    if name not in points:
        raise InputError(f"unknown suite {name!r}", where="--suite", hint=choices(name, sorted(points)))
    suite: Suite = points[name].load()
    with request.own_folder():
        return suite(request, display)
