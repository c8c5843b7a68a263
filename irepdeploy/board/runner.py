"""The common interface of all runners, each of which executes a network on one backend.

with OrtRunner("model.onnx") as runner:
    logits = runner.infer({"input": images})["logits"]
"""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Any, Callable, ClassVar, Dict, List, Mapping, NamedTuple, Optional, Tuple, Type, TypeVar

import numpy as np

from irepdeploy.errors import InputError

__all__ = ["DeviceTimed", "Runner", "TensorSpec"]

_Self = TypeVar("_Self", bound="Runner")


class TensorSpec(NamedTuple):
    """An input: its name, its shape including the batch (None for a dynamic size), and the name of its numpy dtype."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {shape_text(self.shape)}"

    def with_batch(self, batch: Optional[int]) -> TensorSpec:
        """Return a copy in which `batch` replaces every dynamic size."""
        return self._replace(shape=tuple(batch if size is None else size for size in self.shape))


class DeviceTimed:
    """A call from `Runner.bind` that is also timed by the device.

    Args:
        call: Function that runs one inference.
        device_ns: Function that returns the device time of the last run in ns. It is separate because reading the time
            takes time itself.
    """

    def __init__(self, call: Callable[[], None], device_ns: Callable[[], int]) -> None:
        self._call = call
        self.device_ns = device_ns

    def __call__(self) -> None:
        """Run one inference."""
        self._call()


class Runner(abc.ABC):
    """Base class for running a network inside a ``with`` block. It checks the inputs; subclasses run the network.

    A subclass sets `name` and implements `_activate` (which also sets `_inputs` and `_outputs`), `_infer`,
    `_deactivate` (which must also work after an incomplete `_activate`), `_describe`, and, if fixed inputs make a call
    cheaper, `_bind`.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._active = False
        self._inputs: List[TensorSpec] = []
        self._outputs: List[str] = []

    def __enter__(self: _Self) -> _Self:
        if self._active:
            raise InputError("this runner is already active", where=self.name, hint="leave its `with` block first")
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
        """The network's inputs, in order."""
        self._need_active()
        return list(self._inputs)

    @property
    def outputs(self) -> List[str]:
        """The names of the network's outputs, in order."""
        self._need_active()
        return list(self._outputs)

    def infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Run the network once and return its outputs by name. Later calls do not change the returned arrays.

        Args:
            feeds: One array per input, by name.

        Raises:
            InputError: The runner is not active, or the names, shapes or dtypes of `feeds` do not match `inputs`.
        """
        self._check(feeds)
        return self._infer(feeds)

    def bind(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        """Return a function for timing that runs one inference on fixed inputs to completion, without further checks.

        Inputs are copied to the device once, by `bind`, and outputs stay where the backend leaves them, unless the
        runner was created with ``transfers="included"``; `describe` reports what a call includes. If the device has a
        clock, the function is a `DeviceTimed`. It is valid only while the runner is active.

        Raises:
            InputError: The runner is not active, or the names, shapes or dtypes of `feeds` do not match `inputs`.
        """
        self._check(feeds)
        return self._bind(feeds)

    def describe(self) -> Dict[str, Any]:
        """Return what actually runs, as JSON values: runner, provider, device, threads, precision, transfers, etc."""
        self._need_active()
        return {"runner": self.name, **self._describe()}

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
                f"expected inputs {sorted(expected)}, got {sorted(feeds)}", where=self.name, hint="pass each by name"
            )
        for spec in self._inputs:
            array, where = feeds[spec.name], f"{self.name}, input {spec.name!r}"
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"expected an array, got {type(array).__name__}", where=where, hint="pass a numpy.ndarray"
                )
            if array.dtype != np.dtype(spec.dtype):
                raise InputError(
                    f"expected dtype {spec.dtype}, got {array.dtype}", where=where, hint=f"use .astype({spec.dtype!r})"
                )
            fits = len(array.shape) == len(spec.shape) and all(
                expected is None or size == expected for size, expected in zip(array.shape, spec.shape)
            )
            if not fits:
                raise InputError(
                    f"expected shape {shape_text(spec.shape)}, got {shape_text(array.shape)}",
                    where=where,
                    hint="? is any size" if None in spec.shape else "the batch comes first",
                )


def without_graph(described: Mapping[str, Any]) -> str:
    """Return a message for the user if capturing a CUDA graph failed, according to `describe`; otherwise ""."""
    graph = str(described.get("cuda_graph", ""))
    return f"no CUDA graph, its launches are timed too: {graph}" if graph.startswith("failed") else ""


def positive_threads(threads: int, runner: str) -> None:
    """Raise InputError unless the number of threads is a positive integer."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"expected a positive number of threads, got {threads!r}", where=runner)


def shape_text(shape: Tuple[Optional[int], ...]) -> str:
    """Return a shape as text, such as ``1x3x?x?``."""
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"
