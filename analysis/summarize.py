"""Print the returns and verdicts of one sweep or several, and draw their figures.

    python analysis/summarize.py                        the latest sweep in results/
    python analysis/summarize.py phase6_epochs --per-seed --plot
    python analysis/summarize.py phase6_epochs --compare variant --format md
    python analysis/summarize.py phase3 phase4 --compare sweep --format html --out report

Reads only the sweeps' Arrow files, so it may run beside a running sweep. Exit status: 0 if a sweep
was summarised, 2 with one line on stderr if not.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Matrix products here are small: threads would only wait for each other on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Arrow's own allocator asks for huge pages: 2 s in place of 0.4 for a gigabyte of curves.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from analysis.formats.export import render_csv, render_json
from analysis.formats.page import render_html
from analysis.formats.tables import WIDTH, render_markdown, render_table
from analysis.formats.tex import render_tex
from analysis.load import find_sweep, load_sweep
from analysis.merge import keep_tasks, merge_sweeps
from analysis.reference import REFERENCES
from analysis.report import Summary, summarize_sweep
from pwmray.commands import CommandParser, add_results_option, names, run_command
from pwmray.files import replacing
from pwmray.registry.sweep_folders import SWEEP_FILE

RENDERERS = {
    "table": render_table,
    "md": render_markdown,
    "csv": render_csv,
    "tex": render_tex,
    "html": render_html,
    "json": render_json,
}
_LEAST_WIDTH = 80  # of the tables: narrower ones would break numbers
SUFFIXES = {"table": "txt"}  # of the files that --out writes, where it is not the format's name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return run_command(lambda: summarize(build_parser().parse_args(arguments)))


def summarize(options: argparse.Namespace) -> int:
    """Print the summary that `options` ask for; raise ValueError for bad input."""
    _check_plot(options)
    folders = [find_sweep(name, options.results) for name in options.sweeps or [None]]
    if not options.sweeps:
        print(f"summarising {folders[0]}, the latest sweep there", file=sys.stderr)
    sweep = merge_sweeps([load_sweep(folder) for folder in folders])
    if options.tasks:
        sweep = keep_tasks(sweep, options.tasks)
    summary = summarize_sweep(
        sweep, options.compare, options.anyway, options.within, options.reference
    )
    if options.format == "table" and options.out is None:
        text = render_table(summary, options.per_seed, _columns())
    else:
        text = RENDERERS[options.format](summary, options.per_seed)
    if options.out is None:
        print(text, end="")
    else:
        _write(options.out / f"summary.{SUFFIXES.get(options.format, options.format)}", text)
    if options.plot is not None:
        _draw(summary, options.plot or (options.out or sweep.folder) / "figures")
    return 0


def _columns() -> int:
    """Return the width of the tables: that of a terminal, within what they can be read in."""
    columns = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else WIDTH
    return min(max(columns, _LEAST_WIDTH), WIDTH)


def _check_plot(options: argparse.Namespace) -> None:
    """Raise ValueError if --plot took a sweep's name for its folder."""
    named = options.plot
    if named and not options.sweeps and (options.results / named / SWEEP_FILE).exists():
        raise ValueError(
            f"--plot {named} would draw the latest sweep into a folder named {named}, but that is "
            f"the name of a sweep; put it first: {named} --plot"
        )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


def _draw(summary: Summary, folder: Path) -> None:
    from analysis.figures import draw_figures  # matplotlib takes a second to import

    for path in draw_figures(summary, folder):
        print(f"wrote {path}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = CommandParser(
        prog="summarize.py",
        description="Print the returns and verdicts of sweeps, and draw their figures.",
    )
    parser.add_argument(
        "sweeps",
        nargs="*",
        metavar="sweep",
        help="names under the results folder, or paths (default: the latest sweep)",
    )
    add_results_option(parser)
    parser.add_argument("--format", choices=list(RENDERERS), default="table", help="default: table")
    parser.add_argument("--per-seed", action="store_true", help="also list every trial")
    _add_comparison_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write DIR/summary.FORMAT instead of printing"
    )
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        type=lambda text: Path(text) if text else "",
        metavar="DIR",
        help="write the figures, as PNG, SVG, PDF (default: figures/ in --out or the first sweep)",
    )
    return parser


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compare",
        metavar="FACTOR",
        help="a factor that the sweep varies, e.g. variant or epochs; `sweep` compares sweeps",
    )
    parser.add_argument(
        "--within",
        type=names,
        metavar="A,B",
        help="keep only these factors and the task apart; average each seed over the others",
    )
    parser.add_argument("--tasks", type=names, metavar="A,B", help="only these tasks")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="also judge arms that are not comparable, and mark the verdicts",
    )
    parser.add_argument(
        "--reference",
        choices=list(REFERENCES),
        help="show published MT30 returns beside ours, and how their protocol differs",
    )


if __name__ == "__main__":
    sys.exit(main())
