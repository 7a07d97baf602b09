"""The Ray that a driver runs its trials on, and another one where its node here is lost."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray.commands import say
from pwmray.driver import connect

if TYPE_CHECKING:
    from pwmray.config import TrialConfig

LOST = "Ray's node on this machine died"
_MAX_LOSSES = 5  # in one run of the driver


class Engine:
    """Ray, started or joined when there is something to run."""

    def __init__(self, address: str | None):
        self._address = address
        self._scratch: Path | None = None
        self._num_losses = 0

    def start(self, configs: "Sequence[TrialConfig]", tell: Callable[[str], None] = say) -> None:
        """Start or join Ray for trials, once while it lives."""
        if self._scratch is not None and not connect.is_connected():
            self.leave_lost(tell)  # while this process waited for others' trials
        if self._scratch is None:
            import ray  # noqa: F401  # takes a while, which a signal may end: then nothing is left

            self._scratch = Path(tempfile.mkdtemp(prefix="pwmray-"))
            connect.connect_for(configs, self._address)

    def make_place(self) -> Path:
        """Return a new folder for what Tune keeps: it mixes up two runs in one."""
        return Path(tempfile.mkdtemp(dir=self._scratch))

    def leave_lost(self, tell: Callable[[str], None] = say) -> None:
        """Leave a Ray whose node here is gone, for `start` to start or join another."""
        self._num_losses += 1
        if self._num_losses >= _MAX_LOSSES:
            raise ValueError(f"{LOST} {self._num_losses} times")
        tell(f"{LOST}; going on with another")
        self.close()
        if self._address is not None:
            self._address = connect.answering(self._address)

    def close(self) -> None:
        """Leave Ray, and stop it if it was started here."""
        if self._scratch is not None:
            connect.leave(self._scratch)
            self._scratch = None
