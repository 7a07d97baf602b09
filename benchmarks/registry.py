"""Measure how long it takes to list many trials, and to start a finished sweep.

    python benchmarks/registry.py [--trials 10000] [--done 1000]

Makes folders as trials leave them (events, and for the sweep's tables curves and evaluations) and
times real commands, from one shell prompt to the next: `pwmray status` the first time, when it
reads all events, and again; and a sweep whose trials are all done.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pwmray import registry, results
from pwmray.commands import CommandParser, run_command
from pwmray.config import TrialConfig
from pwmray.sweep import Sweep
from pwmray.sweep_options import count
from pwmray.tracking.wandb_state import read_state
from search_spaces.scales import SCALES

_NUM_ROWS, _NUM_EPISODES = 12, 10  # of a trial at laptop scale
_REPEATS = 3
_NAME = "registry_benchmark"


def make_sweep(num_trials: int) -> Sweep:
    """Return a grid of so many trials at laptop scale."""
    return Sweep(
        name=_NAME,
        vary={
            "variant": ["baseline", "fullflow"],
            "task": ["pendulum-spin"],
            "epochs": [300],
            "seed": range(num_trials // 2),
        },
        compare="variant",
        within=["task"],
        scales={"laptop": SCALES["laptop"]},
    )


def main() -> int:
    """Print the timings; return the exit status."""
    parser = CommandParser(description="Time lists of trials and the start of a finished sweep.")
    parser.add_argument("--trials", type=count, default=10_000, metavar="N")
    parser.add_argument("--done", type=count, default=1_000, metavar="N", help="of the sweep")
    return run_command(lambda: measure(parser.parse_args()))


def measure(options: argparse.Namespace) -> None:
    """Make the folders, run the commands, print a line each."""
    with tempfile.TemporaryDirectory() as made:
        results_dir = Path(made) / "results"
        make_trials(results_dir, options.trials, with_tables=False)
        status = [sys.executable, "-m", "pwmray.cli", "status", "--results", str(results_dir)]
        print(f"status of {options.trials} trials, first time: {timed(status):.2f} s")
        print(f"status of {options.trials} trials: {best(status):.2f} s")
        print(f"status of one sweep of them: {best([*status, _NAME]):.2f} s")
    with tempfile.TemporaryDirectory() as made:
        results_dir = Path(made) / "results"
        make_trials(results_dir, options.done, with_tables=True)
        start = [sys.executable, "-m", "benchmarks.registry", "sweep", str(options.done)]
        start += ["--scale", "laptop", "--results", str(results_dir), "--data", made]
        # Made up, they have no runs of W&B yet, which the first starts of a sweep write for them.
        while not all(map(read_state, (results_dir / "trials").iterdir())):
            timed(start)
        print(f"sweep of {options.done} done trials: {best(start):.2f} s")


def make_trials(results_dir: Path, num_trials: int, with_tables: bool) -> None:
    """Leave the record of `num_trials` evaluated trials and of the sweep that asked for them."""
    configs = make_sweep(num_trials).trials("laptop")
    events = _events(configs[0])
    for config in configs:
        folder = registry.trial_folder(results_dir, config.fingerprint)
        folder.mkdir(parents=True)
        asked = {**events[0], "config": config.to_dict()}
        lines = [json.dumps(event) + "\n" for event in (asked, *events[1:])]
        (folder / registry.EVENTS_FILE).write_text("".join(lines))
        if with_tables:
            write_tables(folder)
    sweep = results_dir / _NAME
    sweep.mkdir()
    names = [config.fingerprint for config in configs]
    (sweep / "sweep.json").write_text(json.dumps({"scale": "laptop", "trials": names}))


def _events(config: TrialConfig) -> list[dict]:
    """Return the events of a trial's life, as the registry wrote them."""
    from pwmray import provenance

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        known = {"data_fingerprint": "0aa8d22ca6dc7ee0", "world_model_id": "scratch"}
        known |= {"world_model_parameters": 1, "policy_parameters": 1, "critic_parameters": 1}
        known |= {"velocity_calls": 1, "device": "cpu", **provenance.code(), **provenance.process()}
        ended = {"epochs_reached": 300, "train_seconds": 60.0, "evaluation_seconds": 6.0}
        registry.record(folder, registry.Status.PENDING, config=config.to_dict())
        registry.record(folder, registry.Status.QUEUED)
        registry.record(folder, registry.Status.RUNNING, epoch=0, **known)
        registry.record(folder, registry.Status.COMPLETED, **ended)
        registry.record(folder, registry.Status.EVALUATED, return_mean=1.0, **ended)
        return registry.read(folder).events


def write_tables(folder: Path) -> None:
    """Leave the curve and the evaluations of a trial in its folder."""
    for name, content in _tables().items():
        (folder / name).write_bytes(content)


@functools.cache
def _tables() -> dict[str, bytes]:
    """Return the files of a trial's curve and evaluations."""
    numbers = {f.name: 1.0 for f in results.CURVE if f.name not in ("trial", "epoch")}
    curve = [{"trial": "t", "epoch": 25 * (i + 1), **numbers} for i in range(_NUM_ROWS)]
    evaluations = [
        {"trial": "t", "actor": "policy", "episode": i, "seed": i, "return": 1.0, "length": 500}
        for i in range(_NUM_EPISODES)
    ]
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "table"
        results.write_rows(path, curve, results.CURVE)
        curve_bytes = path.read_bytes()
        results.write_rows(path, evaluations, results.EVALUATIONS)
        return {
            registry.CURVE_FILE: curve_bytes,
            registry.EVALUATIONS_FILE: path.read_bytes(),
        }


def timed(command: list[str]) -> float:
    """Return the seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def best(command: list[str]) -> float:
    """Return the least of three timings: the machine may have been busy in the others."""
    return min(timed(command) for _ in range(_REPEATS))


if __name__ == "__main__":
    if sys.argv[1:2] == ["sweep"]:
        make_sweep(int(sys.argv[2])).main(sys.argv[3:])
    sys.exit(main())
