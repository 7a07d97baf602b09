"""Draw a Summary for people, as plain text or Markdown; nothing is computed here."""

import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from analysis.formats.grid import Grid, break_key
from analysis.formats.grids import headline, list_grids
from analysis.report import Summary

WIDTH = 100  # columns of text, at most
# Gap between columns, and the longest words of cells and of headers that are kept whole. The first
# layout that fits is taken, else the last; a broken number looks like two, so that comes after all.
LAYOUTS = (
    ("  ", WIDTH, WIDTH),
    (" ", WIDTH, WIDTH),
    (" ", 16, WIDTH),
    (" ", 12, WIDTH),
    (" ", 10, 10),
    (" ", 8, 8),
    (" ", 4, 2),
)
_NUMBER = re.compile(r"[-+\d.,e]*")
# Where a cell is not broken between words: within "a +- b", "[a, b]", "13 s" and "(9 seeds)".
_JOINTS = re.compile(r" (?=\+- )|(?<=\+-) |(?<=,) (?=[\d.-]+\])| (?=(?:s|min|h)$)| (?=seeds\)$)")
_JOINED = "\0"
# Without room for that a name is broken here; then "a +- b" is, before a number would be.
_SOFT = re.compile(r"(?<=[a-z][-_])(?=[a-z])")
_BREAK = "\v"  # that textwrap takes for a space
# What Markdown would interpret; it leaves an underscore within a word alone.
_SIGNS = re.compile(
    r"\\(?=[!-/:-@\[-`{-~])|`|\*(?=\S)|(?<=\S)\*|(?<![^\W_])_|_(?![^\W_])|~(?=\S)|(?<=\S)~|\](?=\()"
)


def render_table(summary: Summary, per_seed: bool, width: int = WIDTH) -> str:
    """Return the summary as plain text of `width` columns."""
    lines = _wrap(headline(summary), width)
    for grid in list_grids(summary, per_seed):
        lines += ["", grid.title]
        if grid.rows:
            lines += draw_grid(grid, width)
        lines += _list_notes(grid.notes, width)
    lines += ["", *_list_notes(summary.notes, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def render_markdown(summary: Summary, per_seed: bool) -> str:
    """Return the summary as Markdown: a heading and a pipe table for each table, then notes."""
    lines = [f"# {_keep_signs(summary.sweep.name)}", "", _keep_signs(headline(summary))]
    for grid in list_grids(summary, per_seed):
        lines += ["", f"## {_keep_signs(grid.title)}", ""]
        if grid.rows:
            rule = ["---" if is_word else "---:" for is_word in grid.are_words]
            lines += [_join_cells(row) for row in (grid.headers, rule, *grid.rows)]
            lines.append("")
        lines += [f"* {_keep_signs(note)}" for note in grid.notes]
    lines += ["", "## Notes", "", *(f"* {_keep_signs(note)}" for note in summary.notes), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def draw_grid(grid: Grid, width: int = WIDTH) -> Iterator[str]:
    """Yield a table's lines: headers, a rule, rows; long cells are wrapped."""
    headers = [break_key(name) for name in grid.headers]
    widths, gap, rows = _fit(headers, grid.rows, width)
    keys = [name for name in grid.headers if "." in name]
    if keys and any(
        _longest(head.split()) > room for head, room in zip(headers, widths, strict=True)
    ):
        headers = [f"[{keys.index(n) + 1}]" if n in keys else n for n in grid.headers]
        widths, gap, rows = _fit(headers, grid.rows, width)
        yield from _wrap(", ".join(f"[{n}]={key}" for n, key in enumerate(keys, 1)), width)
    sides = [str.ljust if is_word else str.rjust for is_word in grid.are_words]
    yield from _draw_row(headers, widths, sides, gap)
    yield "-" * _span(widths, gap)
    for row in rows:
        yield from (line.replace(_JOINED, " ") for line in _draw_row(row, widths, sides, gap))


def _fit(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[int], str, list[list[str]]]:
    """Return the columns' widths, the gap between them and the cells, so that nothing is cut off.

    To make room, gaps become narrow first; then the widest cells are broken between words; then
    names are broken at hyphens, long words anywhere, and finally short ones.
    """
    firm = [[_JOINTS.sub(_JOINED, cell) for cell in row] for row in rows]
    widths = _measure(headers, firm)
    for gap in ("  ", " "):
        if _span(widths, gap) <= width:
            return widths, gap, firm
    named = [[_SOFT.sub(_BREAK, cell) for cell in row] for row in firm]
    soft = [[_SOFT.sub(_BREAK, cell) for cell in row] for row in rows]
    tries = [(firm, layout, True) for layout in LAYOUTS[:2]] + [(named, LAYOUTS[1], True)]
    tries += [(soft, layout, True) for layout in LAYOUTS[1:]]
    gap, cells = "", soft
    for cells, (gap, *longest), keeps_numbers in [*tries, (soft, LAYOUTS[-1], False)]:
        least = _find_least(headers, cells, longest, keeps_numbers)
        widths = _shrink(_measure(headers, cells), least, gap, width)
        if _span(widths, gap) <= width:
            break
    return widths, gap, cells


def _measure(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns' widths where no cell is broken."""
    return [
        max(_longest(head.splitlines()), _longest(cells))
        for head, cells in zip(headers, zip(*rows, strict=True), strict=True)
    ]


def _find_least(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    longest: Sequence[int],
    keeps_numbers: bool,
) -> list[int]:
    """Return the columns' least widths, if words and heads are broken beyond `longest`."""
    longest_word, longest_head = longest
    least = []
    for head, cells in zip(headers, zip(*rows, strict=True), strict=True):
        word = _longest(word for cell in {*cells} for word in cell.split())
        is_kept = keeps_numbers and all(map(_NUMBER.fullmatch, cells))
        least.append(
            max(
                word if is_kept else min(word, longest_word),
                min(_longest(head.split()), longest_head),
            )
        )
    return least


def _shrink(widths: Sequence[int], least: Sequence[int], gap: str, width: int) -> list[int]:
    """Return widths shrunk to `width`, always taking from the widest column that can give."""
    widths = list(widths)
    while _span(widths, gap) > width:
        spare = [place for place, own in enumerate(widths) if own > least[place]]
        if not spare:
            break
        widths[max(spare, key=lambda place: widths[place])] -= 1
    return widths


def _draw_row(
    cells: Sequence[str],
    widths: Sequence[int],
    sides: Sequence[Callable[[str, int], str]],
    gap: str,
) -> Iterator[str]:
    parts = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for line in itertools.zip_longest(*parts, fillvalue=""):
        yield gap.join(
            side(text.replace(_BREAK, ""), width)
            for side, text, width in zip(sides, line, widths, strict=True)
        )


def _wrap(text: str, width: int) -> list[str]:
    """Return text in lines, broken between words, and within words wider than a line."""
    if len(text) <= width and "\n" not in text:
        return [text]
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, width, break_on_hyphens=False, replace_whitespace=False)
        or [""]
    ]


def _list_notes(notes: Sequence[str], width: int) -> list[str]:
    return [
        ("  " if place else "* ") + line
        for note in notes
        for place, line in enumerate(_wrap(" ".join(note.split()), width - 2))
    ]


def _span(widths: Sequence[int], gap: str) -> int:
    return sum(widths) + len(gap) * (len(widths) - 1)


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _join_cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_keep_signs(cell).replace("|", "\\|") for cell in cells) + " |"


def _keep_signs(text: str) -> str:
    """Escape what Markdown would read as a tag, emphasis, code or a link.

    "<.001" and "num_substeps" need no escape and stay as they are.
    """
    text = re.sub(r"&(?=#?\w+;)", "&amp;", _SIGNS.sub(r"\\\g<0>", text))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
