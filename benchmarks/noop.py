"""Time a thousand trials that do nothing, as a sweep and with bare Ray Tune.

    python benchmarks/noop.py [--trials 1000] [--repeats 3]

Both run on a Ray of their own, whose start does not count, keep processes for the next trial, and
have Tune's loggers off. They run in turns, and the least of the repeats counts. A sweep adds each
trial's claim, events and evaluation, the display and the sweep's tables.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray
from no_trial import NoTrainable

from pwmray import plan as planning
from pwmray import registry
from pwmray.commands import CommandParser, run_command
from pwmray.driver import connect, launch
from pwmray.driver.data_making import make_data
from pwmray.plan import Plan
from pwmray.registry import Record
from pwmray.results import read_table
from pwmray.sweep import Sweep
from pwmray.sweep_options import count
from pwmray.tracking.recording import Mode
from search_spaces.scales import SCALES

SWEEP = Sweep(
    name="noop",
    vary={"variant": ["baseline"], "task": ["pendulum-spin"], "seed": [0]},
    hold={"epochs": 1, "data.num_episodes": 2},
    compare="seed",
    within=["variant", "task"],
    scales=SCALES,
)


def main() -> int:
    """Print the seconds of both and their ratio; return the exit status."""
    parser = CommandParser(description="Time no-op trials through our stack and bare Ray Tune.")
    parser.add_argument("--trials", type=count, default=1000)
    parser.add_argument("--repeats", type=count, default=3)
    return run_command(lambda: report(parser.parse_args()))


def report(options: argparse.Namespace) -> None:
    """Run both in turn and print the least of each."""
    bare, ours = [], []
    for _ in range(options.repeats):
        bare.append(time_bare(options.trials))
        ours.append(time_ours(options.trials))
        print(f"bare {bare[-1]}, ours {ours[-1]}", flush=True)
    least = [min(run.seconds for run in runs) for runs in (bare, ours)]
    print(
        f"{options.trials} trials: bare Ray Tune {least[0]:.1f} s, ours {least[1]:.1f} s, "
        f"{least[1] / least[0]:.2f} times"
    )


class Run(NamedTuple):
    """What a run took, and how many processes its trials ran in."""

    seconds: float
    num_processes: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, its trials in {self.num_processes} process(es)"


def time_bare(num_trials: int) -> Run:
    """Return what Ray Tune takes for so many trials that report once."""
    from ray import tune

    class Nothing(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"done": True, "return_mean": 1.0}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    with _stopwatch() as watch:
        connect.connect(None)
        tuner = tune.Tuner(
            tune.with_resources(Nothing, tune.PlacementGroupFactory([{"CPU": 1}])),
            param_space={"grid": tune.grid_search(list(range(num_trials)))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(watch.folder),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        done = tuner.fit()
        ray.shutdown()
    return Run(watch.seconds, len({(result.metrics or {})["pid"] for result in done}))


def time_ours(num_trials: int) -> Run:
    """Return what the driver of a sweep takes for as many."""
    with tempfile.TemporaryDirectory() as folder:
        results, data = Path(folder).resolve(), Path(folder) / "data"
        made = prepare(num_trials, results, data)
        with _stopwatch() as watch:
            launch.run(made, data, None, "python noop.py", Mode.OFF, trainable=NoTrainable)
        done = read_table(Path(folder) / SWEEP.name / "trials.arrow")["status"].to_pylist()
        assert done == ["EVALUATED"] * num_trials
        pids = {record.last("pid") for record in read_records(made)}
    return Run(watch.seconds, len(pids))


def prepare(num_trials: int, results: Path, data: Path) -> Plan:
    """Return the plan of so many trials whose data is there."""
    trials = SWEEP.cells("laptop", {"seed": list(range(num_trials))})
    make_data([(trials[0].task, trials[0].data)], data, lambda *_: None)
    return planning.make(SWEEP, "laptop", trials, results)


def read_records(plan: Plan) -> list[Record]:
    """Return what the trials of a plan have recorded."""
    folders = [registry.trial_folder(plan.results, t.config.fingerprint) for t in plan.trials]
    return [registry.read(folder) for folder in folders]


class _Watch:
    """The seconds of a block, less those in which Ray starts."""

    seconds = 0.0
    folder = Path()


@contextlib.contextmanager
def _stopwatch() -> Iterator[_Watch]:
    watch, start_ray, spent = _Watch(), connect.connect, []

    def timed(address: str | None) -> str | None:
        started = time.perf_counter()
        try:
            return start_ray(address)
        finally:
            spent.append(time.perf_counter() - started)

    connect.connect = timed
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            watch.folder = Path(folder)
            started = time.perf_counter()
            yield watch
            watch.seconds = time.perf_counter() - started - sum(spent)
    finally:
        connect.connect = start_ray


if __name__ == "__main__":
    sys.exit(main())
