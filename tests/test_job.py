"""What a job does with its Ray and its driver, on a Slurm that is made up."""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from cluster import job, raynode, slurm
from cluster.slurm import SlurmError
from pwmray.commands import TRIALS_FAILED
from pwmray.driver.interruption import GO_ON, TERMINATED
from pwmray.registry import CLAIM_FILE, trial_folder
from tests.claims import dead_pid, leave_claim
from tests.commands_here import put_command
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent
ARRAY = {"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "3"}
# Every node is this machine. What is asked is written down.
SCONTROL = """
echo "$@" >> asked
case "$*" in
    *"show job"*) echo "JobId=41 EndTime=Unknown $GPUS" ;;
    *"show hostnames"*) echo "$3" | tr , "\\n" ;;
    *"show node"*) echo "NodeName=n1 NodeAddr=127.0.0.1" ;;
esac
"""
# In place of a Ray, a head that listens and a worker that waits.
SRUN = f"""
echo "$@" >> started
echo $$ >> steps
exec {sys.executable} -c '
import signal, socket, sys
def end(*_):
    open("ended", "a").write("1")
    sys.exit(0)
signal.signal(signal.SIGUSR2, end)
open("ready", "a").write("1")
role, ip, port, _ = sys.argv[-4:]
if role in open("failing").read():
    sys.exit(3)
if role == "head" and "silent" not in open("failing").read():
    listening = socket.create_server((ip, int(port)))
while True:
    signal.pause()
' "$@"
"""


class Place(NamedTuple):
    """A folder with a driver to be written, in an allocation of one node."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def run(
        self, driver: str, changes: str = "", gres: str = "", **variables: str
    ) -> subprocess.CompletedProcess:
        """Run a job with this driver in a process of its own; `changes` are made to the module."""
        (self.folder / "driver.py").write_text(driver)
        here = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}
        lines = ["import sys", "from cluster import job", changes, "sys.exit(job.main())"]
        options = ["--jobs", str(self.folder), "--cpus=1", f"--gres={gres}", "--", "driver.py"]
        return subprocess.run(
            [sys.executable, "-c", "\n".join(lines), *options],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT), **here, **variables},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch):
    put_command(tmp_path, monkeypatch, "scontrol", SCONTROL)
    put_command(tmp_path, monkeypatch, "srun", SRUN)
    (tmp_path / "failing").touch()
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def asked(monkeypatch):
    """What Slurm was asked; it answers nothing."""
    commands = []
    monkeypatch.setattr(slurm, "ask", lambda *command: commands.append(shlex.join(command)) or "")
    return commands


def run(monkeypatch, tmp_path, code, number=None):
    """Run a job whose driver ends with `code`, after a signal if it is given one."""
    for name, value in {**ARRAY, "SLURM_JOB_NODELIST": "n1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(job.Job, "run", lambda self: setattr(self, "signal", number) or code)
    options = ["--cpus", "1", "--max-requeues", "1", "--", "sweep.py"]
    monkeypatch.setattr(sys, "argv", ["job.py", "--jobs", str(tmp_path), *options])
    return job.main()


def test_task_of_an_array_requeues_itself_alone(asked, monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, GO_ON, signal.SIGUSR1) == 0
    assert asked == ["scontrol requeue 41_3"]


def test_job_that_cannot_be_requeued_leaves_no_word_to_a_next_life(monkeypatch, tmp_path):
    def refuse(*_):
        raise slurm.SlurmError("refused")

    (word := tmp_path / ".41.in-vain").touch()
    monkeypatch.setattr(slurm, "ask_again", refuse)
    assert run(monkeypatch, tmp_path, GO_ON) == GO_ON
    assert not word.exists()


def test_cancelled_job_does_not_requeue_itself(asked, monkeypatch, tmp_path):
    assert run(monkeypatch, tmp_path, GO_ON, signal.SIGTERM) == TERMINATED
    assert asked == []


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_job_ends_as_its_driver_does(place, code):
    assert place.run(f"raise SystemExit({code})").returncode == code
    assert not list(place.folder.glob(".*.token"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, TERMINATED), (signal.SIGUSR1, GO_ON)]
)
def test_signal_to_the_job_reaches_its_driver_once(place, number, code):
    driver = f"""
import os, signal, sys, time
told = []
signal.signal({number}, lambda number, _: told.append(number))
os.kill(os.getppid(), {number})
os.kill(os.getppid(), {number})
while not told:
    time.sleep(0.05)
time.sleep(0.5)
print("told", told)
sys.exit({GO_ON})
"""
    done = place.run(driver)
    assert f"told [{int(number)}]\n" in done.stdout
    assert done.returncode == code


TELL_AS_THE_DRIVER_IS_KNOWN = """
import os, signal, time
def know(self, process):
    vars(self)["known"] = process
    while process is not None and not os.path.exists("listens"):
        time.sleep(0.05)
    if process is not None:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)
job.Job._driver = property(lambda self: vars(self)["known"], know)
"""


def test_signal_that_comes_as_the_driver_starts_reaches_it_once(place):
    driver = f"""
import pathlib, signal, sys, time
told = []
signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
pathlib.Path("listens").touch()
while not told:
    time.sleep(0.05)
time.sleep(0.5)
print("told", told)
sys.exit({GO_ON})
"""
    done = place.run(driver, TELL_AS_THE_DRIVER_IS_KNOWN)
    assert f"told [{int(signal.SIGUSR1)}]\n" in done.stdout


SIGNAL_WITHIN_A_PRINT = """
import io, os, signal
class Raw(io.FileIO):
    def write(self, text):
        if b"driver: " in bytes(text):
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().write(text)
sys.stdout = io.TextIOWrapper(io.BufferedWriter(Raw(1, "w")))
"""


def test_signal_that_comes_while_the_job_prints_is_passed_on(place):
    driver = """
import signal
signal.pause()
"""
    done = place.run(driver, SIGNAL_WITHIN_A_PRINT)
    assert done.returncode == GO_ON, done.stderr
    assert " got SIGUSR1\n" in done.stdout and " driver: " in done.stdout


def test_job_that_was_told_to_end_is_not_requeued_for_what_it_is_told_after(place):
    driver = f"""
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
for number in (signal.SIGTERM, signal.SIGUSR1):
    os.kill(os.getppid(), number)
    time.sleep(0.2)
sys.exit({GO_ON})
"""
    done = place.run(driver, "sys.argv.insert(1, '--max-requeues=5')")
    assert done.returncode == TERMINATED
    assert "requeue 41" not in place.lines("asked")


def test_no_step_outlives_its_job(place):
    driver = """
import time
while len(open("ready").read()) < 2:
    time.sleep(0.05)
"""
    assert place.run(driver, SLURM_JOB_NODELIST="n1,n2").returncode == 0
    steps = place.lines("steps")
    assert len(steps) == 2
    assert place.lines("ended") == ["11"]  # in good order, none was killed
    assert not any(Path("/proc", step).exists() for step in steps)


def test_head_that_ends_at_once_is_tried_again_and_named(place):
    (place.folder / "failing").write_text("head")
    started = time.monotonic()
    waits = "job.Job._pause = lambda self, seconds: print('waited', seconds)"
    done = place.run("", changes=waits)
    assert time.monotonic() - started < 30
    assert len(place.lines("steps")) == 3
    assert done.stdout.count("waited 10.0\n") == 2
    assert f"Ray's head did not start on n1: see {place.folder}/41.ray.log" in done.stderr


def test_job_that_is_told_to_end_does_not_wait_before_its_next_try():
    told = SimpleNamespace(signal=signal.SIGTERM)
    started = time.monotonic()
    job.Job._pause(told, 10.0)
    assert time.monotonic() - started < 5


LOOK_ONCE_IT_LIVES = """
import os, time
job._HEAD_SECONDS, job._RESTART_SECONDS = 0.1, 0.0
listens, tries = job.Job._listens, []
def listens_once_it_lives(self, ip):
    tries.append(ip)
    while not os.path.exists("ready") or len(open("ready").read()) < len(tries):
        time.sleep(0.05)
    return listens(self, ip)
job.Job._listens = listens_once_it_lives
"""


def test_head_that_lives_and_does_not_listen_is_given_up(place):
    (place.folder / "failing").write_text("silent")
    done = place.run("", changes=LOOK_ONCE_IT_LIVES)
    assert "Ray's head did not start on n1" in done.stderr
    assert len(place.lines("steps")) == 3
    assert not any(Path("/proc", step).exists() for step in place.lines("steps"))


def test_driver_that_is_killed_is_no_bug_of_its_own(place):
    done = place.run("import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL
    assert "driver ended with -9" in done.stdout


def test_job_asks_again_where_slurm_has_a_weak_moment(place):
    weak = "test -e weak || { touch weak; echo Unable to contact slurm controller >&2; exit 1; }"
    put_command(place.folder, place.monkeypatch, "scontrol", f"{weak}\n{SCONTROL}")
    assert place.run("").returncode == 0


def test_question_that_slurm_never_answers_fails_as_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
    put_command(tmp_path, monkeypatch, "scontrol", "echo Access denied >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^Access denied$"):
        slurm.ask_again("scontrol", "requeue", "5")


TELL_AT_THE_END = """
import os, pathlib, signal, sys, time
def end(*_):
    pathlib.Path("told").write_text(str(os.path.exists(os.environ["PWMRAY_GOES_ON"])))
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path("listens").touch()
time.sleep(30)
"""
END_THE_HEAD = """
import os, time
job._LOOK_SECONDS, supervise, told = 0.05, job.Job._supervise, None
def end_the_head(self):
    while not os.path.exists("listens"):
        time.sleep(0.05)
    self.signal = told
    self._steps["n1"].terminate()
    return supervise(self)
job.Job._supervise = end_the_head
"""


@pytest.mark.parametrize(
    ("restarts", "goes_on", "told"),
    [("0", True, None), ("5", False, None), ("0", True, int(signal.SIGUSR1))],
)
def test_driver_knows_that_its_job_goes_on_when_the_head_is_lost(place, restarts, goes_on, told):
    changes = f"{END_THE_HEAD}\ntold = {told}\nsys.argv.insert(1, '--max-requeues=5')"
    (place.folder / ".41.goes-on").touch()  # of a life that was cut off
    done = place.run(TELL_AT_THE_END, changes, SLURM_RESTART_COUNT=restarts)
    assert "ray's head on n1 ended" in done.stdout
    assert (place.folder / "told").read_text() == str(goes_on)
    assert ("requeue 41" in place.lines("asked")) == goes_on
    assert not (place.folder / ".41.goes-on").exists()


def test_job_that_loses_its_head_before_any_row_twice_in_a_row_is_not_requeued(place):
    changes = f"{END_THE_HEAD}\nsys.argv.insert(1, '--max-requeues=5')"
    codes, told = [], []
    for restarts in ("0", "1", "2"):
        (place.folder / "listens").unlink(missing_ok=True)
        done = place.run(TELL_AT_THE_END, changes, SLURM_RESTART_COUNT=restarts)
        codes.append(done.returncode)
        told.append((place.folder / "told").read_text())
    assert codes == [0, TRIALS_FAILED, 0]
    assert told == ["True", "False", "True"]
    assert place.lines("asked").count("requeue 41") == 2
    assert (place.folder / ".41.in-vain").exists()  # of the third, which a person began anew


def test_job_that_slurm_began_again_elsewhere_leaves_that_its_files(place):
    driver = """
import os, pathlib, sys
pathlib.Path(".41.token").write_text("of the other")
for name in ("41.json", ".41.goes-on"):
    pathlib.Path(name).write_text("of the other")
open(os.environ["PWMRAY_ENDED_NODES"] + "n1", "w")
sys.exit(75)
"""
    done = place.run(driver, "sys.argv.insert(1, '--max-requeues=5')")
    assert done.returncode == GO_ON
    assert "not requeued: its token is another's or gone, so Slurm runs it" in done.stdout
    assert "requeue 41" not in place.lines("asked")
    for name in ("41.json", ".41.goes-on", ".41.token"):
        assert (place.folder / name).read_text() == "of the other"


def test_job_that_slurm_began_again_elsewhere_and_that_is_done_is_left_so(place):
    driver = "import pathlib, sys; pathlib.Path('.41.token').unlink(); sys.exit(75)"
    done = place.run(driver, "sys.argv.insert(1, '--max-requeues=5')")
    assert done.returncode == GO_ON
    assert "requeue 41" not in place.lines("asked")


def test_token_of_a_job_takes_the_place_of_an_earlier_lifes(tmp_path, monkeypatch):
    token, replace, before = tmp_path / ".41.token", os.replace, []
    token.write_text("of an earlier one")
    token.chmod(0o644)
    monkeypatch.setattr(
        os, "replace", lambda *names: (before.append(token.read_text()), replace(*names))
    )
    assert job._environment(token, "a secret")["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert (before, token.read_text()) == (["of an earlier one"], "a secret")
    assert token.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [token]


def test_row_of_any_trial_since_ray_listens_is_seen(tmp_path):
    jobs, folder = tmp_path / "tiny" / "jobs", tmp_path / "trials" / "a1"
    jobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    (jobs / "41.json").touch()
    (folder / "curve.arrow").touch()
    here = job.Job(argparse.Namespace(jobs=jobs), "41", "41")
    os.utime(folder / "curve.arrow", (1, 1))
    assert not here._has_row()
    (folder / "evaluations.arrow").touch()
    os.utime(jobs / "41.json", (2, 2))
    assert here._has_row()


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize(("code", "goes_on"), [(2, True), (0, False)])
def test_driver_whose_head_slurm_ended_first_is_to_go_on(place, code, goes_on, is_told):
    end = f"""
import os, signal, sys
if {is_told}:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getppid(), signal.SIGUSR1)
    signal.sigwait([signal.SIGUSR1])
open(os.environ["PWMRAY_ENDED_NODES"] + "n1", "w")
sys.exit({code})
"""
    assert place.run(end, "sys.argv.insert(1, '--max-requeues=5')").returncode == 0
    assert ("requeue 41" in place.lines("asked")) == goes_on


WAIT_UNTIL_IT_IS_SAID = """
import time
while "going on without it" not in open("said").read():
    time.sleep(0.05)
time.sleep(0.2)  # in which it could be said again
"""
KEEP_WHAT_IS_SAID = """
open("said", "w").close()
say = job._say
def keep(text):
    say(text)
    with open("said", "a") as said:
        said.write(text)
job._say = keep
"""
WAIT_FOR_SEVEN_STEPS = """
import time
while open("started").read().count("--nodelist") < 7:
    time.sleep(0.05)
"""


def test_node_that_is_given_up_is_named_once(place):
    (place.folder / "failing").write_text("worker")
    changes = f"job._RESTART_SECONDS = job._LOOK_SECONDS = 0.05\n{KEEP_WHAT_IS_SAID}"
    done = place.run(WAIT_UNTIL_IT_IS_SAID, changes, SLURM_JOB_NODELIST="n1,n2")
    assert done.returncode == 0
    assert done.stdout.count("ray on n2 ended with 3: starting it again") == 3
    assert done.stdout.count("ray on n2 ended 4 times: going on without it; see ") == 1


def test_node_that_ends_now_and_then_in_a_long_job_is_not_given_up(place):
    (place.folder / "failing").write_text("worker")
    changes = "job._RESTART_SECONDS = job._LOOK_SECONDS = 0.05; job._SOUND_SECONDS = 0.0"
    done = place.run(WAIT_FOR_SEVEN_STEPS, changes, SLURM_JOB_NODELIST="n1,n2")
    assert done.returncode == 0
    assert "going on without it" not in done.stdout


def test_node_that_ended_is_started_again_a_while_later(tmp_path, monkeypatch):
    seen, now, started = job.Job(SimpleNamespace(jobs=tmp_path), "41", "41"), [0.0], []
    seen._steps["n2"] = SimpleNamespace(poll=lambda: 3, returncode=3)
    seen._starts["n2"], seen._started_at["n2"] = 1, 0.0
    clock = SimpleNamespace(monotonic=lambda: now[0], strftime=time.strftime)
    monkeypatch.setattr(job, "time", clock)
    monkeypatch.setattr(seen, "_start_worker", lambda *_: started.append(now[0]))
    for now[0] in (100.0, 109.9, 110.0):
        seen._restart_ended("n2")
    assert started == [110.0]


def test_scratch_that_is_no_path_on_a_node_is_named(tmp_path):
    node = '{"scratch": "$NOT_SET"}'
    command = [sys.executable, str(ROOT / "cluster" / "raynode.py"), "head", "127.0.0.1", "1", node]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: scratch is '$NOT_SET', which is '$NOT_SET' here: not an absolute path\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_ray_starts_from_an_environment_whose_path_has_a_blank(tmp_path, monkeypatch):
    environment, private = tmp_path / "an environment", tmp_path / "r41.x"
    environment.symlink_to(Path(sys.executable).parent.parent)
    private.mkdir()
    programs = Path(sys.executable).relative_to(Path(sys.executable).parent.parent)
    monkeypatch.setattr(sys, "executable", str(environment / programs))
    node = {"cpus": 1, "gpus": 0, "resources": {}, "head": "127.0.0.1"}
    python, *_ = raynode.command("worker", "127.0.0.1", "1", node, str(private / "t"))
    assert shlex.quote(python) == python  # Ray makes a shell run it, unquoted
    prints = "import importlib.util as u, sys; print(sys.executable, u.find_spec('ray').name)"
    done = subprocess.run([python, "-c", prints], capture_output=True, text=True, check=True)
    assert done.stdout == f"{python} ray\n"
    shutil.rmtree(private)  # as when the node ends
    assert (environment / programs).exists()


def test_ray_of_a_worker_joins_that_of_the_head(monkeypatch):
    monkeypatch.setattr(raynode, "free_ports", lambda ip, number: [7, 8][:number])
    monkeypatch.setattr(raynode, "_reserved_port", lambda: None)
    node = {"cpus": 3, "gpus": 2, "resources": {"H100": 2}, "head": "10.0.0.1"}
    worker = raynode.command("worker", "10.0.0.2", "6379", node, "/tmp/r1/t")
    told = ["--node-ip-address=10.0.0.2", "--num-cpus=3", "--num-gpus=2", "--block"]
    told += ['--resources={"H100": 2}', "--temp-dir=/tmp/r1/t", "--dashboard-agent-listen-port=7"]
    assert {*told, "--address=10.0.0.1:6379"} <= set(worker)
    assert "--head" not in worker
    node |= {"has_dashboard": False, "dashboard": 8265}
    head = raynode.command("head", "10.0.0.1", "6379", node, "/tmp/r1/t")
    told = ["--head", "--port=6379", "--ray-client-server-port=8", "--include-dashboard=false"]
    assert {*told, "--dashboard-host=10.0.0.1", "--dashboard-port=8265"} <= set(head)
    assert not [option for option in head if option.startswith("--address")]


def test_ray_of_a_worker_joins_that_of_a_head_that_has_ipv6_alone(monkeypatch):
    monkeypatch.setattr(raynode, "free_ports", lambda ip, number: [7, 8][:number])
    monkeypatch.delattr(raynode, "_reserved_port")  # which a head alone needs
    node = {"cpus": 3, "gpus": 2, "resources": {}, "head": "fd00::1"}
    worker = raynode.command("worker", "fd00::2", "6379", node, "/tmp/r1/t")
    assert {"--node-ip-address=fd00::2", "--address=[fd00::1]:6379"} <= set(worker)


@pytest.mark.parametrize("is_there", [True, False])
def test_worker_that_does_not_reach_the_head_says_so_in_the_jobs_log(
    is_there, tmp_path, monkeypatch
):
    log = tmp_path / "log"
    monkeypatch.setenv("PWMRAY_LOG", str(log))
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    node = {"head": "127.0.0.1", "head_node": "n1"}
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        if not is_there:
            head.close()
        assert raynode._way_to_head("worker", "10.0.0.2", port, node) == "10.0.0.2"
    assert log.exists() != is_there
    if not is_there:
        assert f"n2 does not reach Ray's head on n1 at 127.0.0.1:{port}: " in log.read_text()


def test_ray_of_a_node_is_at_the_interface_that_the_profile_names(place):
    node = {"head": "127.0.0.1", "head_node": "n1", "interface": "lo"}
    assert raynode._way_to_head("head", "", 1, node) == "127.0.0.1"
    done = place.run("", changes="sys.argv.insert(1, '--interface=lo')")
    assert done.returncode == 0, done.stderr
    head, *_ = place.lines("started")
    assert re.search(r' head 127\.0\.0\.1 \d+ \{"ip": "127.0.0.1", "interface": "lo"', head)
    done = place.run("", changes="sys.argv.insert(1, '--interface=pwm-none0')")
    told = "ValueError: the profile's interface 'pwm-none0' has no address on n1; its interfaces: "
    told += r".*\blo\b.*\n"
    assert done.returncode and re.search(told, done.stderr)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        return True
    return False


IPV6 = pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"))


@pytest.mark.parametrize("ip", ["127.0.0.1", IPV6])
def test_ports_are_free_ones_and_all_different(ip):
    ports = raynode.free_ports(ip, 3)
    assert len(set(ports)) == 3
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    for port in ports:
        socket.create_server((ip, port), family=family).close()


def test_address_of_another_machine_has_no_ports_here():
    with pytest.raises(OSError):
        raynode.free_ports("192.0.2.77", 1)


def test_rays_ports_are_not_those_that_the_head_is_to_have(monkeypatch):
    monkeypatch.setattr(raynode, "free_ports", lambda ip, number: [7, 8, 9, 10][:number])
    monkeypatch.setattr(raynode, "_reserved_port", lambda: None)
    node = {"cpus": 1, "gpus": 0, "resources": {}, "has_dashboard": True, "dashboard": 8}
    head = raynode.command("head", "10.0.0.1", "7", node, "/tmp/r1/t")
    assert {"--dashboard-agent-listen-port=9", "--ray-client-server-port=10"} <= set(head)


def test_port_that_ray_takes_late_is_one_that_the_system_gives_to_nobody(tmp_path, monkeypatch):
    given_out = tmp_path / "range"
    monkeypatch.setattr(raynode, "_EPHEMERAL", given_out)
    for text in ("", "1024\t65535\n", "20900\t60999\n"):
        given_out.write_text(text)
        assert raynode._reserved_port() is None
    given_out.write_text("32768\t60999\n")
    other = raynode._reserved_port()
    assert other in range(20_000, 32_768)
    with socket.create_server(("127.0.0.1", other)):
        monkeypatch.setattr(raynode.random, "sample", lambda ports, _: [other, *ports[:500]])
        assert raynode._reserved_port() not in (other, None)


def catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


def start_node(tmp_path, role, ray, changes=None):
    """Start a Ray node, whose Ray is a Python line; `changes` are made to the module."""
    scripts = tmp_path / "ray" / "scripts"
    scripts.mkdir(parents=True)
    for package in (scripts, scripts.parent):  # else Python goes on to the real one
        (package / "__init__.py").touch()
    (scripts / "scripts.py").write_text(f"import signal\n{ray}\n")
    variables = {
        "PWMRAY_ENDED_NODES": f"{tmp_path}/ended.", "SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "41",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "PWMRAY_LOG": f"{tmp_path}/log",
    }  # fmt: skip
    told = {"scratch": str(tmp_path / "scratch"), "cpus": 1, "gpus": 0, "resources": {}}
    told |= {"has_dashboard": False, "dashboard": 1, "head": "127.0.0.1", "head_node": "n2"}
    program = [str(ROOT / "cluster" / "raynode.py")]
    if changes is not None:
        lines = ["import sys", "from cluster import raynode", changes]
        program = ["-c", "\n".join([*lines, "sys.exit(raynode.main(sys.argv[1:]))"])]
    command = [sys.executable, *program, role, "127.0.0.1", "1", json.dumps(told)]
    return subprocess.Popen(command, env={**os.environ, **variables})


@contextlib.contextmanager
def started_node(tmp_path, role, ray):
    """Give a Ray node, see `start_node`, as a process that listens to its signals."""
    process = start_node(tmp_path, role, ray)
    wait_for(lambda: catches(process.pid, signal.SIGTERM))
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def node(tmp_path):
    with started_node(tmp_path, "head", "signal.pause()") as process:
        yield process


@pytest.mark.parametrize(
    ("number", "is_slurms"), [(signal.SIGTERM, True), (raynode.END_SIGNAL, False)]
)
def test_node_that_slurm_ends_leaves_word_for_the_driver(node, tmp_path, number, is_slurms):
    node.send_signal(number)
    node.wait(30)
    assert (tmp_path / "ended.n1").exists() == is_slurms
    assert list((tmp_path / "scratch").iterdir()) == []


SIGNAL_AS_RAY_STARTS = """
import os
popen = raynode.subprocess.Popen
def start(*arguments):
    process = popen(*arguments)
    open("ray.pid", "w").write(str(process.pid))
    os.kill(os.getpid(), %d)
    return process
raynode.subprocess.Popen = start
"""


@pytest.mark.parametrize(
    ("number", "is_slurms"), [(signal.SIGTERM, True), (raynode.END_SIGNAL, False)]
)
def test_node_that_is_told_to_end_as_its_ray_starts_leaves_nothing(
    number, is_slurms, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with start_node(tmp_path, "head", "signal.pause()", SIGNAL_AS_RAY_STARTS % number) as node:
        node.wait(30)
    assert (tmp_path / "ended.n1").exists() == is_slurms
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not Path("/proc", (tmp_path / "ray.pid").read_text()).exists()


def test_node_tells_of_each_kill_for_want_of_memory(tmp_path, monkeypatch):
    counter, word = tmp_path / "memory.oom_control", tmp_path / "ended.n1.memory"
    counts, words = iter([1, 1, 2, 2, 3]), []  # one was killed before this began

    def sleep(_):
        words.append(word.read_text() if word.exists() else "")
        counter.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {next(counts)}\n")

    monkeypatch.setattr(raynode.time, "sleep", sleep)
    counter.write_text("oom_kill 1\n")
    with pytest.raises(StopIteration):
        raynode.tell_of_kills(counter, word)
    words.append(word.read_text())
    told = [word for word, before in zip(words[1:], words[:-1], strict=True) if word != before]
    assert (words[0], len(told)) == ("", 2)


def test_node_gives_back_the_trials_of_dead_processes_of_its_machine_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(raynode, "_DYING_SECONDS", 0.0)
    (tmp_path / "tiny").mkdir()
    held = {"dead": dead_pid(), "alive": os.getppid(), "elsewhere": dead_pid()}
    (tmp_path / "tiny" / "sweep.json").write_text(json.dumps({"trials": [*held, "free"]}))
    paths = {name: trial_folder(tmp_path, name) / CLAIM_FILE for name in [*held, "other"]}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        leave_claim(path, held.get(name, held["dead"]), host="n9" if name == "elsewhere" else None)
    raynode.give_back(tmp_path / "tiny")
    assert [name for name, path in paths.items() if not path.exists()] == ["dead"]
    assert not trial_folder(tmp_path, "free").exists()


@pytest.mark.parametrize(("number", "is_asked"), [(raynode.END_SIGNAL, False), (None, True)])
def test_worker_that_its_job_ends_asks_nothing(tmp_path, monkeypatch, number, is_asked):
    put_command(tmp_path, monkeypatch, "scontrol", f"echo $@ >> {tmp_path}/asked")
    monkeypatch.setenv("PWMRAY_LOG", str(tmp_path / "log"))
    end = tmp_path / "end"
    ray = f"import os, time\nwhile not os.path.exists({str(end)!r}):\n    time.sleep(0.05)"
    with started_node(tmp_path, "worker", ray) as worker:
        if number:
            worker.send_signal(number)
        else:
            end.touch()
        worker.wait(30)
    assert (tmp_path / "asked").exists() == is_asked


@pytest.mark.parametrize(
    ("state", "nodes", "is_requeued"),
    [
        ("RUNNING", "n3", True),
        ("FAILED", "n3", False),  # Slurm heard of its end first
        ("RUNNING", "n2,n3", True),  # Slurm takes too long to see it
        ("COMPLETING", "n2,n3", False),  # it was cancelled
        ("CANCELLED", "n3", False),
        ("PENDING", "(null)", False),
    ],
)
def test_job_that_lost_its_first_node_is_requeued_by_another(
    state, nodes, is_requeued, tmp_path, monkeypatch
):
    asked = tmp_path / "asked"
    answer = f"case $* in *hostnames*) echo '{nodes.replace(',', ' ')}' ;; "
    answer += f"*) echo JobState={state} NodeList='{nodes}' ;; esac"
    put_command(tmp_path, monkeypatch, "scontrol", f"echo $@ >> {asked}; {answer}")
    for name, value in {**ARRAY, "PWMRAY_LOG": str(tmp_path / "log")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(raynode, "_LOST_SECONDS", 0.0)
    (port,) = raynode.free_ports("127.0.0.1", 1)
    raynode._requeue_without_head({"head": "127.0.0.1", "head_node": "n2"}, str(port))
    assert ("requeue 41_3" in asked.read_text().splitlines()) == is_requeued
    assert (tmp_path / "log").exists() == is_requeued


def test_job_whose_first_node_answers_is_left_alone(tmp_path, monkeypatch):
    state = "case $* in *hostnames*) echo n2 n3 ;; *) echo JobState=RUNNING NodeList=n2,n3 ;; esac"
    put_command(tmp_path, monkeypatch, "scontrol", state)
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = str(head.getsockname()[1])
        lost = raynode._has_lost_head("41", {"head": "127.0.0.1", "head_node": "n2"}, port)
    assert lost is False


def test_driver_knows_what_gpus_are_coming(place):
    gpus = [f" Nodes=n{i} CPU_IDs=0 Mem=0 GRES=gpu:h{i}00:1(IDX:0)" for i in (1, 2)]
    driver = "import os; print(sorted(os.environ['PWMRAY_COMING_GPUS'].split()))"
    done = place.run(driver, GPUS=" ".join(gpus), SLURM_JOB_NODELIST="n1,n2")
    assert "['H100', 'H200', 'accelerator_type:H100', 'accelerator_type:H200']" in done.stdout


def test_ray_has_the_token_where_the_job_inherits_nothing(place):
    place.run("")
    (step,) = place.lines("started")
    assert step.startswith("--export=ALL ")


@pytest.mark.parametrize(
    ("asked", "given", "of_step"),
    [
        ("gpu:h100:1", "gpu:h100:1(IDX:0)", "gpu:h100:1"),
        ("gpu:h100:1", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("gpu:1", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("gpu:h100:1", "", "gpu:h100:1"),
    ],
)
def test_ray_has_all_the_gpus_of_an_exclusive_job(place, asked, given, of_step):
    place.run("", gres=asked, GPUS=f" Nodes=n1 CPU_IDs=0-7 Mem=0 GRES={given}")
    (step,) = place.lines("started")
    assert f" --gres={of_step} " in step


def test_step_of_a_job_without_gpus_asks_for_none(place):
    place.run("", GPUS=" Nodes=n1 CPU_IDs=0-7 Mem=0 GRES=")
    (step,) = place.lines("started")
    assert "--gres" not in step
