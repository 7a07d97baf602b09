"""Look at all chunks of a folder before their rows are read: form, tasks, what is missing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pwmray.data.chunks import open_chunk, read_tasks
from pwmray.data.layouts import Layout
from pwmray.tasks import Task

EXPORT_LIST = "chunks.json"  # written by `pwmray data export`, whose chunks are as many as it says
_CHUNK_NAME = re.compile(r"chunk_(\d+)\.pt")

Progress = Callable[[str, int, int], None]  # what is going on, done, in all


class SurveyedChunk(NamedTuple):
    """One chunk and the task of each of its episodes."""

    path: Path
    num_bytes: int
    task_ids: np.ndarray  # [E] int64

    def num_episodes(self, task: Task) -> int:
        """Return how many episodes are of `task`."""
        return int((self.task_ids == task.index).sum())


class Survey(NamedTuple):
    """The chunks of a folder, in order, and the names of those that are not there."""

    layout: Layout
    chunks: list[SurveyedChunk]
    missing: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """Return the chunks' names and bytes, which tell them from others."""
        return {chunk.path.name: chunk.num_bytes for chunk in self.chunks}

    def num_episodes(self, task: Task, num_chunks: int | None = None) -> int:
        """Return how many episodes of `task` are in all or the first `num_chunks` chunks."""
        return sum(chunk.num_episodes(task) for chunk in self.chunks[:num_chunks])


def survey_chunks(folder: Path, trust: bool, progress: Progress) -> Survey:
    """Open every chunk in `folder` and read its tasks.

    Raises ValueError naming a folder without chunks, or a chunk that has another form than
    others, that cannot be read, or whose tasks cannot be.
    """
    paths = _find(folder)
    layout = open_chunk(paths[0], trust).layout
    chunks = []
    for number, path in enumerate(paths):
        progress("looking through the chunks", number, len(paths))
        chunk = open_chunk(path, trust)
        if chunk.layout != layout:
            raise ValueError(
                f"{path} is of {chunk.layout.name}, {paths[0].name} beside it of {layout.name}"
            )
        chunks.append(SurveyedChunk(path, path.stat().st_size, read_tasks(chunk)))
    expected = _expected_names(folder, layout)
    extra = [path.name for path in paths if path.name not in expected]
    if extra:
        raise ValueError(f"{folder / extra[0]} is none of the {len(expected)} of {layout.name}")
    missing = [name for name in expected if name not in {path.name for path in paths}]
    return Survey(layout, chunks, missing)


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    numbered = [(_CHUNK_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    paths = sorted((int(match[1]), path) for match, path in numbered if match)
    if not paths:
        raise ValueError(f"{folder} has no chunk_0.pt, chunk_1.pt, ...")
    return [path for _, path in paths]


def _expected_names(folder: Path, layout: Layout) -> list[str]:
    path = folder / EXPORT_LIST
    if not path.exists():
        return [f"chunk_{number}.pt" for number in range(layout.num_chunks)]
    try:
        return [str(name) for name in json.loads(path.read_text())["chunks"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged; it lists the chunks of an export") from error
