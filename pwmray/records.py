"""The records of a file of torch: it is a zip file, whose directory holds the CRC-32 of each.

They tell a file from another of its name and size without a look at its data, and a damaged one
from what was written; torch itself does not look at them.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

_BLOCK_BYTES = 2**20
# Of a record's own header: its length without name and extra field, and where their lengths stand.
_HEADER_BYTES, _LENGTHS = 30, slice(26, 30)


class Record(NamedTuple):
    """One record, as the directory describes it."""

    name: str
    num_bytes: int
    crc: int
    header: int  # where its own header begins


def list_records(path: Path) -> list[Record]:
    """Return the records with a checksum; raise ValueError for a damaged directory."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable file of torch: {error}") from error
    # torch can be told to compute no checksums; it then writes 0.
    return [
        Record(record.filename, record.file_size, record.CRC, record.header_offset)
        for record in found
        if record.CRC and record.compress_type == zipfile.ZIP_STORED
    ]


def take_digest(path: Path) -> str:
    """Return 16 hex digits that stand for a file's content; nothing of its data is read.

    Without checksums they stand for its name, size and time.
    """
    # The first part of a record's name is what the file was called when it was written.
    records = [(r.name.partition("/")[2], r.num_bytes, r.crc) for r in list_records(path)]
    status = path.stat()
    content = sorted(records) or [path.name, status.st_size, status.st_mtime_ns]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def check_records(path: Path) -> None:
    """Read a file and raise ValueError naming the first record that is not what was written."""
    with RecordCheck(path) as check:
        check.advance(1, 1)


class RecordCheck:
    """Compare a file's records with their checksums, piece by piece while others read it."""

    def __init__(self, path: Path):
        self._path = path
        self._records = list_records(path)
        self._file = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        self._starts = [self._find_content(record) for record in self._records]
        self._crcs = [0] * len(self._records)
        self._done = [0] * len(self._records)  # bytes
        self._block = memoryview(bytearray(_BLOCK_BYTES))

    def __enter__(self) -> "RecordCheck":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def advance(self, done: int, total: int) -> None:
        """Go on to the share `done` / `total` of every record, what has just been read of them.

        Raises ValueError naming the file and the record that is not what was written.
        """
        for number, record in enumerate(self._records):
            self._read_to(number, record.num_bytes * done // total)
            if done == total and self._crcs[number] != record.crc:
                raise ValueError(
                    f"{self._path} is damaged: its record {record.name} does not match its "
                    "checksum; fetch the file again"
                )

    def _read_to(self, number: int, stop: int) -> None:
        self._file.seek(self._starts[number] + self._done[number])
        while left := stop - self._done[number]:
            num_bytes = self._file.readinto(self._block[:left])
            if not num_bytes:  # cut meanwhile: the checksum will not match
                return
            self._crcs[number] = zlib.crc32(self._block[:num_bytes], self._crcs[number])
            self._done[number] += num_bytes

    def _find_content(self, record: Record) -> int:
        self._file.seek(record.header)
        lengths = self._file.read(_HEADER_BYTES)[_LENGTHS]
        return (
            record.header
            + _HEADER_BYTES
            + sum(int.from_bytes(lengths[start : start + 2], "little") for start in (0, 2))
        )
