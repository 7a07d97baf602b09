"""What a terminal shows of work that goes on, drawn over what was drawn before."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console, ConsoleRenderable, RenderableType
from rich.live import Live
from rich.segment import Segment

from pwmray.commands import SAID_IN_HANDLERS, is_screen


class Display(Live):
    """A live display that leaves alone what others write on its terminal.

    In the background (Ctrl-Z, then `bg`) it draws nothing. It begins anew below what was written
    meanwhile, or before `fg`, or by a signal handler. It covers all that it drew also where the
    window became narrower, as in terminals that wrap their lines anew.
    """

    def __init__(self, stream: TextIO, show: Callable[[], RenderableType], **options: Any):
        super().__init__(get_renderable=show, console=_Plain(file=stream), **options)
        self._num_said = len(SAID_IN_HANDLERS)
        self._width = self.console.width
        self._drawn: RenderableType = ""
        self._continued = _Continued()

    def start(self, refresh: bool = False) -> None:
        """Begin to draw."""
        if not self.is_started:
            self._continued.listen()
        super().start(refresh)

    def stop(self) -> None:
        """Draw for the last time."""
        super().stop()
        self._continued.close()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put the drawing behind what is printed, and before that the erasing of the last one."""
        is_seen = is_screen(self.console.file)
        if not is_seen or self._continued.look() or self._num_said != len(SAID_IN_HANDLERS):
            self._live_render._shape = None  # the last one stays where it is
        elif self._live_render._shape and self.console.width < self._width:
            self._live_render._shape = (self.console.width, self._num_wrapped())
        self._num_said, self._width = len(SAID_IN_HANDLERS), self.console.width
        self._drawn = self._live_render.renderable
        is_last = not self._started and not self.transient  # which stays: it spoils nothing
        return super().process_renderables(renderables) if is_seen or is_last else renderables

    def _num_wrapped(self) -> int:
        """Return how many lines of the narrower window hold what was drawn, as it wraps them."""
        before = self.console.options.update(width=self._width)
        lines = self.console.render_lines(self._drawn, before, pad=False)
        lengths = map(Segment.get_line_length, lines)
        return sum(max(-(-length // self.console.width), 1) for length in lengths)


class _Continued:
    """Whether this process was stopped, by Ctrl-Z or otherwise, and goes on.

    Python writes the numbers of signals into a pipe at once. A handler would come too late: it runs
    in the main thread, which may wait, and what draws is another one.
    """

    def __init__(self) -> None:
        self._ends: list[int] = []

    def listen(self) -> None:
        """Take note from now on; elsewhere than in the main thread signals cannot be taken."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._ends = list(os.pipe())
        for end in self._ends:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCONT, lambda *_: None)

    def look(self) -> bool:
        """Tell whether it went on since the last look."""
        with contextlib.suppress(BlockingIOError):
            return bool(self._ends) and signal.SIGCONT in os.read(self._ends[0], 4096)
        return False

    def close(self) -> None:
        """Take no more note."""
        if self._ends:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
        while self._ends:
            os.close(self._ends.pop())


class _Plain(Console):
    """A console that leaves the cursor visible.

    rich would hide it, and a process that is killed could not bring it back.
    """

    def show_cursor(self, show: bool = True) -> bool:
        return False
