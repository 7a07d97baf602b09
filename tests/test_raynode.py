"""What one Ray node of a job does, on a Slurm that is made up."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster import raynode
from pwmray.registry import CLAIM_FILE, trial_folder
from tests.claims import dead_pid, leave_claim
from tests.commands_here import put_command
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent


def test_scratch_that_is_no_path_on_a_node_is_named(tmp_path):
    node = '{"scratch": "$NOT_SET"}'
    command = [sys.executable, str(ROOT / "cluster" / "raynode.py"), "head", "127.0.0.1", "1", node]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
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
    node = {"cpus": 3, "gpus": 2, "resources": {"H100": 2}, "head": "10.0.0.1"}
    worker = raynode.command("worker", "10.0.0.2", "6379", node, "/tmp/r1/t")
    told = ["--node-ip-address=10.0.0.2", "--num-cpus=3", "--num-gpus=2", "--block"]
    told += ['--resources={"H100": 2}', "--temp-dir=/tmp/r1/t", "--dashboard-agent-listen-port=7"]
    assert {*told, "--address=10.0.0.1:6379"} <= set(worker)
    assert "--head" not in worker
    of_ipv6 = raynode.command("worker", "fd00::2", "6379", node | {"head": "fd00::1"}, "/tmp/r1/t")
    assert {"--node-ip-address=fd00::2", "--address=[fd00::1]:6379"} <= set(of_ipv6)
    node |= {"has_dashboard": False, "dashboard": 8265}
    head = raynode.command("head", "10.0.0.1", "6379", node, "/tmp/r1/t")
    told = ["--head", "--port=6379", "--include-dashboard=false"]
    assert {*told, "--dashboard-host=10.0.0.1", "--dashboard-port=8265"} <= set(head)
    assert not [option for option in head if option.startswith("--address")]


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


def ports_of_head(monkeypatch):
    """Return those of Ray's agent and of its client server, beside a head's two."""
    monkeypatch.setattr(raynode, "free_ports", lambda ip, number: [7, 8, 9, 10][:number])
    node = {"cpus": 1, "gpus": 0, "resources": {}, "has_dashboard": True, "dashboard": 8}
    head = raynode.command("head", "10.0.0.1", "7", node, "/tmp/r1/t")
    told = dict(option.split("=", 1) for option in head if "=" in option)
    return int(told["--dashboard-agent-listen-port"]), int(told["--ray-client-server-port"])


@pytest.mark.parametrize("given_out", ["", "1024\t65535\n", "20900\t60999\n"])
def test_rays_ports_are_not_those_that_the_head_is_to_have(given_out, tmp_path, monkeypatch):
    monkeypatch.setattr(raynode, "_EPHEMERAL", tmp_path / "range")
    (tmp_path / "range").write_text(given_out)  # too few are left that the system gives to nobody
    assert ports_of_head(monkeypatch) == (9, 10)


def test_range_of_ports_that_cannot_be_read_reserves_none(tmp_path, monkeypatch):
    monkeypatch.setattr(raynode, "_EPHEMERAL", tmp_path)  # a folder: there, but not to be read
    assert ports_of_head(monkeypatch) == (9, 10)


def test_port_that_ray_takes_late_is_one_that_the_system_gives_to_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(raynode, "_EPHEMERAL", tmp_path / "range")
    (tmp_path / "range").write_text("32768\t60999\n")
    _, client = ports_of_head(monkeypatch)
    assert client in range(20_000, 32_768)
    with socket.create_server(("127.0.0.1", client)):
        monkeypatch.setattr(raynode.random, "sample", lambda ports, _: [client, *ports[:500]])
        assert ports_of_head(monkeypatch)[1] in range(20_000, 20_500)


def catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)


@contextlib.contextmanager
def start_node(tmp_path, role, ray, changes=None, port=1):
    """Give a Ray node, whose Ray is a Python line; `changes` are made to the module."""
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
    command = [sys.executable, *program, role, "127.0.0.2", str(port), json.dumps(told)]
    process = subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # its Ray too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def started_node(tmp_path, role, ray):
    """Give a Ray node, see `start_node`, as a process that listens to its signals."""
    with start_node(tmp_path, role, ray) as process:
        wait_for(lambda: catches(process.pid, signal.SIGTERM))
        yield process


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


def test_node_gives_back_only_the_trials_of_its_machine_whose_processes_die(tmp_path, monkeypatch):
    dying, now = subprocess.Popen(["sleep", "600"]), [0.0]  # which Ray is about to end

    def sleep(_):
        dying.kill()
        dying.wait()
        now[0] += 10.0

    monkeypatch.setattr(raynode, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    (tmp_path / "tiny").mkdir()
    held = {"dead": dead_pid(), "dying": dying.pid, "alive": os.getppid(), "elsewhere": dead_pid()}
    (tmp_path / "tiny" / "sweep.json").write_text(json.dumps({"trials": [*held, "free"]}))
    paths = {name: trial_folder(tmp_path, name) / CLAIM_FILE for name in [*held, "other"]}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        leave_claim(path, held.get(name, held["dead"]), host="n9" if name == "elsewhere" else None)
    raynode.give_back(tmp_path / "tiny")
    assert [name for name, path in paths.items() if not path.exists()] == ["dead", "dying"]
    assert not trial_folder(tmp_path, "free").exists()


def test_worker_that_its_job_ends_asks_nothing(tmp_path, monkeypatch):
    put_command(tmp_path, monkeypatch, "scontrol", f"echo $@ >> {tmp_path}/asked")
    with started_node(tmp_path, "worker", "signal.pause()") as worker:
        worker.send_signal(raynode.END_SIGNAL)
        worker.wait(30)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("state", "nodes", "answers", "is_requeued", "changes"),
    [
        ("RUNNING", "n3", False, True, None),
        ("FAILED", "n3", False, False, None),  # Slurm heard of its end first
        ("PENDING", "(null)", False, False, None),
        # Slurm takes too long to see it.
        ("RUNNING", "n2,n3", False, True, "raynode._LOST_SECONDS = 0.0"),
        ("RUNNING", "n2,n3", True, False, None),
        ("COMPLETING", "n2,n3", False, False, "raynode._LOST_SECONDS = 0.0"),  # it was cancelled
        ("CANCELLED", "n3", False, False, None),
    ],
)
def test_job_that_lost_its_first_node_is_requeued_by_another(
    state, nodes, answers, is_requeued, changes, tmp_path, monkeypatch
):
    asked, log = tmp_path / "asked", tmp_path / "log"
    answer = f"case $* in *hostnames*) echo '{nodes.replace(',', ' ')}' ;; "
    answer += f"*) echo JobState={state} NodeList='{nodes}' ;; esac"
    put_command(tmp_path, monkeypatch, "scontrol", f"echo $@ >> {asked}; {answer}")
    here = {"ARRAY_JOB_ID": "41", "ARRAY_TASK_ID": "3"}
    for name, value in here.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        if not answers:
            head.close()
        ray = f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(' '.join(sys.argv))"
        with start_node(tmp_path, "worker", ray, changes, port) as worker:
            assert worker.wait(60) == 0
    told = (tmp_path / "told").read_text()
    assert "--node-ip-address=127.0.0.2 " in told and f"--address=127.0.0.1:{port}" in told
    said = log.read_text() if log.exists() else ""
    assert ("requeue 41_3" in asked.read_text().splitlines()) == is_requeued
    assert ("n2, the job's first node, is lost: it is requeued" in said) == is_requeued
    does_not = f"n1 does not reach Ray's head on n2 at 127.0.0.1:{port}: if a firewall"
    assert (does_not in said) != answers
    assert bool(said) == (is_requeued or not answers)
