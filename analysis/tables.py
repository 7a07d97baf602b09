"""Draw a Summary for people: a plain-text table or Markdown; nothing is computed here."""

import io
import re
from collections.abc import Sequence

from rich.box import Box
from rich.console import Console
from rich.table import Table

from analysis.grid import Grid, is_text
from analysis.grids import headline, list_grids
from analysis.report import Summary

HEAD_RULE = Box("    \n    \n -- \n" + "    \n" * 5, ascii=True)  # one line, under the headers
WIDTH = 100  # columns when the output is not a terminal


def render_table(summary: Summary, per_seed: bool, width: int | None = None) -> str:
    """Return the summary as plain text, `width` (default 100) columns wide, without colours."""
    text = io.StringIO()
    console = Console(
        file=text, width=width or WIDTH, color_system=None, highlight=False, markup=False
    )
    console.print(headline(summary))
    for grid in list_grids(summary, per_seed):
        console.print()
        console.print(grid.title)
        if grid.rows:
            console.print(_draw_grid(grid))
        _print_notes(console, grid.notes)
    console.print()
    _print_notes(console, summary.notes)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def render_markdown(summary: Summary, per_seed: bool) -> str:
    """Return the summary as Markdown: a heading and a pipe table for each table, then notes."""
    lines = [f"# {summary.sweep.name}", "", headline(summary)]
    for grid in list_grids(summary, per_seed):
        lines += ["", f"## {grid.title}", ""]
        if grid.rows:
            rule = ["---" if is_text(name) else "---:" for name in grid.headers]
            lines += [_join_cells(row) for row in (grid.headers, rule, *grid.rows)]
            lines.append("")
        lines += [f"* {note}" for note in grid.notes]
    lines += ["", "## Notes", "", *(f"* {note}" for note in summary.notes), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _draw_grid(grid: Grid) -> Table:
    table = Table(box=HEAD_RULE, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for place, name in enumerate(grid.headers):
        words = [word for row in grid.rows for word in row[place].split()]
        table.add_column(
            _break_key(name),
            min_width=max(map(len, words), default=0),
            justify="left" if is_text(name) else "right",
            overflow="fold",  # where there is no room, between words: nothing is cut off
        )
    for row in grid.rows:
        table.add_row(*row)
    return table


def _break_key(name: str) -> str:
    """Return a column's name, a config key over several lines: it is far longer than its values."""
    return re.sub(r"([._])", r"\1\n", name) if "." in name else name


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    table = Table.grid(padding=(0, 1, 0, 0))
    for note in notes:
        table.add_row("*", note)
    if notes:
        console.print(table)


def _join_cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
