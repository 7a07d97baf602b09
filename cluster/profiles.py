"""Profiles: what a job asks of Slurm, by name, from a TOML file that is checked as it is read."""

import dataclasses
import itertools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import slurm
from pwmray.checks import check_least, typed
from pwmray.wording import unknown

DEFAULT_FILE = Path(__file__).with_name("profiles.toml")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # it is part of file names
UNTYPED = "none"  # as `slurm_gpu`: Slurm knows how many GPUs there are, but no types
# Options of sbatch with which our record of jobs would not match what Slurm runs.
_OURS = {
    "--array": "cluster/submit.py --jobs N submits an array",
    "--output": "a job's log lies in its sweep's folder",
}
_LEAST_OF_A_NAME = len("--ar")  # the shortest abbreviation of such an option that sbatch takes
# Ray's sockets lie below a node's scratch folder: their paths end at 107 bytes, and Ray's own part
# takes 66 of them, our private folder for it 19.
MAX_SCRATCH = 22


@dataclass(frozen=True)
class Profile:
    """What each job of a profile asks for; every number but `nodes` is for one node."""

    name: str
    cpus: int
    time_limit: str  # as Slurm writes it: 90 (minutes), 12:00:00, 2-00:00:00
    partition: str = ""  # empty: the cluster's default, as with account and qos
    account: str = ""
    qos: str = ""
    nodes: int = 1
    gpus: int = 0
    gpu_type: str = ""  # as sweeps name it (`gpus` in a sweep's file), such as H100; empty: any
    slurm_gpu: str = ""  # Slurm's name of that type; empty: the same in lower case; UNTYPED
    memory_gb: int = 0  # 0: the cluster's default
    trials_per_gpu: int = 1
    signal_seconds: int = 300  # before the time limit trials are told to stop at their next row
    max_requeues: int = 20  # that a job asks for by itself; each goes on where the last stopped
    activate: tuple = ()  # shell lines that make `python` this project's; empty: submit's own
    scratch: str = "/tmp"  # a short path on each node's own disk, for Ray's sockets and logs
    interface: str = ""  # of Ray's network, such as ib0; empty: where Slurm's address is
    dashboard: bool = True  # Ray's, in the job
    simulated_gpus: bool = False  # of a test cluster: trials compute on the CPUs
    sbatch: tuple = ()  # further options of sbatch, such as "--constraint=nvlink"

    def num_devices(self, scale: Mapping[str, Any]) -> int:
        """Return how many of the devices that a scale's plan counts a job has: GPUs, or cores."""
        return self.nodes * (self.gpus if scale.get("device") == "GPU" else self.cpus)

    def check(self) -> None:
        """Raise ValueError for the first invalid value."""
        check_least("", self, 1, "cpus", "nodes", "trials_per_gpu", "signal_seconds")
        check_least("", self, 0, "gpus", "memory_gb", "max_requeues")
        for name in ("activate", "sbatch"):
            for line in getattr(self, name):
                if not isinstance(line, str) or "\n" in line:
                    raise ValueError(f"{name} holds {line!r}; valid: lines of text")
        wrong = [line for line in self.sbatch if not line.startswith("-")]
        if wrong:
            raise ValueError(f"sbatch holds {wrong[0]!r}; valid: options such as --constraint=x")
        for line, (option, instead) in itertools.product(self.sbatch, _OURS.items()):
            if any(_gives(word, option) for word in line.split()):
                raise ValueError(f"sbatch has {line!r}, which a profile may not set: {instead}")
        self._check_gpus()
        self._check_time()
        self._check_scratch()
        self._check_interface()

    @property
    def gres(self) -> str:
        """The GPUs of a node in Slurm's notation, such as gpu:h100:4; empty without any."""
        if not self.gpus:
            return ""
        kind = "" if self.slurm_gpu == UNTYPED else self.slurm_gpu or self.gpu_type.lower()
        return f"gpu:{kind}:{self.gpus}" if kind else f"gpu:{self.gpus}"

    @property
    def serves_all(self) -> bool:
        """Whether this serves every trial, because it names no type of GPU."""
        return not self.gpu_type

    def serves(self, gpu_type: str) -> bool:
        """Tell whether this serves trials that ask for a type of GPU, "" for any."""
        return self.serves_all or gpu_type in ("", self.gpu_type)

    def _check_interface(self) -> None:
        if not re.fullmatch(r"[\w.:-]{0,15}", self.interface, re.ASCII):
            raise ValueError(
                f"interface is {self.interface!r}; valid: a name that `ip address` shows, without "
                "an @ and what follows it, such as ib0, of at most 15 characters"
            )

    def _check_gpus(self) -> None:
        for name in ("gpu_type", "slurm_gpu", "simulated_gpus"):
            if getattr(self, name) and not self.gpus:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but gpus is 0")
        if self.trials_per_gpu > 1 and not self.gpus:
            raise ValueError(f"trials_per_gpu is {self.trials_per_gpu}, but gpus is 0")
        if self.gpu_type and not re.fullmatch(r"[A-Z0-9][A-Z0-9_-]*", self.gpu_type):
            raise ValueError(
                f"gpu_type is {self.gpu_type!r}; valid: capitals, digits, - and _, such as H100"
            )
        if self.gpu_type in ("CPU", "GPU"):  # Ray's own names: a node that offers them fails
            raise ValueError(
                f"gpu_type is {self.gpu_type!r}, which names no type; leave it out where any GPU "
                "will do"
            )

    def _check_time(self) -> None:
        try:
            limit = slurm.read_seconds(self.time_limit)
        except ValueError as error:
            raise ValueError(f"time_limit: {error}") from None
        if limit is not None and limit <= self.signal_seconds:
            raise ValueError(
                f"signal_seconds is {self.signal_seconds}; it must be less than the {limit} s of "
                "time_limit"
            )

    def _check_scratch(self) -> None:
        if not self.scratch.startswith(("/", "$")):
            raise ValueError(f"scratch is {self.scratch!r}; valid: an absolute path")
        if len(os.path.expandvars(self.scratch)) > MAX_SCRATCH:
            raise ValueError(
                f"scratch is {self.scratch!r}; valid: at most {MAX_SCRATCH} characters, for Ray's "
                "sockets lie below it"
            )


_FIELDS = {field.name: field for field in dataclasses.fields(Profile) if field.name != "name"}
_REQUIRED = [n for n, field in _FIELDS.items() if field.default is dataclasses.MISSING]


def load(path: Path) -> dict[str, Profile]:
    """Return the profiles of a file by name.

    Raises ValueError naming the file, the profile, and an unknown key with the nearest valid one,
    a missing key, or a value of the wrong type or outside its range.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of tomllib, or for bytes that are no text
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    if not tables:
        raise ValueError(f"{path} has no profile; one begins with a line such as [h100]")
    return {name: _read(path, name, table) for name, table in tables.items()}


def choose(profiles: Mapping[str, Profile], name: str, path: Path) -> Profile:
    """Return a profile by its name; raise ValueError for one that the file does not have."""
    if name not in profiles:
        raise ValueError(f"{unknown('profile', name, profiles)} in {path}")
    return profiles[name]


def _read(path: Path, name: str, table: Any) -> Profile:
    place = f"{path} [{name}]"
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {name!r} stands outside a profile such as [h100]")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{place}: a profile's name consists of letters, digits, - _ and .")
    for key in table:
        if key not in _FIELDS:
            raise ValueError(f"{place}: {unknown('key', key, _FIELDS)}")
    missing = [key for key in _REQUIRED if key not in table]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}")
    values = {k: _typed(place, k, v) for k, v in table.items()}
    profile = Profile(name, **values)
    try:
        profile.check()
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return profile


def _gives(word: str, option: str) -> bool:
    """Tell whether a word gives an option of sbatch, in full, abbreviated, or by its letter."""
    name = word.partition("=")[0]
    is_named = len(name) >= _LEAST_OF_A_NAME and option.startswith(name)
    return is_named or word.startswith(option[1:3])


def _typed(place: str, key: str, value: Any) -> Any:
    wanted: type = _FIELDS[key].type  # type: ignore[assignment]
    return typed(f"{place}: key", key, value, wanted, "list" if wanted is tuple else "")
