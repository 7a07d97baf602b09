"""Read a W&B run's file back, to check it before it replaces an earlier one.

The format is LevelDB's log of records, in blocks of 32 KiB, each record a protocol buffer.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER = b":W&B\xe1\xbe\x00"  # name, number and version of the format
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # kinds of chunks that end a record; 2 and 3 are its first and middle ones


def is_complete(path: Path, num_rows: int) -> bool:
    """Tell whether a file holds a run, `num_rows` rows of history, and the end of the run."""
    kinds = Counter(record.WhichOneof("record_type") for record in read_records(path))
    return (kinds["run"], kinds["history"], kinds["exit"]) == (1, num_rows, 1)


def read_records(path: Path) -> Iterator[Any]:
    """Yield the records of a `.wandb` file as far as it is written; raise ValueError for others."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    if data and not data.startswith(_HEADER):
        raise ValueError(f"{path} is not a W&B run file")
    position, parts = len(_HEADER), []
    while position + _CHUNK.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK.size:  # too little for another chunk: the block is filled up
            position += left
            continue
        _, length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        if position + length > len(data):  # it is being written
            return
        parts.append(data[position : position + length])
        position += length
        if kind in (_FULL, _LAST):
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))  # type: ignore[attr-defined]
            parts.clear()
