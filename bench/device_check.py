"""First check of an NVIDIA GPU: verify everything that needs one, then measure the paper's figures.

Besides the package, the command needs only torch, numpy, onnx and onnxruntime::

    python -m irepdeploy.bench.device_check --out runs/card

Each step runs in its own process with a time limit: first the checks, starting with the driver, then measurements under
the paper's conditions, in order of importance, within ``--budget-s``. At the end it prints a table. The figures of a
step are appended to ``records.jsonl`` as soon as it ends, its output is in ``logs/``, and the records of a suite are in
a folder named after it. ``--dry-run`` runs the same steps on the CPU with the smallest sizes and relaxed limits. If the
package cannot be installed, docs/hardware.md explains how to run the check from a checkout.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from irepdeploy.board.steps import FAILED, LATE, NOT_RUN, OK, SKIPPED, Finding, run_step
from irepdeploy.board.system import machine_state, system_block
from irepdeploy.cli.signals import raise_on_signals
from irepdeploy.console import log, say, table
from irepdeploy.errors import EXIT_INTERRUPTED, InputError, IrepdeployError, MissingError
from irepdeploy.files import write_bytes
from irepdeploy.folders import make_folder, output_folder
from irepdeploy.parsing.json_lines import append_line

__all__ = ["main", "steps"]

RECORDS = "records.jsonl"
_BUDGET_S = 480.0
# A dry run checks behaviour, not speed, and the machine may be busy.
_PATIENCE = 10
# A process that imports torch takes this long to print anything.
_LEAST_S = 5.0
# Unbuffered, so that the output of a step that exceeds its time is kept.
_PYTHON = (sys.executable, "-u", "-m")
_STEPS, _SUITES = "irepdeploy.bench.device_steps", "irepdeploy.search.suites"


@dataclass(frozen=True)
class Step:
    """A step: its command, time limit in seconds and environment. `shown`: its output is part of the result."""

    name: str
    command: tuple[str, ...]
    limit_s: float
    shown: bool = False
    environment: Mapping[str, str] | None = None


def steps(out: Path, *, dry_run: bool = False, rtx: Path | None = None) -> list[Step]:
    """Return all steps in order: the checks, starting with the driver, then the paper's conditions."""
    device = "cpu" if dry_run else "cuda"
    paper, patience = ("smoke", _PATIENCE) if dry_run else ("paper", 1)

    def own(name: str, limit_s: float, *, shown: bool = False, environment: Mapping[str, str] | None = None) -> Step:
        command = (*_PYTHON, _STEPS, name, "--device", device, "--out", str(out))
        return Step(name, command, limit_s * patience, shown, environment)

    def suite(name: str, module: str, scale: str, limit_s: float, *words: str) -> Step:
        place = ("--device", device, "--scale", scale, "--out", str(out / name.replace(" ", "-")))
        return Step(name, (*_PYTHON, f"{_SUITES}.{module}", *place, *words), limit_s * patience, True)

    small = "smoke" if dry_run else "small"
    # Also passed to the builder, which runs in its own process.
    path = os.pathsep.join([str(rtx), *filter(None, [os.environ.get("PYTHONPATH")])])
    carried = {} if rtx is None else {"PYTHONPATH": path}
    # Time limit for the populations of table1; the rest of its time is for preparation.
    most = () if dry_run else ("--seconds", "90")
    few = () if dry_run else ("--only", "vgg16", "plain", "exact", "merged")
    return [
        own("bindings", 20),
        own("graphs", 20),
        own("runners", 60),
        own("compile", 60),
        suite("captured forward", "captured_check", small, 40),
        own("tf32", 20),
        own("clock", 30),
        suite("table1, small", "table1", small, 40),
        suite("supernet-step, small", "supernet_step", small, 40),
        suite("training-cost, small", "training_cost", small, 40, *few),
        # The only way to disable TF32 in TensorRT.
        own("rtx", 60, environment={"NVIDIA_TF32_OVERRIDE": "0", **carried}),
        suite("table1", "table1", paper, 130, *most),
        suite("supernet-step", "supernet_step", paper, 100),
        own("latency", 120, shown=True),
        own("latency, compiled", 120, shown=True),
        own("latency, TF32", 90, shown=True),
        suite("training-cost", "training_cost", paper, 120),
    ]


def main(arguments: Sequence[str] | None = None, run: Callable[[Step, float], Finding] | None = None) -> int:
    """Run the check and return an exit code; `run` runs one step within its time limit.

    The code is 1 if a step failed, 2 for invalid input, 3 if every step was skipped (as without a driver), 130 and 143
    for Ctrl-C and SIGTERM, else 0.
    """
    parser = argparse.ArgumentParser(prog="device_check", description="Check an NVIDIA card, and measure on it.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for records and logs")
    parser.add_argument("--dry-run", action="store_true", help="the same on the CPU, with the smallest sizes")
    parser.add_argument(
        "--budget-s",
        type=float,
        metavar="S",
        help=f"seconds of all steps; default: {_BUDGET_S:.0f}, dry: 10 times that",
    )
    names = ", ".join(repr(step.name) for step in steps(Path()))
    parser.add_argument("--only", nargs="+", default=(), metavar="STEP", help=f"of {names}; default: all")
    parser.add_argument(
        "--rtx",
        type=Path,
        metavar="DIR",
        help="folder with the unpacked wheels of TensorRT-RTX and its plugin",
    )
    given = parser.parse_args(arguments)
    try:
        budget_s = given.budget_s if given.budget_s is not None else _BUDGET_S * (_PATIENCE if given.dry_run else 1)
        if not budget_s > 0:
            raise InputError(f"expected a positive number of seconds, got {budget_s:g}", where="--budget-s")
        if given.rtx is not None and not given.rtx.is_dir():
            raise InputError("no such folder", where=given.rtx, hint="--rtx takes a folder with unpacked wheels")
        wanted = steps(given.out.absolute(), dry_run=given.dry_run, rtx=given.rtx and given.rtx.absolute())
        unknown = set(given.only) - {step.name for step in wanted}
        if unknown:
            raise InputError(f"no step {min(unknown)!r}", where="--only", hint=f"one of {names}")
        wanted = [step for step in wanted if not given.only or step.name in given.only]
        with raise_on_signals(), output_folder(given.out) as folder:
            return _run_all(wanted, folder, budget_s, run or _run)
    except IrepdeployError as error:
        log(f"error: {error.line}")
        return error.exit_code
    except KeyboardInterrupt as error:
        log("device_check: interrupted; results so far are in the folder")
        return getattr(error, "exit_code", EXIT_INTERRUPTED)


def _run(step: Step, limit_s: float) -> Finding:
    return run_step(step.name, step.command, limit_s, step.environment)


def _run_all(wanted: Sequence[Step], folder: Path, budget_s: float, run: Callable[[Step, float], Finding]) -> int:
    end, found = time.monotonic() + budget_s, list[Finding]()
    append_line(folder / RECORDS, {"step": "system", "created": _now(), "system": system_block()})
    logs = make_folder(folder / "logs")
    for step in wanted:
        left = end - time.monotonic()
        if left < _LEAST_S:
            finding = Finding(step.name, NOT_RUN, "no time left")
        else:
            log(f"{step.name} ...")
            finding = run(step, min(step.limit_s, left))
        # Write at once: if the machine goes away, only later steps are lost.
        append_line(folder / RECORDS, {"step": step.name, "created": _now(), **finding.to_dict(), **_state()})
        write_bytes(
            logs / f"{step.name.replace(' ', '-').replace(',', '')}.txt", (finding.output + finding.errors).encode()
        )
        log(f"{step.name}: {finding.status}: {finding.said}")
        found.append(finding)
    for step, finding in zip(wanted, found, strict=True):
        # A step that exceeded its time keeps what it had measured by then.
        if step.shown and finding.status in (OK, LATE):
            for line in ("", step.name, *_text_of(finding)):
                say(line)
    rows = [[each.name, each.status, f"{each.seconds:.1f}", each.said] for each in found]
    table("Device check", ["step", "status", "s", "finding"], rows)
    if all(each.status == SKIPPED for each in found):
        raise MissingError("every step was skipped", where=found[0].name, hint=found[0].said)
    return 1 if any(each.status == FAILED for each in found) else 0


def _text_of(finding: Finding) -> list[str]:
    """Return the lines of the output meant for people, without the finding."""
    lines = finding.output.rstrip().splitlines()
    return lines[:-1] if lines and lines[-1].startswith('{"status"') else lines


def _state() -> dict[str, object]:
    return {"state": machine_state()}


def _now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    sys.exit(main())
