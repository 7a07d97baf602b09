"""What a drawn figure shows."""

from matplotlib.figure import Figure

from analysis.drawing.colours import VARIANT_COLOURS


def list_looks(figure: Figure) -> set[tuple]:
    """Return how the legend tells variants, colours apart."""
    return {
        (handle.get_linestyle(), handle.get_marker(), handle.get_fillstyle())
        for handle in figure.legends[0].legend_handles
        if handle.get_label() in VARIANT_COLOURS
    }


def footnote(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def check_legend(figure: Figure) -> None:
    """Assert that a figure's legend lies inside it and above its panels with their titles."""
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    panels = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1
    assert box.y0 >= max(panel.y1 for panel in panels if panel) - 1.0
