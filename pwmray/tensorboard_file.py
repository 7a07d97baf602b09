"""A curve as a TensorBoard event file in the folder of what made it.

The file is a function of the curve, written without TensorBoard's own writer, which loads torch
and can only append. Its format: records of a length, a checksum, an Event as a protocol buffer and
another checksum (tensorflow/core/lib/io/record_writer.h and core/util/event.proto).
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

EVENT_FILES = "events.out.tfevents.*"
_VERSION = b"brain.Event:2"
_SESSION_START = 1  # SessionLog.START
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class _Encoded(NamedTuple):
    """The rows of a curve and what they are encoded."""

    axis: str
    started: float
    rows: list[Mapping[str, Any]]
    content: bytes


# Of the curve written last: of the next only the new rows are encoded. In Python that takes time,
# and of a long curve, all of it for each row, as long as its training.
_last = _Encoded("", 0.0, [], b"")


def write_events(
    folder: Path, rows: Sequence[Mapping[str, Any]], axis: str, started: float
) -> None:
    """Bring the folder's event file up to its curve.

    `axis` names the column that counts steps; `started` is when the first process took the work
    up, seconds since 1970, and a row's wall time is that much later than its training seconds say,
    without what it waited. Rows that were added are appended, so that a TensorBoard that is
    looking sees them; a curve of which rows were taken back gets a file of a new name, and
    the old one is emptied. A number that is missing or not finite is left out. Raises OSError on
    a full disk; the next call completes what it left.
    """
    files = sorted(folder.glob(EVENT_FILES))
    content = _encode(rows, axis, started)
    before = files[-1].read_bytes() if files else b""
    if files and content.startswith(before):
        path = files[-1]
    else:
        path = folder / f"events.out.tfevents.{int(started)}.{_next_number(files):03d}"
        before = b""
    if len(before) < len(content):
        with open(path, "ab") as file:
            file.write(content[len(before) :])
            file.flush()
            os.fsync(file.fileno())
    if files and files[-1] != path:
        # Not deleted yet: the slower of TensorBoard's readers, not done with it, would look for
        # it for ever and never come to the new one.
        os.truncate(files[-1], 0)
        for old in files[:-1]:
            old.unlink()


def _next_number(files: Sequence[Path]) -> int:
    numbers = [int(path.suffix[1:]) for path in files if path.suffix[1:].isdecimal()]
    return max(numbers, default=-1) + 1


def _encode(rows: Sequence[Mapping[str, Any]], axis: str, started: float) -> bytes:
    begun = _field(1, _FIXED64, started)
    # A session starts at step 0: who showed a file before this one forgets its steps.
    session = begun + _field(7, _BYTES, _field(1, _VARINT, _SESSION_START))
    global _last
    known = len(_last.rows)
    if (_last.axis, _last.started, _last.rows) != (axis, started, list(rows[:known])):
        known = 0
    head = _record(begun + _field(3, _BYTES, _VERSION)) + _record(session)
    new = b"".join(_encode_row(row, axis, started) for row in rows[known:])
    _last = _Encoded(axis, started, list(rows), (_last.content if known else head) + new)
    return _last.content


def _encode_row(row: Mapping[str, Any], axis: str, started: float) -> bytes:
    head = _field(1, _FIXED64, started + (row.get("seconds") or 0.0))
    values = b"".join(_field(1, _BYTES, value) for value in _values(row, axis))
    return _record(head + _field(2, _VARINT, row[axis]) + _field(5, _BYTES, values))


def _values(row: Mapping[str, Any], axis: str) -> Iterator[bytes]:
    """Yield each number of a row as a Summary.Value: its tag and its value."""
    for name, value in row.items():
        if name != axis and isinstance(value, int | float) and math.isfinite(value):
            yield _field(1, _BYTES, name.encode()) + _field(2, _FIXED32, value)


def _field(number: int, wire_type: int, value: Any) -> bytes:
    head = _varint(number << 3 | wire_type)
    if wire_type == _VARINT:
        return head + _varint(value)
    if wire_type == _BYTES:
        return head + _varint(len(value)) + value
    return head + struct.pack("<d" if wire_type == _FIXED64 else "<f", value)


def _varint(value: int) -> bytes:
    """Return a number, seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked_checksum(length) + data + _masked_checksum(data)


def _masked_checksum(data: bytes) -> bytes:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _TABLE[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    rotated = (checksum >> 15 | checksum << 17) + 0xA282EAD8
    return struct.pack("<I", rotated & 0xFFFFFFFF)


def _make_table() -> list[int]:
    """Return what each byte does to a CRC-32C, the polynomial of Castagnoli."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _make_table()
