"""A file in sweeps/, which is a person's program: what it defines, and whose `main` it calls."""

import ast
import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pwmray.wording import one_line


def load(path: Path) -> dict[str, Any]:
    """Return what a file defines, by name; what it runs as a program does not run.

    Raises ValueError for one that fails, or that would run whoever loads it.
    """
    try:
        if not _runs_when_loaded(path):
            with _beside(path):
                return runpy.run_path(str(path), run_name=path.stem)
    except SystemExit:  # of a `main` that it calls by another name
        pass
    except Exception as error:  # of every kind: it is a person's program
        places = traceback.extract_tb(error.__traceback__)
        lines = [place.lineno for place in places if place.filename == str(path)]
        line = f" (line {lines[-1]})" if lines else ""
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{path} cannot be loaded{line}: {said}") from error
    raise ValueError(f'{path} runs where it is loaded: call main below if __name__ == "__main__"')


def owners_of_main(path: Path) -> list[ast.expr]:
    """Return whose `main` a file calls, or has another call, as it is written there."""
    return _owners(_parse(path))


def _runs_when_loaded(path: Path) -> bool:
    """Tell whether a file calls some `main` whoever loads it, outside of any `if`."""
    statements = _parse(path).body
    return any(_owners(one) for one in statements if isinstance(one, ast.Expr))


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _owners(tree: ast.AST) -> list[ast.expr]:
    nodes = list(ast.walk(tree))
    without_call = [node.value for node in nodes if isinstance(node, ast.Expr)]
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Attribute) and node.attr == "main" and node not in without_call
    ]


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Let a file import what lies beside it, as when Python runs it."""
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before
