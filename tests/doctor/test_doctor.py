"""doctor never fails, reports as working only what it has run, and names the command that fixes the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy import doctor
from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.trt_library import TensorrtLibrary
from irepdeploy.cli import program as cli
from irepdeploy.doctor import accelerators, check, machine, packages, probes
from irepdeploy.doctor.check import Check
from irepdeploy.errors import RunError
from irepdeploy.export.target.target import TARGETS

Answers = Callable[..., None]
Output = pytest.CaptureFixture[str]

CPU_TORCH = {"cuda": None, "gpus": 0, "capability": None, "threads": 2, "tf32_conv": True, "tf32_matmul": False}
GPU_TORCH = {**CPU_TORCH, "cuda": "12.6", "gpus": 1, "capability": [8, 0]}
TENSORRT = {"title": "TensorRT 10.3.0.26", "version": "10.3.0.26", "assembled": False, "why": ""}
REINSTALL = "pip install --force-reinstall onnxruntime-gpu"
NO_GPU = {"driver": None, "gpu": "none: libcudart was not found"}
RELEASE = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"


def _required() -> list[str]:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    return [
        *project["dependencies"],
        *(f'{need}; extra == "{extra}"' for extra, needs in extras for need in needs),
    ]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answers:
    """A machine with nothing but Python packages; `answers({(probe, argument): value or exception})` adds to it."""
    known: dict[tuple[str, ...], Any] = {
        ("torch_state",): CPU_TORCH,
        ("cuda",): NO_GPU,
        ("listed_providers",): ["CPUExecutionProvider"],
        ("session", "CPUExecutionProvider"): ["CPUExecutionProvider"],
    }

    def probe(name: str, *arguments: str) -> tuple[Any, str]:
        found = known.get((name, *arguments), {"version": "99.0"})
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, tuple) else (found, "")

    for module in (accelerators, packages):
        monkeypatch.setattr(module, "probe", probe)
    monkeypatch.setattr(machine, "_HERE", BoardFiles(str(tmp_path)))
    monkeypatch.setattr(accelerators, "assembled_folder", lambda: None)
    monkeypatch.setattr(accelerators.platform, "machine", lambda: "x86_64")
    # Of this checkout, whatever was installed.
    monkeypatch.setattr(packages.metadata, "requires", lambda name: _required())
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    system(monkeypatch, "none")
    installed(monkeypatch)
    return lambda more: known.update(more)


def system(monkeypatch: pytest.MonkeyPatch, gpu: Any, **cpu: Any) -> None:
    cores = {"model": "a CPU", "affinity": 4, "logical_cores": 8, "quota_cores": "none", **cpu}
    block = {"gpu": gpu, "cpu": cores, "memory": {"total_bytes": 8 * 2**30, "available_bytes": 4 * 2**30}}
    for module in (accelerators, machine):
        monkeypatch.setattr(module, "system_block", lambda: block)


def installed(monkeypatch: pytest.MonkeyPatch, *others: str, without: str = "") -> None:
    """Optional packages that are present."""
    optional = {"tensorrt", "tensorrt_rtx", "cuda.bindings.runtime", "datasets", "matplotlib", "tensorboard"}
    gone = (optional - set(others)) | {without}
    for module in (accelerators, packages):
        monkeypatch.setattr(module, "is_there", lambda name: name not in gone)


def jetson(tmp_path: Path, release: str = RELEASE) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release)


def rows() -> dict[str, Check]:
    return {row.name: row for row in doctor.examine()}


def test_a_plain_machine(answers: Answers) -> None:
    found = rows()
    assert {name for name, row in found.items() if row.required and row.status != "ok"} == set()
    assert found["Python"].found == ".".join(map(str, sys.version_info[:3]))
    assert found["CPUExecutionProvider"].found == "loads"
    assert found["TF32 in torch"].status == "ok" and "no effect" in found["TF32 in torch"].note
    assert (found["GPU"].status, found["CUDA"].status) == ("missing", "missing")
    assert found["TensorRT"].fix == "pip install 'irepdeploy[trt]'"
    assert found["export targets"].found == "ort"
    assert "Jetson" not in found and "pytest" not in found
    row = found["export targets"]
    assert all(name in f"{row.found} {row.note}" for name in TARGETS)
    # Optional packages name their extra.
    for package, extra in {"matplotlib": "report", "datasets": "data", "cuda-python": "trt"}.items():
        row = found[package]
        assert (row.found, row.status, row.required) == ("-", "missing", False)
        assert row.fix == f"pip install 'irepdeploy[{extra}]'" and f"extra {extra}" in row.note
    assert "ctypes on libcudart is used instead" in found["cuda-python"].note


def test_a_required_package_that_is_not_there(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, without="onnxsim")
    row = rows()["onnxsim"]
    assert (row.found, row.status, row.required) == ("-", "missing", True)
    assert row.fix.startswith("pip install 'onnxsim>=")


@pytest.mark.parametrize("reason", ["crashed with SIGSEGV", "no answer within 90 s"])
def test_a_package_that_is_there_but_cannot_be_imported(answers: Answers, reason: str) -> None:
    answers({("imported", "onnxsim"): RunError(reason)})
    row = rows()["onnxsim"]
    assert (row.status, row.fix) == ("missing", "pip install --force-reinstall onnxsim") and reason in row.note


def test_a_light_package_that_cannot_be_imported(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    row = rows()["numpy"]
    assert row.status == "missing" and "cannot be imported" in row.note


def test_a_package_that_is_too_old(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_version", lambda name: {"torch": "2.5.1+cu121", "onnx": "1.17"}.get(name, ""))
    found = rows()
    assert (found["torch"].found, found["torch"].status) == ("2.5.1+cu121", "missing")
    assert found["torch"].fix == "pip install --upgrade 'torch>=2.6'"
    assert found["onnx"].status == "ok"


def test_onnxruntime_gpu_takes_the_place_of_onnxruntime(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime-gpu": "1.24.0"}
    monkeypatch.setattr(packages, "_version", lambda name: versions.get(name, ""))
    assert (rows()["onnxruntime"].found, rows()["onnxruntime"].status) == ("1.24.0", "ok")
    versions["onnxruntime"] = "1.24.0"
    row = rows()["onnxruntime"]
    assert row.status == "warning" and row.fix.endswith("&& pip install onnxruntime-gpu")


@pytest.mark.parametrize(
    ("answer", "note", "fix"),
    [
        (["CPUExecutionProvider"], "falls back to CPUExecutionProvider", REINSTALL),
        (
            (["CPUExecutionProvider"], "... libcudnn.so.9: cannot open shared object file: No such file"),
            "no libcudnn.so.9",
            "pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (RunError("crashed with SIGABRT"), "SIGABRT", REINSTALL),
    ],
)
def test_a_provider_that_is_listed_but_does_not_load(answers: Answers, answer: Any, note: str, fix: str) -> None:
    cuda = "CUDAExecutionProvider"
    answers({("listed_providers",): [cuda, "CPUExecutionProvider"], ("session", cuda): answer})
    found = rows()
    assert (found[cuda].found, found[cuda].status, found[cuda].fix) == ("-", "missing", fix)
    assert note in found[cuda].note and not found[cuda].required
    assert found["CPUExecutionProvider"].status == "ok"


def test_a_library_that_pip_brought_but_the_loader_does_not_see(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "nvidia" / "cudnn" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudnn.so.9").touch()
    monkeypatch.setattr(accelerators.sysconfig, "get_path", lambda kind: str(tmp_path))
    cuda = "CUDAExecutionProvider"
    said = "libcudnn.so.9: cannot open shared object file"
    answers({("listed_providers",): [cuda], ("session", cuda): (["CPUExecutionProvider"], said)})
    assert rows()[cuda].fix == f"export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"


def test_a_machine_with_a_gpu(answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    system(monkeypatch, [{"name": "NVIDIA A100", "driver_version": "580.1", "compute_cap": "8.0"}])
    installed(monkeypatch, "tensorrt")
    cuda = {"name": "NVIDIA A100", "compute_capability": "8.0", "cuda_driver": "13.0", "cuda_runtime": "12.6"}
    answers({("cuda",): {**cuda, "driver": "580.1"}, ("torch_state",): GPU_TORCH, ("tensorrt", "tensorrt"): TENSORRT})
    found = rows()
    assert found["GPU"].found == "NVIDIA A100" and "driver 580.1, compute capability 8.0" in found["GPU"].note
    assert (found["CUDA"].found, found["CUDA"].status) == ("12.6", "ok")
    assert found["torch device"].found == "CUDA 12.6"
    assert (found["TF32 in torch"].status, found["TF32 in torch"].fix) == ("warning", "export NVIDIA_TF32_OVERRIDE=0")
    assert (found["TensorRT"].found, found["TensorRT"].status) == ("10.3.0.26", "ok")
    assert found["export targets"].found == "ort, trt, trt-10"
    # There is a GPU, but onnxruntime is the CPU build.
    assert found["CUDAExecutionProvider"].fix == "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert rows()["TF32 in torch"] == Check("TF32 in torch", "off", note="NVIDIA_TF32_OVERRIDE=0")
    answers({("torch_state",): CPU_TORCH})
    assert rows()["torch device"].fix == "pip install --force-reinstall torch"


def test_a_tensorrt_that_builds_nothing(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "tensorrt")
    answers({("tensorrt", "tensorrt"): {**TENSORRT, "why": "CUDA initialization failure with error: 35"}})
    found = rows()
    assert found["TensorRT"].status == "missing" and "error: 35" in found["TensorRT"].note
    assert found["export targets"].found == "ort"
    answers({("tensorrt", "tensorrt"): RunError("TensorRT is installed but cannot be loaded: libnvinfer.so.10")})
    row = rows()["TensorRT"]
    assert row.fix == "pip install --force-reinstall tensorrt" and "libnvinfer.so.10" in row.note


def test_the_assembled_builder_is_named_as_such(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "assembled_folder", lambda: "build/trt")
    title = "TensorRT-RTX 1.7.1.116 (assembled for tests)"
    answers({("tensorrt", "tensorrt_rtx"): {"title": title, "version": "1.7.1.116", "assembled": True, "why": ""}})
    found = rows()
    assert (found["TensorRT-RTX"].found, found["TensorRT-RTX"].status) == (title.partition(" ")[2], "warning")
    assert found["export targets"].found == "ort, rtx" and "assembled for tests" in found["export targets"].note
    assert found["TensorRT"].status == "missing"


def test_a_jetson(answers: Answers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jetson(tmp_path)
    (tmp_path / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=MAXN >\n")
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0000\n")
    found = rows()
    assert found["Jetson"].found == "L4T 35.4.1, JetPack 5.1" and found["Jetson"].status == "ok"
    assert "8.5.2" in found["Jetson"].note and "xavier-jp5" in found["Jetson"].note
    assert "never pip install tensorrt" in found["Jetson"].note
    assert found["power mode"].found == "MAXN"
    assert (found["trtexec"].status, found["trtexec"].fix) == ("missing", "sudo apt-get install nvidia-jetpack")
    for broken in (False, True):
        if broken:
            installed(monkeypatch, "tensorrt")
            answers({("tensorrt", "tensorrt"): RunError("libnvinfer.so.8")})
        row = rows()["TensorRT"]
        assert row.status == "missing" and "never pip install tensorrt" in row.note
        assert row.fix == "python3 -m venv --system-site-packages .venv"
    assert not any("pip install" in row.fix and "tensorrt" in row.fix for row in rows().values())
    assert rows()["cuda-python"].status == "missing"


@pytest.mark.parametrize(
    ("release", "found", "status"),
    [
        ("# R32 (release), REVISION: 7.4, GCID", "L4T 32.7.4, JetPack 4.6.1 or newer", "warning"),
        ("# R35 (release), REVISION: 1.0, GCID", "L4T 35.1.0, JetPack 5.0.2", "warning"),
        ("# R36 (release), REVISION: 4.3, GCID", "L4T 36.4.3, JetPack 6.1 or newer", "ok"),
        ("# R39 (release), REVISION: 0, GCID", "L4T 39.0, JetPack 7", "warning"),
        ("# R50 (release), REVISION: 1.0", "L4T 50.1.0", "warning"),
        ("nonsense", "unknown", "warning"),
    ],
)
def test_jetpack_by_l4t(answers: Answers, tmp_path: Path, release: str, found: str, status: str) -> None:
    jetson(tmp_path, release)
    row = rows()["Jetson"]
    assert (row.found, row.status) == (found, status) and machine.NEVER_PIP in row.note


def test_power_mode_by_nvpmodel(answers: Answers, tmp_path: Path) -> None:
    program = tmp_path / "usr/sbin/nvpmodel"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MODE_30W_ALL'; echo 3\n")
    program.chmod(0o755)
    assert machine._power_mode().found == "MODE_30W_ALL"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert (machine._power_mode().found, machine._power_mode().fix) == ("unknown", "sudo nvpmodel -q")


def test_cores_memory_and_disk(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    system(monkeypatch, "none", quota_cores=2.5)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: type("", (), {"free": 2**20, "total": 2**40}))
    found = rows()
    assert (found["CPU"].status, found["CPU"].fix) == ("warning", "export OMP_NUM_THREADS=2")
    assert (found["memory"].found, found["memory"].status) == ("4.0 of 8.0 GiB free", "ok")
    assert (found["disk here"].found, found["disk here"].status) == ("0.0 of 1024.0 GiB free", "warning")


def test_whatever_raises_is_a_warning_with_its_reason(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("odd\nmachine")

    monkeypatch.setattr(machine, "system_block", broken)
    answers({("torch_state",): {}, ("listed_providers",): RunError("no answer within 90 s")})
    found = rows()
    assert found["machine"] == Check(
        "machine", "unknown", "warning", "cannot be checked: ZeroDivisionError: odd machine"
    )
    assert (found["torch device"].status, found["torch"].status) == ("warning", "ok")
    assert found["onnxruntime providers"].note.endswith("no answer within 90 s")
    assert found["export targets"].status == "missing"


def completed(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    values = {"returncode": 0, "stdout": "", "stderr": "", **fields}
    monkeypatch.setattr(probes.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, **values))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"returncode": -11}, "crashed with SIGSEGV"),
        ({"returncode": 1, "stderr": "Traceback\nImportError: libcuda.so.1"}, "ImportError: libcuda.so.1"),
        ({"returncode": 1}, "exit code 1"),
        ({"stdout": "hello"}, "answered 'hello'"),
    ],
)
def test_a_probe_that_fails(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], reason: str) -> None:
    completed(monkeypatch, **fields)
    with pytest.raises(RunError, match=reason):
        probes.probe("cuda")


def test_a_probe_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_SECONDS", 0.0)
    with pytest.raises(RunError, match="no answer within 0 s"):
        probes.probe("cuda")


def test_a_probe_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fractions.py").write_text("raise SystemError")
    monkeypatch.chdir(tmp_path)
    assert probes.probe("imported", "fractions")[0] == {"version": ""}
    with pytest.raises(RunError, match="No module named 'nothing_here'"):
        probes.probe("imported", "nothing_here")


def test_the_tiny_model_is_one_and_runs() -> None:
    import base64

    import onnx

    onnx.checker.check_model(onnx.load_from_string(base64.b64decode(probes._MODEL)), full_check=True)
    assert probes.session("CPUExecutionProvider") == ["CPUExecutionProvider"]
    assert "CPUExecutionProvider" in probes.listed_providers()


@pytest.mark.parametrize(
    ("builder", "said", "why"),
    [
        (TypeError("factory function returned nullptr"), "no CUDA-capable device", "no CUDA-capable device"),
        (TypeError("factory function\nreturned nullptr"), "", "factory function returned nullptr"),
        (None, "", "it cannot create a builder"),
        (object(), "only a word", ""),
    ],
)
def test_a_tensorrt_is_believed_when_it_gives_a_builder(
    monkeypatch: pytest.MonkeyPatch, builder: object, said: str, why: str
) -> None:
    class Logger:
        pass

    def make(logger: Any) -> object:
        if said:
            logger.log(types.SimpleNamespace(name="ERROR"), said)
        if isinstance(builder, Exception):
            raise builder
        return builder

    module = types.SimpleNamespace(ILogger=Logger, Builder=make)
    monkeypatch.setattr(probes, "load_tensorrt", lambda flavour: TensorrtLibrary(module, flavour, "10.3.0.26", False))
    assert probes.tensorrt("tensorrt") == {**TENSORRT, "why": why}


@pytest.mark.trt
def test_the_real_assembled_builder() -> None:
    found = probes.probe("tensorrt", "tensorrt_rtx")[0]
    assert found["assembled"] and found["why"] == ""


def test_long_reasons_become_one_line() -> None:
    assert check.one_line("a\n b" + "c" * 200) == "a b" + "c" * 154 + "..."


def table_of(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: list(checks))


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    table_of(monkeypatch, Check("torch", "2.6", required=True), Check("timm", "-", "missing", "why", "type this"))
    assert cli.main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert "timm       -  missing  why" in captured.out and "  type this  # timm\n" in captured.out
    assert captured.err == "next: irepdeploy demo --quick\n"


@pytest.mark.parametrize("json_too", [False, True])
def test_what_a_plain_installation_needs_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, json_too: bool
) -> None:
    table_of(monkeypatch, Check("onnx", "-", "missing", fix="pip install onnx", required=True))
    assert cli.main(["doctor", *(["--json"] if json_too else [])]) == 3
    captured = capsys.readouterr()
    assert captured.err == "irepdeploy: error: a plain installation needs: onnx (pip install onnx)\n"
    if json_too:
        row = {"name": "onnx", "found": "-", "status": "missing", "note": "", "fix": "pip install onnx"}
        assert json.loads(captured.out) == {"ok": False, "checks": [{**row, "required": True}]}
