"""README.md and docs/: their links lead somewhere, and what they list is all that there is."""

import re
from pathlib import Path

import pytest

from analysis.summarize import build_parser
from pwmray.cli import main
from pwmray.sweep_options import sweep_parser
from search_spaces import SCALES
from tests.documents import ROOT, SWEEP, list_rows, read_blocks, summarize_committed

FOUND = (ROOT.glob(pattern) for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md"))
PAGES = sorted(str(path.relative_to(ROOT)) for paths in FOUND for path in paths)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"--[a-z][a-z-]+")


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    dead = []
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_of_docs_is_linked_from_the_readme_or_from_a_page_that_is():
    reached, new = set(), {"README.md"}
    while new:
        reached |= new
        links = {
            ((ROOT / page).parent / link.partition("#")[0]).resolve()
            for page in new
            for link in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        }
        new = {page for page in PAGES if (ROOT / page).resolve() in links} - reached
    assert {page for page in PAGES if page.startswith("docs/")} <= reached


def test_experiment_in_the_readme_is_the_file_in_sweeps():
    (block,) = read_blocks(ROOT / "README.md")
    assert block.code in (ROOT / "sweeps" / "phase6_epochs.py").read_text()


def test_verdicts_in_the_readme_are_those_of_the_committed_sweep(capsys):
    tables = (ROOT / "README.md").read_text().partition("## Documentation")[0]
    shown = list_rows(tables)
    assert len(shown) == 4
    assert set(shown) <= set(list_rows((SWEEP / "README.md").read_text()))
    assert set(shown) <= set(list_rows(summarize_committed(capsys)))


def listed_options(page: str) -> set[str]:
    """Return the options that stand in the first column of a page's tables."""
    rows = re.findall(r"^\| (`-.*?) \|", (ROOT / "docs" / page).read_text(), re.M)
    return {option for row in rows for option in OPTION.findall(row)}


@pytest.mark.parametrize(
    ("page", "parser"),
    [("sweeps.md", sweep_parser("any", SCALES)), ("analysis.md", build_parser())],
)
def test_pages_list_every_option_and_no_other(page, parser):
    of_all = {"--help", "--results"}
    assert listed_options(page) | of_all == set(OPTION.findall(parser.format_usage())) | of_all


def test_every_command_has_a_place_in_the_documentation(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z]+)\b", capsys.readouterr().out, re.M)
    assert len(commands) > 10
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert [command for command in commands if f"`pwmray {command}" not in text] == []
