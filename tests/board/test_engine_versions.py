"""One builder for TensorRT 8.5, 8.6, 10 and 11, on fakes with the API of each version, since none of them runs here."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from irepdeploy.board.engine_builder import EngineOptions, build_plan
from irepdeploy.board.sidecar import read_plan_header
from irepdeploy.board.trt_library import TensorrtLibrary, logger_of
from irepdeploy.errors import InputError, MissingError, ModelError, RunError
from support.fake_tensorrt import VERSIONS, FakeTensorrt, Severity

WEAK = [version for version in VERSIONS if version.startswith("8.")]
STRONG = [version for version in VERSIONS if not version.startswith("8.")]
# Those that still have networks of implicit batch.
IMPLICIT = [*WEAK, "9.1.0.4"]


def model(*operators: str, batch: int | str = 1) -> bytes:
    names = ["input", *(f"t{index}" for index in range(len(operators) - 1)), "logits"]
    nodes = [
        onnx.helper.make_node(operator, [names[index]], [names[index + 1]]) for index, operator in enumerate(operators)
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (batch, 3, 8, 8))
        for name in ("input", "logits")
    ]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:])
    return onnx.helper.make_model(graph).SerializeToString()


def build(trt: FakeTensorrt, content: bytes = b"", cache: bytes | None = None, **options: Any) -> Any:
    library = TensorrtLibrary(trt, "tensorrt", trt.__version__, False)
    content = content or model("Relu")
    return build_plan(library, content, EngineOptions(**options), timing_cache=cache, messages=[])


def flags(trt: FakeTensorrt) -> list[str]:
    return {call[0]: call[1] for call in trt.calls}["build"]


def network_flags(trt: FakeTensorrt) -> set[str]:
    bits = {call[0]: call[1] for call in trt.calls}["create_network"]
    return {flag.name for flag in trt.NetworkDefinitionCreationFlag if bits >> int(flag) & 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_fp32_is_fp32(version: str) -> None:
    trt = FakeTensorrt(version)
    plan, cache, facts = build(trt)
    assert flags(trt) == []
    assert cache is None
    assert facts["inputs"] == [{"name": "input", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert facts["outputs"] == [{"name": "logits", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert facts["layers"]["convolutions"] == 1
    header = read_plan_header(plan)
    assert header is not None and header.version == version
    assert trt.config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_and_workspace(version: str) -> None:
    trt = FakeTensorrt(version)
    build(trt, tf32=True, workspace_bytes=1 << 28)
    assert flags(trt) == ["TF32"]
    assert ("set_memory_pool_limit", "WORKSPACE", 1 << 28) in trt.calls


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("8.5.2.2", {"EXPLICIT_BATCH"}),
        ("8.6.1.6", {"EXPLICIT_BATCH"}),
        ("9.1.0.4", {"EXPLICIT_BATCH", "STRONGLY_TYPED"}),
        ("10.3.0.26", {"STRONGLY_TYPED"}),
        ("11.1.0.106", set()),
    ],
)
def test_network_flags(version: str, expected: set[str]) -> None:
    trt = FakeTensorrt(version)
    _, _, facts = build(trt)
    assert network_flags(trt) == expected
    assert facts["typing"] == ("weak" if version in WEAK else "strong")


@pytest.mark.parametrize("version", [*IMPLICIT, "10.3.0.26"])
def test_a_flag_makes_an_fp32_onnx_half(version: str) -> None:
    trt = FakeTensorrt(version)
    _, _, facts = build(trt, precision="fp16")
    assert flags(trt) == ["FP16"] and facts["typing"] == "weak"
    assert network_flags(trt) == ({"EXPLICIT_BATCH"} if version in IMPLICIT else set())


@pytest.mark.parametrize("version", WEAK)
def test_weak_precision_is_a_flag(version: str) -> None:
    trt = FakeTensorrt(version)
    build(trt, precision="fp16", carried="fp16")
    assert flags(trt) == ["FP16"]
    trt = FakeTensorrt(version)
    build(trt, precision="int8", carried="int8")
    assert flags(trt) == ["INT8"]


@pytest.mark.parametrize("version", STRONG)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_strong_precision_comes_with_the_onnx(version: str, precision: str) -> None:
    trt = FakeTensorrt(version)
    build(trt, precision=precision, carried=precision)
    assert flags(trt) == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_strong_precision_comes_from_nowhere_else(precision: str) -> None:
    with pytest.raises(InputError, match=f"expected an {precision} model .*, got fp32: TensorRT .* from the model"):
        build(FakeTensorrt("11.1.0.106"), precision=precision)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("precision", "carried"), [("int8", "fp32"), ("fp32", "fp16"), ("fp32", "int8")])
def test_a_precision_that_would_not_be_honoured(version: str, precision: str, carried: str) -> None:
    with pytest.raises(InputError, match=f"expected an {precision} model for an {precision} engine, got {carried}"):
        build(FakeTensorrt(version), precision=precision, carried=carried)


@pytest.mark.parametrize("version", VERSIONS)
def test_profiles(version: str) -> None:
    trt = FakeTensorrt(version)
    shapes = ((1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
    _, _, facts = build(trt, model("Relu", batch="n"), profiles={"input": shapes})
    assert ("set_shape", "input", *shapes) in trt.calls and ("add_optimization_profile",) in trt.calls
    assert facts["inputs"][0]["shape"] == [-1, 3, 8, 8]


@pytest.mark.parametrize(
    ("batch", "profiles", "reason"),
    [
        ("n", {}, "a dynamic dimension needs a profile.*--dynamic-batch"),
        (1, {"input": [[1, 3, 8, 8]] * 3}, "its shape is fixed"),
        ("n", {"input": [[1, 3, 8, 8]] * 3, "image": [[1, 3, 8, 8]] * 3}, "the network has no such input"),
        ("n", {"input": [[4, 3, 8, 8], [1, 3, 8, 8], [8, 3, 8, 8]]}, r"4x3x8x8 : .* does not fit \?x3x8x8"),
        ("n", {"input": [[1, 3, 9, 8]] * 3}, "does not fit"),
        ("n", {"input": [[1, 3, 8]] * 3}, "does not fit"),
        ("n", {"input": [[0, 3, 8, 8]] * 3}, "does not fit"),
    ],
)
def test_profiles_that_do_not_fit(batch: int | str, profiles: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        build(FakeTensorrt("10.3.0.26"), model("Relu", batch=batch), profiles=profiles)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("content", "note", "written"),
    [
        (b"", "begun", b"timed"),
        (b"old", "used", b"oldtimed"),
        (b"foreign", "of another device or version: not used", b"timed"),
        (b"damaged", "damaged: not used", b"timed"),
    ],
)
def test_timing_cache(version: str, content: bytes, note: str, written: bytes) -> None:
    _, cache, facts = build(FakeTensorrt(version), cache=content)
    assert cache == written
    assert facts["timing_cache"].endswith(note)


def test_a_builder_that_takes_no_timing_cache_builds_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.fake_tensorrt._Config.create_timing_cache", lambda config, content: None)
    plan, cache, facts = build(FakeTensorrt("8.6.1.6"), cache=b"old")
    assert plan and cache is None and facts["timing_cache"] == "refused: not used"


def test_no_timing_cache_for_what_does_not_time() -> None:
    library = TensorrtLibrary(FakeTensorrt("11.1.0.106"), "tensorrt_rtx", "1.7.1.116", False)
    with pytest.raises(InputError, match="does not use a timing cache"):
        build_plan(library, model("Relu"), EngineOptions(), timing_cache=b"", messages=[])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_layers_of_each_version_are_counted_by_precision(version: str) -> None:
    # In all fakes, the layer reads half precision.
    layers = build(FakeTensorrt(version))[2]["layers"]
    assert (layers["convolutions"], layers["convolution_inputs"]) == (1, {"Half": 1})


def test_several_builders_log_to_their_own_messages() -> None:
    trt = FakeTensorrt("8.5.2.2")
    first = trt.Builder(logger_of(trt, lambda *message: None))
    messages: list[tuple[str, str]] = []
    trt.builds = "Could not find any implementation for node {conv}"
    with pytest.raises(ModelError, match="any implementation"):
        build_plan(
            TensorrtLibrary(trt, "tensorrt", trt.__version__, False), model("Relu"), EngineOptions(), messages=messages
        )
    assert ("ERROR", trt.builds) in messages and first.trt is trt
    assert not any("differs from one already provided" in text for _, text in messages)


@pytest.mark.parametrize("version", ["8.5.2.2", "10.3.0.26"])
def test_dla(version: str) -> None:
    trt = FakeTensorrt(version, dla_cores=2)
    content = model("Conv", "Relu", "Flatten")
    _, _, facts = build(trt, content, precision="fp16", carried="fp16", dla_core=1)
    assert "GPU_FALLBACK" in flags(trt)
    assert (trt.config.default_device_type, trt.config.DLA_core) == (trt.DeviceType.DLA, 1)
    assert facts["dla"] == {"core": 1, "network_layers": 3, "can_run_on_dla": 2, "dla_subgraphs": 1, "gpu_layers": 1}


@pytest.mark.parametrize(
    ("cores", "options", "error", "reason"),
    [
        (0, {"precision": "fp16", "carried": "fp16", "dla_core": 0}, MissingError, "no DLA core 0: TensorRT sees 0"),
        (2, {"precision": "fp16", "carried": "fp16", "dla_core": 2}, MissingError, "no DLA core 2: TensorRT sees 2"),
        (2, {"dla_core": 0}, InputError, "only runs fp16 and int8"),
    ],
)
def test_no_dla(cores: int, options: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        build(FakeTensorrt("10.3.0.26", dla_cores=cores), **options)


@pytest.mark.parametrize("version", IMPLICIT)
def test_the_dla_of_older_versions_takes_no_quantized_model(version: str) -> None:
    options = {"precision": "int8", "carried": "int8", "dla_core": 0}
    with pytest.raises(InputError, match="does not accept QuantizeLinear"):
        build(FakeTensorrt(version, dla_cores=2), **options)
    build(FakeTensorrt("10.3.0.26", dla_cores=2), **options)


def test_the_dla_needs_fixed_shapes() -> None:
    options = {"precision": "fp16", "carried": "fp16", "dla_core": 0, "profiles": {"input": [[1, 3, 8, 8]] * 3}}
    with pytest.raises(InputError, match="fixed shapes"):
        build(FakeTensorrt("8.5.2.2", dla_cores=2), model("Relu", batch="n"), **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_where_the_version_tells_it(version: str) -> None:
    steps: list[str] = []
    library = TensorrtLibrary(FakeTensorrt(version), "tensorrt", version, False)
    build_plan(library, model("Relu"), EngineOptions(), messages=[], report=steps.append)
    assert steps[:2] == ["parse", "build"]
    assert steps[2:] == ([] if version in IMPLICIT else ["build 1/2", "build 2/2", "build 2/2"])


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_it_does_not_know(version: str) -> None:
    with pytest.raises(
        ModelError, match=f"TensorRT {version} cannot parse this model: node 0: no importer for operator"
    ):
        build(FakeTensorrt(version), model("Unknown"))


@pytest.mark.parametrize(
    ("said", "error", "reason"),
    [
        ("Could not find any implementation for node {conv}", ModelError, "no engine was built .*implementation"),
        ("Error Code 2: OutOfMemory (no further information)", RunError, "OutOfMemory"),
        ("CUDA initialization failure with error: 35", MissingError, "needs an NVIDIA GPU and its driver"),
    ],
)
def test_a_build_that_fails(said: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        build(FakeTensorrt("10.3.0.26", builds=said))


def test_no_builder_without_a_driver() -> None:
    trt = FakeTensorrt("8.5.2.2")

    def none(logger: Any) -> None:
        logger.log(Severity.ERROR, "CUDA initialization failure with error: 100")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = none
    with pytest.raises(MissingError, match=r"TensorRT 8\.5\.2\.2 needs an NVIDIA GPU"):
        build(trt)
