"""Draw a roofline: how close the updates of `update.py` come to the machine's limits.

    python benchmarks/update.py ... && python benchmarks/roofline.py docs/performance/roofline.png

A matrix product is limited by the machine's peak rate of operations, or by the rate at which its
operands and results move through memory: the two roofs. Along x an update has the operations per
byte of its products, counted from their shapes; along y the operations per second that it reached,
where its time includes all that is not a product. Shown are the rows of the last row's machine, of
each case the last. The memory's rate is measured now, so draw on the machine that was measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import matplotlib
import numpy as np
import torch
import workload
from torch.utils._python_dispatch import TorchDispatchMode

from pwmray import results
from pwmray.commands import CommandParser, run_command, show_progress
from pwmray.files import check_no_folder

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.lines import Line2D

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
CASE = ("size", "variant", "methodology", "batch_size", "wm_iterations", "matmul", "compiled")
MARKERS = {"frozen": "o", "finetuned": "s", "pretrain": "^"}
COLOURS = {"laptop": "#999999", "1": "#56b4e9", "5": "#0072b2", "19": "#009e73", "48": "#d55e00"}
OTHER_COLOUR = "#cc79a7"

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture; return the exit status."""
    return run_command(lambda: draw(_parser().parse_args(arguments)))


def draw(options: argparse.Namespace) -> None:
    """Write the picture of the rows that the options choose."""
    check_no_folder(options.out)
    rows = latest(results.read_table(options.rows).to_pylist(), options.variant)
    if not rows:
        raise ValueError(f"{options.rows} has no rows of the variant {options.variant}")
    device = torch.device("cuda" if rows[-1]["gpu"] else "cpu")
    torch.set_num_threads(rows[-1]["num_threads"])
    bandwidth = machine.measure_bandwidth(device)
    with show_progress("roofline") as progress:
        for number, row in enumerate(rows):
            progress("counting bytes", number, len(rows))
            row["intensity"] = 1e9 * row["gflop"] / count_bytes(row)
    figure = _figure(rows, bandwidth, options.variant)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)


def latest(rows: Sequence[Row], variant: str) -> list[Row]:
    """Return the last row of each case of a variant, of the last row's machine, one copy alone."""
    where = ("gpu", "cpu", "num_threads")
    alone = [row for row in rows if row["num_copies"] == 1 and row["variant"] == variant]
    here = [row for row in alone if all(row[key] == alone[-1][key] for key in where)]
    return list({tuple(row[key] for key in CASE): row for row in here}.values())


def count_bytes(row: Row) -> int:
    """Return the bytes of operands and results of all products of a row's update."""
    size, variant, methodology, batch_size, num_steps = (row[key] for key in CASE[:5])
    case = workload.Case(size, variant, methodology, batch_size, max(1, num_steps), "float32")
    update = workload.ours(case, torch.device("cpu"), compiled=False).update
    with _Bytes() as products:
        update()
    return products.total // (2 if row["matmul"] == "bfloat16" else 1)


class _Bytes(TorchDispatchMode):
    """Add up what products read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._schema.name in PRODUCTS:
            operands = [*args[-2:], result]
            self.total += sum(t.numel() * t.element_size() for t in operands)
        return result


def _figure(rows: Sequence[Row], bandwidth: float, variant: str) -> Any:
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    points = [row["intensity"] for row in rows]
    x = np.geomspace(min(1.0, *points), max(points) * 4, 200)
    for matmul in dict.fromkeys(row["matmul"] for row in rows):
        peak = max(r["peak_gflop_per_second"] for r in rows if r["matmul"] == matmul)
        axes.plot(x, np.minimum(peak, bandwidth / 1e9 * x), color="black", lw=1)
        axes.annotate(f"{matmul}: {peak:,.0f} GFLOP/s", (x[-1], peak), (0, 4),
                      textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    for row in rows:
        _plot_row(axes, row)
    axes.set(
        xscale="log", yscale="log", xlabel="operations per byte of the products",
        ylabel="GFLOP/s reached, all that is no product in the time",
        title=f"{variant}: {_machine(rows[-1])}, memory {bandwidth / 1e9:.0f} GB/s",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.grid(True, which="both", color="0.9")
    axes.legend(handles=_legend(rows), fontsize=8, loc="lower right", ncols=2)
    return figure


def _machine(row: Row) -> str:
    return row["gpu"] or f"{row['cpu']}, {row['num_threads']} CPU thread(s)"


def _plot_row(axes: Any, row: Row) -> None:
    colour, marker = COLOURS.get(row["size"], OTHER_COLOUR), MARKERS[row["methodology"]]
    is_rounded = row["matmul"] == "bfloat16"
    face = colour if row["compiled"] else "none"
    axes.plot(
        row["intensity"], row["gflop_per_second"], marker, color=colour, markerfacecolor=face,
        markersize=9 if is_rounded else 6,
    )  # fmt: skip
    if row["reference_ms"] is not None and not is_rounded:
        reached = row["gflop"] / row["reference_ms"] * 1e3
        axes.plot(row["intensity"], reached, "x", color=colour, markersize=6)


def _legend(rows: Sequence[Row]) -> list[Any]:
    def handle(label: str, **style: Any) -> Any:
        return Line2D([], [], linestyle="none", label=label, **style)

    sizes = dict.fromkeys(row["size"] for row in rows)
    methodologies = dict.fromkeys(row["methodology"] for row in rows)
    return [
        *(handle(f"size {s}", marker="o", color=COLOURS.get(s, OTHER_COLOUR)) for s in sizes),
        *(handle(m, marker=MARKERS[m], color="black") for m in methodologies),
        handle("not compiled", marker="o", color="black", markerfacecolor="none"),
        handle("plain PyTorch, float32", marker="x", color="black"),
        handle("float32", marker="o", color="black", markersize=6),
        handle("bfloat16", marker="o", color="black", markersize=9),
    ]


def _parser() -> CommandParser:
    parser = CommandParser(description="Draw the roofline of update.py's rows.")
    parser.add_argument("out", type=Path, metavar="PNG")
    usual = Path(__file__).parent / "update.arrow"
    parser.add_argument("--rows", type=Path, default=usual, metavar="FILE")
    parser.add_argument("--variant", default="baseline", metavar="NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
