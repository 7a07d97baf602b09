"""A video of one episode: an environment whose every picture goes into ffmpeg."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np

from pwmray.files import draft_path, replacing
from pwmray.room import free_bytes
from pwmray.system import NEEDED_TO_DRAW, RENDERER
from pwmray.tasks import EPISODE_STEPS
from pwmray.wording import first_line

Write = Callable[[np.ndarray], None]  # takes a picture


class Recorder:
    """One environment, as `evaluate` takes several, whose pictures are written as it steps."""

    num_envs = 1

    def __init__(self, environment: Any, write: Write):
        self._environment, self._write = environment, write

    def reset(self, *, seed: list[int]) -> tuple[np.ndarray, dict]:
        """Start the episode; return its observation [1, obs_dim]."""
        obs, info = self._environment.reset(seed=seed[0])
        self._draw()
        return obs[np.newaxis], info

    def step(self, actions: np.ndarray) -> tuple:
        """Apply the action [1, action_dim]."""
        obs, *outcome, info = self._environment.step(actions[0])
        self._draw()
        return obs[np.newaxis], *map(np.atleast_1d, outcome), info

    def _draw(self) -> None:
        self._write(self._environment.render())


def open_environment(task: str) -> Any:
    """Return an environment of the task that has drawn once.

    Raises ValueError with what to install where it cannot draw.
    """
    backend = os.environ.get("MUJOCO_GL")
    if backend != RENDERER:
        raise ValueError(
            f"no video: MUJOCO_GL is {backend!r}; leave it unset or set it to {RENDERER}, which "
            f"needs, on {NEEDED_TO_DRAW}"
        )
    try:
        from pwmray.envs.environment import TaskEnv  # dm_control looks for the driver on import

        environment = TaskEnv(task, render_mode="rgb_array")
        environment.reset(seed=0)
        environment.render()
    except Exception as error:  # each driver fails in its own way
        reason = first_line(error)
        raise ValueError(
            f"no video: there is no working GL driver ({reason[:100]}); on {NEEDED_TO_DRAW}"
        ) from error
    return environment


def check_ffmpeg(path: Path, environment: Any) -> None:
    """Raise ValueError unless ffmpeg makes a video of one picture where `path` is to be."""
    draft = draft_path(path)
    try:
        with _encoding(path, draft, environment) as write:
            write(environment.render())
        _check_length(path, draft, 1)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def recording(path: Path, environment: Any) -> Iterator[Recorder]:
    """Yield the environment for one episode, which becomes the file at `path` when it is whole.

    Raises ValueError where ffmpeg fails, also for want of room.
    """
    with replacing(path) as draft:
        with _encoding(path, draft, environment) as write:
            yield Recorder(environment, write)
        _check_length(path, draft, EPISODE_STEPS + 1)


@contextlib.contextmanager
def _encoding(path: Path, draft: Path, environment: Any) -> Iterator[Write]:
    """Yield what takes the pictures of a video in `draft`, which is to be at `path`."""
    size = environment.render().shape[1::-1]
    with _failures_in_one_line(path):
        writer = imageio_ffmpeg.write_frames(
            str(draft),
            size,
            fps=environment.metadata["render_fps"],
            ffmpeg_log_level="quiet",
            output_params=["-f", "mp4"],  # the draft's name does not say so
        )
        writer.send(None)

    def write(picture: np.ndarray) -> None:
        with _failures_in_one_line(path):
            writer.send(np.ascontiguousarray(picture))

    try:
        yield write
    finally:
        writer.close()


def _check_length(path: Path, draft: Path, expected: int) -> None:
    with _failures_in_one_line(path):
        num_frames, _ = imageio_ffmpeg.count_frames_and_secs(str(draft))
    if num_frames != expected:
        raise ValueError(f"{path} not written: ffmpeg took {num_frames} pictures")


@contextlib.contextmanager
def _failures_in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # imageio fails in other ways wherever ffmpeg does
        free = free_bytes(path.parent) / 1e6
        program = os.environ.get("IMAGEIO_FFMPEG_EXE", "ffmpeg")
        reason = first_line(error)
        raise ValueError(
            f"{path} not written: {program} failed ({reason[:100]}); {free:.0f} MB are free there"
        ) from error


def check_place(path: Path, is_forced: bool) -> None:
    """Raise ValueError unless a video may be written to `path`."""
    if path.suffix != ".mp4":
        raise ValueError(f"the video {path} must be called something.mp4")
    if path.exists() and not path.is_file():
        raise ValueError(f"cannot write the video {path}: what is there is no file")
    if path.exists() and not is_forced:
        raise ValueError(f"{path} exists; pass --force to replace it")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write the video {path}: see the folder {path.parent}")
