"""The script `run`: the environment that it makes, and what it runs inside."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent
# A Python that says it is of another version, and does nothing else.
OTHER_PYTHON = """#!/bin/sh
case $2 in *version_info*) ;; *) exit 1 ;; esac
exec "{python}" -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2"
"""
# What a command begins with that may not write where only root may.
AS_A_USER = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else ["env"]
AS_A_USER = AS_A_USER if shutil.which(AS_A_USER[0]) else []
# Stands in for Python: makes an environment of nothing, and notes what pip is told by the caller's
# shell. Its pip waits for a line from the file `gate`, where there is one.
STAND_IN = """#!/bin/sh
cd "$PLACE"
case $2 in
*venv*) echo venv >> log; mkdir -p "$4/bin"; ln -sf "$PYTHON" "$4/bin/python"
    echo "${4%/.venv}/pwmray" > "$4/found" ;;
*pwmray*) cat "${0%/bin/python}/found" ;;
pip) echo "pip ${PYTHONPATH-} ${PIP_TARGET-} ${PIP_PREFIX-} ${PIP_USER-}" >> log
    [ ! -e gate ] || read -r line < gate; exit "${STATUS-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "checkout" / "pwmray").mkdir(parents=True)
    for name in ("run", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / "checkout")
    python = tmp_path / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path / "checkout"


def start(run, *command, **environment):
    """Start `run` with what stands in for Python."""
    place = run.resolve().parent.parent
    known = {"PATH": os.environ["PATH"], "PYTHON": str(place / "python"), "PLACE": str(place)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([run, *command], env=known | environment, text=True, **pipes)


def finish(process):
    """Return the exit code and both outputs."""
    outputs = process.communicate(timeout=100)
    return process.returncode, *outputs


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [((3, 10, 13), False), ((3, 11, 0), True), ((3, 12, 9), True), ((3, 13, 0), False)],
)
def test_run_refuses_a_python_that_pyproject_refuses_before_it_installs(
    version, is_taken, tmp_path
):
    for name in ("run", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    other = tmp_path / "python"
    other.write_text(OTHER_PYTHON.format(python=sys.executable, version=version))
    other.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(other)}

    done = subprocess.run(
        [tmp_path / "run", "true"], env=environment, capture_output=True, text=True
    )

    begins = done.stderr.splitlines()[0]
    assert begins.startswith("installing into ") is is_taken
    if not is_taken:
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert begins.endswith("is not Python 3.11 or 3.12; set PYTHON to one")
        assert not (tmp_path / ".venv").exists()
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = SpecifierSet(described["requires-python"])
    assert wanted.contains(".".join(map(str, version))) is is_taken


@pytest.mark.skipif(not AS_A_USER, reason="root may write everywhere without setpriv")
@pytest.mark.parametrize("locked", ["", ".venv"])
def test_run_refuses_to_install_into_the_checkout_of_another_user(locked, tmp_path):
    for name in ("run", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / locked).mkdir(exist_ok=True)
    (tmp_path / locked).chmod(0o555)
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    started = [*AS_A_USER, tmp_path / "run", "true"]
    done = subprocess.run(started, env=environment, capture_output=True, text=True)
    (tmp_path / locked).chmod(0o755)
    told = f"error: {(tmp_path / locked).resolve()} is not yours to write to; its owner runs "
    assert (done.returncode, done.stderr) == (2, f"{told}{tmp_path}/run once, for all users\n")


def test_run_called_by_a_link_works_in_its_own_checkout(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "link"
    link.symlink_to("../checkout/run")
    code, out, _ = finish(start(link, "sh", "-c", "echo $VIRTUAL_ENV"))
    assert (code, out) == (0, f"{checkout.resolve()}/.venv\n")
    assert [p.name for p in link.parent.iterdir()] == ["link"]


@pytest.mark.parametrize("carry", [["cp", "-R", "-P"], ["mv"]])
def test_run_does_not_run_the_code_of_a_checkout_that_this_one_was_made_from(
    carry, checkout, tmp_path
):
    assert finish(start(checkout / "run", "true"))[0] == 0
    other = tmp_path / "other"
    subprocess.run([*carry, checkout, other], check=True)
    code, out, err = finish(start(other / "run", "echo", "ran"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {other.resolve()}/.venv was made in another place")


def test_run_does_not_run_the_code_of_a_checkout_whose_environment_is_linked(checkout, tmp_path):
    assert finish(start(checkout / "run", "true"))[0] == 0
    other = tmp_path / "other"
    (other / "pwmray").mkdir(parents=True)
    for name in ("run", "requirements.lock"):
        shutil.copy(ROOT / name, other)
    (other / ".venv").symlink_to(checkout / ".venv")
    assert finish(start(other / "run", "echo", "ran"))[:2] == (2, "")


def test_run_says_in_one_line_that_its_python_is_gone(checkout, tmp_path):
    assert finish(start(checkout / "run", "true"))[0] == 0
    (tmp_path / "python").unlink()
    code, out, err = finish(start(checkout / "run", "echo", "ran"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "its Python is gone" in err


def test_run_says_in_one_line_that_its_environment_is_a_link_to_nothing(checkout, tmp_path):
    (checkout / ".venv").symlink_to(tmp_path / "absent")
    code, out, err = finish(start(checkout / "run", "echo", "ran"))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"error: {checkout.resolve()}/.venv is a link to nothing; delete it")
    (checkout / ".venv").unlink()
    assert finish(start(checkout / "run", "echo", "ran"))[:2] == (0, "ran\n")


def test_ctrl_c_while_an_environment_is_made_shows_no_traceback(checkout):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    command = [checkout / "run", "true"]
    # In a group of its own, as a terminal has it: Ctrl-C is for all of its processes.
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        wait_for((checkout / ".venv" / "pyvenv.cfg").exists)  # then it takes seconds to bring pip
    finally:
        os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert (code != 0, out, len(err.splitlines())) == (True, "", 1)


def test_what_a_shell_says_of_other_pythons_reaches_what_runs_but_not_what_is_installed(
    checkout, tmp_path
):
    said = {"PYTHONPATH": "/a", "PIP_TARGET": "/b", "PIP_PREFIX": "/c", "PIP_USER": "1"}
    code, out, _ = finish(start(checkout / "run", "sh", "-c", "echo $PYTHONPATH", **said))
    assert (code, out) == (0, "/a\n")
    assert (tmp_path / "log").read_text().splitlines() == ["venv", *["pip    0"] * 2]


def test_run_whose_installing_failed_says_so_and_begins_anew(checkout, tmp_path):
    code, out, err = finish(start(checkout / "run", "echo", "ran", STATUS="1"))
    assert (code, out) == (1, "")
    assert err.splitlines()[1:] == [
        f"error: {checkout.resolve()}/.venv is not complete; the same command tries again"
    ]
    assert finish(start(checkout / "run", "echo", "ran"))[:2] == (0, "ran\n")
    assert (tmp_path / "log").read_text().count("venv") == 2


@pytest.mark.skipif(
    not (shutil.which("flock") and Path("/proc/locks").exists()), reason="Linux tells who waits"
)
def test_two_runs_at_once_install_once(checkout, tmp_path):
    os.mkfifo(tmp_path / "gate")
    lock = (checkout / "requirements.lock").stat().st_ino
    runs = [start(checkout / "run", "echo", "ran") for _ in range(2)]
    try:
        # Open for both ways, so that nothing waits for ever where no pip comes to read it.
        with open(os.open(tmp_path / "gate", os.O_RDWR), "w") as gate:
            wait_for(lambda: re.search(f"-> FLOCK .*:{lock} ", Path("/proc/locks").read_text()))
            (tmp_path / "gate").unlink()
            gate.write("go on\n")
        assert [finish(run)[:2] for run in runs] == [(0, "ran\n")] * 2
    finally:
        for run in runs:
            run.kill()
    assert (tmp_path / "log").read_text().splitlines() == ["venv", *["pip    0"] * 2]
