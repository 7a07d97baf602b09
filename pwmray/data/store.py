"""One task's episodes as one memory-mapped Arrow file: the only place that knows its format.

One record batch with the columns `obs` and `action` (lists of the task's own sizes, unpadded) and
`reward`, all little-endian float32. Row t of an episode holds obs_t and the action and reward that
LED to it; the first row's action and reward are NaN. Everything else is in the schema's metadata.
"""

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pwmray.data.angles import wrap_observations
from pwmray.data.layouts import COLLECTED
from pwmray.files import outlasting_stale, replacing
from pwmray.formats import explain_format
from pwmray.tasks import TASKS, find_task
from pwmray.wording import as_typed

FORMAT = "pwmray-episodes-1"
VERIFIED_BYTES = 64 * 2**20  # a file up to this size is verified when it is opened
CONSTANT_DEVIATION = 1e-6  # an observation that deviates less counts as constant
_CHUNK_ROWS = 2**16  # that are in memory at a time, when all rows are read
_NO_FINGERPRINT = 16 * "-"  # stands in a draft's place for it


class BrokenDataError(ValueError):
    """A data file that cannot be used; most must be made again."""


@dataclass(frozen=True, eq=False)
class Store:
    """An open file of R rows in E episodes; the arrays are read-only views of it."""

    path: Path
    task: str
    obs: np.ndarray  # [R, obs_dim] float32
    action: np.ndarray  # [R, action_dim] float32, NaN in the first row of an episode
    reward: np.ndarray  # [R] float32, NaN in the first row of an episode
    episode_lengths: np.ndarray  # [E] rows an episode, int64
    episode_starts: np.ndarray  # [E] first row of an episode, int64
    behaviours: tuple[str, ...]  # [E] who acted
    recipe: dict  # how the data was made
    fingerprint: str  # 16 hex digits over all the content
    remake: str  # the command that makes the file again, for error messages

    @property
    def num_episodes(self) -> int:
        """Return E."""
        return len(self.episode_lengths)

    @property
    def num_rows(self) -> int:
        """Return R."""
        return len(self.reward)

    @property
    def returns(self) -> np.ndarray:
        """Return the summed reward of each episode, [E] float64, in [0, 1000] for MT30."""
        rewards = np.nan_to_num(self.reward, nan=0.0).astype(np.float64)
        return np.add.reduceat(rewards, self.episode_starts)

    def verify(self) -> None:
        """Read everything; raise BrokenDataError unless it matches the fingerprint."""
        about = _about(self.task, self.episode_lengths, self.behaviours, self.recipe)
        found = _fingerprint(about, self.obs, self.action, self.reward)
        if found != self.fingerprint:
            raise _broken(self.path, "its content does not match its fingerprint", self.remake)


def write_store(
    path: Path,
    task: str,
    obs: np.ndarray,
    action: np.ndarray,
    reward: np.ndarray,
    episode_lengths: Iterable[int],
    behaviours: Iterable[str],
    recipe: dict,
) -> str:
    """Replace the file at `path` by R rows; return the fingerprint of the content.

    `obs` is [R, obs_dim], `action` [R, action_dim], `reward` [R], all float32 and contiguous;
    `recipe` is plain data for JSON. Raises ValueError for a value that is not finite, unless it is
    an action or reward in the first row of an episode.
    """
    about = _about(task, episode_lengths, behaviours, recipe)
    _check_rows(path, about, obs, action, reward)
    fingerprint = _fingerprint(about, obs, action, reward)
    batch = _batch(about, fingerprint, obs, action, reward)
    with (
        replacing(path) as draft,
        open(draft, "wb") as sink,  # Arrow's own does not say why a file cannot be closed
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return fingerprint


class StoreDraft:
    """A file whose rows come in pieces, in any order: for data that is too large for memory.

    Its size is known from the start, so each row is written to its final place, and writing it
    again changes nothing. Until `seal` the file has no fingerprint, and `open_store` refuses it.
    """

    def __init__(
        self,
        path: Path,
        task: str,
        episode_lengths: Iterable[int],
        behaviours: Iterable[str],
        recipe: dict,
    ):
        self.path = path
        self._about = _about(task, episode_lengths, behaviours, recipe)

    def reserve(self) -> None:
        """Create the file at its full size, without rows."""
        self.path.write_bytes(b"")
        self._write_frame(_NO_FINGERPRINT)

    def check(self) -> None:
        """Raise BrokenDataError unless the file is there, whole, and of these episodes."""
        store = _open(self.path, remake="")
        found = _about(store.task, store.episode_lengths, store.behaviours, store.recipe)
        if found != self._about:
            raise _broken(self.path, "it is of other episodes", remake="")

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[int, Sequence[np.ndarray]], None]]:
        """Yield a function of a first row and (obs, action, reward) that writes them; then sync."""
        places = self._places()
        with open(self.path, "r+b") as file:

            def write(first_row: int, columns: Sequence[np.ndarray]) -> None:
                for (offset, row_bytes), rows in zip(places, columns, strict=True):
                    file.seek(offset + first_row * row_bytes)
                    file.write(rows.data)

            yield write
            file.flush()
            os.fsync(file.fileno())

    def seal(self) -> str:
        """Give the file its fingerprint and return that; the caller knows that rows are finite."""
        store = _map(self.path, remake="")
        fingerprint = _fingerprint(self._about, store.obs, store.action, store.reward)
        self._write_frame(fingerprint)
        return fingerprint

    def _write_frame(self, fingerprint: str) -> None:
        """Let Arrow write everything but the rows, over what is there."""
        task, num_rows = find_task(self._about["task"]), sum(self._about["episode_lengths"])
        shapes = ((num_rows, task.obs_dim), (num_rows, task.action_dim), (num_rows,))
        # Nobody reads these zeros, so they take no memory.
        batch = _batch(self._about, fingerprint, *(np.zeros(shape, np.float32) for shape in shapes))
        with open(self.path, "r+b") as file:
            sink = pa.PythonFile(_PassingOverRows(file), "w")
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())

    def _places(self) -> list[tuple[int, int]]:
        """Return where in the file each column begins, and the bytes of one of its rows."""
        with pa.memory_map(str(self.path)) as source:
            content = source.read_buffer()
            batch = pa.ipc.open_file(content).get_batch(0)
            buffers = [column.buffers()[-1] for column in batch.columns]
            return [(b.address - content.address, b.size // batch.num_rows) for b in buffers]


class _PassingOverRows:
    """A file for Arrow to write to that takes Arrow's own bytes and skips those of the columns."""

    closed = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self.tell, self.flush = file.tell, file.flush

    def write(self, content: bytes | pa.Buffer) -> int:
        if isinstance(content, bytes):
            return self._file.write(content)
        self._file.seek(content.size, os.SEEK_CUR)
        return content.size


def open_store(path: Path, remake: str = "", task: str = "") -> Store:
    """Map the file at `path`, and verify it if it is small.

    A large file has only its format and its counts checked, which takes no time and notices every
    file that was cut or grew; `Store.verify` reads it all.

    Raises BrokenDataError naming the file, its fault and the command `remake`, by default the one
    that the file's name suggests; also if the file is of another task than `task`.
    """
    path = Path(path)
    remake = remake or _suggest_command(path)
    store = _open(path, remake)
    if store.fingerprint == _NO_FINGERPRINT:
        raise _broken(path, "it was never finished", remake)
    if task and store.task != task:
        raise _broken(path, f"it is of {store.task}, not of {task}", remake)
    if path.stat().st_size <= VERIFIED_BYTES:
        store.verify()
    return store


def read_fingerprint(path: Path) -> str:
    """Return the fingerprint written in a file, unchecked, a draft's too; raise as `open_store`."""
    return _open(path, remake="").fingerprint


@outlasting_stale
def _open(path: Path, remake: str) -> Store:
    """Map a file, finished or not, and check its form."""
    try:
        store = _map(path, remake)
    except FileNotFoundError:
        why = f"there is no data file {path} on {os.uname().nodename}"  # other nodes may see it
        raise BrokenDataError(_joined(why, remake)) from None
    except BrokenDataError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if getattr(error, "errno", None) is not None:  # the storage failed, not Arrow: the file
            raise  # may be whole
        raise _broken(path, f"it is not a complete Arrow file ({error})", remake) from error
    return store


def observation_statistics(
    store: Store, wrap_angles: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the observations, each [obs_dim] float32.

    A constant entry has the deviation 1, so that dividing by it is safe.
    """
    mean, variance = observation_moments(store, wrap_angles)
    std = np.sqrt(variance)
    std[std < CONSTANT_DEVIATION] = 1.0
    return mean.astype(np.float32), std.astype(np.float32)


def observation_moments(store: Store, wrap_angles: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the observations, each [obs_dim] float64."""

    def parts() -> Iterator[np.ndarray]:
        for part in chunks(store.num_rows):
            obs = store.obs[part]
            yield wrap_observations(obs, find_task(store.task)) if wrap_angles else obs

    nothing = np.zeros(store.obs.shape[1])
    mean = sum((obs.sum(axis=0, dtype=np.float64) for obs in parts()), nothing) / store.num_rows
    squares = sum((np.square(obs - mean).sum(axis=0) for obs in parts()), nothing)
    return mean, squares / store.num_rows


def find_not_finite(
    obs: np.ndarray, action: np.ndarray, reward: np.ndarray, episode_starts: np.ndarray
) -> int | None:
    """Return the first row with a value that is not finite; the NaNs of first rows do not count."""
    is_first = np.zeros(len(obs), bool)
    is_first[episode_starts] = True
    for part in chunks(len(obs)):
        finite_steps = np.isfinite(reward[part]) & np.isfinite(action[part]).all(axis=1)
        bad = ~np.isfinite(obs[part]).all(axis=1) | ~(finite_steps | is_first[part])
        if bad.any():
            return part.start + int(bad.argmax())
    return None


def chunks(num_rows: int) -> Iterator[slice]:
    """Yield slices of the rows that are small enough for any memory."""
    for first in range(0, num_rows, _CHUNK_ROWS):
        yield slice(first, min(first + _CHUNK_ROWS, num_rows))


def _map(path: Path, remake: str) -> Store:
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        metadata = reader.schema.metadata or {}
        found = metadata.get(b"format", b"none").decode()
        if found != FORMAT:
            reason = explain_format(found, FORMAT, _remedy(remake))
            raise BrokenDataError(f"the data file {path} cannot be read: {reason}")
        if reader.num_record_batches != 1:
            fault = f"it has {reader.num_record_batches} record batches, not 1"
            raise _broken(path, fault, remake)
        batch = reader.get_batch(0)
    about = json.loads(metadata[b"about"])
    lengths = np.array(about["episode_lengths"], np.int64)
    store = Store(
        path=path,
        task=about["task"],
        obs=_as_rows(batch.column("obs")),
        action=_as_rows(batch.column("action")),
        reward=batch.column("reward").to_numpy(),
        episode_lengths=lengths,
        episode_starts=np.cumsum(lengths) - lengths,
        behaviours=tuple(about["behaviours"]),
        recipe=about["recipe"],
        fingerprint=metadata[b"fingerprint"].decode(),
        remake=remake,
    )
    if not len(store.obs) == len(store.action) == len(store.reward) == lengths.sum():
        raise _broken(path, "its rows and its episodes do not add up", remake)
    _check_sizes(store)
    return store


def _check_sizes(store: Store) -> None:
    """Raise BrokenDataError unless the columns are as wide as the task's."""
    if store.task not in TASKS:
        raise _broken(store.path, f"it is of {store.task!r}, which is no task", store.remake)
    task, found = find_task(store.task), (store.obs.shape[1], store.action.shape[1])
    if found != (task.obs_dim, task.action_dim):
        fault = f"its rows have {found[0]} observations and {found[1]} actions"
        ours = f"{task.name}'s have {task.obs_dim} and {task.action_dim}"
        raise _broken(store.path, f"{fault}, {ours}", store.remake)


def _about(task: str, lengths: Iterable[int], behaviours: Iterable[str], recipe: dict) -> dict:
    return {
        "task": task,
        "episode_lengths": [int(length) for length in lengths],
        "behaviours": list(behaviours),
        "recipe": recipe,
    }


def _check_rows(
    path: Path, about: dict, obs: np.ndarray, action: np.ndarray, reward: np.ndarray
) -> None:
    lengths = np.array(about["episode_lengths"], np.int64)
    assert lengths.min() > 0, "an episode has rows"
    assert len(obs) == len(action) == len(reward) == lengths.sum(), "rows and episodes differ"
    assert len(about["behaviours"]) == len(lengths), "one behaviour an episode"
    row = find_not_finite(obs, action, reward, np.cumsum(lengths) - lengths)
    if row is not None:
        raise ValueError(f"{path} not written: row {row} has values not finite")


def _fingerprint(about: dict, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, about], sort_keys=True).encode())
    for array in arrays:
        digest.update(str(array.shape).encode())
        for part in chunks(len(array)):
            digest.update(array[part].data)
    return digest.hexdigest()[:16]


def _batch(
    about: dict, fingerprint: str, obs: np.ndarray, action: np.ndarray, reward: np.ndarray
) -> pa.RecordBatch:
    columns = {"obs": _as_lists(obs), "action": _as_lists(action), "reward": pa.array(reward)}
    return pa.record_batch(columns).replace_schema_metadata(
        {"format": FORMAT, "about": json.dumps(about), "fingerprint": fingerprint}
    )


def _as_lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _as_rows(column: pa.Array) -> np.ndarray:
    return column.values.to_numpy().reshape(len(column), column.type.list_size)


def _broken(path: Path, fault: str, remake: str) -> BrokenDataError:
    return BrokenDataError(_joined(f"the data file {path} is broken: {fault}", remake))


def _joined(fault: str, remake: str) -> str:
    return f"{fault}; {_remedy(remake)}" if remake else fault


def _remedy(remake: str) -> str:
    return f"make it again with: {remake}" if remake else ""


def _suggest_command(path: Path) -> str:
    """Return the command that probably made a file, by its name: it may be too broken to say."""
    named = [name for name in TASKS if path.name.startswith(f"{name}-")]
    if not named or path.parent.name != COLLECTED:
        return ""
    folder = shlex.quote(str(path.parent.parent))
    command = f"pwmray data collect {max(named, key=len)} --data {folder} --rebuild"
    return f"{as_typed(command)} (with the options it was made with)"
