"""Write a Summary as a LaTeX document with booktabs tables; nothing is computed here."""

import re
from collections.abc import Iterable, Sequence

from analysis.formats.grid import Grid, break_key
from analysis.formats.grids import headline, list_grids
from analysis.report import Summary

PREAMBLE = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[a4paper, landscape, margin=15mm]{geometry}
\usepackage{booktabs, longtable}
\setlength{\parindent}{0pt}
\renewcommand{\_}{\textunderscore\allowbreak}  % long names break after it, not off the page
"""
# pdflatex stops at a letter that its fonts lack; other engines lack the declaration.
CODED = r"""\ifdefined\DeclareUnicodeCharacter
\makeatletter  % letters that the fonts lack are shown as their codes
\newcommand{\coded}[2]{\@ifundefined{u8:#1}{\DeclareUnicodeCharacter{#2}{[U+#2]}}{}}
\makeatother
"""
BEGIN = r"""\begin{document}
\small
"""
# Applied in one pass, so that no replacement changes what another one wrote.
ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
PAGE_ROWS = 30  # that surely fit one page
# A table's environment, where it stands, and what ends its head. LaTeX takes no longtable in two
# columns, as most papers have: one of a page is to be copied there as it is.
LONG = ("longtable", "[l]", "\n\\endhead")
SHORT = ("tabular", "", "")
SIGNS = {"+-": r"$\pm$", "->": r"$\rightarrow$", "-": "$-$"}
# Of hyphens those that are a number's sign, as in "[-4, 2]": a hyphen is half as long as a minus.
_SPECIAL = re.compile(rf"\+-|->|(?<![^\s\[(])-(?=\d)|[{re.escape(''.join(ESCAPES))}]")


def render_tex(summary: Summary, per_seed: bool) -> str:
    """Return a complete document, whose tables may be copied into a paper."""
    parts = [f"\\section*{{{escape(summary.sweep.name)}}}", escape(headline(summary))]
    parts += [_draw_grid(grid) for grid in list_grids(summary, per_seed)]
    parts += [r"\subsection*{Notes}", _list_notes(summary.notes), r"\end{document}"]
    body = "\n".join(parts) + "\n"
    return PREAMBLE + _declare_letters(body) + BEGIN + body


def _declare_letters(text: str) -> str:
    """Return declarations by which pdflatex shows letters that its fonts lack."""
    letters = sorted(letter for letter in set(text) if not letter.isascii())
    if not letters:
        return ""
    return CODED + "\n".join(f"\\coded{{{x}}}{{{ord(x):04X}}}" for x in letters) + "\n\\fi\n"


def escape(text: str) -> str:
    """Escape plain text for LaTeX, which cannot read control characters."""
    text = "".join(x if x.isprintable() or x in "\n\t\u00a0" else "\ufffd" for x in text)
    return _SPECIAL.sub(lambda found: (SIGNS | ESCAPES)[found[0]], text)


def _draw_grid(grid: Grid) -> str:
    """Return a table, its notes below; one that may need several pages may break over them."""
    lines = [f"\\subsection*{{{escape(grid.title)}}}"]
    if grid.rows:
        name, place, repeated = LONG if len(grid.rows) > PAGE_ROWS else SHORT
        sides = "".join("l" if is_word else "r" for is_word in grid.are_words)
        rows = "\n".join(_join_cells(map(escape, row)) for row in grid.rows)
        head = _join_cells(map(_stack_key, grid.headers, sides))
        lines += [f"\\begin{{{name}}}{place}{{@{{}}{sides}@{{}}}}", r"\toprule", head]
        lines += [r"\midrule" + repeated, rows, r"\bottomrule", f"\\end{{{name}}}"]
    return "\n".join([*lines, _list_notes(grid.notes)])


def _stack_key(name: str, side: str) -> str:
    """Return a column's header, with a long config key stacked over several lines."""
    parts = [escape(part) for part in break_key(name).split("\n")]
    if len(parts) == 1:
        return parts[0]
    return f"\\shortstack[{side}]{{" + r" \\ ".join(parts) + "}"


def _join_cells(cells: Iterable[str]) -> str:
    # A cell that starts with [ would be read as an option of the row's end before it.
    return " & ".join(f"{{}}{cell}" for cell in cells) + r" \\"


def _list_notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "\n".join(f"\\item {{}}{escape(note)}" for note in notes)
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
