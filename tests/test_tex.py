"""The LaTeX document: compiled where a compiler is at hand, and checked by its structure anyway."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.formats.tex import PAGE_ROWS, escape
from analysis.summarize import main
from pwmray.results import TRIALS, read_table, write_rows
from tests.made_sweeps import fail_one, make_sweep
from tests.squares import write_levels, write_square

HOSTILE = r"100% of $5 & #1_{x}^2 ~ <a|b> \end{document} 'q' \"r\" [z]"
COMPILERS = {
    "pdflatex": ("pdflatex", "-interaction=nonstopmode", "-halt-on-error"),
    "tectonic": ("tectonic",),
}
FOUND = [command for name, command in COMPILERS.items() if shutil.which(name)]


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> str:
    """Return the document of a sweep with every kind of table, and text that LaTeX dislikes."""
    folder = make_sweep(tmp_path_factory.mktemp("tex") / "s", fail_one)
    path = folder / "trials.arrow"
    rows = read_table(path).to_pylist()
    rows[-1] |= {"status": "FAILED", "reason": HOSTILE}
    write_rows(path, rows, TRIALS)
    return render(folder)


def render(folder: Path) -> str:
    out = folder.parent / "out"
    options = ["--format", "tex", "--per-seed", "--reference", "pwm", "--out", str(out)]
    assert main([str(folder), *options]) == 0
    return (out / "summary.tex").read_text(encoding="utf-8")


def list_tables(document: str) -> list[tuple[str, str]]:
    """Return every table's column letters and its body."""
    begin = r"\\begin\{(?:longtable\}\[l\]|tabular\})"
    return re.findall(begin + r"\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{\w+\}", document, re.S)


def test_environments_are_closed_in_the_order_opened(document):
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", document):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    assert document.rstrip().endswith(r"\end{document}")


def test_braces_and_dollars_are_paired(document):
    plain = re.sub(r"\\[{}$\\]", "", document)
    depth = 0
    for sign in re.findall(r"[{}]", plain):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert set(re.findall(r"\$[^$]*\$", plain)) <= {r"$\pm$", r"$\rightarrow$", "$-$"}


def test_signs_of_numbers_are_minus_signs_and_other_hyphens_stay():
    assert escape("[-4, -2]") == "[$-$4, $-$2]"
    assert escape("-4.5 +- 2") == r"$-$4.5 $\pm$ 2"
    assert escape("mlp-600-0 of 2026-11-30, seeds 1-3, - and 1e-5") == (
        "mlp-600-0 of 2026-11-30, seeds 1-3, - and 1e-5"
    )


def test_every_row_has_a_cell_for_each_column(document):
    tables = list_tables(document)
    assert len(tables) > 5
    for sides, body in tables:
        rows = [row for row in body.splitlines() if row.endswith(r"\\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(sides) - 1}


def test_tables_have_the_rules_of_booktabs_in_order(document):
    assert r"\usepackage{booktabs, longtable}" in document
    for _, body in list_tables(document):
        rules = re.findall(r"\\(toprule|midrule|bottomrule)", body)
        assert rules == ["toprule", "midrule", "bottomrule"]


def test_only_tables_longer_than_a_page_are_of_the_kind_that_two_columns_refuse(document):
    long = re.findall(r"\\begin\{longtable\}(.*?)\\end\{longtable\}", document, re.S)
    short = re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", document, re.S)
    assert [table.count(r" \\") > PAGE_ROWS for table in long] == [True]  # every trial
    assert all(r"\endhead" in table for table in long)
    assert len(short) > 5
    assert not any(r"\endhead" in table for table in short)


def test_only_commands_of_the_packages_used_appear(document):
    used = set(re.findall(r"\\([A-Za-z]+)", document))
    assert used <= {
        "documentclass", "usepackage", "renewcommand", "textunderscore", "allowbreak", "small",
        "setlength", "parindent", "begin", "end", "section", "subsection", "toprule", "midrule",
        "bottomrule", "endhead", "item", "pm", "rightarrow", "textbackslash", "textasciitilde",
        "textasciicircum", "textless", "textgreater", "textbar", "textquotedbl",
    }  # fmt: skip


def test_text_that_latex_would_read_is_escaped(document):
    assert escape(HOSTILE) in document
    assert document.count(r"\end{document}") == 1
    body = document[document.index(r"\begin{document}") :]
    assert not re.search(r"(?<!\\)[#%_~^]", body)


def test_letters_that_are_not_ascii_are_declared_and_control_characters_are_none(tmp_path):
    write_odd(tmp_path)
    document = render(tmp_path / "s")
    head, _, body = document.partition(r"\begin{document}")
    assert re.findall(r"\\coded\{(.)\}\{(\w+)\}", head) == [
        ("\u6bd4", "6BD4"), ("\u8f83", "8F83"), ("\ufffd", "FFFD"),
    ]  # fmt: skip
    assert "\u6bd4\u8f83" in body
    assert "\x1b" not in document


def test_config_keys_are_stacked_over_their_columns(tmp_path):
    write_odd(tmp_path)
    head = r"{}\shortstack[l]{policy. \\ integrator} &"
    assert head in render(tmp_path / "s")


def write_odd(folder: Path) -> None:
    """Write a sweep over a setting, of levels in Chinese, one failed with codes of a terminal."""
    write_levels(folder / "s", ("\u6bd4\u8f83", "euler"))
    path = folder / "s" / "trials.arrow"
    rows = read_table(path).to_pylist()
    rows[-1] |= {"status": "FAILED", "reason": "\x1b[31mred"}
    write_rows(path, rows, TRIALS)


@pytest.mark.slow
@pytest.mark.skipif(not FOUND, reason="neither pdflatex nor tectonic here")
@pytest.mark.parametrize("kind", ["epochs", "square", "odd", "paper"])
def test_document_compiles(document, tmp_path, kind):
    if kind == "odd":
        write_odd(tmp_path)
        document = render(tmp_path / "s")
    if kind == "square":
        cells = {name: (300.0, 310.0) for name in ("baseline", "flowpolicy", "flowwm", "fullflow")}
        document = render(write_square(tmp_path / "s", {"cup-spin": cells, "cup-catch": cells}))
    if kind == "paper":
        document = re.sub(r"\\begin\{longtable\}.*?\\end\{longtable\}", "", document, flags=re.S)
        document = document.replace(r"\documentclass{", r"\documentclass[twocolumn]{")
    (tmp_path / "summary.tex").write_text(document)
    done = subprocess.run([*FOUND[0], "summary.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "summary.pdf").read_bytes().startswith(b"%PDF")
