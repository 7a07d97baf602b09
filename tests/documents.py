"""Run the Python blocks of a Markdown file in order, and what each prints against the text below.

python -m tests.documents docs/results.md       write what its blocks print into the file
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from analysis.summarize import main

ROOT = Path(__file__).parent.parent
SWEEP = ROOT / "docs" / "phase6_laptop"
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.S | re.M)


class Block(NamedTuple):
    """One block of code; `expected` is None where the document shows nothing printed."""

    line: int
    code: str
    expected: str | None


def read_blocks(path: Path) -> list[Block]:
    """Return the blocks of a document in order."""
    text = path.read_text(encoding="utf-8")
    return [Block(text.count("\n", 0, m.start()) + 2, m[1], m[2]) for m in BLOCK.finditer(text)]


def run_blocks(path: Path) -> dict[str, Any]:
    """Run a document's blocks in one namespace, and return it.

    A block must print exactly what the document shows below it, and nothing where it shows
    nothing; errors point at the document's own lines.
    """
    space: dict[str, Any] = {"__name__": path.stem}
    for block in read_blocks(path):
        printed = _run(path, block, space)
        assert printed == (block.expected or ""), f"{path.name}, line {block.line}"
    return space


def fill_blocks(path: Path) -> None:
    """Write what each block of a document prints below it."""
    space: dict[str, Any] = {"__name__": path.stem}
    printed = [_run(path, block, space) for block in read_blocks(path)]
    shown = iter(f"\n\n```text\n{text}```" if text else "" for text in printed)
    text = path.read_text(encoding="utf-8")
    path.write_text(BLOCK.sub(lambda match: f"```python\n{match[1]}```{next(shown)}", text))


def _run(path: Path, block: Block, space: dict[str, Any]) -> str:
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.code, str(path), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, space)
    return printed.getvalue()


def list_rows(markdown: str) -> list[str]:
    """Return the rows of all tables, without their headers."""
    bodies = re.sub(r"^\|.*\|\n\| ---.*\|\n", "", markdown, flags=re.M)
    return re.findall(r"^\| .*\|$", bodies, re.M)


def summarize_committed(capsys, *options: str) -> str:
    assert main([str(SWEEP / "tables" / "phase6_epochs"), "--format", "md", *options]) == 0
    return capsys.readouterr().out


if __name__ == "__main__":
    fill_blocks(Path(sys.argv[1]))
