"""The benchmark of the summary: its tables are a sweep's, and it measures the real command."""

import re
import subprocess
import sys

import pytest

from analysis.load import load_sweep
from benchmarks.summary import choose_grid, forget, main, write_sweep
from tests.documents import ROOT


def test_grids_have_as_many_trials_as_asked():
    assert len(choose_grid(72).cells) == len(set(choose_grid(72).cells)) == 72
    assert len(choose_grid(10_000).cells) == 10_000
    with pytest.raises(ValueError, match="1001 is no multiple of 400 up to 12000"):
        choose_grid(1001)


def test_tables_are_those_of_a_sweep_that_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.summary.NUM_ROWS", 10)
    monkeypatch.setattr("benchmarks.summary.NUM_EPISODES", 12)
    write_sweep(tmp_path / "s", choose_grid(24))
    sweep = load_sweep(tmp_path / "s")
    assert len(sweep.usable) == sweep.num_planned == 24
    assert {len(trial.returns) for trial in sweep.trials} == {12}


def test_tables_stay_in_a_file_cache_that_cannot_be_told(tmp_path, monkeypatch):
    (tmp_path / "trials.arrow").touch()
    monkeypatch.delattr("os.posix_fadvise", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    forget(tmp_path)


def test_bad_number_is_one_line(capsys):
    assert main(["--trials", "73"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: --trials: 73 is no multiple of 24 up to 720\n"


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("summary", "--repeats"),
        ("registry", "--done"),
        ("tracking", "--rounds"),
        ("data_import", "--episodes"),
    ],
)
def test_number_of_nothing_is_refused_before_any_work(script, option):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), option, "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    said = f"error: argument {option}: '0' is not a whole number of at least 1 "
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_few_trials_are_summarised_within_what_is_promised():
    arguments = ["--trials", "72", "--formats", "table", "--repeats", "2"]
    script = str(ROOT / "benchmarks" / "summary.py")
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=True
    )
    row = done.stdout.splitlines()[-1]
    cpu_seconds, resident = re.findall(r"[\d.,]+", row)[-3], re.findall(r"[\d.,]+", row)[-1]
    assert float(cpu_seconds) < 2.0
    assert float(resident) < 400.0
