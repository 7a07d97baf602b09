"""What a job does with its Ray and its driver, on a Slurm that is made up."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from cluster import job, job_ray, raynode, slurm
from cluster.job_ray import JobRay
from cluster.slurm import SlurmError
from pwmray.commands import TRIALS_FAILED
from pwmray.driver.interruption import GO_ON, TERMINATED
from tests.commands_here import put_command
from tests.waiting import wait_for

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
GOES_ON = "sys.argv.insert(1, '--max-requeues=5')"  # the profile lets a job requeue itself


class Place(NamedTuple):
    """A results folder with a driver to be written, in an allocation of one node."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def jobs(self) -> Path:
        return self.folder / "tiny" / "jobs"

    def run(self, driver: str, changes: str = "", **variables: str) -> subprocess.CompletedProcess:
        """Run a job with this driver in a process of its own, after the `changes`."""
        (self.folder / "driver.py").write_text(driver)
        here = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}
        lines = ["import sys", "from cluster import job", changes, "sys.exit(job.main())"]
        options = ["--jobs", str(self.jobs), "--cpus=1", "--", "driver.py"]
        return subprocess.run(
            [sys.executable, "-c", "\n".join(lines), *options],
            cwd=self.folder, env={**os.environ, **here, **variables},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def place(tmp_path, monkeypatch):
    put_command(tmp_path, monkeypatch, "scontrol", SCONTROL)
    put_command(tmp_path, monkeypatch, "srun", SRUN)
    (tmp_path / "failing").touch()
    place = Place(tmp_path, monkeypatch)
    place.jobs.mkdir(parents=True)
    return place


@pytest.fixture
def told():
    """What tells which signal the job got."""
    return SimpleNamespace(signal=lambda: None)


@pytest.fixture
def ray(place, told, monkeypatch):
    """A Ray of two nodes, not started yet."""
    monkeypatch.chdir(place.folder)
    gpus = {"n1": "gpu:2", "n2": ""}
    nodes = {name: {"ip": "127.0.0.1", "cpus": 1, "gres": gres} for name, gres in gpus.items()}
    ray = JobRay(nodes, place.jobs / "41.ray.log", os.environ, lambda: told.signal())
    yield ray
    ray.end()


@pytest.fixture
def asked(monkeypatch):
    """What Slurm was asked; it answers nothing."""
    commands = []
    monkeypatch.setattr(slurm, "ask", lambda *command: commands.append(shlex.join(command)) or "")
    return commands


def run(monkeypatch, tmp_path, code, number=None):
    """Run a job whose driver ends with `code`, after a signal if it is given one."""
    here = {"SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}
    for name, value in {**ARRAY, **here}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(job.Job, "run", lambda self: setattr(self, "signal", number) or code)
    options = ["--cpus", "1", "--max-requeues", "1", "--", "sweep.py"]
    monkeypatch.setattr(sys, "argv", ["job.py", "--jobs", str(tmp_path), *options])
    return job.main()


def test_task_of_an_array_requeues_itself_alone_and_says_so(asked, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, GO_ON, signal.SIGUSR1) == 0
    assert asked == ["scontrol requeue 41_3"]
    assert capsys.readouterr().out.endswith("requeueing job 41_3, which then goes on by itself\n")


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
    assert list(place.jobs.iterdir()) == [place.jobs / "41.ray.log"]


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
    done = place.run(driver, GOES_ON)
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


def test_head_that_ends_at_once_is_tried_again_and_named(place, ray, monkeypatch):
    (place.folder / "failing").write_text("head")
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", 0.3)
    begun = time.monotonic()
    named = re.escape(f"Ray's head did not start on n1: see {place.jobs}/41.ray.log")
    with pytest.raises(SlurmError, match=f"^{named}$"):
        ray.start()
    assert time.monotonic() - begun >= 0.6
    assert len(place.lines("steps")) == 3


@pytest.mark.parametrize("failing", ["head", "silent"])
def test_job_that_is_told_to_end_waits_for_no_head(place, ray, told, monkeypatch, failing):
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", job_ray.HEAD_SECONDS)
    (place.folder / "failing").write_text(failing)
    told.signal = lambda: signal.SIGTERM if Path("steps").exists() else None
    begun = time.monotonic()
    with pytest.raises(SlurmError, match="did not start"):
        ray.start()
    assert time.monotonic() - begun < job_ray.HEAD_SECONDS
    assert len(place.lines("steps")) == 1


def test_head_that_lives_and_does_not_listen_is_given_up(place, ray, monkeypatch):
    (place.folder / "failing").write_text("silent")
    ready, tries, now = place.folder / "ready", set(), [0.0]

    def listens(ip, port, seconds):
        tries.add(port)
        now[0] += job_ray.HEAD_SECONDS / 2
        return wait_for(lambda: ready.exists() and len(ready.read_text()) >= len(tries)) and False

    monkeypatch.setattr(raynode, "listens", listens)
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(job_ray, "time", clock)
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", 0.0)
    with pytest.raises(SlurmError, match="Ray's head did not start on n1"):
        ray.start()
    assert len(place.lines("steps")) == 3
    assert not any(Path("/proc", step).exists() for step in place.lines("steps"))


def test_driver_that_is_killed_is_no_bug_of_its_own(place):
    done = place.run("import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL
    assert "driver ended with -9" in done.stdout


def test_job_asks_again_where_slurm_has_a_weak_moment(place):
    weak = "test -e weak || { touch weak; echo Unable to contact slurm controller >&2; exit 1; }"
    put_command(place.folder, place.monkeypatch, "scontrol", f"{weak}\n{SCONTROL}")
    assert place.run("", "job.slurm.AGAIN_SECONDS = 0.1").returncode == 0


def test_question_that_slurm_never_answers_fails_as_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
    put_command(tmp_path, monkeypatch, "scontrol", "echo Access denied >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^Access denied$"):
        slurm.ask_again("scontrol", "requeue", "5")


LOSE_THE_HEAD = """
import os, pathlib, signal, sys, time
def end(*_):
    pathlib.Path("told").write_text(str(os.path.exists(os.environ["PWMRAY_GOES_ON"])))
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
os.kill(os.getppid(), %d)
os.kill(int(open("steps").readlines()[-1]), signal.SIGKILL)
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("restarts", "goes_on", "told"),
    [("0", True, 0), ("5", False, 0), ("0", True, signal.SIGUSR1)],
)
def test_driver_knows_that_its_job_goes_on_when_the_head_is_lost(place, restarts, goes_on, told):
    (place.jobs / ".41.goes-on").touch()  # of a life that was cut off
    done = place.run(LOSE_THE_HEAD % told, GOES_ON, SLURM_RESTART_COUNT=restarts)
    assert "ray's head on n1 ended" in done.stdout
    assert (place.folder / "told").read_text() == str(goes_on)
    assert ("requeue 41" in place.lines("asked")) == goes_on
    assert not (place.jobs / ".41.goes-on").exists()


def test_job_that_loses_its_head_before_any_row_twice_in_a_row_is_not_requeued(place):
    codes, told = [], []
    for restarts in ("0", "1", "2"):
        done = place.run(LOSE_THE_HEAD % 0, GOES_ON, SLURM_RESTART_COUNT=restarts)
        codes.append(done.returncode)
        told.append((place.folder / "told").read_text())
    assert codes == [0, TRIALS_FAILED, 0]
    assert told == ["True", "False", "True"]
    assert place.lines("asked").count("requeue 41") == 2
    assert (place.jobs / ".41.in-vain").exists()  # of the third, which a person began anew


@pytest.mark.parametrize(
    ("row", "age", "code"),
    [
        ("trials/a1/curve.arrow", 0, 0),
        ("pretrained/w1/curve.arrow", 0, 0),
        ("trials/a1/curve.arrow", 60, TRIALS_FAILED),
    ],
)
def test_job_that_loses_its_head_twice_is_requeued_after_a_row(place, row, age, code):
    (place.jobs / ".41.in-vain").touch()  # of the first time
    (place.folder / row).parent.mkdir(parents=True)
    write = f"import os, time; open({row!r}, 'w'); now = time.time() - {age}"
    write += f"; os.utime({row!r}, (now, now))"
    assert place.run(f"{write}\n{LOSE_THE_HEAD % 0}", GOES_ON).returncode == code


def test_job_that_slurm_began_again_elsewhere_leaves_that_its_files(place):
    driver = """
import os, pathlib, sys
jobs = pathlib.Path("tiny/jobs")
(jobs / ".41.token").write_text("of the other")
for name in ("41.json", ".41.goes-on"):
    (jobs / name).write_text("of the other")
open(os.environ["PWMRAY_ENDED_NODES"] + "n1", "w")
sys.exit(75)
"""
    done = place.run(driver, GOES_ON)
    assert done.returncode == GO_ON
    assert "not requeued: its token is another's or gone, so Slurm runs it" in done.stdout
    assert "requeue 41" not in place.lines("asked")
    for name in ("41.json", ".41.goes-on", ".41.token"):
        assert (place.jobs / name).read_text() == "of the other"


def test_job_that_slurm_began_again_elsewhere_and_that_is_done_is_left_so(place):
    driver = "import pathlib, sys; pathlib.Path('tiny/jobs/.41.token').unlink(); sys.exit(75)"
    done = place.run(driver, GOES_ON)
    assert done.returncode == GO_ON
    assert "requeue 41" not in place.lines("asked")


TELL_WHAT_IS_REPLACED = """
import os
replace = os.replace
def tell(draft, path):
    print("before:", open(path).read() if os.path.exists(path) else "nothing")
    replace(draft, path)
os.replace = tell
"""


def test_token_of_a_job_takes_the_place_of_an_earlier_lifes(place):
    token = place.jobs / ".41.token"
    token.write_text("of an earlier one")
    token.chmod(0o644)
    driver = """
import os
path = os.environ["RAY_AUTH_TOKEN_PATH"]
print(path, oct(os.stat(path).st_mode & 0o777), sorted(os.listdir("tiny/jobs")))
"""
    done = place.run(driver, TELL_WHAT_IS_REPLACED)
    assert "before: of an earlier one\n" in done.stdout
    files = [".41.token", "41.json", "41.ray.log"]
    assert f"{token} 0o600 {files}\n" in done.stdout


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
    assert place.run(end, GOES_ON).returncode == 0
    assert ("requeue 41" in place.lines("asked")) == goes_on


def test_node_that_is_given_up_is_named_once(place, ray, monkeypatch, capsys):
    (place.folder / "failing").write_text("worker")
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", 0.0)
    ray.start()
    said = [""]

    def is_given_up() -> bool:
        ray.restart_workers()
        said.append(capsys.readouterr().out)
        return "going on without it" in said[-2]

    wait_for(is_given_up)
    told = "".join(said)
    assert told.count("ray on n2 ended with 3: starting it again\n") == 3
    assert told.count("ray on n2 ended 4 times: going on without it; see ") == 1
    assert len(place.lines("steps")) == 5


def test_node_that_ends_now_and_then_in_a_long_job_is_not_given_up(place, ray, monkeypatch, capsys):
    (place.folder / "failing").write_text("worker")
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", 0.0)
    monkeypatch.setattr(job_ray, "SOUND_SECONDS", 0.0)
    ray.start()
    wait_for(lambda: ray.restart_workers() or len(place.lines("steps")) >= 7)
    assert "going on without it" not in capsys.readouterr().out


@pytest.fixture
def ended(place, ray, capsys):
    """A Ray that has been started, and whose worker has ended."""
    (place.folder / "failing").write_text("worker")
    ray.start()
    wait_for(lambda: len(place.lines("steps")) == 2)
    _, worker = place.lines("steps")
    wait_for(lambda: Path("/proc", worker, "stat").read_text().split()[2] == "Z")
    capsys.readouterr()
    return ray


def test_step_has_the_jobs_environment_and_the_gpus_of_its_node(ended, place):
    head, worker = place.lines("started")  # the job may have inherited nothing, not even a token
    assert head.startswith("--export=ALL ") and worker.startswith("--export=ALL ")
    assert " --gres=gpu:2 " in head and "--gres" not in worker


def test_node_that_ended_is_started_again_a_while_later(ended, monkeypatch, capsys):
    now, said = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0], strftime=time.strftime)
    monkeypatch.setattr(job_ray, "time", clock)
    for now[0] in (-100.0, -90.1, -90.0):
        ended.restart_workers()
        said.append(capsys.readouterr().out)
    assert said[:2] == ["", ""] and "ray on n2 ended with 3: starting it again\n" in said[2]


def test_job_that_is_to_stop_starts_no_node_again(ended, told, monkeypatch, capsys):
    monkeypatch.setattr(job_ray, "RESTART_SECONDS", 0.0)
    told.signal = lambda: signal.SIGUSR1
    ended.restart_workers()
    assert capsys.readouterr().out == ""


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


def test_driver_knows_what_gpus_are_coming(place):
    gpus = [f" Nodes=n{i} CPU_IDs=0 Mem=0 GRES=gpu:h{i}00:1(IDX:0)" for i in (1, 2)]
    driver = "import os; print(sorted(os.environ['PWMRAY_COMING_GPUS'].split()))"
    done = place.run(driver, GPUS=" ".join(gpus), SLURM_JOB_NODELIST="n1,n2")
    assert "['H100', 'H200', 'accelerator_type:H100', 'accelerator_type:H200']" in done.stdout
