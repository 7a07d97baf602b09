"""Kill parts of a sweep at random moments, round after round, and look at what it ends with.

    python -m tests.fault_rounds [--rounds 20] [--seed N] [--folder DIR]

Each round kills a trial's process, Ray's raylet, the driver, or everything at once. The same
command is run again until the sweep is done. It must then be as if nothing had happened.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pwmray import registry, results
from pwmray.registry import CURVE_FILE, EVALUATIONS_FILE, Status
from tests.waiting import wait_for

TINY = Path(__file__).parent / "tiny.py"
OPTIONS = ("--scale", "tiny", "--seeds", "1,2,3")  # 12 trials
NUM_TRIALS = 12
END_SECONDS = 600.0  # for a sweep to come to its end
ORPHAN_SECONDS = 120.0  # for what a dead driver started to end
KINDS = ("worker", "raylet", "driver", "everything")
# Ray's own, which know nothing of trials: for a minute they tell a Ray that is gone of its end.
AGENTS = ("ray::DashboardA", "ray::RuntimeEnv")


class Sweep:
    """The command of a sweep in one results folder, started again as often as needed."""

    def __init__(self, folder: Path, name: str):
        self.results = folder / name
        self._folder = folder
        self._process: subprocess.Popen | None = None
        self._started: dict[int, str] = {}  # names by number, of the command's processes

    def start(self) -> None:
        if self.is_running:
            return
        command = [sys.executable, str(TINY), *OPTIONS, "--results", str(self.results)]
        self._log = open(self.results.with_suffix(".log"), "a")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=self._log, stderr=self._log,
            env={**os.environ, "RAY_health_check_period_ms": "1000"},  # sees a dead raylet sooner
        )  # fmt: skip

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_done(self) -> bool:
        records = self.records()
        return len(records) == NUM_TRIALS and all(r.status is Status.EVALUATED for r in records)

    def end(self) -> int:
        """Wait for the command; return its exit code."""
        assert self._process is not None
        wait_for(lambda: self.processes() and not self.is_running, END_SECONDS, pause=0.3)
        return self._process.wait()

    def wait_for_orphans(self, *but: str) -> None:
        """Wait until all is gone that any of the commands started, but what has these names."""

        def left() -> dict[int, str]:
            return {pid: name for pid, name in self.alive().items() if name not in but}

        wait_for(lambda: not left(), ORPHAN_SECONDS, left, pause=0.3)
        self._started = self.alive()

    def kill(self, kind: str) -> bool:
        """Kill one process or all; return whether there was one of that kind."""
        processes = self.processes()
        workers = {r.last("pid") for r in self.records() if r.status is Status.RUNNING}
        victims = {
            "worker": sorted(workers & processes.keys())[:1],
            "raylet": [pid for pid, name in processes.items() if name == "raylet"],
            "driver": [self._process.pid] if self._process and self.is_running else [],
            "everything": list(processes),
        }[kind]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(victims)

    def processes(self) -> dict[int, str]:
        """Return the driver and all below it: their names by number. Remembers them."""
        assert self._process is not None
        found = below(self._process.pid)
        self._started |= found
        return found

    def alive(self) -> dict[int, str]:
        """Return those of the processes ever started by the command that still run."""
        return {pid: name for pid, name, _ in all_processes() if self._started.get(pid) == name}

    def folders(self) -> list[Path]:
        return sorted((self.results / "trials").glob("*"))

    def records(self) -> list[registry.Record]:
        return [registry.read(folder) for folder in self.folders()]


def disturb(sweep: Sweep, rng: random.Random, kind: str) -> str:
    """Run the sweep up to a random moment and kill; return what was killed and when."""
    sweep.start()
    # Some rounds strike while it starts, the others once trials move.
    moves = rng.choice([0, 1, 2, 4])
    waits_for = num_moves(sweep) + moves
    wait_for(lambda: num_moves(sweep) >= waits_for or not sweep.is_running, END_SECONDS)
    pause = rng.uniform(0.0, 2.0 if moves else 8.0)
    time.sleep(pause)
    wait_for(lambda: sweep.kill(kind) or not sweep.is_running, END_SECONDS)
    if kind == "worker" and not sweep.is_running:
        return "the sweep ended before"
    if kind != "worker":
        sweep.end()
    return f"{kind} killed {pause:.2f} s after {moves} moves, {num_moves(sweep)} in all"


def all_processes() -> Iterator[tuple[int, str, int]]:
    """Yield number, name and parent of every process of the machine that is not a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = path.read_text().rpartition(")")
            pid, name = before.split(" (", 1)
            state, parent = after.split()[:2]
            if state != "Z":
                yield int(pid), name, int(parent)


def below(root: int) -> dict[int, str]:
    """Return the process, be it gone, and all that it started: their names by number."""
    children: dict[int, list[int]] = {}
    names = {}
    for pid, name, parent in all_processes():
        children.setdefault(parent, []).append(pid)
        names[pid] = name
    found, left = {}, [root]
    while left:
        pid = left.pop()
        found[pid] = names.get(pid, "")
        left += children.get(pid, [])
    return found


def num_moves(sweep: Sweep) -> int:
    """Return how often a trial moved since all were queued, at once and before Ray starts."""
    moves = (Status.RUNNING, Status.COMPLETED, Status.EVALUATED)
    return sum(record.count(status) for record in sweep.records() for status in moves)


def finish(sweep: Sweep) -> int:
    """Run the command until the sweep is done; return how often it had to be started."""
    for attempt in range(1, 4):
        sweep.start()
        code = sweep.end()
        if sweep.is_done:
            assert code == 0, f"all trials are evaluated, and the command ended with {code}"
            sweep.wait_for_orphans(*AGENTS)
            return attempt
    raise AssertionError([(r.status, r.last("reason")) for r in sweep.records()])


def check(sweep: Sweep, whole: Sweep) -> None:
    """Raise AssertionError unless the sweep left what an undisturbed one leaves."""
    assert [f.name for f in sweep.folders()] == [f.name for f in whole.folders()]
    for folder, other in zip(sweep.folders(), whole.folders(), strict=True):
        record = registry.read(folder)
        assert record.count(Status.EVALUATED) == 1, folder
        curve = results.read_table(folder / CURVE_FILE)
        epochs = curve["epoch"].to_pylist()
        assert epochs == list(range(2, registry.read(other).last("epochs_reached") + 1, 2)), folder
        assert same(curve, results.read_table(other / CURVE_FILE)), folder
        final = results.read_table(folder / EVALUATIONS_FILE)
        assert same(final, results.read_table(other / EVALUATIONS_FILE)), folder
    tables = (sweep.results / "tiny", whole.results / "tiny")
    ours, others = (results.read_table(folder / "curves.arrow") for folder in tables)
    assert len(ours) == len(others)
    left = [*sweep.results.rglob(".*.tmp"), *sweep.results.rglob(registry.CLAIM_FILE)]
    assert not left, f"left behind: {left}"


def same(one, other) -> bool:
    drop = [name for name in ("seconds",) if name in one.column_names]
    return one.drop_columns(drop).equals(other.drop_columns(drop))


def kinds(num_rounds: int, rng: random.Random) -> Iterable[str]:
    """Return a kind for each round: each as often as the others, in random order."""
    drawn = [KINDS[index % len(KINDS)] for index in range(num_rounds)]
    rng.shuffle(drawn)
    return drawn


def play(num_rounds: int, seed: int, folder: Path) -> None:
    """Play the rounds in `folder`; raise AssertionError for what is not as it should be."""
    rng = random.Random(seed)
    whole = Sweep(folder, "whole")
    finish(whole)
    print(f"seed {seed}: undisturbed run done", flush=True)
    sweeps = [whole, Sweep(folder, "sweep1")]
    for index, kind in enumerate(kinds(num_rounds, rng), start=1):
        sweep = sweeps[-1]
        told = disturb(sweep, rng, kind)
        print(f"round {index} of {num_rounds}: {told}", flush=True)
        if sweep.is_done or index == num_rounds:
            attempts = finish(sweep)
            check(sweep, whole)
            print(f"{sweep.results.name} done after {attempts} more starts", flush=True)
            sweeps.append(Sweep(folder, f"sweep{len(sweeps)}"))
    for sweep in sweeps:
        sweep.wait_for_orphans()


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill parts of a sweep at random moments.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        play(options.rounds, options.seed, folder)


if __name__ == "__main__":
    main()
