"""The run of all checks, and the targets of `export` derived from them."""

from __future__ import annotations

from functools import partial

from irepdeploy.board.trt_library import FLAVOURS
from irepdeploy.doctor import accelerators, machine, packages
from irepdeploy.doctor.check import Check, Part, run_all

__all__ = ["examine"]


def examine() -> list[Check]:
    """Run all checks and return their rows. This takes seconds and never fails."""
    parts: dict[str, Part] = {
        "Python": packages.python,
        "packages": packages.packages,
        "onnxruntime providers": accelerators.providers,
        "torch device": accelerators.torch,
        "GPU": accelerators.gpu,
        "CUDA": accelerators.cuda,
        "Jetson": machine.jetson,
        **{title: partial(accelerators.tensorrt, flavour) for flavour, title in FLAVOURS.items()},
        "machine": machine.machine,
    }
    checks = run_all(parts)
    return checks + run_all({"export targets": partial(_targets, checks)})


def _targets(checks: list[Check]) -> list[Check]:
    """Return the row of targets that `export` can build on this machine, derived from the other rows."""
    use = {check.name: check.found for check in checks if check.status != "missing" and check.found != "unknown"}
    lacking = [name for name in ("torch", "onnx", "onnxruntime", "CPUExecutionProvider") if name not in use]
    if lacking:
        return [Check("export targets", "-", "missing", f"none without {', '.join(lacking)}")]
    version, rtx = use.get("TensorRT", "-"), use.get("TensorRT-RTX", "-")
    built = {
        "trt": version != "-",
        "trt-11": version.startswith("11."),
        "trt-10": version.startswith("10."),
        "rtx": rtx != "-",
    }
    here = ["ort", *(name for name, there in built.items() if there)]
    absent = ", ".join(name for name, there in built.items() if not there)
    notes = ["xavier-jp5, orin-jp6: ONNX here, engine on the board", absent and f"{absent}: ONNX only"]
    if "assembled" in rtx:
        notes.append("rtx: by the builder assembled for tests")
    return [Check("export targets", ", ".join(here), note="; ".join(filter(None, notes)))]
