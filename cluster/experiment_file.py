"""The sweep or search that a file in sweeps/ runs."""

import ast
import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pwmray.commands import nearest, one_line
from pwmray.search import Search
from pwmray.sweep import Sweep

_USUAL = ("sweep", "search")


def load_experiment(path: Path) -> Sweep | Search:
    """Return the sweep or search that the file runs: whose `main` it calls, or `sweep`, `search`.

    Raises ValueError for a file that has neither, has several to choose from or cannot be loaded.
    """
    if not path.is_file():
        files = sorted(map(str, path.parent.glob("[!_.]*.py")))
        known = f"; valid: {', '.join(files)}" if files else ""
        raise ValueError(f"no sweep's file {path}{nearest(str(path), files)}{known}")
    found = {k: v for k, v in _load(path).items() if isinstance(v, Sweep | Search)}
    for names in (_run_by(path), _USUAL, found):
        chosen = {id(found[name]): name for name in names if name in found}
        if len(chosen) > 1:
            several = ", ".join(chosen.values())
            raise ValueError(
                f"{path} has several: {several}; let the one to submit be called sweep or search"
            )
        for name in chosen.values():
            found[name].check()
            return found[name]
    raise ValueError(
        f"{path} defines no Sweep and no Search; pretrainings are submitted with a sweep that "
        "starts from them, by its option --pretrain"
    )


def check_run(path: Path) -> None:
    """Raise ValueError for a file that runs nothing: its job would end well, and do nothing."""
    if not _owners_of_main(path):
        raise ValueError(
            f"{path} calls no main, so a job would run nothing: end it with if __name__ == "
            '"__main__": and main() of its sweep or search'
        )


def _load(path: Path) -> dict[str, Any]:
    """Return what a file defines; raise ValueError where it fails."""
    try:
        with _beside(path):
            return runpy.run_path(str(path), run_name=path.stem)
    except SystemExit:
        raise ValueError(
            f'{path} runs where it is loaded: call main below if __name__ == "__main__"'
        ) from None
    except Exception as error:  # of every kind: the file is a user's program
        places = traceback.extract_tb(error.__traceback__)
        lines = [place.lineno for place in places if place.filename == str(path)]
        line = f" (line {lines[-1]})" if lines else ""
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{path} cannot be loaded{line}: {said}") from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it, as when Python runs it."""
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _run_by(path: Path) -> list[str]:
    """Return the names whose `main` a file calls."""
    return [owner.id for owner in _owners_of_main(path) if isinstance(owner, ast.Name)]


def _owners_of_main(path: Path) -> list[ast.expr]:
    """Return whose `main` a file calls, or has another call, as it is written there."""
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    without_call = [node.value for node in nodes if isinstance(node, ast.Expr)]
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr == "main" and node not in without_call
    ]
