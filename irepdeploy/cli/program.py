"""The `irepdeploy` program: run one command and turn every outcome into an exit code and one line of text.

Exit codes: 0 success; 1 a check failed (only `CheckFailed`, never a crash); 2 wrong input; 3 something is missing; 4
the run failed; 70 a bug in irepdeploy; 129, 130 and 143 ended by SIGHUP, Ctrl-C and SIGTERM; 141 the reader of the
output closed the pipe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from irepdeploy.cli.signals import Terminated, raise_on_signals
from irepdeploy.console import escaped_output
from irepdeploy.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    LONGEST_LINE,
    InputError,
    IrepdeployError,
    RunError,
    one_line,
    printable,
    short_line,
)
from irepdeploy.runtime.memory import is_out_of_memory

__all__ = ["main"]

_EXIT_USAGE = 2
_EXIT_PIPE = 128 + 13  # the exit code that a shell reports for a program ended by SIGPIPE
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNUSABLE_PATH = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENXIO, errno.EPERM, errno.EROFS,
}  # fmt: skip
_TROUBLE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE}
_VERSIONS = ("irepdeploy", "torch", "numpy", "onnx", "onnxruntime", "onnxsim", "pydantic", "typer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `irepdeploy` with the given arguments (default: `sys.argv`) and return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    command_line = ["irepdeploy", *args]
    debug = _take_debug(args)
    _open_standard_files()
    with escaped_output():
        try:
            with raise_on_signals():
                code = _run(args)
            sys.stdout.flush()  # so that a write error occurs here, not when the interpreter exits
            return code
        except BaseException as error:
            if debug:
                _print("".join(traceback.format_exception(error)).rstrip())
            return _explain(error, command_line, debug)


def _open_standard_files() -> None:
    """Reopen stdin, stdout and stderr if they are closed, so that no other file gets their descriptors and output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115


def _run(args: list[str]) -> int:
    # Imported here so that main handles Ctrl-C during the imports.
    import typer

    from irepdeploy.cli.application import application, invoke
    from irepdeploy.cli.completion import VARIABLE, answer

    if VARIABLE in os.environ:
        return answer(application())

    if any("\0" in arg for arg in args):
        raise InputError("expected arguments without NUL characters")
    try:
        invoke(args or ["--help"])
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        place = getattr(error, "ctx", None)
        if place is not None:
            _print(place.get_usage())
        _say(InputError(error.format_message()))
        return _EXIT_USAGE
    return EXIT_OK


def _take_debug(args: list[str]) -> bool:
    end = args.index("--") if "--" in args else len(args)
    found = "--debug" in args[:end]
    args[:end] = [arg for arg in args[:end] if arg != "--debug"]
    return found


def _explain(error: BaseException, command_line: list[str], debug: bool) -> int:
    """Print one line on stderr that explains the exception, and return its exit code."""
    if isinstance(error, Terminated):
        _print(f"irepdeploy: {error}")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        _print("irepdeploy: interrupted")
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        return _EXIT_PIPE
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return EXIT_OK
    known = _as_ours(error)
    if known is not None:
        _say(known, debug)
        return known.exit_code
    report = _write_report(error, command_line)
    _print(f"irepdeploy: bug: {type(error).__name__}: {one_line(error, 200)} (please report it, with {report})")
    return EXIT_BUG


def _as_ours(error: BaseException) -> IrepdeployError | None:
    """Convert an exception into an irepdeploy error, or return None if it indicates a bug."""
    if isinstance(error, IrepdeployError):
        return error
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in ("", "irepdeploy"):
        from irepdeploy.cli.application import missing

        return missing(error)
    if is_out_of_memory(error):
        return RunError(
            f"out of memory: {one_line(error) or 'an allocation failed'}", hint="use a smaller batch or scale"
        )
    # Raised by torch's signal handler, wherever the main thread happens to be.
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return RunError(f"a process that decodes images was killed: {one_line(error)}", hint="use fewer workers")
    if isinstance(error, BrokenPipeError):
        return RunError("the other side closed a connection")
    if isinstance(error, OSError) and error.errno in _FULL:
        where = error.filename or None
        return RunError(f"cannot write: {os.strerror(error.errno).lower()}", where=where, hint="free some space")
    if isinstance(error, OSError) and error.errno in _UNUSABLE_PATH:
        return InputError(f"cannot be opened: {os.strerror(error.errno).lower()}", where=error.filename)
    if isinstance(error, OSError) and error.errno in _TROUBLE:
        return RunError(f"the system reports: {os.strerror(error.errno).lower()}", where=error.filename)
    if isinstance(error, FileNotFoundError) and not _folder_exists():
        return RunError("the current folder was deleted", hint="change to another")
    return None


def _folder_exists() -> bool:
    try:
        return os.path.isdir(os.getcwd())
    except OSError:
        return False


def _reader_has_gone() -> bool:
    """Return whether the reader of our output closed the pipe (`| head`); if so, discard the rest of the output."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            gone = True
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
    return gone


def _is_broken(stream: TextIO) -> bool:
    import select

    try:
        stream.flush()
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError, RunError):  # no poll on this system, or a stream that is not a file
        return False


def _write_report(error: BaseException, command_line: list[str]) -> str:
    """Write a bug report to the current folder, or else to the temporary one, and return its path."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from irepdeploy.files import write_bytes

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    lines = [
        f"command: {command_line}",
        f"python: {platform.python_version()} on {platform.platform()}",
        *(f"{package}: {installed(package)}" for package in _VERSIONS),
        "",
        *(line.rstrip("\n") for line in traceback.format_exception(error)),
    ]
    content = printable("\n".join(lines) + "\n", keep="\n").encode()
    name = f"irepdeploy-bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with contextlib.suppress(IrepdeployError, OSError):
            return str(write_bytes(folder() / name, content))
    return "the traceback that --debug shows"


def _say(error: IrepdeployError, debug: bool = False) -> None:
    start = "irepdeploy: error: "
    _print(start + short_line(error, sys.maxsize if debug else LONGEST_LINE - len(start)))
    # Only on a terminal: logs, and programs that read the error, get a single line.
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr.isatty():
            _print(f"more: irepdeploy explain {error.topic}")


def _print(text: str) -> None:
    # If the reader is gone, the exit code stays the same.
    with contextlib.suppress(OSError, ValueError, RunError):
        print(text, file=sys.stderr, flush=True)
