"""Tests that every Runner must pass. Inherit from them in the tests of a new runner, and define one fixture.

    class TestOrtRunner(RunnerContract):
        @pytest.fixture
        def case(self):
            return RunnerCase(OrtRunner(model), feeds, expected={"logits": reference})

The tests need pytest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from irepdeploy.board.runner import Runner
from irepdeploy.errors import InputError

__all__ = ["RunnerCase", "RunnerContract"]


@dataclass(frozen=True)
class RunnerCase:
    """A runner and the outputs that it must return.

    Attributes:
        runner: Runner, not active.
        feeds: Inputs by name.
        expected: Outputs of the reference by name.
        rtol: Maximum relative error, max|a - b| / max|a|, of every output.
    """

    runner: Runner
    feeds: dict[str, np.ndarray[Any, Any]]
    expected: dict[str, np.ndarray[Any, Any]]
    rtol: float = 1e-4


class RunnerContract:
    """Base class for the tests of a runner. Define the fixture `case`, which returns a `RunnerCase`."""

    @pytest.fixture
    def case(self) -> RunnerCase:
        """Return the runner under test."""
        raise NotImplementedError("define the fixture `case`")

    def test_outputs_are_those_of_the_reference(self, case: RunnerCase) -> None:
        with case.runner as runner:
            found = runner.infer(case.feeds)
        assert list(found) == list(case.expected)
        for name, expected in case.expected.items():
            assert found[name].dtype == expected.dtype
            assert found[name].shape == expected.shape
            assert np.abs(found[name] - expected).max() <= case.rtol * np.abs(expected).max()

    def test_names_what_it_takes_and_returns(self, case: RunnerCase) -> None:
        with case.runner as runner:
            assert [spec.name for spec in runner.inputs] == list(case.feeds)
            assert [spec.dtype for spec in runner.inputs] == [str(array.dtype) for array in case.feeds.values()]
            assert runner.outputs == list(case.expected)

    def test_outputs_are_the_callers_own(self, case: RunnerCase) -> None:
        with case.runner as runner:
            first = runner.infer(case.feeds)
            kept = {name: values.copy() for name, values in first.items()}
            second = runner.infer({name: array * 0 for name, array in case.feeds.items()})
        for name, values in first.items():
            np.testing.assert_array_equal(values, kept[name])
            assert values.flags.writeable
        assert any((second[name] != kept[name]).any() for name in kept), "the outputs do not depend on the input"

    def test_inputs_are_left_alone(self, case: RunnerCase) -> None:
        kept = {name: array.copy() for name, array in case.feeds.items()}
        for array in case.feeds.values():
            array.flags.writeable = False
        with case.runner as runner:
            runner.infer(case.feeds)
            runner.bind(case.feeds)()
        for name, array in case.feeds.items():
            np.testing.assert_array_equal(array, kept[name])

    def test_takes_arrays_that_are_not_contiguous(self, case: RunnerCase) -> None:
        strided = {name: np.asfortranarray(array[..., ::-1])[..., ::-1] for name, array in case.feeds.items()}
        with case.runner as runner:
            plain, found = runner.infer(case.feeds), runner.infer(strided)
            runner.bind(strided)()
        for name in plain:
            np.testing.assert_array_equal(found[name], plain[name])

    def test_bound_call_runs_again_and_again(self, case: RunnerCase) -> None:
        with case.runner as runner:
            call = runner.bind(case.feeds)
            assert call() is None
            assert call() is None
            if hasattr(call, "device_ns"):
                assert type(call.device_ns()) is int
                assert call.device_ns() >= 0
            runner.infer(case.feeds)

    def test_describes_what_really_runs(self, case: RunnerCase) -> None:
        with case.runner as runner:
            described = runner.describe()
        assert {"runner", "provider", "device", "threads", "precision", "transfers"} <= set(described)
        assert described["runner"] == runner.name
        json.dumps(described, allow_nan=False)

    def test_can_be_used_again(self, case: RunnerCase) -> None:
        with case.runner as runner:
            first = runner.infer(case.feeds)
        with case.runner as runner:
            second = runner.infer(case.feeds)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])

    def test_refuses_to_run_outside_with(self, case: RunnerCase) -> None:
        feeds = case.feeds
        for use in (lambda: case.runner.infer(feeds), lambda: case.runner.bind(feeds), case.runner.describe):
            with pytest.raises(InputError, match="not active"):
                use()
        with case.runner:
            pass
        with pytest.raises(InputError, match="not active"):
            case.runner.infer(feeds)

    def test_refuses_to_be_entered_twice(self, case: RunnerCase) -> None:
        with case.runner as runner:
            with pytest.raises(InputError, match="already active"), runner:
                pass
            runner.infer(case.feeds)

    def test_refuses_wrong_names(self, case: RunnerCase) -> None:
        with case.runner as runner:
            for wrong in ({}, {**case.feeds, "no such input": np.zeros(1)}):
                with pytest.raises(InputError, match="expected inputs"):
                    runner.infer(wrong)

    def test_refuses_wrong_dtype_shape_and_kind(self, case: RunnerCase) -> None:
        name, array = next(iter(case.feeds.items()))
        wrongs = {"dtype": array.astype("int32"), "shape": array[None], "expected an array": array.tolist()}
        with case.runner as runner:
            for text, wrong in wrongs.items():
                for use in (runner.infer, runner.bind):
                    with pytest.raises(InputError, match=text) as caught:
                        use({**case.feeds, name: wrong})
                    assert name in str(caught.value.where)
                    assert caught.value.hint
            # The runner still works after refusing wrong inputs.
            runner.infer(case.feeds)

    def test_leaves_after_an_error_inside(self, case: RunnerCase) -> None:
        with pytest.raises(ZeroDivisionError), case.runner:
            raise ZeroDivisionError
        with case.runner as runner:
            runner.infer(case.feeds)
