"""The errors that irepdeploy raises.

    IrepdeployError
    |-- CheckFailed       exit 1   a check ran and its verdict is "no"
    |-- InputError        exit 2   the user's input was wrong
    |   |-- RecipeError            a recipe or an override on the command line
    |   |-- ArchitectureError      an Architecture that is malformed or does not fit the network
    |   |-- CheckpointError        a file that is not a checkpoint, is damaged, or is of another kind
    |   |-- ModelError             a network or ONNX model that cannot be handled (unknown operator, no such name)
    |   |-- NotFusable             a network that has no exact fused form (train mode, NaN, bad BN statistics)
    |   `-- OutputError            a folder or file that cannot be written
    |-- MissingError      exit 3   something needed is not installed or not reachable
    `-- RunError          exit 4   the run failed (disk full, out of memory, NaN loss, lost connection)

An error says what is wrong, where (file, layer, key) and how to fix it. Any other exception is a bug in irepdeploy and
ends in exit code 70 with a report file. This module imports nothing of the package and supports Python 3.8, since the
agent on the board carries it.
"""

from __future__ import annotations

from typing import ClassVar, Optional

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
]

EXIT_OK = 0
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class IrepdeployError(Exception):
    """Base of the tree.

    Args:
        what: What is wrong, in one sentence without a full stop.
        where: The file, layer or key.
        hint: What to do or type to fix it.
    """

    exit_code: ClassVar[int] = EXIT_BUG

    def __init__(self, what: str, *, where: Optional[object] = None, hint: Optional[str] = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The error on one line: ``where: what (hint)``."""
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text} ({self.hint})"

    def __reduce__(self) -> tuple:
        # Exceptions with keyword-only arguments do not survive pickling between processes by themselves.
        return _rebuild, (type(self), self.what, self.where, self.hint)


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
    """A file is not a checkpoint, is damaged, or is of another kind than needed."""


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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
