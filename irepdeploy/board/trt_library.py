"""Loading of TensorRT's Python module, its flavour and version, and a logger that keeps its messages.

TensorRT-RTX can build engines without a GPU. In a checkout, `make trt` assembles a TensorRT-RTX builder from two wheels
for tests; it is never returned when TensorRT is requested.
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
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from irepdeploy.board.jetpack import TEGRA_RELEASE
from irepdeploy.errors import InputError, MissingError, one_line

__all__ = [
    "ASSEMBLED_ENVIRONMENT",
    "DTYPES",
    "FLAVOURS",
    "LogMessage",
    "TensorrtLibrary",
    "assembled_folder",
    "first_reasons",
    "forget_logger",
    "installed_version",
    "lacks_gpu",
    "lacks_memory",
    "load_tensorrt",
    "logged",
    "logger_of",
]

FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
# TensorRT's name for each data type that numpy also has, and numpy's name.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
ASSEMBLED_ENVIRONMENT = "IREPDEPLOY_TENSORRT_RTX"
_MARKER = "assembled.json"
_LOGGER = "_irepdeploy_logger"
_NO_GPU = re.compile(
    r"CUDA driver version is insufficient|no CUDA-capable device|CUDA initialization failure|cudaErrorNoDevice"
    r"|cudaError (35|100)\b|libcuda\.so"
)

_NO_MEMORY = re.compile(r"out of memory|OutOfMemory|insufficient memory", re.IGNORECASE)
_SHOWN_REASONS = 3

# Severity (INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE) and text.
LogMessage = Tuple[str, str]


class TensorrtLibrary(NamedTuple):
    """A loaded TensorRT library.

    Attributes:
        module: The Python module.
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Version of the library, such as "10.3.0.26". For an assembled library, the version of its builder, not
            of its bindings.
        assembled: Whether `make trt` assembled the library for tests.
    """

    module: Any
    flavour: str
    version: str
    assembled: bool

    @property
    def major(self) -> int:
        """The major version; TensorRT-RTX has its own version numbers."""
        return int(self.version.partition(".")[0])

    @property
    def title(self) -> str:
        """The display name, such as "TensorRT 10.3.0.26"."""
        return f"{FLAVOURS[self.flavour]} {self.version}" + (" (assembled for tests)" if self.assembled else "")


def load_tensorrt(flavour: str) -> TensorrtLibrary:
    """Import the TensorRT library of this flavour ("tensorrt" or "tensorrt_rtx").

    Raises:
        InputError: There is no such flavour.
        MissingError: The library is not installed or cannot be loaded. The hint contains the command that fixes this.
    """
    _check_flavour(flavour)
    folder = assembled_folder() if flavour == "tensorrt_rtx" else None
    try:
        if importlib.util.find_spec(flavour) is not None:
            module = _import(flavour)
            if _is_assembled(module):
                raise MissingError(
                    f"the installed module {flavour!r} is the builder assembled for tests", hint=_install(flavour)
                )
            return TensorrtLibrary(module, flavour, str(module.__version__), False)
        if folder is not None:
            marker = _marker(folder)
            module = _import_assembled(folder, marker["package"])
            return TensorrtLibrary(module, flavour, marker["tensorrt_rtx"], True)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingError(
            f"{FLAVOURS[flavour]} is installed but cannot be loaded: {one_line(error)}",
            hint="irepdeploy doctor",
        ) from error
    raise MissingError(f"{FLAVOURS[flavour]} is not installed", hint=_install(flavour))


# Time limit in seconds for loading: a large library loads slowly from a slow disk, and a hanging driver never returns.
_LOADING_S = 120


def installed_version(flavour: str) -> Optional[str]:
    """Return the version of the installed TensorRT of this flavour, or None, without loading it into this process.

    Raises:
        InputError: There is no such flavour.
        MissingError: The library is installed but cannot be loaded.
    """
    _check_flavour(flavour)
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
    """Return the folder of the builder that `make trt` assembled, or None.

    The folder is named by the environment variable `ASSEMBLED_ENVIRONMENT`, or else ``build/trt`` in a checkout.

    Raises:
        MissingError: The environment variable names a folder without such a builder.
    """
    named = os.environ.get(ASSEMBLED_ENVIRONMENT)
    if named:
        if not _marker(named):
            raise MissingError(
                "no assembled builder in this folder", where=f"{ASSEMBLED_ENVIRONMENT}={named}", hint="make trt"
            )
        return named
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    folder = os.path.join(checkout, "build", "trt")
    return folder if _marker(folder) else None


def logger_of(trt: Any, keep: Callable[[str, str], None]) -> Any:
    """Return the logger of this TensorRT after registering `keep(severity, text)` for all messages, verbose included.

    The whole process shares one logger, because in TensorRT 8 every builder and runtime uses the first logger and warns
    about others. Each `keep` therefore receives the messages of all of them, until `forget_logger`.
    """
    logger = getattr(trt, _LOGGER, None)
    if logger is None:

        class Logger(trt.ILogger):
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.keeps: List[Callable[[str, str], None]] = []

            def log(self, severity: Any, message: str) -> None:
                for each in tuple(self.keeps):
                    each(severity.name, message)

        logger = Logger()
        # The logger must outlive everything that TensorRT creates with it.
        setattr(trt, _LOGGER, logger)
    logger.keeps.append(keep)
    return logger


def forget_logger(trt: Any, keep: Callable[[str, str], None]) -> None:
    """Unregister `keep` from the logger, if it is registered."""
    logger = getattr(trt, _LOGGER, None)
    if logger is not None and keep in logger.keeps:
        logger.keeps.remove(keep)


def logged(messages: Iterable[LogMessage], *severities: str) -> List[str]:
    """Return the distinct texts of messages with these severities (default: errors), in order, one line each."""
    wanted = severities or ("ERROR", "INTERNAL_ERROR")
    found = (" ".join(text.split()) for severity, text in messages if severity in wanted)
    return list(dict.fromkeys(found))


def lacks_gpu(reasons: Iterable[str]) -> bool:
    """Return whether any reason says that there is no GPU or no driver."""
    return any(_NO_GPU.search(reason) for reason in reasons)


def lacks_memory(reasons: Iterable[str]) -> bool:
    """Return whether any reason says that memory ran out."""
    return any(_NO_MEMORY.search(reason) for reason in reasons)


def first_reasons(reasons: Sequence[str]) -> str:
    """Join the first reasons into one line, followed by the number of remaining ones."""
    if not reasons:
        return "no reason was given"
    more = len(reasons) - _SHOWN_REASONS
    text = "; ".join(reason[:400] for reason in reasons[:_SHOWN_REASONS])
    return f"{text}; and {more} more" if more > 0 else text


def _check_flavour(flavour: str) -> None:
    if flavour not in FLAVOURS:
        raise InputError(f"unknown TensorRT flavour {flavour!r}", where="flavour", hint="one of " + ", ".join(FLAVOURS))


def _import(name: str) -> Any:
    with warnings.catch_warnings():
        # Users cannot fix the causes of the warnings that TensorRT's own modules issue on import.
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
    if platform.machine() == "aarch64" and os.path.exists(TEGRA_RELEASE):
        return "it is part of JetPack: use a virtual environment created with --system-site-packages"
    return "pip install 'irepdeploy[trt]'"
