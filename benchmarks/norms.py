"""Measure the kernels of norms on a CPU: nanoseconds an entry, for rows of several widths.

    python benchmarks/norms.py

`fit` is the critics' last norm with their values and errors. All have three groups of 1,024 rows,
as the critics do. The time shown is the 20th percentile over calls, since a busy machine disturbs
the slower ones.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import machine
import torch

from pwmray import provenance
from pwmray.checks import check_least
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.kernels import norms
from pwmray.kernels.build import load

WIDTHS = (64, 100, 128, 200, 256, 400, 512, 1792)
DTYPES = (torch.float32, torch.bfloat16)
KINDS = (norms.MISH_NORM, norms.NORM_MISH, norms.NORM_SIMPLEX)
COLUMNS = [*(f"{kind} {way}" for kind in KINDS for way in ("forward", "backward")), "fit"]
NUM_GROUPS, NUM_ROWS = 3, 1024
SIMPLEX_SIZE = 8
CPU = torch.device("cpu")

Calls = Iterator[tuple[str, Callable[[], object]]]


def main() -> int:
    """Print the table; return the exit status."""
    parser = CommandParser(description="Time the kernels of norms on a CPU.")
    add = parser.add_argument
    add("--repeat", type=int, default=100, metavar="N", help="calls of each (default: 100)")
    own = torch.get_num_threads()
    add("--threads", type=int, default=own, metavar="N", help="default: as many as torch takes")
    return run_command(lambda: report(parser.parse_args()))


def report(options: argparse.Namespace) -> None:
    """Measure everything and print it."""
    check_least("", options, 1, "repeat", "threads")
    torch.set_num_threads(options.threads)
    load()  # a machine without a compiler is told before the table begins
    commit = provenance.code()["git_commit"] or "unknown"
    print(f"{machine.processor()}, {torch.get_num_threads()} threads, commit {commit[:12]}\n")
    print("| entries a row | | " + " | ".join(COLUMNS) + " |")
    print("| ---: | --- |" + " ---: |" * len(COLUMNS))
    cases = [(width, dtype) for width in WIDTHS for dtype in DTYPES]
    with show_progress("norms") as progress:
        for done, (width, dtype) in enumerate(cases):
            progress(f"rows of {width}", done, len(cases))
            num_entries = NUM_GROUPS * NUM_ROWS * width
            found = {
                name: 1e9 * time_calls(call, options.repeat) / num_entries
                for name, call in calls(width, dtype)
            }
            cells = [f"{found[name]:.2f}" if name in found else "" for name in COLUMNS]
            print(f"| {width} | {str(dtype)[6:]} | " + " | ".join(cells) + " |", flush=True)


def calls(width: int, dtype: torch.dtype) -> Calls:
    """Yield each column's name and what is timed for it."""
    draws = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws)

    x = draw(NUM_GROUPS, NUM_ROWS, width).to(dtype)
    affine = (draw(NUM_GROUPS, 1, width), draw(NUM_GROUPS, 1, width), draw(NUM_GROUPS, 1, width))
    gx = torch.empty_like(x)
    for kind in KINDS:
        if kind == norms.NORM_SIMPLEX and width % SIMPLEX_SIZE:
            continue
        y, moments = norms.forward(kind, x, affine)
        gy = draw(*y.shape).to(y.dtype)
        yield f"{kind} forward", lambda kind=kind: norms.forward(kind, x, affine)
        given = (kind, gy, x, affine, moments, gx, True)
        yield f"{kind} backward", lambda given=given: norms.backward(*given)
    weight, offset, target = draw(NUM_GROUPS, width, 1), draw(NUM_GROUPS, 1, 1), draw(NUM_ROWS)
    yield "fit", lambda: norms.value_fit(x, affine, weight, offset, target)


def time_calls(call: Callable[[], object], repeat: int) -> float:
    """Return the 20th percentile of the seconds of a call."""
    call()
    seconds = sorted(machine.time_call(call, CPU) for _ in range(repeat))
    return seconds[repeat // 5]


if __name__ == "__main__":
    sys.exit(main())
