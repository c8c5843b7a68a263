"""Runner: one network on one backend, behind the same four calls everywhere.

    with OrtRunner("model.onnx") as runner:
        logits = runner.infer({"input": images})["logits"]

This module is Python 3.8, stdlib and numpy only: the board's agent carries it.
"""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Any, Callable, ClassVar, Dict, List, NamedTuple, Optional, Tuple, Type, TypeVar

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["TRANSFERS", "DeviceTimed", "Runner", "TensorSpec"]

# Whether a call brings its inputs to the device and its outputs back.
TRANSFERS = ("excluded", "included")

_Self = TypeVar("_Self", bound="Runner")


class TensorSpec(NamedTuple):
    """One input: its name, its shape with the batch (None where any size will do), its numpy dtype by name."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {shape_text(self.shape)}"


class DeviceTimed:
    """A call of `Runner.bind` that the device times too: ``device_ns()`` reads how long its last run took there.

    Reading takes time itself, hence apart from the call.
    """

    def __init__(self, call: Callable[[], None], device_ns: Callable[[], int]) -> None:
        self._call = call
        self.device_ns = device_ns

    def __call__(self) -> None:
        self._call()


class Runner(abc.ABC):
    """A network that can be run. Handles live only inside the ``with``; the base class checks, the subclass runs.

    A subclass sets `name` and fills `_activate` (which also sets `_inputs` and `_outputs`), `_infer`, `_deactivate`
    (which must bear a half-done `_activate`), `_describe`, and `_bind` where a closed call can be made cheaper.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._active = False
        self._inputs: List[TensorSpec] = []
        self._outputs: List[str] = []

    def __enter__(self: _Self) -> _Self:
        if self._active:
            raise InputError("this runner is active already", where=self.name, hint="leave its `with` block first")
        try:
            self._activate()
        except BaseException:
            self._deactivate()
            raise
        self._active = True
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._active = False
        self._deactivate()

    @property
    def inputs(self) -> List[TensorSpec]:
        """What the network takes, in its own order."""
        self._need_active()
        return list(self._inputs)

    @property
    def outputs(self) -> List[str]:
        """Names of what the network returns, in its own order."""
        self._need_active()
        return list(self._outputs)

    def infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run once. The arrays returned are the caller's own: a later call does not change them.

        Raises:
            InputError: the runner is not active, or names, shapes or dtypes of `feeds` are not those of `inputs`.
        """
        self._check(feeds)
        return self._infer(feeds)

    def bind(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        """A closed call on fixed inputs, for timing: it runs one inference to completion and checks nothing more.

        Inputs are brought to the device here, once, and outputs stay where the backend leaves them, unless the runner
        was made with ``transfers="included"``: `describe()` names what a call contains. Where the device has a clock
        of its own the call is a `DeviceTimed`. It is valid only while the runner is active.

        Raises:
            InputError: as `infer`.
        """
        self._check(feeds)
        return self._bind(feeds)

    def describe(self) -> Dict[str, Any]:
        """What really runs, JSON-able: runner, provider, device, threads, precision, transfers and more."""
        self._need_active()
        described = {"runner": self.name}
        described.update(self._describe())
        return described

    @abc.abstractmethod
    def _activate(self) -> None: ...

    @abc.abstractmethod
    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]: ...

    @abc.abstractmethod
    def _deactivate(self) -> None: ...

    @abc.abstractmethod
    def _describe(self) -> Dict[str, Any]: ...

    def _bind(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        def call() -> None:
            self._infer(feeds)

        return call

    def _need_active(self) -> None:
        if not self._active:
            raise InputError("this runner is not active", where=self.name, hint="use it inside `with runner:`")

    def _check(self, feeds: Dict[str, np.ndarray]) -> None:
        self._need_active()
        expected = [spec.name for spec in self._inputs]
        if set(feeds) != set(expected):
            raise InputError(
                f"inputs {sorted(feeds)} where {sorted(expected)} are due",
                where=self.name,
                hint="feed each by its name",
            )
        for spec in self._inputs:
            array, where = feeds[spec.name], f"{self.name}, input {spec.name!r}"
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"a {type(array).__name__} where an array is due", where=where, hint="pass a numpy.ndarray"
                )
            if array.dtype != np.dtype(spec.dtype):
                raise InputError(
                    f"dtype {array.dtype} where {spec.dtype} is due", where=where, hint=f"use .astype({spec.dtype!r})"
                )
            fits = len(array.shape) == len(spec.shape) and all(
                due is None or size == due for size, due in zip(array.shape, spec.shape)
            )
            if not fits:
                raise InputError(
                    f"shape {shape_text(array.shape)} where {shape_text(spec.shape)} is due",
                    where=where,
                    hint="? is any size" if None in spec.shape else "the batch comes first",
                )


def positive_threads(threads: int, runner: str) -> None:
    """Refuse a thread count that is not a positive whole number."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"{threads!r} threads", where=runner, hint="give a whole number from 1 up")


def known_transfers(transfers: str, runner: str) -> str:
    """Refuse a kind of transfers that is none."""
    if transfers not in TRANSFERS:
        raise InputError(f"transfers {transfers!r}", where=runner, hint="one of " + ", ".join(TRANSFERS))
    return transfers


def shape_text(shape: Tuple[Optional[int], ...]) -> str:
    """``1x3x?x?``: a shape for people."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"
