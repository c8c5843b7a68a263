"""Examination of what is installed, what works, and which commands fix the rest.

Anything that can hang or crash runs in a separate process (`irepdeploy.doctor.probes`). A check that fails nonetheless
becomes a warning with the reason.
"""

from __future__ import annotations

from irepdeploy.doctor.check import Check
from irepdeploy.doctor.examination import examine

__all__ = ["Check", "examine"]
