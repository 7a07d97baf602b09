"""Print a sweep's returns and verdicts, and draw its figures.

    python analysis/summarize.py                        the latest sweep in results/
    python analysis/summarize.py phase6_epochs --per-seed --plot
    python analysis/summarize.py phase6_epochs --compare variant --format md

Reads only the sweep's Arrow files, so it runs beside a sweep that is still going. Exit status: 0
when something was summarised, 2 with one line on stderr when not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.export import render_csv, render_json
from analysis.load import find_sweep, load_sweep
from analysis.report import summarize_sweep
from analysis.tables import render_markdown, render_table
from pwmray.commands import CommandParser, run_command

RENDERERS = {
    "table": render_table,
    "md": render_markdown,
    "csv": render_csv,
    "json": render_json,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    return run_command(lambda: summarize(build_parser().parse_args(arguments)))


def summarize(options: argparse.Namespace) -> int:
    """Print the sweep that `options` name; raise ValueError where there is none to print."""
    folder = find_sweep(options.sweep, options.results)
    if options.sweep is None:
        print(f"summarising {folder}, the latest sweep there", file=sys.stderr)
    sweep = load_sweep(folder)
    summary = summarize_sweep(sweep, options.compare, options.anyway)
    print(RENDERERS[options.format](summary, options.per_seed), end="")
    if options.plot is not None:
        from analysis.figures import draw_figures  # matplotlib takes a second to import

        for path in draw_figures(sweep, options.plot or folder / "figures"):
            print(f"wrote {path}", file=sys.stderr)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = CommandParser(
        prog="summarize.py",
        description="Print a sweep's returns and verdicts, and draw its figures.",
        allow_abbrev=False,
    )
    parser.add_argument("sweep", nargs="?", help="name under the results folder, or a path")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--format", choices=list(RENDERERS), default="table")
    parser.add_argument("--per-seed", action="store_true", help="list every trial too")
    parser.add_argument(
        "--compare", metavar="FACTOR", help="a factor the sweep varies, e.g. variant or epochs"
    )
    parser.add_argument(
        "--anyway", action="store_true", help="judge arms that are not comparable, and say so"
    )
    parser.add_argument(
        "--plot",
        nargs="?",
        const="",
        type=lambda text: Path(text) if text else "",
        metavar="DIR",
        help="write the figures, as PNG and SVG (default: figures/ in the sweep's folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
