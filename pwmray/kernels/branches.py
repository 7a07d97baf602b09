"""Work of a CUDA graph that runs beside other work: what does not wait for the other's results."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

_are_made = True  # whether `Beside` makes any


class Beside:
    """A branch of a recording: the work in this context runs beside what follows the context.

    `join` ends the branch; until then all that both sides read must stay alive. Branches of one
    name run one after the other. Where nothing is recorded, so do both sides.
    """

    def __init__(self, device: torch.device, name: str = ""):
        is_beside = _are_made and device.type == "cuda"
        recorded = is_beside and torch.cuda.is_current_stream_capturing()
        self._stream = _side_stream(device, name) if recorded else None

    def __enter__(self) -> "Beside":
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
            self._context = torch.cuda.stream(self._stream)
            self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._stream:
            self._context.__exit__(*error)

    def join(self) -> None:
        if self._stream:
            torch.cuda.current_stream().wait_stream(self._stream)


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Have no branches made within this context."""
    global _are_made
    _are_made = False
    try:
        yield
    finally:
        _are_made = True


@functools.cache
def _side_stream(device: torch.device, name: str) -> torch.cuda.Stream:
    """Return the stream of all branches of a name: what one frees is for the next of them."""
    return torch.cuda.Stream(device)
