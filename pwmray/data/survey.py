"""Look through all chunks of a folder before any rows are read: form, tasks, what is missing."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pwmray.commands import Progress
from pwmray.data.chunks import open_chunk, read_tasks
from pwmray.data.layouts import Layout
from pwmray.records import take_digest
from pwmray.tasks import Task
from pwmray.wording import number_of

# `pwmray data export` writes it beside its chunks; it lists them, and who acted in their episodes.
EXPORT_LIST = "chunks.json"
UNKNOWN = "unknown"  # who acted in an export of an earlier version, which did not say
PUBLISHED = "td-mpc2"  # who acted in every published episode: TD-MPC2 while it learned
_CHUNK_NAME = re.compile(r"chunk_(\d+)\.pt")


class SurveyedChunk(NamedTuple):
    """One chunk, with the task of each of its episodes."""

    path: Path
    num_bytes: int
    digest: str  # of its content
    task_ids: np.ndarray  # [E] int64
    behaviours: np.ndarray  # [E] who acted

    def num_episodes(self, task: Task) -> int:
        """Return how many episodes are of `task`."""
        return int((self.task_ids == task.index).sum())


class Survey(NamedTuple):
    """The chunks of a folder, in order, and the names of those that are missing."""

    layout: Layout
    chunks: list[SurveyedChunk]
    missing: list[str]
    recipes: dict[str, dict]  # how an export's data was made, by task
    is_export: bool

    @property
    def sizes(self) -> dict[str, int]:
        """Return the chunks' names and bytes."""
        return {chunk.path.name: chunk.num_bytes for chunk in self.chunks}

    @property
    def digests(self) -> dict[str, str]:
        """Return the digests of the chunks' content by their names."""
        return {chunk.path.name: chunk.digest for chunk in self.chunks}

    def behaviours(self, task: Task) -> list[str]:
        """Return who acted in each episode of `task`."""
        found = [chunk.behaviours[chunk.task_ids == task.index] for chunk in self.chunks]
        return np.concatenate(found).tolist()

    def num_episodes(self, task: Task, num_chunks: int | None = None) -> int:
        """Return how many episodes of `task` are in all or the first `num_chunks` chunks."""
        return sum(chunk.num_episodes(task) for chunk in self.chunks[:num_chunks])


def survey_chunks(folder: Path, trust: bool, progress: Progress) -> Survey:
    """Open every chunk in `folder` and read its tasks.

    Raises ValueError naming a folder without chunks, or a chunk that cannot be read, has impossible
    tasks, is of another layout than the others, or is a copy of one of them.
    """
    paths = _find(folder)
    layout = open_chunk(paths[0], trust).layout
    export = _read_export(folder)
    chunks = []
    for number, path in enumerate(paths):
        progress("looking through the chunks", number, len(paths))
        chunk = open_chunk(path, trust)
        if chunk.layout != layout:
            raise ValueError(
                f"{path} is of {chunk.layout.name}, but {paths[0].name} beside it is of "
                f"{layout.name}"
            )
        task_ids = read_tasks(chunk)
        behaviours = _behaviours(folder, export, path.name, len(task_ids))
        size, digest = path.stat().st_size, take_digest(path)
        chunks.append(SurveyedChunk(path, size, digest, task_ids, behaviours))
    _check_distinct(chunks)
    published = [f"chunk_{number}.pt" for number in range(layout.num_chunks)]
    expected = export.chunks if export else published
    extra = [path.name for path in paths if path.name not in expected]
    if extra:
        raise ValueError(
            f"{folder / extra[0]} is not one of the {len(expected)} chunks of {layout.name}"
        )
    missing = [name for name in expected if name not in {path.name for path in paths}]
    recipes = export.recipes if export else {}
    return Survey(layout, chunks, missing, recipes, is_export=export is not None)


def _find(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    numbered = [(_CHUNK_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    paths = sorted((int(match[1]), path) for match, path in numbered if match)
    if not paths:
        raise ValueError(f"{folder} has no chunk_0.pt, chunk_1.pt, ...")
    return [path for _, path in paths]


class _Export(NamedTuple):
    """What an export says of itself."""

    chunks: list[str]
    behaviours: dict[str, list[str]]  # of each episode, by chunk; empty of an earlier version
    recipes: dict[str, dict]  # by task


def _read_export(folder: Path) -> _Export | None:
    path = folder / EXPORT_LIST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        behaviours = content.get("behaviours", {})
        return _Export(
            [str(name) for name in content["chunks"]],
            {name: [str(behaviour) for behaviour in behaviours[name]] for name in behaviours},
            {task: dict(recipe) for task, recipe in content.get("recipes", {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged; it lists the chunks of an export") from error


def _behaviours(folder: Path, export: _Export | None, name: str, num_episodes: int) -> np.ndarray:
    """Return who acted in each episode of a chunk."""
    if export is None or name not in export.behaviours:
        return np.full(num_episodes, UNKNOWN if export else PUBLISHED)
    found = export.behaviours[name]
    if len(found) != num_episodes:
        raise ValueError(
            f"{folder / EXPORT_LIST} names what acted in {number_of(len(found), 'episode')} of "
            f"{name}, which has {num_episodes}"
        )
    return np.array(found)


def _check_distinct(chunks: list[SurveyedChunk]) -> None:
    """Raise ValueError for two chunks with the same content: their episodes would count twice."""
    first: dict[str, SurveyedChunk] = {}
    for chunk in chunks:
        other = first.setdefault(chunk.digest, chunk)
        if other is not chunk:
            raise ValueError(
                f"{chunk.path} has the same content as {other.path.name} beside it; fetch it again"
            )
