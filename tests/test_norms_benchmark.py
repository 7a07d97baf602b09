"""The benchmark of the norms' kernels: it calls all of them, and refuses what it cannot time."""

import os
import subprocess
import sys

import pytest

from tests.documents import ROOT

SCRIPT = str(ROOT / "benchmarks" / "norms.py")


def run(*arguments, **variables):
    command = [sys.executable, SCRIPT, *arguments]
    given = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    return subprocess.run(command, env={**os.environ, **variables}, **given)


def test_each_width_and_type_has_a_time_for_each_kernel():
    done = run("--repeat", "1", "--threads", "1")
    assert done.returncode == 0, done.stderr
    head, _, *lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in [head, *lines]]
    assert len(rows) == 1 + 2 * 8
    for width, _, *times in rows[1:]:
        missing = [name for name, ns in zip(rows[0][2:], times, strict=True) if not ns]
        assert all("simplex" in name for name in missing)
        assert bool(missing) == bool(int(width) % 8)
        assert all(float(ns) > 0 for ns in times if ns)


@pytest.mark.parametrize("option", ["--repeat", "--threads"])
def test_bad_number_is_one_line(option):
    done = run(option, "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {option[2:]} is 0; it must be at least 1\n"


def test_machine_without_a_compiler_is_one_line():
    done = run(CXX="/no/such/compiler")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: No such file or directory: /no/such/compiler\n"
