"""Under which commit a result is put down."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import pwmray
from pwmray import provenance

PACKAGE = Path(pwmray.__file__).parent
ASK = [sys.executable, "-P", "-c", "from pwmray import provenance as p; print(p._git_commit())"]
# A git that knows of this repository alone: not of one whose hook runs the tests, or its settings.
NO_GIT = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
ALONE = {**NO_GIT, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder: Path, *arguments: str) -> None:
    oneself = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *oneself, *arguments], cwd=folder, env=ALONE, check=True)


@pytest.fixture
def other(tmp_path):
    """Return another repository, of one commit."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")
    return tmp_path


def commit_by(code: Path, **variables) -> str:
    asked = {**NO_GIT, "PYTHONPATH": str(code), **variables}
    return subprocess.run(ASK, env=asked, check=True, capture_output=True, text=True).stdout


def test_job_and_process_are_those_that_slurm_names(monkeypatch):
    told = {
        "SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_CLUSTER_NAME": "east", "PWMRAY_PROFILE": "h100", "PWMRAY_LOG": "logs/41.out",
        "SLURMD_NODENAME": "n1", "SLURM_JOB_UID": "1000",
    }  # fmt: skip
    for name in told:
        monkeypatch.delenv(name, raising=False)
    here = {"host": socket.gethostname(), "pid": os.getpid()}
    of_slurm = {"slurm_job_id": "41", "slurm_uid": "1000", "slurm_node": "n1"}
    assert provenance.job() == {}
    assert provenance.process() == {**here, **dict.fromkeys(of_slurm)}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    array = {"slurm_array_job_id": "40", "slurm_array_task_id": "3", "slurm_cluster": "east"}
    ours = {"profile": "h100", "log": "logs/41.out"}
    assert provenance.job() == {"slurm_job_id": "41", "slurm_uid": "1000", **array, **ours}
    assert provenance.process() == {**here, **of_slurm}


def test_commit_is_that_of_the_code_whatever_repository_git_is_at_work_in(other):
    theirs = {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}
    assert commit_by(PACKAGE.parent, **theirs) == commit_by(PACKAGE.parent)


def test_copy_of_the_code_has_not_the_commit_of_the_repository_that_it_lies_in(other):
    copy = other / "vendor" / "pwmray"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(PACKAGE / name, copy)
    assert commit_by(copy.parent) == "None\n"
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "copied")
    assert commit_by(copy.parent) != "None\n"


def test_commit_is_told_of_a_checkout_that_belongs_to_another_user(other):
    shutil.copytree(PACKAGE, other / "pwmray", ignore=lambda *_: {"__pycache__"})
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "copied")
    assert commit_by(other, GIT_TEST_ASSUME_DIFFERENT_OWNER="1") == commit_by(other) != "None\n"


def test_trials_under_unlike_uncommitted_changes_do_not_have_the_same_commit(other):
    code = other / "pwmray"
    code.mkdir()
    for name in ("__init__.py", "provenance.py"):
        shutil.copy(PACKAGE / name, code)
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "clean")
    seen = [commit_by(other)]
    for text in ("first = 1\n", "second = 2\n", "first = 1\n"):
        (code / "__init__.py").write_text((PACKAGE / "__init__.py").read_text() + text)
        seen.append(commit_by(other))
    (code / "new_kind.py").write_text("kind = 1\n")  # not yet known to git
    (code / ".#new_kind.py").symlink_to("me@here.1")  # an editor's lock
    seen.append(commit_by(other))
    clean, first, second, first_again, with_new = (line.strip() for line in seen)
    assert "+" not in clean
    assert first == first_again
    assert first.startswith(f"{clean}+changes.")
    assert len({first, second, with_new}) == 3
