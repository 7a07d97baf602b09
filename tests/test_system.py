"""What systems tell in their own ways, also where they are no Linux."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pwmray import system

ROOT = Path(__file__).parent.parent
PRODUCT = ("pwmray", "analysis", "cluster", "search_spaces", "sweeps")
# In macOS nothing has these names; with what is there instead they belong into system.py.
ON_LINUX_ALONE = {
    "os": [
        *("sched_getaffinity", "posix_fadvise", "posix_fallocate", "fdatasync", "copy_file_range"),
        *("splice", "pipe2", "eventfd", "memfd_create", "pidfd_open", "getrandom", "getxattr"),
        *("setxattr", "O_DIRECT", "O_TMPFILE", "O_PATH"),
    ],
    "errno": ["EREMOTEIO", "ECOMM", "ERESTART", "EUCLEAN", "ENOMEDIUM", "ENONET", "EBADFD"],
    "signal": ["sigtimedwait", "sigwaitinfo", "pidfd_send_signal", "SIGPWR", "SIGRTMIN"],
    "select": ["epoll"],
    "resource": ["prlimit", "RUSAGE_THREAD"],
}

# Tells how dm_control is kept quiet, in a process of its own: here other tests have done it.
QUIETENED = """
import logging, os
from pwmray import system
system.quieten_dm_control()
print(os.environ["MUJOCO_GL"], logging.getLogger("absl").isEnabledFor(logging.WARNING))
"""
ASK = "ps -o lstart= -p 1"
needs_ps = pytest.mark.skipif(
    subprocess.run(ASK, shell=True, capture_output=True, check=False).returncode != 0,
    reason="needs a ps that tells when a process started",
)


@pytest.fixture
def no_proc(tmp_path, monkeypatch):
    """A system without /proc."""
    monkeypatch.setattr(system, "_PROC", tmp_path / "absent")


@pytest.fixture
def no_groups(tmp_path, monkeypatch):
    """A system whose control groups limit nothing."""
    monkeypatch.setattr(system, "_GROUPS", tmp_path / "groups")
    return tmp_path


def test_nothing_but_system_uses_what_linux_alone_has():
    known = {name for names in ON_LINUX_ALONE.values() for name in names}
    used = {
        f"{path.relative_to(ROOT)}: {node.attr}"
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in known
    }
    assert used == set()


def test_commands_start_where_there_is_nothing_that_linux_alone_has():
    program = (
        f"import importlib; missing = {ON_LINUX_ALONE!r}\n"
        "for module, names in missing.items():\n"
        "    for name in names:\n"
        "        vars(importlib.import_module(module)).pop(name, None)\n"
        "import pwmray.cli, pwmray.driver.launch, pwmray.search.run, pwmray.sweep, pwmray.trial"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs cores set apart")
def test_cores_are_those_set_apart(no_groups):
    assert system.num_cores() == len(os.sched_getaffinity(0))


def test_cores_that_nothing_sets_apart_are_all_of_them(no_groups, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.num_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("own", "limits", "cores"),
    [
        ("/", {"": "250000 100000"}, 2),  # a container sees its own group as the outermost
        ("/user.slice/s.scope", {"": "max 100000", "user.slice": "300000 100000"}, 3),
        ("/user.slice/s.scope", {"user.slice": "300000 100000", "user.slice/s.scope": "5 10"}, 1),
        ("/user.slice", {"user.slice": "6400000 100000"}, 8),  # more than there are
        ("/user.slice", {"user.slice": "max 100000"}, 8),
        ("/../other", {}, 8),
    ],
)
def test_cores_are_no_more_than_those_whose_time_control_groups_leave(
    own, limits, cores, no_groups, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(system, "_PROC", no_groups)
    (no_groups / "self").mkdir(parents=True)
    (no_groups / "self/cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    for group, limit in limits.items():
        folder = no_groups / "groups" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(f"{limit}\n")
    assert system.num_cores() == cores


@pytest.mark.parametrize(
    ("groups", "counter"),
    [
        ("9:name=systemd:/\n4:memory:/slurm_c2/uid_1/job_7/step_0/task_0\n0::/\n",
         "memory/slurm_c2/uid_1/job_7/step_0/task_0/memory.oom_control"),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
         "system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.events"),
        ("9:name=systemd:/\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_kernels_count_of_what_it_killed_is_that_of_the_own_group(
    groups, counter, no_groups, monkeypatch
):
    monkeypatch.setattr(system, "_PROC", no_groups)
    (no_groups / "self").mkdir()
    (no_groups / "self/cgroup").write_text(groups)
    found = system.find_kill_counter()
    assert found == (None if counter is None else no_groups / "groups" / counter)


@pytest.mark.parametrize(("says", "name"), [("echo 9C5B-77", "9C5B-77"), ("exit 1", None)])
def test_boot_without_proc_is_named_by_sysctl(says, name, no_proc, tmp_path, monkeypatch):
    program = tmp_path / "sysctl"
    program.write_text(f'#!/bin/sh\n[ "$2" = kern.bootsessionuuid ] || exit 2\n{says}\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system.name_boot() == name


@needs_ps
def test_process_without_proc_is_told_from_others_of_its_number(no_proc):
    state = system.look_up(os.getpid())
    assert state is not None
    assert state == system.look_up(os.getpid())
    assert (state.is_zombie, len(state.started.split())) == (False, 5)  # day, month, date, time


@needs_ps
def test_process_that_ended_is_a_zombie_and_then_none_without_proc(no_proc):
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    state = system.look_up(process.pid)
    assert state is not None
    assert state.is_zombie
    process.wait()
    assert system.look_up(process.pid) is None


def test_process_of_which_nothing_tells_has_no_state(no_proc, monkeypatch):
    monkeypatch.setattr(system, "_ask", lambda *_: "")
    assert system.look_up(os.getpid()) is None


@pytest.mark.parametrize(("platform", "renderer"), [("darwin", "glfw"), ("linux", "egl")])
def test_pictures_are_drawn_by_what_the_system_has(platform, renderer):
    program = (
        f"import sys; sys.platform = {platform!r};"
        "from pwmray.system import NEEDED_TO_DRAW, RENDERER; print(RENDERER, NEEDED_TO_DRAW)"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.split()[0] == renderer
    assert ("apt install" in said) is (platform == "linux")


@pytest.mark.parametrize(("given", "kept"), [({}, "disable"), ({"MUJOCO_GL": "egl"}, "egl")])
def test_dm_control_looks_for_no_screen_unless_it_is_told_to_and_does_not_warn(given, kept):
    told = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"} | given
    command = [sys.executable, "-c", QUIETENED]
    run = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [kept, "False"]


def test_one_function_alone_keeps_dm_control_quiet():
    files = [path for top in (*PRODUCT, "benchmarks") for path in (ROOT / top).rglob("*.py")]
    setting = [path for path in files if 'setdefault("MUJOCO_GL"' in path.read_text()]
    assert setting == [ROOT / "pwmray/system.py"]
