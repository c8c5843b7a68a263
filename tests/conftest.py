"""Shared configuration of all tests: hypothesis profiles, threads, Debian packages, the assembled TensorRT builder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before torch is imported anywhere; subprocesses inherit both.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from irepdeploy.board.trt_library import assembled_folder

# Not a seed of any test, whose numbers would then be those of its fixtures.
_SEED = 1_000_003
_SLOW_EXAMPLES = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_EXAMPLES
)
settings.register_profile(
    "nightly", max_examples=400, deadline=None, print_blob=True, suppress_health_check=_SLOW_EXAMPLES
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# Background jobs of a shell ignore Ctrl-C, and those of nohup a closed terminal; programs started by tests would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "trt: builds with the TensorRT-RTX that `make trt` assembles")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name file contents by their length: archives contain times, but all processes must give a test the same name."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Otherwise, numbers drawn without a seed would depend on the tests that the same process happened to run before.
    random.seed(_SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(_SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(_SEED)
    if item.get_closest_marker("trt") is not None:
        _lacking("the TensorRT builder is not assembled: type `make trt`", assembled_folder() is not None)


# Long files first, so that at the end no process is left alone with one of them.
_LONG_FILES = ("test_pages.py", "test_demo.py", "test_random_networks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the long files to the front, keeping the order within each file."""
    items.sort(key=lambda item: item.path.name not in _LONG_FILES)


class _Scheduling(LoadFileScheduling):
    """Keep a file in one process, so that its fixtures are built once; distribute tests that share none."""

    def _split_scope(self, nodeid: str) -> str:
        apart = "test_pages.py::test_blocks", "test_pages.py::test_slow_blocks", "test_random_networks.py"
        return nodeid if any(name in nodeid for name in apart) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling | None:
    return _Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the factories that tests name out of the user's list."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture
def requires_debian() -> Callable[[str, str], str]:
    """`requires_debian(package, program)`: return the program's path, or skip with the install command (in CI, fail).

    For a package without programs, `program` is the path of a file or folder.
    """

    def require(package: str, program: str) -> str:
        path = program if Path(program).is_absolute() and Path(program).exists() else shutil.which(program)
        text = f"{program} is not installed: type `make system-deps` or `sudo apt-get install {package}`"
        _lacking(text, path is not None)
        return path or ""

    return require


def _lacking(text: str, there: bool) -> None:
    if there:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(text)
    pytest.skip(text)
