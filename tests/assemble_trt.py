"""Assemble a real TensorRT builder that needs no GPU: ``python tests/assemble_trt.py [FOLDER]``, or ``make trt``.

PyPI does not offer TensorRT's own libraries, but two of its wheels are compatible: the bindings of TensorRT 11.4, and
the libraries of TensorRT-RTX 1.7.1 in an execution provider of ONNX Runtime, built from the same interface. This
combination is unsupported and for tests only: it parses and builds, and its engines are TensorRT-RTX engines. The
script only needs the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BINDINGS = ("tensorrt-cu13-bindings", "11.4.0.106")
LIBRARIES = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "0.5.0")
RTX_VERSION = "1.7.1.116"
MARKER = "assembled.json"
ENVIRONMENT = "IREPDEPLOY_TENSORRT_RTX"
DEFAULT_FOLDER = Path(__file__).parents[1] / "build" / "trt"

PACKAGE = "tensorrt_bindings"
BUILDER = "libtensorrt_rtx.so.1.7.1"
PARSER = "libtensorrt_onnxparser_rtx.so.1.7.1"
CUDA_RUNTIME = "libcudart.so.13.4.36"
# Names under which the bindings and the builder load them.
LINKS = {"libnvinfer.so.11": BUILDER, "libtensorrt_rtx.so.1": BUILDER, "libnvonnxparser.so.11": PARSER}
STUB = "libnvinfer_plugin.so.11"

_CHECK = "import warnings; warnings.simplefilter('ignore'); import tensorrt_bindings as t; t.Builder(t.Logger())"


def assemble(folder: Path) -> str:
    """Assemble the builder in `folder` and return what was done.

    Raises:
        SystemExit: The builder does not exist for this machine, or a wheel cannot be downloaded.
    """
    recipe = {
        "tensorrt_rtx": RTX_VERSION,
        "wheels": ["==".join(BINDINGS), "==".join(LIBRARIES)],
        "libraries": [BUILDER, PARSER, CUDA_RUNTIME],
        "python": ".".join(map(str, sys.version_info[:2])),
        "package": PACKAGE,
    }
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / MARKER).read_text(encoding="utf-8")) == recipe:
            return f"{folder} already has it"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        sys.exit(f"make trt: the wheels are for Linux on x86_64, not {sys.platform} on {platform.machine()}")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    fetched = [_wheel(wheels, *one) for one in (BINDINGS, LIBRARIES)]
    with tempfile.TemporaryDirectory(prefix=".assemble-", dir=folder) as place:
        package = _unpacked(Path(place), *fetched)
        done = subprocess.run([sys.executable, "-c", _CHECK], cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"make trt: assembled, but it does not start: {_last_line(done.stderr or done.stdout)}")
        for old in (folder / MARKER, folder / PACKAGE):
            _remove(old)
        os.replace(package, folder / PACKAGE)
        marker = Path(place, MARKER)
        marker.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        os.replace(marker, folder / MARKER)
    return f"assembled in {folder} from {' and '.join(recipe['wheels'])}"


def stub_library(soname: str, symbol: str) -> bytes:
    """Return a shared library for x86-64 whose only function returns 1, made without a compiler.

    The bindings load TensorRT's plugins, which this one replaces. ELF: the first page holds headers, symbols and code,
    the second what the loader writes to.
    """
    page = 0x1000
    strings = b"\0" + soname.encode() + b"\0" + symbol.encode() + b"\0"
    symbol_name = 1 + len(soname) + 1
    table_at = 64 + 3 * 56
    hash_at = table_at + 2 * 24
    strings_at = hash_at + 5 * 4
    code_at = (strings_at + len(strings) + 15) // 16 * 16
    code = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
    # SONAME, HASH, STRTAB, SYMTAB, STRSZ, SYMENT, end
    dynamic = b"".join(
        struct.pack("<qQ", *entry)
        for entry in ((14, 1), (4, hash_at), (5, strings_at), (6, table_at), (10, len(strings)), (11, 24), (0, 0))
    )
    end = code_at + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, page)
    segments += struct.pack("<IIQQQQQQ", 1, 6, page, page, page, len(dynamic), len(dynamic), page)
    segments += struct.pack("<IIQQQQQQ", 2, 6, page, page, page, len(dynamic), len(dynamic), 8)
    table = bytes(24) + struct.pack("<IBBHQQ", symbol_name, 0x12, 0, 1, code_at, len(code))
    # One bucket: symbol 1, then the end of its chain.
    buckets = struct.pack("<IIIII", 1, 2, 1, 0, 0)
    first = (header + segments + table + buckets + strings).ljust(code_at, b"\0") + code
    return first.ljust(page, b"\0") + dynamic


def _wheel(folder: Path, name: str, version: str) -> Path:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"

    def found() -> list[Path]:
        return [path for path in folder.glob(pattern) if f"-{tag}-" in path.name or "-py3-" in path.name]

    if not found():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as place:
            command += ["--only-binary", ":all:", "--dest", place, f"{name}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"make trt: cannot download {name}=={version}: {_last_line(done.stderr)}")
            for path in Path(place).glob("*.whl"):
                os.replace(path, folder / path.name)
    if not found():
        sys.exit(f"make trt: {name}=={version} has no wheel for Python {platform.python_version()}")
    return found()[0]


def _unpacked(place: Path, bindings: Path, libraries: Path) -> Path:
    with zipfile.ZipFile(bindings) as archive:
        archive.extractall(place, [name for name in archive.namelist() if name.startswith(f"{PACKAGE}/")])
    package = place / PACKAGE
    # The bindings look for their libraries in their own folder.
    with zipfile.ZipFile(libraries) as archive:
        for name in archive.namelist():
            if Path(name).name in (BUILDER, PARSER, CUDA_RUNTIME):
                with archive.open(name) as source, open(package / Path(name).name, "wb") as target:
                    shutil.copyfileobj(source, target)
    for link, library in LINKS.items():
        (package / link).symlink_to(library)
    (package / STUB).write_bytes(stub_library(STUB, "initLibNvInferPlugins"))
    return package


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def main() -> None:
    folder = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else DEFAULT_FOLDER
    print(f"TensorRT-RTX {RTX_VERSION}: {assemble(folder)}")
    if folder == DEFAULT_FOLDER:
        print(f"a checkout finds it there; elsewhere: export {ENVIRONMENT}={folder}")
    else:
        print(f"to use it: export {ENVIRONMENT}={folder}")


if __name__ == "__main__":
    main()
