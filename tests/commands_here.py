"""A command that a test puts before all others."""

import os
from pathlib import Path

import pytest


def put_command(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Make `name` a command that runs lines of shell, wherever it is found otherwise."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
