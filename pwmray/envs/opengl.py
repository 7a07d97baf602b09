"""Pictures need OpenGL; where it is missing, say what to do about it."""

import contextlib
import os
from collections.abc import Iterator

_RENDERERS = ("egl", "glfw", "osmesa")  # what MUJOCO_GL may name


@contextlib.contextmanager
def explained(importing: bool = False) -> Iterator[None]:
    """Raise OSError, which says what to install, in place of what OpenGL's bindings raise.

    importing: leave an error as it is unless MUJOCO_GL names a renderer that had to be loaded.
    """
    chosen = os.environ.get("MUJOCO_GL")
    try:
        yield
    except Exception as error:  # of any kind: a missing library is an attribute of None
        if importing and chosen not in _RENDERERS:
            raise
        raise OSError(
            f"cannot draw with MUJOCO_GL{f'={chosen}' if chosen else ' unset'} ({error}). "
            "Start the program with MUJOCO_GL=egl; on Debian and Ubuntu that needs "
            "`apt install libegl1 libopengl0 libgl1-mesa-dri`. MUJOCO_GL=disable draws nothing."
        ) from error
