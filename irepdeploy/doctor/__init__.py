"""What is installed here, what really works, and what to type to mend the rest.

Whatever can hang or crash is asked in a process of its own (`irepdeploy.doctor.probes`); a check that fails all the
same becomes a warning with its reason.
"""

from __future__ import annotations

from irepdeploy.doctor.check import Check
from irepdeploy.doctor.examination import examine

__all__ = ["Check", "examine"]
