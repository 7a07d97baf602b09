"""Measure what W&B and TensorBoard cost a sweep.

    python benchmarks/tracking.py [--trials 50] [--rounds 5]

Measures, in CPU seconds of all processes that it starts, three costs per trial: the event file that
the trial writes itself; the recorder, run over folders as trials leave them; and, for comparison,
W&B set up in each trial's own process, as Tune's callback does. Rounds of the three alternate, so
that the machine's load affects them alike; the median counts.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from registry import make_trials

from pwmray.commands import CommandParser, run_command
from pwmray.registry import CURVE_FILE
from pwmray.results import read_table
from pwmray.sweep_options import count
from pwmray.tensorboard_file import EVENT_FILES, write_events
from pwmray.tracking.protocol import Job

_ALONE = """
import sys, wandb
run = wandb.init(mode="offline", dir=sys.argv[1], project="p", settings={"silent": True})
for epoch in range(12):
    run.log({"epoch": epoch, **{f"metric_{i}": 1.0 for i in range(16)}}, step=epoch)
run.finish()
"""


def main() -> int:
    """Print the table; return the exit status."""
    parser = CommandParser(description="Time what W&B and TensorBoard cost a sweep.")
    parser.add_argument("--trials", type=count, default=50, metavar="N")
    parser.add_argument("--rounds", type=count, default=5, metavar="N")
    return run_command(lambda: measure(parser.parse_args()))


def measure(options: argparse.Namespace) -> None:
    """Run the rounds and print a line for each kind."""
    kinds = {
        "recorder started, nothing to do": lambda: _record(2, with_curves=False),
        f"recorder, {options.trials} trials": lambda: _record(options.trials),
        "W&B in a process of its own, 1 trial": _alone,
        "event file of 1 trial": _write_event_file,
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, run in kinds.items():
            taken[name].append(run())
    for name, timings in taken.items():
        wall, cpu = (statistics.median(values) for values in zip(*timings, strict=True))
        print(f"{name:<40} {1000 * wall:>8.1f} ms, CPU {1000 * cpu:>8.1f} ms")


def _record(num_trials: int, with_curves: bool = True) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as made:
        make_trials(Path(made), num_trials, with_tables=with_curves)
        job = json.dumps(asdict(Job(str(Path(made).resolve())))) + "\n"
        command = [sys.executable, "-m", "pwmray.tracking.recorder"]
        return _timed(lambda: subprocess.run(command, input=job, text=True, **_QUIET))


def _alone() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as made:
        return _timed(lambda: subprocess.run([sys.executable, "-c", _ALONE, made], **_QUIET))


def _write_event_file() -> tuple[float, float]:
    """Write it row by row, as a trial does."""
    with tempfile.TemporaryDirectory() as made:
        make_trials(Path(made), 2, with_tables=True)
        curve, _ = Path(made).glob(f"trials/*/{CURVE_FILE}")
        rows = read_table(curve).to_pylist()
        timing = _timed(
            lambda: [
                write_events(curve.parent, rows[:n], "epoch", 0.0) for n in range(1, len(rows) + 1)
            ]
        )
        assert list(curve.parent.glob(EVENT_FILES))
        return timing


_QUIET = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _timed(run) -> tuple[float, float]:
    """Return wall and CPU seconds, those of processes that have ended included."""
    before, started = _cpu_seconds(), time.perf_counter()
    run()
    return time.perf_counter() - started, _cpu_seconds() - before


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))


if __name__ == "__main__":
    sys.exit(main())
