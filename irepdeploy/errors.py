"""The errors that irepdeploy raises.

    IrepdeployError
    |-- CheckFailed       exit 1   a check ran and its verdict is "no"
    |-- InputError        exit 2   the user's input was wrong
    |   |-- RecipeError            a recipe or an override on the command line
    |   |-- ArchitectureError      an Architecture that is malformed or does not fit the network
    |   |-- CheckpointError        a file that is not a checkpoint, is damaged, or is of the wrong kind
    |   |-- ModelError             a network or ONNX model that cannot be handled (unknown operator, no such name)
    |   |-- NotFusable             a network that has no exact fused form (train mode, NaN, bad BN statistics)
    |   `-- OutputError            a folder or file that cannot be written
    |-- MissingError      exit 3   something needed is not installed or not reachable
    `-- RunError          exit 4   the run failed (disk full, out of memory, NaN loss, lost connection)

An error says what is wrong, where (file, layer, key) and how to fix it. Any other exception is a bug in irepdeploy: the
program writes a report file and exits with code 70. This module imports nothing from the package and supports
Python 3.8, because it is part of the agent on the board.
"""

from __future__ import annotations

import re
from typing import ClassVar, Iterable, Optional

__all__ = [
    "ArchitectureError",
    "CheckFailed",
    "CheckpointError",
    "InputError",
    "IrepdeployError",
    "MissingError",
    "ModelError",
    "NotFusable",
    "OutputError",
    "RecipeError",
    "RunError",
    "choices",
    "counted",
    "few",
]

# Maximum length of an error line, in characters; --debug lifts it.
LONGEST_LINE = 400
_LONGEST_REASON = 300
_LONGEST_PLACE = 150
_SHOWN = 6

EXIT_OK = 0
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class IrepdeployError(Exception):
    """Base class of all errors that irepdeploy raises.

    Args:
        what: The problem, as one sentence without a final period.
        where: The file, layer or key that the problem is in.
        hint: The fix, or the command to run.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, what: str, *, where: Optional[object] = None, hint: Optional[str] = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(self.line)

    @property
    def topic(self) -> str:
        """The name of this kind of error for `irepdeploy explain`, such as "not-fusable" or "missing"."""
        kind = next(each for each in type(self).__mro__ if each.__module__ == __name__)
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__.replace("Error", "")).lower()

    @property
    def line(self) -> str:
        """The error on one line: ``where: what (hint)``."""
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text} ({self.hint})"

    def __reduce__(self) -> tuple:
        # By default, exceptions with keyword-only arguments cannot be unpickled in another process.
        return _rebuild, (type(self), self.what, self.where, self.hint)


def counted(count: int, noun: str, nouns: Optional[str] = None) -> str:
    """Return a number with its noun: "1 node", "1,024 nodes". Pass an irregular plural as `nouns`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def few(names: Iterable[str]) -> str:
    """Return all names of a short list, or the first names of a long one and how many more there are."""
    known = list(names)
    more = len(known) - _SHOWN
    return ", ".join(known) if more <= 1 else f"{', '.join(known[:_SHOWN])}, ... ({more} more)"


def choices(wrong: str, names: Iterable[str]) -> str:
    """Return the hint for an unknown name: the known names that resemble it, or else a few of them."""
    from difflib import get_close_matches

    known = list(names)
    near = get_close_matches(wrong, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"one of {few(known)}"


def _rebuild(cls: type, what: str, where: Optional[str], hint: Optional[str]) -> IrepdeployError:
    return cls(what, where=where, hint=hint)


class CheckFailed(IrepdeployError):
    """A check ran and its verdict is "no": outputs differ beyond the tolerance."""

    exit_code = 1


class InputError(IrepdeployError):
    """The user's input was wrong."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, or an override given on the command line, is wrong."""


class ArchitectureError(InputError):
    """An Architecture is malformed or does not fit the network."""


class CheckpointError(InputError):
    """A file is not a checkpoint, is damaged, or is of the wrong kind."""


class ModelError(InputError):
    """A network or an ONNX model cannot be handled."""


class NotFusable(InputError):
    """A network has no exact fused form."""


class OutputError(InputError):
    """A file or folder cannot be written."""


class MissingError(IrepdeployError):
    """Something needed is not installed or not reachable."""

    exit_code = 3


class RunError(IrepdeployError):
    """The run failed: disk full, out of memory, NaN loss, lost connection."""

    exit_code = 4


def printable(text: str, keep: str = "") -> str:
    r"""Return text with its non-printable characters escaped, as in ``\x1b`` or ``\u202e``.

    Bytes of file names that are not valid UTF-8 are shown as ``\xff``. Characters in `keep` are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else escaped(char) for char in text)


def escaped(char: str) -> str:
    r"""Return the escape of a character, such as ``\x1b``, ``\u202e`` or ``\U000e0001``."""
    if char in "\n\r\t":
        return repr(char)[1:-1]
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not valid UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def short_line(error: BaseException, longest: int = LONGEST_LINE) -> str:
    """Return the line of an error, shortened to `longest` characters: first a long path in its middle, then the end."""
    where, line = getattr(error, "where", None), one_line(getattr(error, "line", error), 1 << 20)
    place = None if where is None else one_line(where, 1 << 20)
    if place is not None and len(line) > longest and len(place) > _LONGEST_PLACE and line.startswith(place):
        half = _LONGEST_PLACE // 2
        line = f"{place[:half]}...{place[-half:]}{line[len(place) :]}"
    tail = "... (--debug shows all)"
    return line if len(line) <= longest else line[: longest - len(tail)] + tail


def first_line(error: BaseException) -> str:
    """Return the first line of another library's exception, or the name of its type if empty; see `one_line`."""
    return one_line((str(error).strip().splitlines() or [""])[0]) or type(error).__name__


def one_line(text: object, longest: int = _LONGEST_REASON) -> str:
    """Return another library's exception, or any text, as one printable line without its C++ source locations."""
    line = str(text)
    if isinstance(text, BaseException) or "::" in line or "enforce fail" in line:
        line = _without_cpp(line)
    line = printable(" ".join(line.split()))
    return line if len(line) <= longest else line[: longest - 3] + "..."


# These texts contain names from files, of any length, so every pattern must run in linear time.
# torch appends a stack of C++ frames, and pybind11 the signatures that it accepts.
_CPP_TAIL = re.compile(
    r"\(?(?:Exception raised from |The following argument types are supported:|(?<=\n)Invoked with:)"
)
_ORT_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# ONNX Runtime also names every control-flow node around the one that failed.
_ORT_NODE = "Non-zero status code returned while running "
_ORT_PLACE = re.compile(r"(\w+) node\. Name:'([^']*)' Status Message: ")
_ENFORCE = re.compile(r"\[enforce fail at [^\[\]]*\]\s*(?:[^.:]{0,80}\.\s+)?")
_CPP_FILE = re.compile(r"(?:\bat )?(?<![\w./\\+-])[\w./\\+-]+\.(?:cc|cpp|cu|cuh|h|hpp|cxx):\d+:?\s*")
# Words before a parenthesis; they begin a function signature if the last one has a scope (`a::b`).
_CPP_WORDS = re.compile(r"(?:[\w*&~<>,\s]|::)+\(?")
_CPP_SCOPE = re.compile(r"[\w*&~<>,]::[\w*&~<>, ]+\($")
_CPP_QUALIFIERS = re.compile(r"\s*(?:const|noexcept)?\s*(?:\[with [^\]]*\])?\s*")


def _without_cpp(text: str) -> str:
    """Remove C++ file names, line numbers and signatures, which mean nothing to a user."""
    tail = _CPP_TAIL.search(text)
    text = text if tail is None else text[: tail.start()].rstrip()
    *_, text = text.rpartition(_ORT_NODE)
    text = _ORT_PLACE.sub(r"\1 node '\2': ", text, count=1)
    text = _CPP_FILE.sub(" ", _ENFORCE.sub("", _ORT_PREFIX.sub("", text)))
    parts, kept, place = [], 0, 0
    while (found := _CPP_WORDS.search(text, place)) is not None:
        words, place = found.group(), found.end()
        if not _CPP_SCOPE.search(words):
            continue
        parts.append(text[kept : place - len(words.lstrip())])
        depth = 1
        while place < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            place += 1
        qualifiers = _CPP_QUALIFIERS.match(text, place)
        kept = place = qualifiers.end() if qualifiers else place
    return "".join([*parts, text[kept:]])
