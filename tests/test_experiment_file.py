"""Which sweep or search `cluster/submit.py` takes from a file: the one that the file runs."""

import re
import subprocess
import sys

import pytest

from cluster import submit
from cluster.experiment_file import check_run, load_experiment

RENAMED = """
from dataclasses import replace
from few_levels import LEVELS
from tests.tiny import sweep as before
from tests.tiny_search import search as other
heads = replace(before, name="heads", vary={**before.vary, "learner.horizon": LEVELS})
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "few_levels.py").write_text("LEVELS = [3, 4]\n")
    return tmp_path / "heads.py"


@pytest.mark.parametrize(
    "end",
    [
        "sweep = heads\n",
        'if __name__ == "__main__":\n    heads.main()\n',
        'sweep = before\nif __name__ == "__main__":\n    heads.main()\n',
        "del before, other\n",
    ],
)
def test_the_sweep_that_a_file_runs_is_taken(file, end):
    file.write_text(RENAMED + end)
    before = list(sys.path)
    assert load_experiment(file).name == "heads"
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            RENAMED,
            "defines several: before, other, heads; call the one to submit sweep or search",
        ),
        (RENAMED + "sweep, search = heads, other\n", "defines several: sweep, search;"),
        ("import absent_package\n", "line 1): ModuleNotFoundError: No module named 'absent_pack"),
        (
            "x = 1\nsweep = Sweep(\n",
            "cannot be loaded: SyntaxError: '(' was never closed (heads.py, line 2)",
        ),
        ("x = {}\nx['a']\n", "cannot be loaded (line 2): KeyError: 'a'"),
        (RENAMED + "heads.main(['--limit', '0'])\n", "heads.py runs where it is loaded: call main"),
        ("1 / 0\nheads.main()\n", "heads.py runs where it is loaded: call main"),  # it did not run
        (RENAMED + "sweep = heads\n", "heads.py calls no main, so a job would run nothing"),
        (
            RENAMED + 'sweep = heads\nif __name__ == "__main__":\n    heads.mian()\n',
            "heads.py calls no main, so a job would run nothing",
        ),
        (
            RENAMED + 'sweep = heads\nif __name__ == "__main__":\n    heads.main\n',
            "heads.py calls no main, so a job would run nothing",
        ),
    ],
)
def test_file_that_cannot_be_submitted_is_one_line(file, text, said, capsys):
    file.write_text(text)
    assert submit.main([str(file), "--profile", "x"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(re.escape(said), error)


def test_main_that_another_function_calls_is_one(file):
    file.write_text(RENAMED + 'sweep = heads\nif __name__ == "__main__":\n    run(sweep.main)\n')
    check_run(file)


def test_file_imports_what_lies_beside_it_as_python_lets_it(file):
    file.write_text(RENAMED + 'if __name__ == "__main__":\n    heads.main()\n')
    command = [sys.executable, str(file), "--scale", "tiny", "--plan"]
    run = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "16 trials" in run.stdout
