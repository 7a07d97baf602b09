"""What a driver and its recorder tell each other: a Job on stdin, a Report on stdout, as JSON."""

from dataclasses import dataclass
from pathlib import Path

from pwmray.pretraining.folder import PRETRAINED_FOLDER
from pwmray.tracking import runs


@dataclass
class Job:
    """What to record: the trials of a sweep or of all, the pretrainings named, or everything."""

    results: str
    sweep: str | None = None
    pretrained: tuple[str, ...] = ()  # fingerprints; if there are any, no trials
    is_online: bool = False
    project: str | None = None  # instead of ours
    entity: str | None = None
    is_watching: bool = False  # look again and again until the driver leaves, else once
    grace_seconds: float = 120.0  # that the recorder may go on when its driver has left

    def folders(self) -> list[Path]:
        """Return the folders as they are known now: a search's trials become more."""
        results_dir = Path(self.results)
        if self.pretrained:
            place = results_dir / PRETRAINED_FOLDER
            return [place / fingerprint for fingerprint in self.pretrained]
        if self.sweep is not None:
            return runs.trial_folders(results_dir, self.sweep)
        return runs.all_folders(results_dir)


@dataclass
class Report:
    """What a recorder did and what it left."""

    written: int = 0  # runs that were written offline, new or grown
    sent: int = 0  # runs that the server now has in whole
    # Of the last look:
    running: int = 0  # left alone, because a process is running them
    elsewhere: int = 0  # not running, but being written by another recorder
    failed: int = 0  # could not be written
    problem: str = ""  # in one line
