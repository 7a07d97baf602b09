"""Measure an update in milliseconds: ours, and the tests' plain PyTorch one beside it.

    python benchmarks/update.py --size 5,48 --dtype bfloat16 --compile
    python benchmarks/update.py --size 1 --copies 2

Times an epoch with the world model frozen, one with it trained, and an iteration of a pretraining,
on random rows in memory; needs only torch, numpy and pyarrow. The two are timed in turns, the plain
one under torch's own settings; the best of `--repeat` counts. Before that, the weights after one
update of each are compared. With `--copies` ours runs in several processes at once, and its time is
their mean. Prints a table and appends its rows to an Arrow file. Exit code 1 if float32 weights
differ.
"""

import argparse
import datetime
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import torch
import update_table
import workload
from timing import Setup, Times, time_copies, time_in_turns

from pwmray import system
from pwmray.algorithm.compiling import reason_against
from pwmray.checks import check_least
from pwmray.commands import CommandParser, Progress, names, run_command, show_progress
from pwmray.devices import choose_device, set_up_torch
from pwmray.models.sizes import SIZES
from pwmray.precision import FLOAT32, MATMULS, check_on_cpu
from pwmray.variants import VARIANTS
from pwmray.wording import unknown

DIFFERS = 1  # exit code
# Of the weights in float32, relative to the step: rounding left up to 1.2e-4, a trace of 0.94 3e-3.
AGREEMENT = 1e-3
OUT = Path(__file__).resolve().with_suffix(".arrow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and append its rows; return the exit status."""
    return run_command(lambda: report(_parser().parse_args(arguments)))


def report(options: argparse.Namespace) -> int:
    """Time every case; return the exit status."""
    device = choose_device(options.device)
    _check(options, device)
    setup, cases = _setup(options, device), _cases(options)
    update_table.append(options.out)  # it must be possible, before hours of work
    peaks = _measure_peaks(setup)
    set_up_torch(device, setup.num_threads, options.dtype)
    about = _about(options, setup) | {"peak_gflop_per_second": peaks[options.dtype]}
    print("\n".join(update_table.heading(about, peaks)), flush=True)
    differing = []
    with show_progress("timing") as progress:
        done = _Done(progress, cases, setup)
        for case in cases:
            row = update_table.make_row(case, _time(case, setup, options, done), about)
            print(update_table.as_line(row), flush=True)
            update_table.append(options.out, row)
            agreement = row["agreement"]
            if case.matmul == FLOAT32 and agreement is not None and not agreement <= AGREEMENT:
                differing.append(case.name)
    if not differing:
        return 0
    print(
        f"error: weights differ by more than {AGREEMENT}: {', '.join(differing)}", file=sys.stderr
    )
    return DIFFERS


def _parser() -> CommandParser:
    parser = CommandParser(description="Time the update against plain PyTorch.")
    add = parser.add_argument
    sizes, variants, methodologies = list(SIZES), list(VARIANTS), list(workload.METHODOLOGIES)
    batches = f"{workload.EPOCH_BATCH}; {workload.PRETRAIN_BATCH} in a pretraining"
    usual = ["laptop", "1", "5", "48"]
    add("--size", type=names, default=usual, metavar="A,B", help=f"of {', '.join(sizes)}")
    add("--variants", type=names, default=variants, metavar="A,B", help=f"of {', '.join(variants)}")
    add(
        "--methodologies",
        type=names,
        default=methodologies,
        metavar="A,B",
        help=f"of {', '.join(methodologies)}",
    )
    add("--batch", type=int, metavar="N", help=f"default: {batches}")
    add(
        "--wm-iterations",
        type=int,
        default=1,
        metavar="N",
        help="world-model steps of an epoch (default: 1, as published)",
    )
    add(
        "--episodes",
        type=int,
        default=workload.NUM_EPISODES,
        metavar="N",
        help=f"a trial's data, in memory (default: {workload.NUM_EPISODES}; MT30 has 24,000)",
    )
    add("--device", metavar="NAME", help="cpu or cuda (default: the GPU where there is one)")
    add("--threads", type=int, metavar="N", help="default: as many as torch takes; 1 for a copy")
    add("--dtype", default=FLOAT32, metavar="NAME", help=f"of products: {', '.join(MATMULS)}")
    add("--compile", action="store_true", help="compile the networks")
    add("--repeat", type=int, default=3, metavar="N", help="default: 3")
    add("--no-reference", action="store_true", help="time ours alone")
    add("--copies", type=int, default=1, metavar="N", help="ours alone, in N processes at once")
    add("--profile", type=Path, metavar="DIR", help="write where the time of ours goes")
    add("--out", type=Path, default=OUT, metavar="FILE", help="default: benchmarks/update.arrow")
    return parser


def _check(options: argparse.Namespace, device: torch.device) -> None:
    """Raise ValueError for an option outside its valid set, or that this machine cannot do."""
    for what, given, valid in (
        ("size", options.size, SIZES),
        ("variant", options.variants, VARIANTS),
        ("methodology", options.methodologies, workload.METHODOLOGIES),
        ("dtype", [options.dtype], MATMULS),
    ):
        for name in given:
            if name not in valid:
                raise ValueError(unknown(what, name, valid))
    if device.type == "cpu":
        check_on_cpu(options.dtype)
    counts = ("wm_iterations", "episodes", "repeat", "copies", "batch", "threads")
    check_least("", options, 1, *(n for n in counts if getattr(options, n) is not None))
    if options.copies > 1 and options.profile:
        raise ValueError(f"--profile is of one process, and --copies is {options.copies}")
    if options.compile and (reason := reason_against(device)):
        raise ValueError(f"compile=off: {reason}")
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)


def _setup(options: argparse.Namespace, device: torch.device) -> Setup:
    alone = options.copies == 1
    return Setup(
        device=device,
        num_threads=options.threads or (torch.get_num_threads() if alone else 1),
        compiled=options.compile,
        repeat=options.repeat,
        num_copies=options.copies,
        has_reference=alone and not options.no_reference,
    )


def _cases(options: argparse.Namespace) -> list[workload.Case]:
    def case(size: str, methodology: str, variant: str) -> workload.Case:
        in_pretraining = methodology == workload.PRETRAIN
        batch_size = options.batch or (
            workload.PRETRAIN_BATCH if in_pretraining else workload.EPOCH_BATCH
        )
        num_steps = options.wm_iterations
        data = (options.dtype, options.episodes)
        return workload.Case(size, variant, methodology, batch_size, num_steps, *data)

    chosen = itertools.product(options.size, options.methodologies, options.variants)
    return [case(*names) for names in chosen]


def _measure_peaks(setup: Setup) -> dict[str, float]:
    """Return the GFLOP/s of a large product on as many cores as the copies have together."""
    together = min(setup.num_copies * setup.num_threads, system.num_cores())
    torch.set_num_threads(max(setup.num_threads, together))
    return {
        name: machine.measure_peak(name, setup.device) for name in machine.matmuls(setup.device)
    }


def _about(options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {
        **machine.describe(setup.device),
        "time": now.isoformat(timespec="seconds"),
        "matmul": options.dtype,
        "compiled": setup.compiled,
        "num_threads": setup.num_threads,
        "num_copies": setup.num_copies,
        "repeat": setup.repeat,
    }


class _Done:
    """How much of the work is done, by the operations of the updates."""

    def __init__(self, show: Progress, cases: Sequence[workload.Case], setup: Setup):
        self._show, self._done = show, 0.0
        self._total = setup.num_calls * sum(case.gflop for case in cases)
        self(0.0)

    def __call__(self, gflop: float) -> None:
        self._done += gflop
        self._show("percent of the operations", round(100 * self._done / self._total), 100)


def _time(case: workload.Case, setup: Setup, options: argparse.Namespace, done: _Done) -> Times:
    if setup.num_copies > 1:
        times = time_copies(case, setup)
        done(setup.num_calls * case.gflop)
        return times
    try:
        return time_in_turns(case, setup, lambda: done(case.gflop), options.profile)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{case.name} does not fit into the memory: {error}; a smaller --batch or "
            "--no-reference takes less"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
