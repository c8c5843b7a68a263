"""Object detection: detectors and their parts, targets and results, and COCO's metric.

This module is also callable, as the function `ird.detect`; `help("irepdeploy.inference.detect.detect")` shows the
arguments. A separate function of the same name would be replaced by this module as soon as anything imports it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irepdeploy.detect.detections import Detections


class _Function(types.ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Detections:
        """Detect objects in an image; `help("irepdeploy.inference.detect.detect")` shows the arguments."""
        return _function()(*args, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function())


def _function() -> Any:
    # Import by name, because a room must not import a room above it.
    return importlib.import_module("irepdeploy.inference.detect").detect


sys.modules[__name__].__class__ = _Function
