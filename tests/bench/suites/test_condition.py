from __future__ import annotations

import pytest

from irepdeploy.bench.suites.condition import conditions_for
from irepdeploy.errors import InputError
from irepdeploy.runs.suite import SuiteRequest


def titles(**asked: object) -> list[str]:
    return [each.title for each in conditions_for(SuiteRequest(**asked))]  # type: ignore[arg-type]


def test_a_cpu_runs_eager_torch_and_onnx_runtime() -> None:
    assert titles() == ["torch", "ort-cpu"]
    assert titles(scale="paper") == ["torch", "ort-cpu"]


def test_a_gpu_runs_eager_torch_and_cuda_graphs() -> None:
    assert titles(device="cuda") == ["torch", "torch-graph"]


def test_the_papers_conditions_have_tf32_off_and_on() -> None:
    assert titles(device="cuda", scale="paper") == [
        "torch, TF32 off",
        "trt, TF32 off",
        "torch, TF32 on",
        "trt, TF32 on",
    ]


def test_runners_asked_for_take_the_place_of_the_defaults_each_once() -> None:
    assert titles(runners=("ort-cpu", "torch", "ort-cpu")) == ["ort-cpu", "torch"]


def test_an_unknown_runner_names_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean ort-cpu"):
        titles(runners=("ort-cp",))
