"""The walk-through in docs/, and the page of the committed sweep: what they show is computed."""

import html
import re
from pathlib import Path

import pytest

from tests.documents import ROOT, SWEEP, list_rows, read_blocks, run_blocks, summarize_committed

DOCS = ROOT / "docs"


@pytest.fixture
def beside_docs(tmp_path: Path, monkeypatch) -> Path:
    """Go to a folder whose docs/ has the committed tables and takes new files."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "phase6_laptop").symlink_to(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_walkthrough_prints_what_it_shows_and_draws_its_figure(beside_docs):
    space = run_blocks(DOCS / "walkthrough.md")
    assert len(space["table"].rows) == 8
    drawn = (beside_docs / "docs" / "walkthrough.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert len(drawn) > 10_000
    space["plt"].close(space["figure"])


def test_walkthrough_shows_the_figure_that_it_draws():
    text = (DOCS / "walkthrough.md").read_text()
    assert 'savefig("docs/walkthrough.png"' in text
    assert "](walkthrough.png)" in text
    assert (DOCS / "walkthrough.png").is_file()


def test_every_block_of_code_is_run():
    text = (DOCS / "walkthrough.md").read_text()
    assert len(read_blocks(DOCS / "walkthrough.md")) == text.count("\n```python\n") > 8


def test_tables_of_the_committed_sweep_are_those_of_its_data(capsys):
    shown = list_rows((SWEEP / "README.md").read_text())
    assert len(shown) == 16 + 12 + 8 + 4
    assert set(shown) <= set(list_rows(summarize_committed(capsys)))


def test_report_of_the_committed_sweep_is_small_and_has_its_numbers(capsys):
    page = (SWEEP / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", page)]
    on_page = {html.unescape(f"| {' | '.join(row)} |") for row in cells}
    computed = list_rows(summarize_committed(capsys, "--per-seed"))
    assert len(computed) > 100
    assert set(computed) <= on_page
