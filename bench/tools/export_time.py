"""Benchmark time and memory of a verified export against scripts of torch's two exporters with onnx-simplifier.

Run ``python -m irepdeploy.bench.tools.export_time [FILE.jsonl] [--pythonpath FOLDER]``. Each sample is a whole process,
interleaved with the others. FOLDER is added to the path of the newer exporter's script, if onnxscript is installed
there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio, summary
from irepdeploy.console import log, table
from irepdeploy.errors import RunError

from .harness import interval_text, keep_line

__all__ = ["Subject", "measure_exports", "prepare", "subjects_of"]

# Smallest number of rounds that gives an interval.
_ROUNDS = 6
_SAMPLE_S = 0.01
_TORCH = "python, import torch"
OURS, DYNAMO, TORCHSCRIPT = "irepdeploy export", "torch.onnx dynamo=True, onnxsim", "torch.onnx dynamo=False, onnxsim"
SMALL, BRANCHES = "irepdeploy export, small network", "irepdeploy export, train state"
# Limits: seconds, ratios, and bytes per byte of the weights above a process that only imports torch.
_MOST_S, _OVER_DYNAMO, _OVER_TORCHSCRIPT, _OVER_WEIGHTS, _FIXED_BYTES = 4.0, 0.5, 1.0, 6, 100_000_000

# A script as users write it: without proof or audit, and with a pickled network, which loads faster than a checkpoint.
_SCRIPT = """
import sys
import onnx, onnxsim, torch
source, out, dynamo = sys.argv[1:]
network, example = torch.load(source, weights_only=False)
torch.onnx.export(network, (example,), out, dynamo=dynamo == "True", external_data=False)
model, _ = onnxsim.simplify(out)
onnx.save(model, out)
"""
_PYTHON = [sys.executable, "-P"]


@dataclass
class Subject:
    """A command with its measurements.

    Attributes:
        written: Path of the ONNX file that the command writes, if any.
        weights: Size of the checkpoint that the command reads, in bytes.
        path: First entry of its ``PYTHONPATH``.
        peaks: Peak resident memory of its largest process in each sample, in bytes.
        together: Peak resident memory of all its processes together in one run, in bytes.
        missing: Reason why the command was not measured.
    """

    command: list[str]
    written: Path | None = None
    weights: int = 0
    path: str | None = None
    samples_ns: list[int] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    together: int | None = None
    missing: str | None = None

    def form(self) -> tuple[int, int] | None:
        """Return opset and IR version of the written file."""
        if self.written is None or not self.written.is_file():
            return None
        model = onnx.load(os.fspath(self.written), load_external_data=False)
        return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), model.ir_version


def prepare(folder: Path, network: str = "resnet50", small: str = "vgg16") -> None:
    """Write the checkpoints, and the network that the scripts load, with random weights and statistics."""
    import torch

    from irepdeploy.network.checkpoint import save
    from irepdeploy.network.nets import build
    from irepdeploy.network.nets.statistics import randomize_statistics
    from irepdeploy.reparam.fuse import fuse
    from irepdeploy.reparam.origin import origin_of

    torch.manual_seed(0)
    net = randomize_statistics(build(network, branches="ireps").eval())
    fused = fuse(net, prove=False)
    save(net, folder / "train.pt")
    save(fused, folder / "fused.pt")
    torch.save((fused, torch.zeros(1, *(origin_of(fused).input_shape or ()))), folder / "pickled.pt")
    save(fuse(randomize_statistics(build(small, branches="ireps").eval()), prove=False), folder / "small.pt")


def subjects_of(folder: Path, path: str | None = None) -> dict[str, Subject]:
    """Return the commands by name, for the files that `prepare` wrote to `folder`."""

    def ours(checkpoint: str) -> Subject:
        source, out = folder / checkpoint, folder / f"out-{checkpoint}"
        command = [*_PYTHON, "-m", "irepdeploy", "export", str(source), "--out", str(out)]
        return Subject(command, out / "model.onnx", source.stat().st_size)

    def script(dynamo: bool) -> Subject:
        out = folder / f"dynamo-{dynamo}.onnx"
        command = [*_PYTHON, "-c", _SCRIPT, str(folder / "pickled.pt"), str(out), str(dynamo)]
        return Subject(command, out, (folder / "fused.pt").stat().st_size, path if dynamo else None)

    subjects = {
        _TORCH: Subject([*_PYTHON, "-c", "import torch"]),
        OURS: ours("fused.pt"),
        DYNAMO: script(True),
        TORCHSCRIPT: script(False),
        SMALL: ours("small.pt"),
        BRANCHES: ours("train.pt"),
    }
    if subprocess.run(
        [*_PYTHON, "-c", "import onnxscript"], env=_environment(path), capture_output=True, check=False
    ).returncode:
        subjects[DYNAMO].missing = "not measured: onnxscript is not installed"
    return subjects


def measure_exports(
    subjects: dict[str, Subject], rounds: int = _ROUNDS, *, warmup: int = 1, together: bool = True
) -> None:
    """Run every subject once per round and record time and memory."""
    present = {name: subject for name, subject in subjects.items() if subject.missing is None}
    for number in range(-warmup, rounds):
        for name, subject in present.items():
            elapsed, peak = _run(name, subject)
            if number >= 0:
                subject.samples_ns.append(elapsed)
                subject.peaks.append(peak)
        log(f"round {number + 1} of {rounds}" if number >= 0 else "warmed up")
    for subject in present.values() if together else ():
        subject.together = _resident_together(subject)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and append the raw samples to a file."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.export_time", description=__doc__)
    parser.add_argument("record", nargs="?", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--pythonpath", metavar="FOLDER", help="where onnxscript is, if it is not installed")
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        # In another process: the peak of a child includes the memory of its parent at the start.
        code = f"from irepdeploy.bench.tools.export_time import prepare, Path; prepare(Path({folder!r}))"
        subprocess.run([*_PYTHON, "-c", code], check=True)
        subjects = subjects_of(Path(folder), asked.pythonpath)
        measure_exports(subjects, asked.rounds)
        forms = {name: subject.form() for name, subject in subjects.items()}
    _show(subjects, forms)
    keep_line(
        asked.record,
        "export time",
        protocol_version=PROTOCOL_VERSION,
        not_measured={name: subject.missing for name, subject in subjects.items() if subject.missing},
        opset_and_ir=forms,
        weights_bytes={name: subject.weights for name, subject in subjects.items()},
        peak_bytes={name: subject.peaks for name, subject in subjects.items()},
        peak_bytes_with_children={name: subject.together for name, subject in subjects.items()},
        samples_ns={name: subject.samples_ns for name, subject in subjects.items()},
    )


def _show(subjects: dict[str, Subject], forms: dict[str, tuple[int, int] | None]) -> None:
    base = subjects[_TORCH]
    rows = []
    for name, subject in subjects.items():
        opset, version = forms[name] or ("-", "-")
        if subject.missing is not None:
            rows.append([name, subject.missing, "-", "-", "-", "-"])
            continue
        above = max(subject.peaks) - min(base.peaks)
        over = f"{above / subject.weights:.1f}" if subject.weights else "-"
        both = "-" if subject.together is None else f"{subject.together / 1e6:.0f}"
        rows.append(
            [
                name,
                f"{summary(subject.samples_ns).median_ms / 1e3:.2f}",
                f"{opset} / {version}",
                f"{max(subject.peaks) / 1e6:.0f}",
                over,
                both,
            ]
        )
    columns = ["process", "median s", "opset / IR", "peak MB", "above torch, x weights", "MB with children"]
    table("Export, ResNet-50 fused; small: VGG-16 (CIFAR); train state: ResNet-50, all branches", columns, rows)
    table("Limits", ["figure", "found", "95 % interval", "at most"], _figures(subjects))


def _figures(subjects: dict[str, Subject]) -> list[list[str]]:
    ours, base = subjects[OURS], subjects[_TORCH]
    rows = []
    for name, most in ((DYNAMO, _OVER_DYNAMO), (TORCHSCRIPT, _OVER_TORCHSCRIPT)):
        if subjects[name].missing is not None:
            rows.append([f"{OURS} over {name}", "-", "-", f"{most:.1f}"])
            continue
        found = ratio(ours.samples_ns, subjects[name].samples_ns, seed=0)
        rows.append([f"{OURS} over {name}", f"{found.value:.2f}", interval_text(found), f"{most:.1f}"])
    seconds = summary(subjects[SMALL].samples_ns).median_ms / 1e3
    rows.append([f"{SMALL}, s", f"{seconds:.2f}", "-", f"{_MOST_S:.1f}"])
    for name in (OURS, SMALL):
        above = max(subjects[name].peaks) - min(base.peaks)
        most = _OVER_WEIGHTS * subjects[name].weights + _FIXED_BYTES
        rows.append([f"{name}, MB above import torch", f"{above / 1e6:.0f}", "-", f"{most / 1e6:.0f}"])
    return rows


def _environment(path: str | None) -> dict[str, str]:
    given = [path, os.environ.get("PYTHONPATH")]
    joined = os.pathsep.join(folder for folder in given if folder)
    return {**os.environ, "PYTHONPATH": joined} if joined else dict(os.environ)


def _start(subject: Subject, errors: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(subject.command, stdout=subprocess.DEVNULL, stderr=errors, env=_environment(subject.path))


def _run(name: str, subject: Subject) -> tuple[int, int]:
    """Return the duration of a process in ns, and the peak memory of its largest process in bytes."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter_ns()
        process = _start(subject, errors)
        _, status, usage = os.wait4(process.pid, 0)
        elapsed = time.perf_counter_ns() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            raise RunError(f"this command failed: {lines[-1]}", where=name)
    return elapsed, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_together(subject: Subject) -> int | None:
    """Return the peak memory of a process and its children, or None if the system does not report it."""
    most = 0
    with _start(subject, subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, _resident_tree(process.pid))
            time.sleep(_SAMPLE_S)
    return most or None


def _resident_tree(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(_resident_tree(int(child)) for child in children)


if __name__ == "__main__":
    main()
