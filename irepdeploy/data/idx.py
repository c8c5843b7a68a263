"""Read IDX files, the format of MNIST (LeCun et al. 1998), gzipped or not.

A file consists of two zero bytes, the type of the values, the number of dimensions, each size as four bytes
(big-endian), and the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from irepdeploy.errors import InputError, counted, one_line
from irepdeploy.limits import open_file, size_text

__all__ = ["read_idx"]

_BYTES = 8
_LARGEST = 1 << 30
_FIX = "download it again"


def read_idx(path: Path, dimensions: int, *, sha256: str | None = None) -> Tensor:
    """Read an IDX file of bytes as a uint8 tensor. A file whose name ends in .gz is unpacked.

    No more is unpacked than the header announces.

    Args:
        path: Path of the file.
        dimensions: Required number of dimensions.
        sha256: Required digest of the unpacked content; None to accept any.

    Raises:
        InputError: The file is missing, truncated, damaged, or of another format.
    """
    header = 4 + 4 * dimensions
    try:
        with open_file(path, "IDX file", _LARGEST) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            first = stream.read(header)
            sizes = _sizes(first, dimensions, path)
            expected = math.prod(sizes)
            if expected > _LARGEST:
                raise InputError(
                    f"announces {size_text(expected)} of values, more than {size_text(_LARGEST)}", where=path, hint=_FIX
                )
            # Read one byte more, to detect trailing data.
            values = stream.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"truncated or damaged: {one_line(error)}", where=path, hint=_FIX) from error
    shape = "x".join(map(str, sizes))
    if len(values) != expected:
        what = "truncated" if len(values) < expected else "has more bytes than its header announces"
        got = f", got {len(values):,}" if len(values) < expected else ""
        raise InputError(f"{what}: expected {expected:,} bytes for {shape} values{got}", where=path, hint=_FIX)
    if sha256 is not None:
        found = hashlib.sha256(first + values).hexdigest()
        if found != sha256:
            raise InputError(
                f"damaged, or not the published file: expected SHA-256 {sha256} when unpacked, got {found}",
                where=path,
                hint=f"{_FIX}, or pass data.verify=false for your own files in this format",
            )
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(sizes)


def _sizes(header: bytes, dimensions: int, path: Path) -> tuple[int, ...]:
    if len(header) < 4:
        raise InputError("truncated in its header", where=path, hint=_FIX)
    if header[:2] != b"\0\0":
        raise InputError("not an IDX file: expected two zero bytes at its start", where=path, hint=_FIX)
    if (header[2], header[3]) != (_BYTES, dimensions):
        raise InputError(
            f"expected an IDX file of bytes in {counted(dimensions, 'dimension')}, got type"
            f" 0x{header[2]:02x} in {header[3]}",
            where=path,
            hint="images have 3 dimensions and labels 1: were two files swapped?",
        )
    if len(header) < 4 + 4 * dimensions:
        raise InputError("truncated in its header", where=path, hint=_FIX)
    sizes = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in sizes:
        raise InputError(f"contains no values: its sizes are {'x'.join(map(str, sizes))}", where=path, hint=_FIX)
    return sizes
