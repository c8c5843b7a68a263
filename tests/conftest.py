"""What all tests share: hypothesis profiles, one thread, Debian packages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

# Before torch is imported anywhere; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

_SLOW_EXAMPLES = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_EXAMPLES
)
settings.register_profile(
    "nightly", max_examples=400, deadline=None, print_blob=True, suppress_health_check=_SLOW_EXAMPLES
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def requires_debian() -> Callable[[str, str], str]:
    """`requires_debian(package, program)`: the program's path, or a skip that says what to type; under CI a failure."""

    def require(package: str, program: str) -> str:
        path = shutil.which(program)
        if path is None:
            text = f"{program} is not installed: type `make system-deps` or `sudo apt-get install {package}`"
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(text)
            pytest.skip(text)
        return path

    return require
