"""Ctrl-C while a command is still importing: a word in place of a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In a sitecustomize.py, which Python runs first: Ctrl-C comes with the first import of a package
# that takes long.
EARLY = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "pyarrow", "scipy", "matplotlib", "ray", "torch", "rich"):
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
"""


@pytest.fixture
def early(tmp_path):
    """An environment in which Ctrl-C comes early."""
    (tmp_path / "sitecustomize.py").write_text(EARLY)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.mark.parametrize(
    "command",
    [
        ["sweeps/phase6_epochs.py", "--plan"],
        ["sweeps/search_flow.py", "--plan"],
        ["-m", "pwmray", "status"],
        ["-c", "from pwmray.cli import main; main()", "status"],  # what the script `pwmray` does
        ["analysis/summarize.py", "none"],
        ["analysis/import_legacy.py", "none.csv"],
        ["cluster/submit.py", "sweeps/phase6_epochs.py"],
    ],
    ids=" ".join,
)
def test_ctrl_c_while_a_command_imports_is_no_traceback(command, early):
    found = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=early, capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (-signal.SIGINT, "interrupted\n")


def test_ctrl_c_in_a_program_that_only_uses_the_library_has_its_traceback(early):
    program = "import pwmray\nraise KeyboardInterrupt"
    found = subprocess.run(
        [sys.executable, "-c", program], env=early, capture_output=True, text=True
    )
    assert "Traceback" in found.stderr
