"""Ctrl-C while a command is still importing: a word in place of a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONG = ("numpy", "pyarrow", "scipy", "matplotlib", "ray", "torch", "rich")  # to import
INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
ONCE = f"import sys\nif not hasattr(sys, 'was_here'):\n    sys.was_here = True; {INTERRUPT}\n"
# In a sitecustomize.py, which Python runs first: Ctrl-C comes while a package is looked for.
LOOKED_FOR = f"""
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name in {LONG}:
            sys.meta_path.remove(self)
            {INTERRUPT}

sys.meta_path.insert(0, Interrupting())
"""
CASES = {
    "while a package is looked for": {"sitecustomize": LOOKED_FOR},
    "in a package's own code": dict.fromkeys(LONG, INTERRUPT),
    "in numpy's, which C code imports, too": {"numpy": ONCE},
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def early(tmp_path, request):
    """An environment in which Ctrl-C comes early."""
    for name, code in request.param.items():
        (tmp_path / f"{name}.py").write_text(code)
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
