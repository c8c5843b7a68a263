"""Build engines with TensorRT 8.5, 8.6, 10 and 11 and TensorRT-RTX.

Enum members are looked up by name, because their numbers and even their presence differ between versions. TensorRT 8
is weakly typed: precision is a flag, and the builder may still choose fp32. From version 10 on, an ONNX model that is
already in the requested precision is built strongly typed and needs no flag; version 10 still accepts the flag for an
fp32 model, and version 11 no longer has it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from irepdeploy.board.engine_log import dla_placement, engine_layers
from irepdeploy.board.trt_library import (
    DTYPES,
    LogMessage,
    TensorrtLibrary,
    first_reasons,
    forget_logger,
    lacks_gpu,
    lacks_memory,
    logged,
    logger_of,
)
from irepdeploy.errors import InputError, IrepdeployError, MissingError, ModelError, RunError, one_line

__all__ = ["EngineOptions", "Profile", "build_plan"]

Profile = Tuple[Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine build.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        carried: Precision of the ONNX model itself.
        workspace_bytes: Maximum scratch memory per layer, in bytes; None for TensorRT's default.
        profiles: Minimum, optimum and maximum shape of each input with a dynamic dimension.
        tf32: Allow TF32 in fp32 convolutions on GPUs that support it.
        dla_core: DLA core that runs the supported layers; None to use the GPU alone.
    """

    precision: str = "fp32"
    carried: str = "fp32"
    workspace_bytes: Optional[int] = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    tf32: bool = False
    dla_core: Optional[int] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the options as a JSON object."""
        return asdict(self)


def build_plan(
    library: TensorrtLibrary,
    onnx: bytes,
    options: EngineOptions,
    *,
    timing_cache: Optional[bytes] = None,
    messages: List[LogMessage],
    keep: Optional[Callable[[str, str], None]] = None,
    report: Callable[[str], None] = lambda step: None,
) -> Tuple[bytes, Optional[bytes], Dict[str, Any]]:
    """Parse an ONNX model and build an engine.

    Args:
        library: TensorRT to build with.
        onnx: Content of the ONNX file.
        options: Options of the build.
        timing_cache: Timing cache of an earlier build, b"" to start a new one, or None to use none.
        messages: List to which everything that TensorRT logs is appended.
        keep: Function that receives the severity and text of each message immediately, so that they survive a crash.
        report: Function that receives the name of each step.

    Returns:
        The engine, the timing cache (None if not used), and facts: typing, inputs, outputs, layers and more.

    Raises:
        InputError: The options do not fit the network or this version of TensorRT.
        ModelError: TensorRT cannot parse the model or finds no way to run it. Its reasons are quoted.
        MissingError: TensorRT needs a GPU, driver or DLA core that is missing.
        RunError: TensorRT runs out of memory.
    """
    trt = library.module

    def log(severity: str, text: str) -> None:
        messages.append((severity, text))
        if keep is not None:
            keep(severity, text)

    logger = logger_of(trt, log)
    try:
        return _built(library, logger, onnx, options, timing_cache, messages, report)
    finally:
        forget_logger(trt, log)


def _built(
    library: TensorrtLibrary,
    logger: Any,
    onnx: bytes,
    options: EngineOptions,
    timing_cache: Optional[bytes],
    messages: List[LogMessage],
    report: Callable[[str], None],
) -> Tuple[bytes, Optional[bytes], Dict[str, Any]]:
    trt = library.module
    typing = _typing(trt, options)
    _check_precision(library, options, typing)
    builder = _made(lambda: trt.Builder(logger), "no builder", messages, library)
    network = _made(lambda: builder.create_network(_network_flags(library, typing)), "no network", messages, library)
    report("parse")
    _parse(trt, network, logger, onnx, messages, library)
    config = _made(builder.create_builder_config, "no builder configuration", messages, library)
    inputs, outputs = _tensors(network, "input"), _tensors(network, "output")
    facts: Dict[str, Any] = {"typing": typing, "inputs": inputs, "outputs": outputs}
    _configure(trt, config, options, typing)
    _add_profiles(builder, network, config, options.profiles)
    if options.dla_core is not None:
        facts["dla"] = _use_dla(library, builder, network, config, options)
    cache = None if timing_cache is None else _use_cache(trt, config, timing_cache, library, facts)
    _watch(trt, config, report)
    report("build")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed("no engine was built", messages, library)
    facts["layers"] = engine_layers(messages).to_dict()
    if options.dla_core is not None:
        facts["dla"].update(dla_placement(messages))
    # The result is null if the build discarded the cache.
    timed = None if cache is None else config.get_timing_cache()
    return bytes(plan), None if timed is None else bytes(timed.serialize()), facts


def has(enum: Any, name: str) -> bool:
    """Return whether an enum of this TensorRT version has a member of this name."""
    return enum is not None and name in enum.__members__


def _typing(trt: Any, options: EngineOptions) -> str:
    flagged = has(trt.BuilderFlag, "FP16")
    typed = has(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not flagged
    # TensorRT 10 supports both; a model in the requested precision needs no flag.
    return "strong" if typed and (options.precision == options.carried or not flagged) else "weak"


def _network_flags(library: TensorrtLibrary, typing: str) -> int:
    flags = library.module.NetworkDefinitionCreationFlag
    found = 0
    if has(flags, "STRONGLY_TYPED") and typing == "strong" and has(library.module.BuilderFlag, "FP16"):
        # In versions without precision flags every network is strongly typed, and setting this flag only warns.
        found |= 1 << int(flags.STRONGLY_TYPED)
    if has(flags, "EXPLICIT_BATCH") and library.major < 10:
        # TensorRT 9 has both flags and still treats a network without this one as having an implicit batch.
        found |= 1 << int(flags.EXPLICIT_BATCH)
    return found


def _check_precision(library: TensorrtLibrary, options: EngineOptions, typing: str) -> None:
    # The parser rounds float64 weights to float32.
    wanted, carried = options.precision, "fp32" if options.carried == "fp64" else options.carried
    if wanted == carried or (typing == "weak" and (wanted, carried) == ("fp16", "fp32")):
        return
    why = f": {library.title} takes every layer's precision from the model" if typing == "strong" else ""
    raise InputError(
        f"expected an {wanted} model for an {wanted} engine, got {carried}{why}",
        where="ONNX model",
        hint=f"`irepdeploy export --precision {wanted}` writes one",
    )


def _parse(
    trt: Any, network: Any, logger: Any, onnx: bytes, messages: List[LogMessage], library: TensorrtLibrary
) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx):
        return
    reasons = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        # Before TensorRT 10, an error contains only the index of the node.
        known = hasattr(error, "node_name") and hasattr(error, "node_operator")
        node = f"{error.node_operator()} {error.node_name()!r}" if known else f"node {error.node()}"
        reasons.append(f"{node}: {' '.join(str(error.desc()).split())}")
    raise ModelError(
        f"{library.title} cannot parse this model: {first_reasons(reasons or logged(messages))}",
        where="ONNX model",
        hint="export for the target that will run it",
    )


def _configure(trt: Any, config: Any, options: EngineOptions, typing: str) -> None:
    if has(getattr(trt, "ProfilingVerbosity", None), "DETAILED"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if has(trt.BuilderFlag, "TF32"):
        (config.set_flag if options.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if typing == "weak" and options.precision != "fp32":
        config.set_flag(getattr(trt.BuilderFlag, options.precision.upper()))
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)


def _add_profiles(builder: Any, network: Any, config: Any, profiles: Mapping[str, Profile]) -> None:
    shapes = {tensor["name"]: tensor["shape"] for tensor in _tensors(network, "input")}
    dynamic = {name for name, shape in shapes.items() if -1 in shape}
    for name in sorted(dynamic.union(profiles)):
        if name not in dynamic:
            what = "the network has no such input" if name not in shapes else "its shape is fixed"
            raise InputError(f"got a profile, but {what}", where=f"input {name!r}", hint="remove the profile")
        if name not in profiles:
            raise InputError(
                "a dynamic dimension needs a profile", where=f"input {name!r}", hint="pass --dynamic-batch MIN:OPT:MAX"
            )
        _check_profile(name, shapes[name], profiles[name])
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name in sorted(dynamic):
        profile.set_shape(name, *(tuple(shape) for shape in profiles[name]))
    config.add_optimization_profile(profile)


def _check_profile(name: str, shape: Sequence[int], profile: Profile) -> None:
    fits = all(len(one) == len(shape) for one in profile) and all(
        1 <= low <= best <= high and (size == -1 or low == high == size)
        for size, low, best, high in zip(shape, *profile)
    )
    if not fits:
        text = " : ".join("x".join(map(str, one)) for one in profile)
        expected = "x".join("?" if size == -1 else str(size) for size in shape)
        raise InputError(f"profile {text} does not fit {expected}", where=f"input {name!r}", hint="use MIN:OPT:MAX")


def _use_dla(
    library: TensorrtLibrary, builder: Any, network: Any, config: Any, options: EngineOptions
) -> Dict[str, Any]:
    trt = library.module
    cores = getattr(builder, "num_DLA_cores", 0)
    core = options.dla_core
    if not has(getattr(trt, "DeviceType", None), "DLA") or core is None or not 0 <= core < cores:
        raise MissingError(
            f"no DLA core {core}: TensorRT sees {cores} here", where="--dla", hint="omit it to build for the GPU"
        )
    if options.precision == "fp32":
        raise InputError("the DLA only runs fp16 and int8", where="--dla", hint="add --precision fp16")
    if options.precision == "int8" and library.major < 10:
        # NVIDIA/TensorRT#2222: the DLA needs the scales of a calibrator, not QuantizeLinear.
        raise InputError(
            f"the DLA of {library.title} does not accept QuantizeLinear, which int8 models contain",
            where="--dla",
            hint="add --precision fp16",
        )
    if options.profiles:
        raise InputError("the DLA needs fixed shapes", where="--dla", hint="omit --dynamic-batch")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    able = sum(bool(config.can_run_on_DLA(network.get_layer(index))) for index in range(network.num_layers))
    return {"core": core, "network_layers": network.num_layers, "can_run_on_dla": able}


def _use_cache(trt: Any, config: Any, content: bytes, library: TensorrtLibrary, facts: Dict[str, Any]) -> Any:
    if library.flavour == "tensorrt_rtx":
        raise InputError("TensorRT-RTX does not use a timing cache", where="timing cache", hint="omit it")
    # An unreadable cache is null, which pybind11 returns as None and does not accept as an argument.
    cache = config.create_timing_cache(content)
    accepted = cache is not None and bool(config.set_timing_cache(cache, False))
    facts["timing_cache"] = "begun"
    if content:
        refused = "damaged: not used" if cache is None else "of another device or version: not used"
        facts["timing_cache"] = "used" if accepted else refused
    if not accepted:
        cache = config.create_timing_cache(b"")
        accepted = cache is not None and bool(config.set_timing_cache(cache, False))
    if not accepted:
        facts["timing_cache"] = "refused: not used"
        return None
    return cache


def _watch(trt: Any, config: Any, report: Callable[[str], None]) -> None:
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        return

    class Monitor(trt.IProgressMonitor):
        """Reporter of the steps within the build's top-level phases."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps = 0
            self.top = ""

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            if not parent_phase:
                self.top, self.steps = phase_name, num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self.top:
                report(f"build {step + 1}/{self.steps}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self.top:
                report(f"build {self.steps}/{self.steps}")

    config.progress_monitor = Monitor()


def _tensors(network: Any, kind: str) -> List[Dict[str, Any]]:
    get, number = getattr(network, f"get_{kind}"), getattr(network, f"num_{kind}s")
    tensors = [get(index) for index in range(number)]
    return [
        {
            "name": one.name,
            "shape": [int(size) for size in one.shape],
            "dtype": DTYPES.get(one.dtype.name, one.dtype.name.lower()),
        }
        for one in tensors
    ]


def _made(make: Callable[[], Any], what: str, messages: List[LogMessage], library: TensorrtLibrary) -> Any:
    try:
        made = make()
    except (RuntimeError, TypeError) as error:
        # pybind11 raises TypeError for a null pointer.
        raise _failed(f"{what}: {one_line(error)}", messages, library) from error
    if made is None:
        raise _failed(what, messages, library)
    return made


def _failed(what: str, messages: List[LogMessage], library: TensorrtLibrary) -> IrepdeployError:
    reasons = logged(messages)
    why = first_reasons(reasons)
    if lacks_gpu(reasons):
        return MissingError(f"{library.title} needs an NVIDIA GPU and its driver: {why}", hint="irepdeploy doctor")
    text = f"{what} ({library.title}): {why}"
    if lacks_memory(reasons):
        return RunError(text, hint="close other programs that use the GPU, or set a smaller workspace")
    return ModelError(text, where="ONNX model")
