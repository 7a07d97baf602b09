"""Read a W&B run's file back: what was written is looked at before it takes its place.

The format is LevelDB's log of records, in blocks of 32 KiB, each record a protocol buffer.
"""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_HEADER = b":W&B\xe1\xbe\x00"  # name, number and version of the format
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # kinds of chunks that end a record; 2 and 3 are its first and middle ones


class RunFile(NamedTuple):
    """What a file says of its run."""

    id: str
    project: str
    group: str
    name: str
    tags: list[str]
    config: dict[str, Any]
    is_resume: bool
    metrics: dict[str, str]  # by a metric's name or pattern: its x axis
    history: list[dict[str, Any]]
    summary: dict[str, Any]


def read_run_file(path: Path) -> RunFile:
    """Return what a `.wandb` file says; raise ValueError for one that cannot be read."""
    runs, history, summary, metrics = [], [], {}, {}
    for record in _records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.append(record.run)
        elif kind == "history":
            history.append(_values(record.history.item))
        elif kind == "summary":
            summary |= _values(record.summary.update)
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            metrics[name] = record.metric.step_metric
    if len(runs) != 1:
        raise ValueError(f"{path} holds {len(runs)} runs; it should hold one")
    run = runs[0]
    return RunFile(
        id=run.run_id,
        project=run.project,
        group=run.run_group,
        name=run.display_name,
        tags=list(run.tags),
        config=_values(run.config.update),
        is_resume=run.resume,
        metrics=metrics,
        history=history,
        summary=summary,
    )


def is_complete(path: Path, num_rows: int) -> bool:
    """Tell whether a file holds its run with so many rows of history, and the end of the run."""
    kinds = Counter(record.WhichOneof("record_type") for record in _records(path))
    return (kinds["run"], kinds["history"], kinds["exit"]) == (1, num_rows, 1)


def _values(items: Any) -> dict[str, Any]:
    """Return the items of a record by their names, those of nested ones joined by dots."""
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def _records(path: Path) -> Iterator[Any]:
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
