"""Write a Summary as one self-contained HTML page: tables that sort, figures as SVG, no network."""

import html
import io
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from analysis.formats.grid import SortedCell, break_key
from analysis.formats.grids import headline, list_grids
from analysis.provenance import list_failures, list_provenance
from analysis.report import Summary

TEMPLATE = "page.html.j2"
# Text stays text (small, searchable, readable aloud), in fonts as wide as DejaVu Sans.
SVG_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif"}
FONTS = "DejaVu Sans, Verdana, sans-serif"
# The tables that come first, in this order: a glance over all tasks, then each.
FIRST = (
    *("Over tasks", "The 2x2: effects over tasks", "Verdicts along", "The 2x2: effects by task"),
    *("How many epochs", "Final returns on "),
)
# A larger figure (thousands of curves) becomes an image inside its axes, which browsers can open.
_MAX_SHAPES_BYTES = 1_000_000
_DPI = 150  # of such images
_LEAST_WIDTH = "60rem"  # a wider figure shrinks no further; in a narrower window it scrolls


class Drawing(NamedTuple):
    """One figure of the page."""

    name: str
    title: str
    svg: str


def render_html(summary: Summary, per_seed: bool) -> str:
    """Return the whole page, with every figure that the summary has data for."""
    grids = list_grids(summary, per_seed)
    first = [grid for start in FIRST for grid in grids if grid.title.startswith(start)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["break_key"] = break_key
    environment.tests["sorted_cell"] = lambda cell: isinstance(cell, SortedCell)
    return environment.get_template(TEMPLATE).render(
        name=summary.sweep.name,
        headline=headline(summary),
        notes=summary.notes,
        first=first,
        others=[grid for grid in grids if grid not in first],
        drawings=draw_all(summary),
        failures=list_failures(summary),
        provenance=list_provenance(summary),
        anchor=anchor,
    )


def draw_all(summary: Summary) -> list[Drawing]:
    """Return every figure of the summary as inline SVG, with ids that are unique on the page."""
    import matplotlib

    from analysis.figures import STYLE, list_figures  # matplotlib takes a second to import

    drawings = []
    with matplotlib.rc_context({**STYLE, **SVG_STYLE}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's browser has it
        for name, figure in list_figures(summary).items():
            title = _take_title(figure) or name.replace("_", " ")
            svg = _draw(figure)
            if len(svg) > _MAX_SHAPES_BYTES:
                _rasterize(figure)
                svg = _draw(figure)
            drawings.append(Drawing(name, title, _inline(svg, name, title)))
    return drawings


def _rasterize(figure: Any) -> None:
    for axes in figure.axes:
        for artist in (*axes.lines, *axes.collections):
            if getattr(artist.draw, "_supports_rasterization", False):  # else it warns
                artist.set_rasterized(True)


def _draw(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, dpi=_DPI)
    figure.set_layout_engine(None)  # drawn again, everything keeps its place
    return text.getvalue()


def anchor(title: str) -> str:
    """Return a title as the target of a link."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _take_title(figure: Any) -> str:
    """Remove a figure's title and return it; the page shows it as a heading."""
    if not figure.legends:
        return ""
    title = figure.legends[0].get_title().get_text()
    figure.legends[0].set_title(None)
    return " ".join(title.split())


def _inline(svg: str, name: str, title: str) -> str:
    """Return an SVG document as an element of a page, its ids prefixed by `name`."""
    body = svg[svg.index("<svg") :]
    head, body = body[: body.index(">") + 1], body[body.index(">") + 1 :]
    width = re.search(r'width="([\d.]+)pt"', head)
    view = re.search(r'viewBox="[^"]*"', head)
    assert width and view, "matplotlib's SVG has a width and a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'(<image\b[^>]*?) id="[^"]*"', r"\1", body)  # the same for the same picture
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r"font-family: [^\";]*sans-serif", f"font-family: {FONTS}", body)
    label = html.escape(title, quote=True)
    full = f"{width.group(1)}pt"
    style = f"width:100%;min-width:min({full},{_LEAST_WIDTH});max-width:{full}"
    return f'<svg role="img" aria-label="{label}" {view.group(0)} style="{style}">{body}'
