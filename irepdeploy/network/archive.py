"""Torch archives, sealed with a digest when they are written and checked to the last byte when they are read.

``torch.load`` checks neither the checksums of an archive nor the bytes between its members. `pack` writes a SHA-256 of
the whole file into the comment of the archive, which other programs that read zip or torch files ignore, and `unpack`
verifies it before torch reads the file. Files of earlier versions have no digest; for them the checksum of every member
is verified.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from irepdeploy.errors import CheckpointError, InputError, first_line
from irepdeploy.network.plain_globals import PLAIN_GLOBALS

__all__ = ["check_archive", "pack", "unpack", "weights_only"]

# This entry of the content marks a file as sealed, so that one that lost its digest is not taken for an old file.
_KEY, _PLACE = "digest", "sha256, in the comment of this archive"
_COMMENT = b"irepdeploy sha256 "
_HEX = 2 * hashlib.sha256().digest_size
_PIECE = 1 << 23
_HEADER = struct.Struct("<4s5H3I2H")
# Flags of a member: a descriptor with its checksum and sizes follows the content; its name is in UTF-8.
_DESCRIBED, _UTF8 = 0x8, 0x800
# Lengths of a descriptor and of the end of an archive, without and with sizes of 64 bits.
_DESCRIPTORS = (16, 24)
_ENDS = (22, 98)


def pack(content: Mapping[str, Any]) -> bytes:
    """Return `content`, which consists of plain containers and tensors, as a torch archive with a digest.

    Raises:
        InputError: `content` contains an object that `unpack` would refuse to load.
    """
    buffer = io.BytesIO()
    torch.save({**content, _KEY: _PLACE}, buffer)
    buffer.seek(0)
    try:
        refused = get_unsafe_globals_in_checkpoint(buffer)
    except UnpicklingError as error:  # such as an integer of 700 digits
        refused = [first_line(error)]
    if refused:
        raise InputError(f"cannot be saved: {refused[0]}", hint="save plain containers, numbers, text and tensors")
    # The last field of an archive is the length of its comment.
    buffer.seek(-2, io.SEEK_END)
    buffer.write(struct.pack("<H", len(_COMMENT) + _HEX) + _COMMENT)
    # The view is passed directly as an argument, because the buffer cannot grow while a view exists.
    buffer.write(_digest(buffer.getbuffer()))
    return buffer.getvalue()


def unpack(raw: bytes, *, where: object, hint: str) -> Any:
    """Return the content of a torch archive, without running code of the file.

    Args:
        raw: Bytes of the file.
        where: The file, for error messages.
        hint: Fix to suggest for a damaged file.

    Raises:
        CheckpointError: The archive is damaged, was changed after it was written, or contains code.
    """
    sealed = raw[-_HEX - len(_COMMENT) : -_HEX] == _COMMENT
    if not (sealed and _digest(memoryview(raw)[:-_HEX]) == raw[-_HEX:]):
        if b"/constants.pkl" in raw and b"/code/" in raw:
            raise CheckpointError(
                "a TorchScript program, which does not contain the class of the network",
                where=where,
                hint="use the original network: save(net.state_dict(), path) and --model "
                "package.module:factory; or write it with torch.onnx.export and give the .onnx file",
            )
        if b"/data.pkl" not in raw:
            raise CheckpointError("expected an archive written by torch, got another zip archive", where=where)
        reason = _damage(raw, len(_COMMENT) + _HEX if sealed else 0)
        if sealed and reason is None:
            reason = "it was changed after it was written"
        if reason is not None:
            raise CheckpointError(f"damaged: {reason}", where=where, hint=hint)
    try:
        content = _loaded(raw)
    except Exception as error:  # torch raises anything on a hostile file
        text = str(error)
        if "Weights only load failed" in text or ("nsupported" in text and "global" in text.lower()):
            raise CheckpointError(
                "refused: the file contains code to run, not only weights",
                where=where,
                hint="load it where it was created, and save it with irepdeploy.save(net, path) or as a state_dict()",
            ) from None
        raise CheckpointError("damaged: the archive is truncated or was modified", where=where, hint=hint) from None
    if type(content) is dict and content.get(_KEY) == _PLACE:
        if not sealed:
            raise CheckpointError("damaged: its digest is missing", where=where, hint=hint)
        del content[_KEY]
    return content


def check_archive(raw: bytes, *, where: object, hint: str) -> None:
    """Raise CheckpointError if the checksum of a member is wrong, or some bytes belong to no member."""
    reason = _damage(raw, 0)
    if reason is not None:
        raise CheckpointError(f"damaged: {reason}", where=where, hint=hint)


@contextmanager
def weights_only() -> Iterator[None]:
    """Force torch to load only weights in the ``with`` block, even if a library asks for more."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _digest(content: memoryview) -> bytes:
    """Return the SHA-256 of the SHA-256s of pieces of `content`, which are computed on all cores."""
    pieces = [content[start : start + _PIECE] for start in range(0, len(content), _PIECE)]
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces)
        return hashlib.sha256(b"".join(digests)).hexdigest().encode()


def _damage(raw: bytes, comment: int) -> str | None:
    """Describe the damage of an archive with a comment of this length, or return None if its checksums are right."""
    try:
        damaged = _first_damaged(raw, comment)
    except _BadLayout as error:
        return str(error)
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError):
        return "the archive is truncated or was modified"
    return damaged and f"{_named(raw, damaged)} was changed after it was written"


class _BadLayout(ValueError):
    """The parts of an archive are inconsistent, or some bytes belong to none of them."""


class _Damaged(NamedTuple):
    """A member with a wrong checksum, and its actual checksum and size."""

    member: str
    crc: int
    size: int


def _first_damaged(raw: bytes, comment: int) -> _Damaged | None:
    """Check that the members fill an archive with a comment of this length, and return one with a wrong checksum."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries, directory = sorted(archive.infolist(), key=lambda entry: entry.header_offset), archive.start_dir
    names = [entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437") for entry in entries]
    if len(set(names)) < len(names):
        raise _BadLayout("two members of the archive have one name")
    end = directory + sum(
        46 + len(name) + len(entry.extra) + len(entry.comment) for entry, name in zip(entries, names, strict=True)
    )
    if len(raw) - comment - end not in _ENDS or raw[-22 - comment :][:4] != b"PK\x05\x06":
        raise _BadLayout("bytes lie between or behind the parts of the archive")
    place, damaged = 0, None
    for entry, name in zip(entries, names, strict=True):
        if entry.header_offset not in (place, *(place + length for length in _DESCRIPTORS)):
            raise _BadLayout("bytes lie between the members of the archive")
        start = _start_of_content(raw, entry, name)
        place = start + entry.file_size
        content = memoryview(raw)[start:place]
        crc = zlib.crc32(content)
        if damaged is None and (crc, len(content)) != (entry.CRC, entry.file_size):
            damaged = _Damaged(entry.filename, crc, len(content))
    if directory - place not in (0, *_DESCRIPTORS):
        raise _BadLayout("bytes lie between the members of the archive")
    return damaged


def _start_of_content(raw: bytes, entry: zipfile.ZipInfo, name: bytes) -> int:
    """Check the header of a member against the archive's directory, and return the offset of its content."""
    at = entry.header_offset
    signature, _, flags, method, _, _, crc, _, size, name_length, extra_length = _HEADER.unpack_from(raw, at)
    at += _HEADER.size
    same = (signature, flags, method, raw[at : at + name_length]) == (b"PK\x03\x04", entry.flag_bits, 0, name)
    if not flags & _DESCRIBED and size != 0xFFFFFFFF:
        same = same and (crc, size) == (entry.CRC, entry.file_size)
    # torch writes members uncompressed; a compressed one could expand to any size.
    if not same or entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise _BadLayout(f"the header of {entry.filename!r} does not agree with the archive's directory")
    return at + name_length + extra_length


def _loaded(raw: bytes) -> Any:
    with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN_GLOBALS):
        # torch warns about other archives, such as TorchScript, before it refuses them.
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _named(raw: bytes, damaged: _Damaged) -> str:
    """Return the name of the tensor in a damaged member, or the name of the member if there is none."""
    try:
        for name, tensor in _tensors(_loaded(raw)):
            storage = tensor.untyped_storage()
            if storage.nbytes() == damaged.size:
                content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()
                if zlib.crc32(content) == damaged.crc:
                    return name
    except Exception:  # torch raises anything on a damaged file
        pass
    return damaged.member


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}/{key}".lstrip("/"))
