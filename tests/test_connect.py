"""What of a Ray cluster's machines a trial may ask for."""

import contextlib
import dataclasses
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray._private import services, utils

from pwmray import deaths, system
from pwmray import plan as planning
from pwmray.driver import connect, dashboard, launch, retries, tune_callbacks
from pwmray.driver.engine import LOST, Engine
from pwmray.driver.interruption import CANCELLED, Interruption, TerminatedError
from tests.tiny import sweep

A_YEAR = 365 * 86_400.0
TOKEN = Path("/home/me/token")
URL = "127.0.0.1:8265"
SMALL, WIDE, GPU = {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("machines", "num_cpus", "said"),
    [
        ([SMALL], 4, None),
        ([SMALL], 5, r"num_cpus is 5, but Ray has 4 CPUs here"),
        ([SMALL, SMALL], 5, r"Ray has 4 CPUs on the largest machine that could run it"),
        ([SMALL, WIDE], 16, None),
        ([WIDE, GPU], 8, None),
        ([WIDE, GPU], 9, r"Ray has 8 CPUs on the largest machine"),  # the other has no GPU
    ],
)
def test_one_machine_has_all_that_a_trial_asks_for(machines, num_cpus, said, monkeypatch):
    monkeypatch.setattr(connect, "machines", lambda: machines)
    if said is None:
        connect.check_resources(num_cpus)
        return
    with pytest.raises(ValueError, match=said):
        connect.check_resources(num_cpus)


def test_machines_that_are_dead_offer_nothing_and_end_who_is_at_one(monkeypatch):
    offers = {"a": SMALL, "b": WIDE, "c": GPU}
    nodes = [{"NodeID": n, "Alive": n != "b", "Resources": has} for n, has in offers.items()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert connect.largest_machine() == {"CPU": 8.0, "GPU": 4.0}
    for here in offers:
        context = SimpleNamespace(get_node_id=lambda here=here: here)
        monkeypatch.setattr(ray, "get_runtime_context", lambda context=context: context)
        assert connect.is_connected() == (here != "b")
    monkeypatch.setattr(ray, "nodes", list)
    assert connect.largest_machine() == {"CPU": 0, "GPU": 0}


@pytest.mark.parametrize(("patience", "num_asked"), [("60", 3), (None, 1)])
def test_ray_that_listens_but_is_slow_to_answer_is_asked_again_where_it_is_known_to_come(
    patience, num_asked, monkeypatch
):
    asked = []

    def check(command, timeout, **_):
        asked.append(timeout)
        if len(asked) < 3:
            raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", check)
    monkeypatch.setattr(connect, "_AGAIN_SECONDS", 0.0)
    monkeypatch.delenv("PWMRAY_RAY_SECONDS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if patience is None:
            with pytest.raises(ValueError, match=rf"no Ray .* {address} \(TimeoutExpired\)"):
                connect.answering(address)
        else:
            monkeypatch.setenv("PWMRAY_RAY_SECONDS", patience)
            assert connect.answering(address) == address
            assert asked[0] > 50  # it may take as long to start Python there
    assert len(asked) == num_asked


def test_ray_that_has_ipv6_alone_is_asked_at_its_number(monkeypatch):
    reached, asked = [], []

    def reach(where, timeout):
        reached.append(where)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_connection", reach)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command[-1]))
    assert connect.answering("[fd00::1]:6379") == "[fd00::1]:6379"
    assert (reached, asked) == ([("fd00::1", 6379)], ["[fd00::1]:6379"])


def test_address_auto_is_that_of_the_ray_that_runs_here(monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command[-1]))
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"localhost:{port}")
        assert connect.answering("auto").endswith(f":{port}")
    assert asked[0].endswith(f":{port}")
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda _: None)
    with pytest.raises(ValueError, match=r"no Ray .* --address auto \(ConnectionError\)"):
        connect.answering("auto")


@pytest.mark.parametrize(("comes", "num_looks"), [(True, 3), (False, 6)])
def test_gpus_that_are_coming_are_waited_for_but_not_for_ever(comes, num_looks, monkeypatch):
    clock, looks = iter(range(100)), []

    def look():
        looks.append({"H100": 2.0, **({"H200": 1.0} if comes and len(looks) == 2 else {})})
        return looks[-1]

    monkeypatch.setattr(ray, "cluster_resources", look)
    monkeypatch.setattr(connect, "_COMING_SECONDS", 5.5)
    monkeypatch.setattr(connect.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(connect.time, "sleep", lambda _: None)
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url=None))
    monkeypatch.setenv("PWMRAY_COMING_GPUS", "H100 H200")
    connect.connect("10.0.0.1:6379")
    assert len(looks) == num_looks


@pytest.mark.parametrize(
    ("user", "most", "is_told"),
    [(1000, 150, True), (1000, 96365, False), (1000, -1, False), (0, 150, False)],
)
def test_ray_that_does_not_start_names_a_limit_of_processes(user, most, is_told, monkeypatch):
    def fail(**_):
        raise Exception("unexpected EOF")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(ValueError, match="unexpected EOF") as raised:
        connect.connect(None)
    assert (f"{most} processes and threads here (ulimit -u)" in str(raised.value)) == is_told


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "Ray does not start. Its files are in {folder} (TMPDIR), which needs room and a "),
        ("10.0.0.1:6379", "cannot join Ray at 10.0.0.1:6379: The last lines of the log: "),
    ],
)
def test_ray_that_does_not_start_is_one_line(address, said, monkeypatch):
    def fail(**_):
        raise Exception("The last lines\nof the log: " + 90 * "no room " + "TypeError: the cause")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ValueError) as refused:
        connect.connect(address)
    told, folder = str(refused.value), tempfile.gettempdir()
    assert told.startswith(said.format(folder=folder))
    assert "\n" not in told and len(told.replace(folder, "")) < 400
    assert "busy" not in told
    assert told.endswith("no room TypeError: the cause")


def test_ray_whose_node_does_not_come_may_be_on_a_busy_machine_too(monkeypatch):
    def fail(**_):
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", fail)
    told = r"needs room .*; else this machine is too busy: .*: The current node timed out"
    with pytest.raises(ValueError, match=told):
        connect.connect(None)


def test_machine_that_is_no_node_of_the_ray_to_join_is_told_how_to_be_one(monkeypatch):
    def fail(**_):
        try:
            raise RuntimeError("No node info found matching attributes: '' when trying to resolve")
        except RuntimeError as error:  # as Ray does
            raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379") from error

    monkeypatch.setattr(ray, "init", fail)
    told = (
        "this machine is not one of its nodes; make it one with: ray start --address=10.0.0.1:6379"
    )
    with pytest.raises(ValueError, match=f"^cannot join Ray at 10.0.0.1:6379: {told}$"):
        connect.connect("10.0.0.1:6379")


def test_driver_says_what_ray_lacks_for_its_trials_and_where_the_dashboard_is(monkeypatch, capsys):
    offered = {**GPU, "accelerator_type:A100": 1.0}
    monkeypatch.setattr(connect, "connect", lambda address: "Ray dashboard: here")
    monkeypatch.setattr(connect, "machines", lambda: [offered])
    monkeypatch.setattr(ray, "cluster_resources", lambda: offered)
    # Both are looked for on this machine alone, not on a cluster's.
    monkeypatch.setattr(connect, "describe_missing_compiler", lambda _: "no compiler")
    monkeypatch.setattr(connect, "check_gpu", lambda: None)
    config = sweep.cells("tiny")[0]
    runtime = dataclasses.replace(config.runtime, gpu_type="H100")
    connect.connect_for([dataclasses.replace(config, runtime=runtime)], "host:6379")
    assert capsys.readouterr().out.splitlines() == [
        "no H100 in this cluster (it has A100): trials that ask for one take any GPU",
        "Ray dashboard: here",
    ]
    compiled = dataclasses.replace(config, runtime=dataclasses.replace(runtime, compile=True))
    connect.connect_for([compiled], None)
    assert "no compiler" in capsys.readouterr().out.splitlines()
    runtime = dataclasses.replace(config.runtime, num_cpus=9)
    with pytest.raises(ValueError, match="num_cpus is 9, but Ray has 8 CPUs here"):
        connect.connect_for([dataclasses.replace(config, runtime=runtime)], "host:6379")


@pytest.mark.parametrize(
    ("by_ray", "set_apart", "asked"), [(64, 8, 8), (4, 8, 4), (0, 8, 1), (64, 64, 64)]
)
def test_ray_has_the_cores_that_are_set_apart_for_this_process(
    by_ray, set_apart, asked, monkeypatch
):
    def start(**options):
        started.append(options["num_cpus"])
        return SimpleNamespace(dashboard_url=None)

    started = []
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(utils, "get_num_cpus", lambda: by_ray)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(system, "num_cores", lambda: set_apart)
    connect.connect(None)
    connect.connect("10.0.0.1:6379")
    monkeypatch.setenv("RAY_USE_MULTIPROCESSING_CPU_COUNT", "1")
    connect.connect(None)
    assert started == [asked, None, None]


def test_ray_is_started_closed_to_others_and_a_cluster_is_joined_as_it_is(monkeypatch):
    def start(**options):
        started.append([options[name] for name in ("address", "include_dashboard", "runtime_env")])
        return SimpleNamespace(dashboard_url=URL)

    started = []
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(sys, "executable", "/a b/python")
    monkeypatch.setattr(dashboard, "close_to_others", lambda: TOKEN)
    monkeypatch.setattr(deaths, "heed_kills", lambda: started.append("its kills are heeded"))
    monkeypatch.delenv("PWMRAY_COMING_GPUS", raising=False)
    assert connect.connect(None) == dashboard.describe(URL, TOKEN, is_terminal=False)
    assert connect.connect("10.0.0.1:6379") == dashboard.describe(URL, None, is_terminal=False)
    quoted = {"py_executable": "'/a b/python'"}
    here, there = ["local", True, quoted], ["10.0.0.1:6379", None, None]
    assert started == ["its kills are heeded", here, there]


def test_place_of_rays_files_is_told_where_it_cannot_be_written(tmp_path, monkeypatch):
    def fail(**_):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "ray"))

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(ValueError, match=rf"files are in {tmp_path} .*denied: {tmp_path}/ray"):
        connect.connect(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TUNE_RESULT_DIR", "/scratch/ray_results"),
        ("RAY_AIR_LOCAL_CACHE_DIR", "/scratch/ray_results"),
        ("TMPDIR", ""),  # which Ray would take for the working directory
    ],
)
def test_what_ray_would_not_run_beside_is_not_set_any_more(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url=None))
    connect.connect(None)
    assert name not in os.environ


def test_tune_does_not_write_down_all_trials_again_and_again(monkeypatch):
    monkeypatch.delenv("TUNE_GLOBAL_CHECKPOINT_S", raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: SimpleNamespace(dashboard_url=None))
    connect.connect(None)
    assert float(os.environ["TUNE_GLOBAL_CHECKPOINT_S"]) > A_YEAR


def test_what_tune_kept_goes_with_its_driver_and_what_others_keep_stays(tmp_path, monkeypatch):
    ours, others = (tmp_path / "session" / "artifacts" / "now" / name for name in ("a", "b"))
    for folder in (ours, others):
        (folder / "working_dirs").mkdir(parents=True)
    (scratch := tmp_path / "scratch").mkdir()
    (scratch / ours.name).mkdir()
    node = SimpleNamespace(get_session_dir_path=lambda: str(tmp_path / "session"))
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    connect.leave(scratch)
    assert [path.exists() for path in (scratch, ours, others)] == [False, False, True]


@pytest.mark.parametrize("ends_when_killed", [True, False])
def test_ray_that_does_not_answer_any_more_holds_nobody_up(ends_when_killed, tmp_path, monkeypatch):
    ended, killed = threading.Event(), []

    def kill(check_alive):
        killed.append(check_alive)
        if ends_when_killed:
            ended.set()

    node = SimpleNamespace(get_session_dir_path=lambda: str(tmp_path), kill_all_processes=kill)
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    monkeypatch.setattr(ray, "shutdown", ended.wait)
    monkeypatch.setattr(connect, "_LEAVING_SECONDS", 0.05)
    monkeypatch.setattr(connect, "_KILLED_SECONDS", 60.0 if ends_when_killed else 0.05)
    monkeypatch.setattr(connect, "ENDS_AT_ONCE", threading.Event())
    (scratch := tmp_path / "scratch").mkdir()
    connect.leave(scratch)
    ended.set()
    assert (killed, scratch.exists()) == ([False], False)
    assert connect.ENDS_AT_ONCE.is_set() == (not ends_when_killed)


def test_command_that_would_wait_for_ray_at_its_end_ends_with_its_code_at_once():
    program = (
        "import atexit, time; from pwmray import commands; atexit.register(time.sleep, 600);"
        "commands.ENDS_AT_ONCE.set(); commands.run_command(lambda: print('the end') or 143)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (143, "the end\n")


def test_sigterm_while_ray_starts_ends_the_process_as_at_any_other_time(monkeypatch):
    def start(**_):
        utils.set_sigterm_handler(lambda number, _: sys.exit(number))  # as Ray does
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(ray, "init", start)
    take, interruption = utils.set_sigterm_handler, Interruption()
    interruption.listen()
    try:
        with pytest.raises(TerminatedError):
            connect.connect(None)
    finally:
        interruption.leave()
    assert interruption.reason == CANCELLED
    assert utils.set_sigterm_handler is take


@pytest.mark.parametrize(("reason", "num_rays"), [(None, 2), ("preempted", 1)])
def test_ray_that_dies_once_its_driver_is_asked_to_stop_is_the_last(
    reason, num_rays, tmp_path, monkeypatch
):
    def fit(trainable, asked, place, watches, stopper, space):
        interruption.reason, stopper.is_ray_lost = reason, True

    started, released, interruption = [], [], Interruption()
    monkeypatch.setattr(connect, "connect", started.append)
    monkeypatch.setattr(connect, "machines", lambda: [SMALL])
    monkeypatch.setattr(connect, "describe_missing_compiler", lambda _: "")
    monkeypatch.setattr(ray, "cluster_resources", lambda: SMALL)
    monkeypatch.setattr(tune_callbacks, "fit", fit)
    plan = planning.make(sweep, "tiny", sweep.cells("tiny")[:1], tmp_path)
    (trial,) = plan.trials
    engine = launch._Engine(plan, {trial.config.fingerprint: tmp_path}, None, interruption, None)
    turns = SimpleNamespace(release=lambda: released.append(1))
    progress, bug = SimpleNamespace(say=print), retries.FirstDeaths()
    with contextlib.closing(engine):
        engine.run([trial], launch._Following(turns, progress, None, bug, interruption))
        if reason is None:
            engine.machine()
    assert (len(started), len(released)) == (num_rays, num_rays - 1)


def test_engine_that_is_told_to_end_while_ray_is_imported_has_none_to_leave(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as what a signal broke off, it cannot be had
    engine = Engine(None)
    with pytest.raises(ImportError):
        engine.start([])
    engine.close()


def test_ray_that_dies_again_and_again_ends_the_run(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(connect, "answering", lambda address: asked.append(address) or address)
    engine = Engine("10.0.0.1:6379")
    for _ in range(4):
        engine.leave_lost()
    with pytest.raises(ValueError, match=f"{LOST} 5 times"):
        engine.leave_lost()
    assert asked == ["10.0.0.1:6379"] * 4
    assert capsys.readouterr().out == f"{LOST}; going on with another\n" * 4


def test_ray_whose_node_died_while_its_driver_waited_is_left_for_another(
    tmp_path, monkeypatch, capsys
):
    started = []
    monkeypatch.setattr(connect, "connect", started.append)
    monkeypatch.setattr(connect, "is_connected", lambda: len(started) > 1)
    monkeypatch.setattr(connect, "machines", lambda: [SMALL])
    monkeypatch.setattr(connect, "describe_missing_compiler", lambda _: "")
    monkeypatch.setattr(ray, "cluster_resources", lambda: SMALL)
    plan = planning.make(sweep, "tiny", sweep.cells("tiny")[:1], tmp_path)
    engine = launch._Engine(plan, {}, None, Interruption(), None)
    assert [engine.machine() for _ in range(3)] == [{"CPU": 4.0, "GPU": 0}] * 3
    engine.close()
    assert started == [None, None]
    assert capsys.readouterr().out == "Ray's node on this machine died; going on with another\n"
