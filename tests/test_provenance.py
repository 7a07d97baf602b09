"""Under which commit a result is put down."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pwmray

PACKAGE = Path(pwmray.__file__).parent
ASK = [sys.executable, "-P", "-c", "from pwmray import provenance as p; print(p._git_commit())"]
ONESELF = ["-c", "user.name=a", "-c", "user.email=a@b"]


@pytest.fixture
def other(tmp_path):
    """Return another repository, of one commit."""
    for command in (["init", "-q"], [*ONESELF, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def commit_by(code: Path, **variables) -> str:
    asked = {**os.environ, "PYTHONPATH": str(code), **variables}
    return subprocess.run(ASK, env=asked, check=True, capture_output=True, text=True).stdout


def test_commit_is_that_of_the_code_whatever_repository_git_is_at_work_in(other):
    theirs = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert commit_by(PACKAGE.parent, **theirs) == commit_by(PACKAGE.parent)


def test_copy_of_the_code_has_not_the_commit_of_the_repository_that_it_lies_in(other):
    copy = other / "vendor" / "pwmray"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(PACKAGE / name, copy)
    assert commit_by(copy.parent) == "None\n"
    subprocess.run(["git", "add", "."], cwd=other, check=True)
    subprocess.run(["git", *ONESELF, "commit", "-q", "-m", "copied"], cwd=other, check=True)
    assert commit_by(copy.parent) != "None\n"
