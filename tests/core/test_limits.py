"""Files of the wrong kind or size are refused before they are read."""

from __future__ import annotations

import io
import os
import signal
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from irepdeploy import limits
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.sidecar import check_sidecar, read_sidecar, sidecar_path
from irepdeploy.board.trtexec import read_times
from irepdeploy.data.cifar10 import PYTHON, cifar10
from irepdeploy.data.decoding import decode_image
from irepdeploy.errors import InputError, RunError
from irepdeploy.files import read_bytes, sha256
from irepdeploy.limits import DESCRIPTION, check_memory, open_file, read_file
from irepdeploy.network.checkpoint import load
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.plots.images import read_images
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs import record
from irepdeploy.runs.result import TrainingResult
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.input_files import read_inputs


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that hangs."""

    def late(*args: Any) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "file": ("a", read_bytes),
    "digest": ("a", sha256),
    "records": ("records.jsonl", record.read),
    "recipe": ("recipe.yaml", load_recipe),
    "Architecture": ("arch.json", Architecture.load),
    "certificate": ("certificate.json", Certificate.load),
    "result": ("result.json", TrainingResult.read),
    "checkpoint": ("net.pt", load),
    "ONNX": ("model.onnx", open_model),
    "ONNX Runtime": ("model.onnx", lambda path: OrtRunner(path).__enter__()),
    "array": ("x.npy", lambda path: read_inputs(path, (3, 4, 4))),
    "arrays": ("x.npz", lambda path: read_inputs(path, (3, 4, 4))),
    "image": ("x.png", lambda path: read_inputs(path, (3, 4, 4))),
    "shown image": ("x.png", lambda path: read_images([path], (3, 4, 4))),
    "training image": ("x.png", lambda path: decode_image(str(path), 4)),
    "engine": ("model.engine", lambda path: check_sidecar(path, version="10.3.0", flavour="tensorrt")),
    "times": ("times.json", read_times),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_what_never_ends(name: str, tmp_path: Path) -> None:
    file, read = READERS[name]
    path = pipe(tmp_path / file)
    with pytest.raises(InputError, match="got a pipe") as caught:
        read(path)
    assert str(path) in caught.value.line and caught.value.hint == "write it to a file first"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match="got a device"):
        read(path)


def test_sidecars_and_archives_that_never_end(tmp_path: Path) -> None:
    pipe(Path(sidecar_path(tmp_path / "model.engine")))
    with pytest.raises(InputError, match="expected a sidecar, got a pipe"):
        read_sidecar(tmp_path / "model.engine")
    (tmp_path / PYTHON.folder).mkdir()
    for name in PYTHON.files:
        pipe(tmp_path / PYTHON.folder / name)
    with pytest.raises(InputError, match="missing"):
        cifar10(root=tmp_path)


def test_kinds(tmp_path: Path) -> None:
    assert read_file("/proc/self/status").startswith(b"Name:")
    with pytest.raises(InputError, match=r"expected an ONNX file, got a directory \(name the file in it\)"):
        read_file(tmp_path, "ONNX file")
    with pytest.raises(InputError, match="no such recipe"):
        read_file(tmp_path / "recipe.yaml", "recipe")
    with pytest.raises(InputError, match="a path has no NUL"):
        read_file("a\0b")
    with pytest.raises(InputError, match="File name too long"):
        read_file("a" * 300)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(InputError, match="expected a file, got a socket"):
            read_file(tmp_path / "s")


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 42)
    with pytest.raises(InputError, match=r"large: expected a checkpoint of at most .*, got 4.4 TB"):
        load(path)
    for what, read in (("recipe", load_recipe), ("Architecture file", Architecture.load)):
        with pytest.raises(InputError, match=f"{what} of at most 16.8 MB, got 4.4 TB"):
            read(path)
    (tmp_path / "x.png").symlink_to(path)
    with pytest.raises(InputError, match="expected an image of at most 268 MB"):
        decode_image(str(tmp_path / "x.png"), 4)
    path.write_bytes(b"x" * 8)
    assert read_file(path, most=8) == b"x" * 8
    with pytest.raises(InputError, match="expected a file of at most 7 bytes, got 8 bytes"):
        read_file(path, most=7)
    # Its reported size is 0, but it contains one number per page of the address space.
    with pytest.raises(InputError, match="expected a file of at most"):
        read_file("/proc/self/pagemap", most=DESCRIPTION)
    with pytest.raises(InputError, match=r"expected a checkpoint of at most 16\.8 MB, got more"):
        read_file("/proc/self/pagemap", "checkpoint")


def test_another_file_under_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regular, path = tmp_path / "a", pipe(tmp_path / "b")
    regular.touch()
    found = os.stat(regular)
    monkeypatch.setattr(limits.os, "stat", lambda path: found)
    with pytest.raises(InputError, match="got a pipe"):
        open_file(path)


def test_memory() -> None:
    assert 1 << 28 < limits.memory_bytes() < 1 << 50
    check_memory(1000, "a batch")
    with pytest.raises(RunError, match=r"x: a batch would take .* of memory, more than"):
        check_memory(10**18, "a batch", "x")


def test_images_with_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.new("1", (100, 100)).save(path)
    for most in (9000, 4000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(InputError, match=f"x.png: the image is too large: at most {most:,} pixels"):
            read_inputs(path, (3, 4, 4))


def test_no_image_starts_another_program(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 4)).save(path, format="EPS")
    with pytest.raises(InputError, match="not an image"):
        decode_image(str(path), 4)


def header(shape: str, dtype: str = "<f4") -> bytes:
    content = io.BytesIO()
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    content.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
    return content.getvalue()


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000, 3, 4, 4)", f"({2**62}, {2**62})", f"({2**63}, 3, 4, 4)", "(-1, 3, 4, 4)", "(0, 3, 4, 4)", "(((("],
)
def test_arrays_that_claim_a_huge_shape(shape: str, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(header(shape) + bytes(192))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.write(tmp_path / "x.npy", "x.npy")
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError):
            read_inputs(tmp_path / name, (3, 4, 4))


def test_archives_with_members_that_are_no_arrays(tmp_path: Path) -> None:
    for name in ("x", "x.npy"):
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr(name, b"text")
        with pytest.raises(InputError, match="contains no arrays"):
            read_inputs(tmp_path / "x.npz", (3, 4, 4))


def test_archives_that_unpack_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 3, 4, 4), np.float32))
    assert (tmp_path / "x.npz").stat().st_size < 4000
    monkeypatch.setattr(limits, "memory_bytes", lambda: 100_000)
    with pytest.raises(RunError, match="this archive would take 192 kB"):
        read_inputs(tmp_path / "x.npz", (3, 4, 4))


def test_data_archives_that_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / PYTHON.archive, "w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 1 << 22
        archive.addfile(member, io.BytesIO(bytes(1 << 22)))
    monkeypatch.setattr("irepdeploy.data.archive._LARGEST", 1 << 21)
    with pytest.raises(InputError, match=r"unpacks to more than 2\.1 MB"):
        cifar10(root=tmp_path, verify=False)
