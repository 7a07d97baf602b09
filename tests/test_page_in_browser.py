"""The report's page as a browser shows it: on a desk, on a phone, printed; its tables sorted."""

import itertools

import pytest

from pwmray.tasks import TASKS
from tests.browser import DESKTOP, PHONE
from tests.made_sweeps import fail_one, make_sweep
from tests.pages import CELLS, make_page
from tests.squares import write_square

pytestmark = [pytest.mark.slow, pytest.mark.browser]

A4 = (717, 1047)  # its inside in CSS pixels: 96 an inch, without the margins that a browser leaves

# What reaches over the window's edges and cannot be scrolled to within the page.
TOO_WIDE = """
const width = arguments[0];
const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX)
  || scrolls(e.parentElement));
return [...document.querySelectorAll("body *")]
  .filter((e) => !e.closest("svg") || e.tagName === "svg")
  .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
  .map((e) => e.tagName + " " + e.textContent.slice(0, 40));
"""
# Each figure: what it is called, in words for those who do not see it too, and its size.
FIGURES = """
return [...document.querySelectorAll("figure")].map((figure) => {
  const image = figure.querySelector("svg"), box = image.getBoundingClientRect();
  return {caption: figure.querySelector("figcaption").innerText.trim(), width: box.width,
    label: image.getAttribute("aria-label"), role: image.getAttribute("role"),
    height: box.height, drawn: image.querySelectorAll("path, use").length,
    title: [...image.querySelectorAll("text")].map((t) => t.textContent).join(" ")};
});
"""
COLUMN = """
const [section, column] = arguments;
return [...document.querySelectorAll(`#${section} tbody tr`)]
  .map((row) => row.cells[column].innerText);
"""


@pytest.fixture(scope="module", params=["square", "epochs"])
def page(request, tmp_path_factory):
    """Return a page's address and the structure of what was written."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "square":
        write_square(folder / "s", {"reacher-easy": CELLS, "walker-stand": CELLS})
    else:
        make_sweep(folder / "s", fail_one)
    written = make_page(folder, "s", "--per-seed")
    return (folder / "out" / "summary.html").as_uri(), written


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_the_page_opens_without_an_error_or_a_request(browser, page, size):
    browser.open(page[0], size)
    assert browser.errors() == []
    assert browser.requests() == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_nothing_is_wider_than_the_window(browser, page, size):
    browser.open(page[0], size)
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    assert browser.run(TOO_WIDE, size[0]) == []


def test_text_is_legible_on_a_phone(browser, page):
    browser.open(page[0], PHONE)
    sizes = browser.run(
        'return [...document.querySelectorAll("p, li, td, th, a, h2, h3")]'
        ".map((e) => parseFloat(getComputedStyle(e).fontSize));"
    )
    assert min(sizes) >= 12


def test_every_figure_is_seen_and_labelled(browser, page):
    browser.open(page[0])
    figures = browser.run(FIGURES)
    assert len(figures) == len(page[1].all("figure")) > 5
    assert all(figure["role"] == "img" for figure in figures)
    assert all(figure["label"] == figure["caption"] for figure in figures)
    assert all(figure["width"] > 200 and figure["height"] > 100 for figure in figures)
    assert all(figure["drawn"] > 5 for figure in figures)
    assert not [figure for figure in figures if figure["caption"] in figure["title"]]


def test_a_click_on_a_header_sorts_its_table_and_another_reverses_it(browser, page):
    browser.open(page[0])
    header = browser.driver.find_element("xpath", '//*[@id="every-trial"]//button[.="return"]')
    column = browser.run("return arguments[0].parentElement.cellIndex", header)
    before = browser.run(COLUMN, "every-trial", column)
    header.click()
    rising = browser.run(COLUMN, "every-trial", column)
    arrow = browser.run("return getComputedStyle(arguments[0], '::after').content", header)
    header.click()
    falling = browser.run(COLUMN, "every-trial", column)

    numbers = [float(cell) for cell in before if cell != "-"]
    assert [float(cell) for cell in rising if cell != "-"] == sorted(numbers) != numbers
    assert [float(c) for c in falling if c != "-"] == sorted(numbers, reverse=True)
    assert arrow == '"\N{UPWARDS ARROW}"'
    assert browser.errors() == []


def test_a_header_sorts_by_text_from_the_keyboard(browser, page):
    browser.open(page[0])
    header = browser.driver.find_element("xpath", '//*[@id="every-trial"]//button[.="variant"]')
    column = browser.run("return arguments[0].parentElement.cellIndex", header)
    header.send_keys(" ")
    cells = browser.run(COLUMN, "every-trial", column)
    assert cells == sorted(cells)
    assert len([name for name, _ in itertools.groupby(cells)]) == len(set(cells)) > 1


def test_a_wide_table_scrolls_inside_itself_on_a_phone(browser, page):
    browser.open(page[0], PHONE)
    region = browser.driver.find_element("css selector", "#every-trial .wide")
    moved = browser.run("arguments[0].scrollLeft = 1e6; return arguments[0].scrollLeft", region)
    assert moved > 0
    assert browser.run("return scrollX") == 0


def test_a_wide_figure_scrolls_on_a_phone_and_its_text_stays_legible(browser, page):
    browser.open(page[0], PHONE)
    shrunk = browser.run(
        'return [...document.querySelectorAll("figure svg")].map((image) =>'
        " image.getBoundingClientRect().width / image.viewBox.baseVal.width);"
    )
    moved = browser.run(
        'return [...document.querySelectorAll("figure")].map((figure) => {'
        " figure.scrollLeft = 1e6; return figure.scrollLeft; });"
    )
    assert min(shrunk) > 0.8  # CSS pixels a point, of text of 7.5 points and more
    assert max(moved) > 0
    assert browser.run("return scrollX") == 0


def test_links_lead_to_their_sections(browser, page):
    browser.open(page[0])
    browser.driver.find_element("link text", "Provenance").click()
    top = browser.run('return document.getElementById("origin").getBoundingClientRect().top')
    assert 0 <= top < DESKTOP[1]


def test_the_printed_page_shows_all_of_it_and_nothing_to_click(browser, page):
    browser.open(page[0], A4)
    browser.emulate_print()
    assert browser.run(TOO_WIDE, A4[0]) == []
    assert browser.run('return document.querySelector("nav").getClientRects().length') == 0
    cut = 'return [...document.querySelectorAll(".wide")].map((e) => e.scrollWidth - e.clientWidth)'
    assert max(browser.run(cut)) <= 0


def test_the_page_prints_on_several_sheets(browser, page):
    browser.open(page[0])
    printed = browser.print_pdf()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") > 2


def test_a_figure_of_all_tasks_fits_a_sheet_with_its_heading(browser, tmp_path):
    cells = {name: CELLS[name] for name in ("baseline", "fullflow")}
    write_square(tmp_path / "s", dict.fromkeys(TASKS, cells))
    make_page(tmp_path, "s")
    browser.open((tmp_path / "out" / "summary.html").as_uri(), A4)
    browser.emulate_print()
    assert max(figure["height"] for figure in browser.run(FIGURES)) < 0.85 * A4[1]
