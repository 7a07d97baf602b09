"""Replacing a command on PATH by a test's own script."""

import os
from pathlib import Path

import pytest


def put_command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a command `name` that runs some shell lines before any other of that name on PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
