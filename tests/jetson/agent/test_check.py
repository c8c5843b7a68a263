"""check: facts about a board, and what is missing there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.errors import InputError, MissingError, RunError
from irepdeploy.jetson.agent.board import board_facts, may_switch
from irepdeploy.jetson.agent.probe import probe
from irepdeploy.jetson.agent.request import RequestStream, read_request
from support.fake_board import FakeBoard


def test_a_xavier(xavier: Any) -> None:
    value = xavier.ask("check", {}).value
    assert value["jetson"] and value["board"] == "Jetson-AGX"
    assert (value["l4t"], value["jetpack"], value["tensorrt"]) == ("35.4.1", "5.1", "8.5.2.2")
    assert value["os"] == "Ubuntu 20.04.6 LTS" and value["memory_bytes"] == 32692892 * 1024
    assert value["dla_cores"] == 2 and value["trtexec"].endswith("/usr/src/tensorrt/bin/trtexec")
    assert value["cuda"]["compute_capability"] == "7.2" and value["cuda"]["cuda_runtime"] == "11.4"
    assert value["power_mode"] == {"id": 7, "name": "MODE_15W_DESKTOP"}
    assert {mode["name"] for mode in value["power_modes"] if mode["needs_reboot"]} == {"MODE_10W"}
    assert value["module_mw"] == pytest.approx(7604.728)
    # Only root can read the memory clock.
    assert value["clocks"]["emc"] == {"current_hz": 2133000000, "min_hz": 204000000, "max_hz": 2133000000}
    assert value["can_switch"] and value["unrestored"] is None
    assert value["runners"] == ["trt"]
    assert [each["for"] for each in value["missing"]] == ["ort-cpu"]
    # Both remedies: install it, or name a Python that has it.
    assert value["python_path"] in value["missing"][0]["what"]
    hint = value["missing"][0]["hint"]
    assert hint.startswith(value["python_path"]) and "pip install" in hint and "--python ~/venv/bin/python" in hint
    assert value["system"]["cpu"]["logical_cores"] == os.cpu_count()
    assert value["free_bytes"] > 0 and not xavier.cache.exists()


def test_any_machine(agent: Any) -> None:
    value = agent.ask("check", {}).value
    assert value["jetson"] is False and value["power_mode"] is None and value["rails_mw"] == {}
    assert value["dla_cores"] is None and value["runners"] == ["ort-cpu"]
    assert {each["for"] for each in value["missing"]} == {"trt", "power"}
    assert all(each["hint"] for each in value["missing"])


def test_nothing_is_asked_of_a_closed_stdin(archive: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(archive), "have"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["where"] == "sha256"


@pytest.mark.parametrize("line", [b"[1]", b"{", b"\xff", b'"' + b"x" * 100])
def test_invalid_requests(line: bytes) -> None:
    read, write = os.pipe()
    os.write(write, line + b"\n")
    os.close(write)
    with pytest.raises(InputError, match="expected a JSON object") as caught:
        read_request(RequestStream(read))
    assert caught.value.where == "request"


def probing(code: str) -> dict[str, Any]:
    return probe([sys.executable, "-c", "import os\n" + code])


def test_a_library_that_crashes_costs_only_itself() -> None:
    found = probing('print(\'{"numpy": "1.17.4"}\', flush=True); os.abort()')
    assert found["numpy"] == "1.17.4" and found["tensorrt"] is None
    assert found["tensorrt_problem"] == "it crashes (signal 6)"
    assert probing("print('noise')")["tensorrt_problem"] is None
    assert "No such file" in probe(["/nowhere/python3"])["tensorrt_problem"]


def test_programs(board: FakeBoard) -> None:
    files = BoardFiles(str(board.root))
    board.program("usr/bin/tegrastats", "\nwhile true; do echo 'GPU 1/1'; done\n")
    assert files.first_line("tegrastats") == "GPU 1/1\n"
    assert files.first_line("nothing") == ""
    assert files.program("ls") is None
    with pytest.raises(MissingError, match="ls is not installed"):
        files.run("ls")
    (board.root / "usr/bin/broken").write_text("")
    (board.root / "usr/bin/broken").chmod(0o755)
    board.program("usr/bin/odd", "")
    (board.root / "usr/bin/odd").write_bytes(b"#!/nowhere/sh\n")
    with pytest.raises(RunError, match="cannot run odd"):
        files.run("odd")


def test_rails_of_tegrastats_if_sysfs_has_none(board: FakeBoard, xavier: Any) -> None:
    for name in board.root.glob("sys/bus/i2c/devices/*/name"):
        name.write_text("eeprom\n")
    board.program("usr/bin/tegrastats", "\necho 'RAM 1/2MB GPU 100mW/90mW CPU 200mW/190mW'\n")
    facts = board_facts(BoardFiles(str(board.root)), xavier.libraries, "/")
    assert facts["rails_mw"] == {"GPU": 100, "CPU": 200}


def test_what_a_broken_jetson_lacks(board: FakeBoard, xavier: Any) -> None:
    why = "libnvinfer.so.8: cannot open shared object file"
    (board.root / "python/tensorrt.py").write_text(f"raise ImportError({why!r})")
    (board.root / "usr/bin/jetson_clocks").unlink()
    path = f"PYTHONPATH={board.root / 'python'}"
    libraries = probe(["env", path, sys.executable, str(xavier.archive), "_probe"])
    facts = board_facts(BoardFiles(str(board.root)), libraries, "/")
    lacks = {each["for"]: each for each in facts["missing"]}
    assert why in lacks["trt"]["what"] and "never pip install tensorrt" in lacks["trt"]["hint"]
    assert lacks["clocks"]["what"] == "no jetson_clocks" and not facts["can_switch"]
    # Without TensorRT, the device files tell.
    assert facts["dla_cores"] == 2


_SUDO = """
shift
case $1 in -l) exit 0 ;; esac
{rule}
exec "$@"
"""


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        ("", True),
        ("case $1 in *jetson_clocks) echo 'sudo: a password is required' >&2; exit 1 ;; esac", False),
        ("echo 'sudo: a password is required' >&2; exit 1", False),
    ],
)
def test_sudo_is_asked_by_doing_not_by_its_list(board: FakeBoard, rule: str, may: bool) -> None:
    """``sudo -n -l`` ends with 0 for what is permitted with a password too."""
    board.program("usr/bin/sudo", _SUDO.replace("{rule}", rule))
    before = board.state()
    assert may_switch(BoardFiles(str(board.root))) is may
    assert board.state() == before
