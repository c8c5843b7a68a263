"""TensorRT's Python module: where it is found, which flavour and version it is, and a logger that keeps what it says.

TensorRT-RTX builds without a GPU. In a checkout `make trt` assembles one out of two wheels for tests; it is a
TensorRT-RTX, and is never given to whoever asks for TensorRT. This module is Python 3.8, stdlib only: the board's agent
carries it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import warnings
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from irepdeploy.errors import InputError, MissingError

__all__ = [
    "ASSEMBLED_ENVIRONMENT",
    "FLAVOURS",
    "LogMessage",
    "TensorrtLibrary",
    "assembled_folder",
    "installed_version",
    "lacks_gpu",
    "load_tensorrt",
    "logged",
    "logger_of",
]

FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
ASSEMBLED_ENVIRONMENT = "IREPDEPLOY_TENSORRT_RTX"
_MARKER = "assembled.json"
_NO_GPU = re.compile(
    r"CUDA driver version is insufficient|no CUDA-capable device|CUDA initialization failure|cudaErrorNoDevice"
    r"|cudaError (35|100)\b|libcuda\.so"
)

# Severity's name (INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE), text.
LogMessage = Tuple[str, str]


class TensorrtLibrary(NamedTuple):
    """A loaded TensorRT.

    Args:
        version: of the library, such as "10.3.0.26"; an assembled one's is that of its builder, not of its bindings.
        assembled: put together by `make trt`, for tests.
    """

    module: Any
    flavour: str
    version: str
    assembled: bool

    @property
    def title(self) -> str:
        """``TensorRT 10.3.0.26``."""
        return f"{FLAVOURS[self.flavour]} {self.version}" + (" (assembled for tests)" if self.assembled else "")


def load_tensorrt(flavour: str) -> TensorrtLibrary:
    """Import the TensorRT of this flavour.

    Raises:
        InputError: there is no such flavour.
        MissingError: it is not installed, or cannot be loaded; the hint is the line to type.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"no TensorRT flavour {flavour!r}", where="flavour", hint="one of " + ", ".join(FLAVOURS))
    folder = assembled_folder() if flavour == "tensorrt_rtx" else None
    try:
        if importlib.util.find_spec(flavour) is not None:
            module = _import(flavour)
            if _is_assembled(module):
                raise MissingError(
                    f"the module {flavour!r} here is the builder assembled for tests", hint=_install(flavour)
                )
            return TensorrtLibrary(module, flavour, str(module.__version__), False)
        if folder is not None:
            marker = _marker(folder)
            module = _import_assembled(folder, marker["package"])
            return TensorrtLibrary(module, flavour, marker["tensorrt_rtx"], True)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingError(
            f"{FLAVOURS[flavour]} is installed but cannot be loaded: {' '.join(str(error).split())}",
            hint="irepdeploy doctor",
        ) from error
    raise MissingError(f"{FLAVOURS[flavour]} is not installed", hint=_install(flavour))


# Loading a large library from a slow disk takes its time; a driver that hangs takes for ever.
_LOADING_S = 120


def installed_version(flavour: str) -> Optional[str]:
    """Version of the TensorRT of this flavour, None if there is none; this process does not load it.

    Raises:
        InputError, MissingError: as `load_tensorrt`, but for one that is not installed.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"no TensorRT flavour {flavour!r}", where="flavour", hint="one of " + ", ".join(FLAVOURS))
    if importlib.util.find_spec(flavour) is None and (flavour != "tensorrt_rtx" or assembled_folder() is None):
        return None
    code = (
        "import sys; from irepdeploy.board.trt_library import load_tensorrt as load; print(load(sys.argv[1]).version)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, flavour],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            check=False,
            timeout=_LOADING_S,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(
            f"{FLAVOURS[flavour]} is installed but does not load within {_LOADING_S} s", hint="irepdeploy doctor"
        ) from error
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise MissingError(f"{FLAVOURS[flavour]} is installed but cannot be loaded: {last}", hint="irepdeploy doctor")
    return done.stdout.split()[-1]


def assembled_folder() -> Optional[str]:
    """Where `make trt` put a builder: the folder that the environment names, else ``build/trt`` of a checkout.

    Raises:
        MissingError: the environment names a folder without one.
    """
    named = os.environ.get(ASSEMBLED_ENVIRONMENT)
    if named:
        if not _marker(named):
            raise MissingError(
                "no builder that `make trt` assembled", where=f"{ASSEMBLED_ENVIRONMENT}={named}", hint="make trt"
            )
        return named
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    folder = os.path.join(checkout, "build", "trt")
    return folder if _marker(folder) else None


def logger_of(trt: Any, keep: Callable[[str, str], None]) -> Any:
    """A TensorRT logger that gives every message to `keep` as (severity's name, text), the verbose ones too."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            keep(severity.name, message)

    return Logger()


def logged(messages: Iterable[LogMessage], *severities: str) -> List[str]:
    """Texts of the messages of these severities, default errors: each once, as one line each, in order."""
    wanted = severities or ("ERROR", "INTERNAL_ERROR")
    found = (" ".join(text.split()) for severity, text in messages if severity in wanted)
    return list(dict.fromkeys(found))


def lacks_gpu(reasons: Iterable[str]) -> bool:
    """Whether a reason says that there is no GPU or no driver."""
    return any(_NO_GPU.search(reason) for reason in reasons)


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        # What TensorRT's own modules warn of when they are imported is not for its users to mend.
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _import_assembled(folder: str, package: str) -> Any:
    if package in sys.modules:
        return sys.modules[package]
    sys.path.insert(0, folder)
    try:
        return _import(package)
    finally:
        sys.path.remove(folder)


def _is_assembled(module: Any) -> bool:
    path = getattr(module, "__file__", None)
    return path is not None and bool(_marker(os.path.dirname(os.path.dirname(os.path.abspath(path)))))


def _marker(folder: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(folder, _MARKER), encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and {"package", "tensorrt_rtx"} <= set(value) else {}


def _install(flavour: str) -> str:
    if flavour == "tensorrt_rtx":
        return "pip install tensorrt_rtx, or `make trt` in a checkout for the builder that the tests use"
    if platform.machine() == "aarch64" and os.path.exists("/etc/nv_tegra_release"):
        return "it comes with JetPack: use a virtual environment made with --system-site-packages"
    return "pip install 'irepdeploy[trt]'"
