"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    find: Callable[[], T],
    seconds: float = 60.0,
    why: Callable[[], object] = str,
    pause: float = 0.05,  # seconds between two looks
) -> T:
    """Return what `find` finds as soon as that is something.

    Raises TimeoutError after some seconds, with what `why` then tells.
    """
    deadline = time.monotonic() + seconds
    while not (found := find()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s: {why()}")
        time.sleep(pause)
    return found
