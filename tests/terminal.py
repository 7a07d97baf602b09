"""A command in a terminal of its own, as a person starts it: what it prints, keys, hanging up."""

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, and where the next letter goes


class Terminal:
    """A process whose three streams are a terminal; `close` hangs up, as closing its window does.

    `command` are the arguments of Python.
    """

    def __init__(self, folder, *command, columns=100, rows=40, **environment):
        self._end, inner = os.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        variables = {**os.environ, "TERM": "xterm", **environment}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder, stdin=inner, stdout=inner, stderr=inner, env=variables,
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(inner)
        self._printed = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.close()

    @property
    def text(self):
        """All that was printed so far, without colours and movements of the cursor."""
        return _CONTROL.sub("", self._printed.decode(errors="replace")).replace("\r", "")

    @property
    def hides_cursor(self):
        """Whether the cursor was ever hidden, as it stays where the process is killed."""
        return b"\x1b[?25l" in self._printed

    def wait_for(self, text, seconds=120):
        """Read until `text` was printed."""
        self._read(seconds, lambda: text in self.text)
        assert text in self.text, self.text

    def wait(self, seconds=200):
        """Read until the process ends; return its exit code."""
        self._read(seconds, lambda: False)
        return self.process.wait(seconds)

    def press(self, keys):
        """Type keys; Ctrl-C is "\\x03"."""
        os.write(self._end, keys.encode())

    def close(self):
        """Hang up."""
        if self._end is not None:
            os.close(self._end)
        self._end = None

    def _read(self, seconds, is_enough):
        deadline = time.monotonic() + seconds
        while not is_enough():
            assert time.monotonic() < deadline, self.text
            if select.select([self._end], [], [], 1)[0]:
                try:
                    self._printed += os.read(self._end, 65536)
                except OSError:  # nobody has it open any more
                    return


def _take_terminal():
    """Have a new process's terminal end it when closed, also where `nohup` started the tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
