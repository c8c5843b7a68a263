"""Faults: damaged copies of a file, one per seed, for campaigns.

A copy always differs from the file. The same content and seed give the same copy, so that a failed case can be repeated
from its seed.
"""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from collections.abc import Callable

__all__ = ["archive_faults", "faults"]

_Fault = Callable[[bytes, random.Random], bytes]


def faults(content: bytes, seed: int) -> tuple[str, bytes]:
    """Return the kind of a random fault and the damaged copy of `content`, which may be any file, even an empty one."""
    return _one_of(_ANY, content, seed)


def archive_faults(content: bytes, seed: int) -> tuple[str, bytes]:
    """Return the kind of a random fault and the damaged copy of a zip archive, half of them with valid checksums."""
    return _one_of(_ARCHIVE, content, seed)


def _one_of(kinds: dict[str, _Fault], content: bytes, seed: int) -> tuple[str, bytes]:
    generator = random.Random(seed)
    kind = generator.choice(list(kinds)) if content else "junk after"
    while True:
        # Zeros over zeros change nothing, so draw another place.
        damaged = {**_ANY, **kinds}[kind](content, generator)
        if damaged != content:
            return kind, damaged


def _range(content: bytes, generator: random.Random) -> tuple[int, int]:
    """Return the bounds of a range of the file, short and long ranges with equal probability."""
    start = generator.randrange(len(content))
    longest = len(content) - start
    return start, start + min(longest, 2 ** generator.randrange(longest.bit_length()))


def _flip_bit(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]


def _flip_bytes(content: bytes, generator: random.Random) -> bytes:
    damaged = bytearray(content)
    for place in generator.choices(range(len(content)), k=50):
        damaged[place] ^= 0xFF
    return bytes(damaged)


def _zero(content: bytes, generator: random.Random) -> bytes:
    start, end = _range(content, generator)
    return content[:start] + bytes(end - start) + content[end:]


def _randomize(content: bytes, generator: random.Random) -> bytes:
    start, end = _range(content, generator)
    return content[:start] + generator.randbytes(end - start) + content[end:]


def _truncate(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _cut_out(content: bytes, generator: random.Random) -> bytes:
    start, end = _range(content, generator)
    return content[:start] + content[end:]


def _double(content: bytes, generator: random.Random) -> bytes:
    start, end = _range(content, generator)
    return content[:end] + content[start:]


def _swap(content: bytes, generator: random.Random) -> bytes:
    """Swap two ranges of equal length."""
    if len(content) < 2:
        return _flip_bit(content, generator)
    length = 2 ** generator.randrange((len(content) // 2).bit_length())
    first = generator.randrange(len(content) - 2 * length + 1)
    second = generator.randrange(first + length, len(content) - length + 1)
    middle = content[first + length : second]
    return b"".join(
        (
            content[:first],
            content[second : second + length],
            middle,
            content[first : first + length],
            content[second + length :],
        )
    )


def _junk_before(content: bytes, generator: random.Random) -> bytes:
    return generator.randbytes(generator.randint(1, 100)) + content


def _junk_after(content: bytes, generator: random.Random) -> bytes:
    return content + generator.randbytes(generator.randint(1, 100))


_ANY: dict[str, _Fault] = {
    "one bit flipped": _flip_bit,
    "50 bytes flipped": _flip_bytes,
    "range zeroed": _zero,
    "range randomized": _randomize,
    "truncated": _truncate,
    "range cut out": _cut_out,
    "range doubled": _double,
    "ranges swapped": _swap,
    "junk before": _junk_before,
    "junk after": _junk_after,
}


def _members(content: bytes) -> tuple[list[tuple[zipfile.ZipInfo, bytes]], bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry, archive.read(entry)) for entry in archive.infolist()], archive.comment


def _rewritten(members: list[tuple[str, bytes]], comment: bytes) -> bytes:
    """Return a well-formed archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _change_member(content: bytes, generator: random.Random) -> bytes:
    members, comment = _members(content)
    chosen = generator.choice([index for index, (_, data) in enumerate(members) if data])
    return _rewritten(
        [
            (entry.filename, _ANY["one bit flipped"](data, generator) if index == chosen else data)
            for index, (entry, data) in enumerate(members)
        ],
        comment,
    )


def _swap_members(content: bytes, generator: random.Random) -> bytes:
    """Exchange the content of two members, of equal size if possible, and write valid checksums.

    If no two members differ, change one.
    """
    members, comment = _members(content)
    pairs = [
        (a, b) for a, (_, first) in enumerate(members) for b, (_, second) in enumerate(members[:a]) if first != second
    ]
    if not pairs:
        return _change_member(content, generator)
    equal = [(a, b) for a, b in pairs if len(members[a][1]) == len(members[b][1])]
    a, b = generator.choice(equal or pairs)
    data = [data for _, data in members]
    data[a], data[b] = data[b], data[a]
    return _rewritten([(entry.filename, part) for (entry, _), part in zip(members, data, strict=True)], comment)


def _drop_member(content: bytes, generator: random.Random) -> bytes:
    members, comment = _members(content)
    del members[generator.randrange(len(members))]
    return _rewritten([(entry.filename, data) for entry, data in members], comment)


def _rename_member(content: bytes, generator: random.Random) -> bytes:
    members, comment = _members(content)
    chosen = generator.randrange(len(members))
    return _rewritten(
        [
            (entry.filename + "x" if index == chosen else entry.filename, data)
            for index, (entry, data) in enumerate(members)
        ],
        comment,
    )


def _fit_checksum(content: bytes, generator: random.Random) -> bytes:
    """Flip a bit of a member in place and update its checksum everywhere."""
    members, _ = _members(content)
    entry, data = generator.choice([(entry, data) for entry, data in members if data])
    damaged = _flip_bit(data, generator)
    at = content.index(data, entry.header_offset)
    changed = content[:at] + damaged + content[at + len(data) :]
    return changed.replace(zlib.crc32(data).to_bytes(4, "little"), zlib.crc32(damaged).to_bytes(4, "little"))


def _swap_in_place(content: bytes, generator: random.Random) -> bytes:
    """Exchange the bytes of two members of equal size in place, keeping their old checksums."""
    members, _ = _members(content)
    pairs = [(a, b) for a in members for b in members if len(a[1]) == len(b[1]) and a[1] < b[1] and len(a[1]) > 8]
    if not pairs:
        return _flip_bit(content, generator)
    (first, one), (second, two) = generator.choice(pairs)
    at, other = content.index(one, first.header_offset), content.index(two, second.header_offset)
    damaged = bytearray(content)
    damaged[at : at + len(one)], damaged[other : other + len(two)] = two, one
    return bytes(damaged)


def _edit_header(content: bytes, generator: random.Random) -> bytes:
    """Flip a bit of a member's local header."""
    at = generator.choice(_members(content)[0])[0].header_offset
    return content[:at] + _flip_bit(content[at : at + 30], generator) + content[at + 30 :]


def _edit_directory(content: bytes, generator: random.Random) -> bytes:
    """Flip a bit of the central directory or of the bytes after it."""
    at = content.index(b"PK\x01\x02")
    return content[:at] + _flip_bit(content[at:], generator)


_ARCHIVE: dict[str, _Fault] = {
    "member changed, valid checksum": _change_member,
    "member changed in place, valid checksum": _fit_checksum,
    "members swapped, valid checksums": _swap_members,
    "members swapped in place": _swap_in_place,
    "member dropped": _drop_member,
    "member renamed": _rename_member,
    "header of a member edited": _edit_header,
    "directory of the archive edited": _edit_directory,
}
