"""Count the convolutions that each tool leaves of published multi-branch networks, and time them in ONNX Runtime.

Run ``python -m irepdeploy.bench.tools.collapse [FILE.jsonl] [--large] [--only NAME,...]``. The networks are those of
`support.published_networks`, with random weights and statistics, as written by torch's older exporter, which already
folds batch normalization after a convolution. Nothing here knows how a block fuses. onnxslim and onnxoptimizer are
included if they are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.protocol import PROTOCOL_VERSION, measure, ratio, summary
from irepdeploy.console import log, table
from irepdeploy.errors import IrepdeployError
from irepdeploy.onnx_collapse import collapse
from irepdeploy.reparam.comparator import relative_error

from .harness import keep_line

__all__ = ["TOOLS", "Subject", "convolution_table", "large_subjects", "measure_subject", "published_subjects"]

_SIZE = (3, 112, 112)
_OURS = "irepdeploy"
_MISSING, _FAILED = "not installed", "fails"


@dataclass
class Subject:
    """One exported network and its measurements.

    Attributes:
        input_shape: Shape of the input, including the batch.
        deploy_convs: Number of convolutions of the form deployed by its authors; None if that form is not exact.
        build: Function that builds the torch network, for tools that read one.
        convs: Number of remaining convolutions by tool, or text if the tool is missing or fails.
        error: Relative error of our result in ONNX Runtime, on a seeded random input.
        seconds: Time of our collapse.
    """

    name: str
    content: bytes
    input_shape: tuple[int, ...]
    deploy_convs: int | None
    build: Callable[[], Any]
    convs: dict[str, int | str] = field(default_factory=dict)
    error: float = float("nan")
    seconds: float = float("nan")
    samples_ns: dict[str, list[int]] = field(default_factory=dict)


def published_subjects(only: Sequence[str] = (), size: tuple[int, int, int] = _SIZE) -> list[Subject]:
    """Return a small network for every peer."""
    from support.published_networks import PUBLISHED, exported, published_network

    found = []
    for name in [name for name in PUBLISHED if not only or name in only]:
        build = partial(published_network, name)
        found.append(Subject(name, exported(build(), size), (1, *size), PUBLISHED[name].deploy_convs, build))
    return found


def large_subjects() -> list[Subject]:
    """Return ResNet-18 of published Diverse Branch Blocks at 224x224, and VGG-16 with every IREPS branch at 32x32."""
    from support.networks import random_network
    from support.published_networks import dbb_resnet18, exported

    vgg = partial(random_network, "irep_vgg16")
    return [
        Subject("DBB ResNet-18", exported(dbb_resnet18(), (3, 224, 224)), (1, 3, 224, 224), 20, dbb_resnet18),
        Subject("IREPS VGG-16", exported(vgg(), (3, 32, 32)), (1, 3, 32, 32), 13, vgg),
    ]


def measure_subject(subject: Subject, *, seconds: float = 2.0, seed: int = 0) -> None:
    """Count the convolutions that each tool leaves, and time our result interleaved with the original network."""
    subject.convs["as exported"] = _convolutions(onnx.load_model_from_string(subject.content))
    for name, tool in TOOLS.items():
        subject.convs[name] = _counted(tool, subject)
    start = time.perf_counter()
    found = collapse(subject.content)
    subject.seconds = time.perf_counter() - start
    subject.convs[_OURS] = _convolutions(found.model)
    image = np.random.default_rng(seed).standard_normal(subject.input_shape, dtype=np.float32)
    with OrtRunner(subject.content) as given, OrtRunner(found.content) as ours:
        feeds = {given.inputs[0].name: image}
        expected, outputs = given.infer(feeds), ours.infer(feeds)
        subject.error = max(relative_error(expected[name], outputs[name]) for name in expected)
        calls = {"given": given.bind(feeds), "collapsed": ours.bind(feeds)}
        measured = measure(calls, seed=seed, min_seconds=seconds, warmup_max_seconds=max(seconds, 0.5))
    subject.samples_ns = {name: each.samples_ns for name, each in measured.items()}


def _counted(tool: Callable[[Subject], onnx.ModelProto | int], subject: Subject) -> int | str:
    try:
        with _quiet():
            result = tool(subject)
    except ModuleNotFoundError:
        return _MISSING
    except Exception as error:  # any error of a tool that cannot read the network
        log(f"{subject.name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}")
        return _FAILED
    return result if isinstance(result, int) else _convolutions(result)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence tools, some of which print from C++."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        kept = [os.dup(place) for place in (1, 2)]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            for place in (1, 2):
                os.dup2(nowhere, place)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            for place, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, place)
                os.close(descriptor)
            os.close(nowhere)


def _convolutions(model: onnx.ModelProto) -> int:
    """Count convolutions under all their names: ONNX Runtime renames those that it fuses with an activation."""
    counts = Counter(node.op_type for node in model.graph.node)
    return sum(count for kind, count in counts.items() if kind.endswith("Conv"))


def _onnxruntime(subject: Subject) -> onnx.ModelProto:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(subject.content, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _onnxsim(subject: Subject) -> onnx.ModelProto:
    import onnxsim

    return onnxsim.simplify(onnx.load_model_from_string(subject.content))[0]


def _onnxslim(subject: Subject) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(onnx.load_model_from_string(subject.content))


def _onnxoptimizer(subject: Subject) -> onnx.ModelProto:
    import onnxoptimizer

    passes = onnxoptimizer.get_fuse_and_elimination_passes()
    return onnxoptimizer.optimize(onnx.load_model_from_string(subject.content), passes, fixed_point=True)


def _torch_fx(subject: Subject) -> int:
    import torch
    from torch.fx.experimental.optimization import fuse

    fused: Any = fuse(subject.build())
    modules = dict(fused.named_modules())
    calls = [modules.get(node.target) if node.op == "call_module" else node.target for node in fused.graph.nodes]
    functions = (torch.conv2d, torch.nn.functional.conv2d)
    return sum(isinstance(call, torch.nn.Conv2d) or call in functions for call in calls)


TOOLS: dict[str, Callable[[Subject], onnx.ModelProto | int]] = {
    "onnxruntime": _onnxruntime,
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "onnxoptimizer": _onnxoptimizer,
    "torch.fx fuse": _torch_fx,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and append the results to a file."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.collapse", description=__doc__)
    parser.add_argument("record", nargs="?", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--large", action="store_true", help="also measure whole networks (minutes)")
    parser.add_argument("--only", default="", metavar="NAME,...", help="names of networks to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="minimum measuring time of each network")
    asked = parser.parse_args(arguments)
    only = [name for name in asked.only.split(",") if name]
    subjects = published_subjects(only)
    if asked.large:
        subjects += [subject for subject in large_subjects() if not only or subject.name in only]
    done = []
    for subject in subjects:
        try:
            measure_subject(subject, seconds=asked.seconds)
        except IrepdeployError as error:
            log(f"{subject.name}: {error.line}")
            continue
        done.append(subject)
        log(f"{subject.name}: {subject.convs['as exported']} -> {subject.convs[_OURS]}")
    networks = {
        subject.name: {
            "input_shape": list(subject.input_shape),
            "convolutions": subject.convs,
            "deploy_form": subject.deploy_convs,
            "error": subject.error,
            "collapse_s": subject.seconds,
            "samples_ns": subject.samples_ns,
        }
        for subject in done
    }
    title = "Convolutions left, and ONNX Runtime on one thread before and after our collapse"
    table(title, *convolution_table(networks))
    keep_line(asked.record, "collapse", protocol_version=PROTOCOL_VERSION, versions=_versions(), networks=networks)


def convolution_table(networks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table, from the ``networks`` of a record."""
    heads = ["network", "as exported", *TOOLS, _OURS, "deploy form", "error", "seconds", "ms", "ms after", "after"]
    rows = []
    for name, found in networks.items():
        given, ours = found["samples_ns"]["given"], found["samples_ns"]["collapsed"]
        rows.append(
            [
                name,
                *(str(found["convolutions"][tool]) for tool in ("as exported", *TOOLS, _OURS)),
                "-" if found["deploy_form"] is None else str(found["deploy_form"]),
                f"{found['error']:.0e}",
                f"{found['collapse_s']:.2f}",
                f"{summary(given).median_ms:.2f}",
                f"{summary(ours).median_ms:.2f}",
                _share(ours, given),
            ]
        )
    return heads, rows


def _share(ours: Sequence[int], given: Sequence[int]) -> str:
    found = ratio(ours, given, seed=0)
    interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}x{interval}"


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("torch", "onnx", "onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "irepdeploy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


if __name__ == "__main__":
    main()
