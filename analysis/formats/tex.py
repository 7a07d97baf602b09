"""Write a Summary as a LaTeX document with booktabs tables; nothing is computed here."""

from collections.abc import Sequence

from analysis.formats.grid import Grid, is_text
from analysis.formats.grids import headline, list_grids
from analysis.report import Summary

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[a4paper, landscape, margin=15mm]{geometry}
\usepackage{booktabs, longtable}
\setlength{\parindent}{0pt}
\begin{document}
\small
"""
# Applied in one pass, so that what one replacement writes no other one reads.
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
SIGNS = {"+-": r"$\pm$", "->": r"$\rightarrow$"}


def render_tex(summary: Summary, per_seed: bool) -> str:
    """Return a document that compiles by itself; its tables may be copied into a paper."""
    parts = [PREAMBLE, f"\\section*{{{escape(summary.sweep.name)}}}", escape(headline(summary))]
    parts += [_draw_grid(grid) for grid in list_grids(summary, per_seed)]
    parts += [r"\subsection*{Notes}", _list_notes(summary.notes), r"\end{document}"]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return plain text as LaTeX prints it."""
    pieces = []
    position = 0
    while position < len(text):
        sign = SIGNS.get(text[position : position + 2])
        pieces.append(sign or ESCAPES.get(text[position], text[position]))
        position += 2 if sign else 1
    return "".join(pieces)


def _draw_grid(grid: Grid) -> str:
    """Return a table that may break over pages, its notes below."""
    lines = [f"\\subsection*{{{escape(grid.title)}}}"]
    if grid.rows:
        sides = "".join("l" if is_text(name) else "r" for name in grid.headers)
        rows = "\n".join(_join_cells(row) for row in grid.rows)
        head = _join_cells(grid.headers)
        lines += [f"\\begin{{longtable}}[l]{{@{{}}{sides}@{{}}}}", r"\toprule", head]
        lines += [r"\midrule", r"\endhead", rows, r"\bottomrule", r"\end{longtable}"]
    return "\n".join([*lines, _list_notes(grid.notes)])


def _join_cells(cells: Sequence[str]) -> str:
    # A cell that starts with [ would be read as an option of the row's end before it.
    return " & ".join(f"{{}}{escape(cell)}" for cell in cells) + r" \\"


def _list_notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "\n".join(f"\\item {{}}{escape(note)}" for note in notes)
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
