"""Pictures need OpenGL: if it is missing, an error says what to install."""

import contextlib
import os
from collections.abc import Iterator

from pwmray.system import NEEDED_TO_DRAW, RENDERER

_RENDERERS = ("egl", "glfw", "osmesa")  # what MUJOCO_GL may name


@contextlib.contextmanager
def explained(importing: bool = False) -> Iterator[None]:
    """Replace what OpenGL's bindings raise by an OSError that says what to install.

    While `importing`, an error is left as it is unless MUJOCO_GL names a renderer to be loaded.
    """
    chosen = os.environ.get("MUJOCO_GL")
    try:
        yield
    except Exception as error:  # of any kind: a missing library is an attribute of None
        if importing and chosen not in _RENDERERS:
            raise
        raise OSError(
            f"cannot draw with MUJOCO_GL{f'={chosen}' if chosen else ' unset'} ({error}). "
            f"Start the program with MUJOCO_GL={RENDERER}. It needs, on {NEEDED_TO_DRAW}. "
            "MUJOCO_GL=disable draws nothing."
        ) from error
