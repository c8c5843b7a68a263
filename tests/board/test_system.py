from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from irepdeploy.board import system
from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.system import machine_state, system_block


def values(block: object) -> list[object]:
    if isinstance(block, dict):
        return [value for item in block.values() for value in values(item)]
    return [block]


def test_is_json_and_holds_what_a_reader_needs() -> None:
    block = system_block()
    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert {"os", "cpu", "memory", "load_average", "gpu", "python", "versions", "irepdeploy_commit"} <= set(block)
    assert {"model", "logical_cores", "affinity", "governor"} <= set(block["cpu"])
    assert block["cpu"]["logical_cores"] == os.cpu_count()
    assert block["versions"]["numpy"] == metadata.version("numpy")
    assert {"irepdeploy", "torch", "onnx", "onnxruntime", "numpy"} <= set(block["versions"])
    assert all(block["versions"][name] != "unknown" for name in set(block["versions"]) & set(system._GPU_PACKAGES))


def test_imports_nothing_heavy() -> None:
    program = (
        "import sys; from irepdeploy.board.system import system_block; block = system_block();"
        "print(block['torch_threads'], {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch not loaded set()"


def test_threads_of_a_torch_that_is_loaded() -> None:
    import torch

    assert system_block()["torch_threads"] == torch.get_num_threads()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine without any file."""
    monkeypatch.setattr(system, "_HERE", BoardFiles(str(tmp_path)))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_never_fails_and_says_unknown_if_nothing_can_be_found_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(*args: object, **settings: object) -> None:
        raise FileNotFoundError

    def no_load() -> None:
        raise OSError

    monkeypatch.setattr(subprocess, "run", not_there)
    monkeypatch.setattr(os, "getloadavg", no_load)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(system, "_PACKAGES", ("no-such-package",))
    monkeypatch.setattr(system, "_GPU_PACKAGES", ("no-such-package-either",))
    block = system_block()
    assert block["gpu"] == "none"
    for value in (
        block["cpu"]["model"],
        block["cpu"]["logical_cores"],
        block["cpu"]["governor"],
        block["cpu"]["quota_cores"],
        *block["memory"].values(),
        block["load_average"],
        block["versions"]["no-such-package"],
        *block["irepdeploy_commit"].values(),
    ):
        assert value == "unknown"
    assert None not in values(block)
    assert block["versions"] == {"no-such-package": "unknown"}
    assert machine_state() == {
        "cpu": {"governor": "unknown", "frequency_mhz": "unknown", "temperature_c": "unknown"},
        "load_average": "unknown",
        "gpu": "none",
    }


def answer(monkeypatch: pytest.MonkeyPatch, text: str | Exception) -> None:
    def run(command: list[str], **where: object) -> str:
        if isinstance(text, Exception):
            raise text
        return text

    monkeypatch.setattr(system, "_run", run)


# As nvidia-smi writes it; a value that a GPU does not have is in brackets.
TWO_GPUS = """\
NVIDIA H200, 570.124.06, 9.0, 1980 MHz, 3201 MHz, 1980 MHz, 31, 76.62 W, 700.00 W, Enabled
NVIDIA A100-SXM4-80GB, 570.124.06, 8.0, 210 MHz, 1593 MHz, 1410 MHz, 29, [N/A], [Not Supported], Disabled
"""


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, TWO_GPUS)
    first, second = system._gpu()
    assert (first["name"], first["clocks.sm"], first["power.limit"]) == ("NVIDIA H200", "1980 MHz", "700.00 W")
    assert (second["compute_cap"], second["power.draw"], second["power.limit"]) == ("8.0", "unknown", "unknown")


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        ("", "none"),
        (FileNotFoundError(), "none"),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "unknown"),
        (subprocess.CalledProcessError(9, "nvidia-smi"), "unknown"),
        ("an answer of another kind\n", "unknown"),
    ],
)
def test_no_gpu_and_no_answer(monkeypatch: pytest.MonkeyPatch, text: str | Exception, gpu: str) -> None:
    answer(monkeypatch, text)
    assert system._gpu() == gpu


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", "none"), ("150000 100000\n", 1.5), ("", "unknown"), ("x y", "unknown")]
)
def test_quota_of_the_control_group(root: Path, text: str, quota: float | str) -> None:
    write(root / "sys/fs/cgroup/cpu.max", text)
    assert system._quota_cores() == quota


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with system.py in its package."""
    write(tmp_path / "irepdeploy/board/system.py", "")
    monkeypatch.setattr(system, "__file__", str(tmp_path / "irepdeploy/board/system.py"))
    return tmp_path


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "-C", str(root), *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_commit_and_whether_files_differ_from_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"sha": "unknown", "dirty": "unknown"}
    assert system.commit() == unknown
    git(checkout, "init", "-q")
    assert system.commit() == unknown
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    # As inside a hook of another repository.
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    assert system.commit() == {"sha": git(checkout, "rev-parse", "HEAD"), "dirty": False}
    (checkout / "result.json").write_text("")
    assert system.commit()["dirty"] is False
    (checkout / "irepdeploy/board/system.py").write_text("# changed\n")
    assert system.commit()["dirty"] is True


def test_commit_of_another_projects_checkout_is_not_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "venv" / "site-packages" / "irepdeploy"
    installed.mkdir(parents=True)
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "theirs")
    monkeypatch.setattr(system, "__file__", str(installed / "board/system.py"))
    assert system.commit() == {"sha": "unknown", "dirty": "unknown"}


def test_state_is_json_and_quick_to_take_again() -> None:
    state = machine_state()
    assert json.loads(json.dumps(state, allow_nan=False)) == state
    assert set(state) == {"cpu", "load_average", "gpu"}


# Drivers before 535 do not know the newer name and reject the whole query.
@pytest.mark.parametrize("known", ["clocks_event_reasons.active", "clocks_throttle_reasons.active", "neither"])
def test_state_of_a_gpu(monkeypatch: pytest.MonkeyPatch, known: str) -> None:
    def run(command: list[str], **where: object) -> str:
        asked = command[1].partition("=")[2]
        if asked == known:
            return "0x0000000000000024\n"
        if "reasons" in asked:
            raise subprocess.CalledProcessError(2, "nvidia-smi")
        return "1410 MHz, 1593 MHz, 61, 250.10 W, 300.00 W, 99 %\n"

    monkeypatch.setattr(system, "_run", run)
    (gpu,) = machine_state()["gpu"]
    assert (gpu["clocks.sm"], gpu["temperature.gpu"], gpu["power.limit"]) == ("1410 MHz", "61", "300.00 W")
    expected = "unknown" if known == "neither" else ["software power cap", "software thermal slowdown"]
    assert gpu["slowed_by"] == expected


def test_reasons_that_are_no_number() -> None:
    assert system._slowed_by("unknown") == "unknown"
    assert system._slowed_by("0x0000000000000000") == []
    assert system._slowed_by("0x0000000000000001") == ["idle"]
    assert system._slowed_by("0x0000000000000140") == ["hardware thermal slowdown", "display clocks"]


def test_clocks_and_temperatures_of_the_cpu(root: Path) -> None:
    write(root / "proc/cpuinfo", "cpu MHz : 2445.1\ncpu MHz : 3000\nflags : a\n")
    assert machine_state()["cpu"]["frequency_mhz"] == {"min": 2445.1, "max": 3000.0}
    for index, (name, text) in enumerate([("acpitz", "40000"), ("acpitz", "55500"), ("gpu", "-5000"), ("x", "")]):
        write(root / f"sys/class/thermal/thermal_zone{index}/type", name + "\n")
        write(root / f"sys/class/thermal/thermal_zone{index}/temp", text + "\n")
    for index, text in enumerate(["1200000", "3400000", "none"]):
        write(root / f"sys/devices/system/cpu/cpu{index}/cpufreq/scaling_cur_freq", text + "\n")
    assert machine_state()["cpu"]["temperature_c"] == {"acpitz": 55.5, "gpu": -5.0}
    assert machine_state()["cpu"]["frequency_mhz"] == {"min": 1200.0, "max": 3400.0}
