"""Causes told from what failures leave behind: real exceptions, and texts as they were recorded."""

import errno
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pwmray import deaths, registry, system
from pwmray.deaths import Told
from pwmray.driver.retries import FirstDeaths
from pwmray.failures import (
    KILLED_FOR_MEMORY,
    POLICIES,
    Failure,
    Remedy,
    essence,
    failure_of,
    has_retry,
    of_exception,
    of_exit,
    of_slurm,
    of_text,
    share_of,
)
from pwmray.placement import request
from pwmray.registry import Record, Status
from pwmray.runtime import RuntimeConfig
from tests.waiting import wait_for

RAY_DIED = (
    "Failure # 1 (occurred at 2026-11-26_00-58-17)\nThe actor died unexpectedly before finishing "
    "this task.\n\tclass_name: with_resources.<locals>.ResourceTrainable\n\tpid: 13029\n\tip: "
    "192.0.2.2\nThe actor is dead because its worker process has died. Worker exit type: "
    "SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. "
    "End of file. Some common causes include: (1) the process was killed by the OOM killer due to "
    "high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly "
    "due to SIGSEGV or another unexpected error. If the process was killed by the kernel OOM "
    "killer (verifiable by checking for OOM in dmesg of the OOMing node), consider enabling "
    "resource isolation via --enable-resource-isolation to prevent node deaths by resource "
    "contention and significant loss of progress by uninformed kernel OOM killing.\n"
)
RAY_NODE = (
    "The actor died unexpectedly before finishing this task.\nThe actor died because its node has "
    "died. Node Id: 3c5d\n\tthe actor's node was terminated unexpectedly: health check failed"
)
RAY_PREEMPTED = (
    "The actor died because its node has died. Node Id: 3c5d\n"
    "\tthe actor's node was preempted: spot instance"
)
RAY_MONITOR = "1 worker(s) were killed due to the node running low on memory."
SLURM_OOM = (
    "slurmstepd: error: Detected 1 oom_kill event in StepId=4012555.batch. "
    "Some of the step tasks have been OOM Killed."
)
SLURM_TIME = (
    "slurmstepd: error: *** JOB 4012555 ON node7 CANCELLED AT 2025-03-01T10:00:00 "
    "DUE TO TIME LIMIT ***"
)
SLURM_PREEMPTION = (
    "slurmstepd: error: *** JOB 4012555 ON node7 CANCELLED AT 2025-03-01T10:00:00 "
    "DUE TO PREEMPTION ***"
)
SLURM_NODE = (
    "slurmstepd: error: *** JOB 4012555 ON node7 CANCELLED AT 2025-03-01T10:00:00 "
    "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of "
    "which 1.2 GiB is free."
)


def raised_by(function):
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def event(status, **fields):
    return {"time": "2026-01-01T00:00:00.000+00:00", "status": status, **fields}


def failed(failure, **fields):
    reason = fields.pop("reason", "KeyError: 'x'")
    return Record([event("FAILED", failure=failure, reason=reason, **fields)])


def test_every_class_has_a_policy_and_only_never_has_no_retries():
    assert set(POLICIES) == set(Failure)
    assert {f for f, p in POLICIES.items() if p.remedy is Remedy.NEVER} == {
        f for f, p in POLICIES.items() if p.retries == 0
    }


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: torch.empty(2**60, dtype=torch.uint8), Failure.OUT_OF_MEMORY),
        (lambda: bytearray(2**62), Failure.OUT_OF_MEMORY),
        (lambda: Path("/dev/full").write_text("x"), Failure.DISK_FULL),
        (lambda: Path("/absent/file").read_text(), Failure.CONFIG),
        (lambda: int("x"), Failure.CONFIG),
        (lambda: {}["key"], Failure.CODE),
        (lambda: torch.zeros(2) @ torch.zeros(3), Failure.CODE),
        (lambda: torch.nn.BatchNorm1d(3)(torch.zeros(1, 3)), Failure.CODE),  # a ValueError
    ],
)
def test_real_exception_has_its_class(function, expected):
    assert of_exception(raised_by(function)) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA), Failure.OUT_OF_MEMORY),
        (RuntimeError("Triton Error [CUDA]: out of memory"), Failure.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), Failure.NODE_LOST),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Failure.DISK_FULL),
        (OSError(errno.ESTALE, "Stale file handle"), Failure.NODE_LOST),
        (FloatingPointError("diverged: critic_loss is nan at epoch 1"), Failure.NON_FINITE),
        (KeyError("preempt"), Failure.CODE),
    ],
)
def test_exception_that_needs_a_cluster_has_its_class(error, expected):
    assert of_exception(error) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RAY_DIED, Failure.PROCESS_DIED),
        (RAY_NODE, Failure.NODE_LOST),
        (RAY_PREEMPTED, Failure.PREEMPTED),
        (RAY_MONITOR, Failure.OUT_OF_MEMORY),
        (SLURM_OOM, Failure.OUT_OF_MEMORY),
        (SLURM_TIME, Failure.TIME_LIMIT),
        (SLURM_PREEMPTION, Failure.PREEMPTED),
        (SLURM_NODE, Failure.NODE_LOST),
        (CUDA, Failure.OUT_OF_MEMORY),
        ("epoch 3: return 12.5", None),
    ],
)
def test_text_of_a_log_tells_the_class(text, expected):
    assert of_text(text) is expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("exit 0", None),
        ("exit 1", Failure.CODE),
        ("exit 2", Failure.CONFIG),
        ("kill -KILL $$", Failure.PROCESS_DIED),
        ("kill -TERM $$", Failure.PREEMPTED),
        ("kill -XCPU $$", Failure.TIME_LIMIT),
        ("kill -SEGV $$", Failure.CODE),
        ("sh -c 'kill -KILL $$'; exit $?", Failure.PROCESS_DIED),
    ],
)
def test_exit_code_of_a_real_process_tells_the_class(command, expected):
    code = subprocess.run(["sh", "-c", command]).returncode
    assert of_exit(code) is expected


def test_ctrl_c_is_no_failure():
    assert of_exit(130) is None
    assert of_exit(-signal.SIGINT) is None


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [
        ("OUT_OF_MEMORY", "0:125", Failure.OUT_OF_MEMORY),
        ("TIMEOUT", "0:0", Failure.TIME_LIMIT),
        ("PREEMPTED", "0:0", Failure.PREEMPTED),
        ("NODE_FAIL", "0:0", Failure.NODE_LOST),
        ("BOOT_FAIL", "0:0", Failure.NODE_LOST),
        ("FAILED", "1:0", Failure.CODE),
        ("FAILED", "2:0", Failure.CONFIG),
        ("FAILED", "0:9", Failure.PROCESS_DIED),
        ("FAILED", "0:53", Failure.CODE),
        ("CANCELLED by 1000", "0:15", None),
        ("CANCELLED+", "0:0", None),
        ("COMPLETED", "0:0", None),
        ("RUNNING", "0:0", None),
        ("", "0:0", None),
    ],
)
def test_state_of_a_slurm_job_tells_the_class(state, exit_code, expected):
    assert of_slurm(state, exit_code) is expected


def test_only_a_failed_trial_has_a_failure():
    assert failure_of(failed("disk full")) is Failure.DISK_FULL
    record = failed("disk full")
    record.events.append(event("QUEUED"))
    assert failure_of(record) is None


def test_record_of_an_earlier_version_is_classified_by_its_reason():
    reason = "RuntimeError: CUDA out of memory."
    assert failure_of(Record([event("FAILED", reason=reason)])) is Failure.OUT_OF_MEMORY
    assert failure_of(Record([event("FAILED", reason="KeyError: 1")])) is Failure.CODE


def test_retries_are_counted_in_the_events_whichever_driver_made_them(tmp_path):
    registry.record(tmp_path, Status.PENDING)
    registry.record(tmp_path, Status.QUEUED)
    granted = 0
    registry.record(tmp_path, Status.FAILED, failure="process died")
    while has_retry(registry.read(tmp_path)):
        registry.record(tmp_path, Status.QUEUED, retry="process died")
        registry.record(tmp_path, Status.FAILED, failure="process died")
        granted += 1
    assert granted == POLICIES[Failure.PROCESS_DIED].retries == 2
    # Another cause has a budget of its own; what a person starts again costs none.
    registry.record(tmp_path, Status.QUEUED)
    registry.record(tmp_path, Status.FAILED, failure="preempted")
    assert has_retry(registry.read(tmp_path))


@pytest.mark.parametrize(
    ("failure", "epochs", "is_tried"),
    [
        ("preempted", range(0, 20_000, 100), True),
        ("preempted", [700] * 21, False),  # its first begin counts as none
        ("preempted", [700, *range(0, 600, 30)], False),  # begun again, not yet as far
        ("out of memory", range(0, 400, 100), False),  # for which it is given more
    ],
)
def test_trial_that_comes_further_each_time_is_resumed_for_a_week(failure, epochs, is_tried):
    record = failed(failure)
    for epoch in epochs:
        record.events.append(event("QUEUED", retry=failure))
        record.events.append(event("RUNNING", epoch=epoch))
        record.events.append(event("FAILED", failure=failure))
    assert has_retry(record) is is_tried


@pytest.mark.parametrize("failure", ["config", "code", "non-finite"])
def test_what_would_fail_again_has_no_retry(failure):
    assert not has_retry(failed(failure))


def test_each_want_of_memory_doubles_the_share():
    record = Record([])
    shares = []
    for _ in range(4):
        shares.append(share_of(record))
        record.events.append(event("FAILED", failure="out of memory"))
    assert shares == [1, 2, 4, 4]


def test_larger_share_is_of_the_gpu_where_there_is_one_and_never_more_than_there_is():
    runtime = RuntimeConfig(num_cpus=2, gpu_fraction=0.25)
    assert request(runtime, 2, {"CPU": 16, "GPU": 4}) == {"CPU": 2, "GPU": 0.5}
    assert request(runtime, 8, {"CPU": 16, "GPU": 4}) == {"CPU": 2, "GPU": 1.0}
    assert request(runtime, 4, {"CPU": 6, "GPU": 0}) == {"CPU": 6}
    assert request(runtime, 1, {"CPU": 6, "GPU": 0}) == {"CPU": 2}


def test_reasons_that_differ_in_numbers_are_one():
    one, other = "x/0123456789abcdef: shape [3, 4.5]", "x/fedcba9876543210: shape [10, 1e-3]"
    assert essence(one) == essence(other)
    assert essence("a is missing") != essence("b is missing")


def test_three_deaths_of_one_bug_are_everyones():
    deaths = FirstDeaths()
    for seed in (1, 2):
        deaths.die(f"{seed}", failed("code", reason=f"KeyError: {seed}"))
        assert deaths.bug is None
    deaths.die("3", failed("code", reason="KeyError: 3"))
    assert deaths.bug == "KeyError: 1"


@pytest.mark.parametrize(
    "spare",
    [
        lambda deaths: deaths.finish(),
        lambda deaths: deaths.survive(100),
        lambda deaths: deaths.die("x", failed("code", reason="another")),
        lambda deaths: deaths.die("x", failed("preempted")),
        lambda deaths: deaths.die("x", Record([])),  # whose death a full disk did not take
    ],
)
def test_bug_that_not_all_share_stops_nothing(spare):
    deaths = FirstDeaths()
    spare(deaths)
    for number in range(5):
        deaths.die(f"{number}", failed("code", epochs_reached=50))
    assert deaths.bug is None


def test_bug_at_the_end_of_training_stops_those_that_came_no_further():
    deaths = FirstDeaths()
    deaths.survive(50)
    for number in range(3):
        deaths.die(f"{number}", failed("config", epochs_reached=50))
    assert deaths.bug is not None


def start_and_die(deaths, *names):
    for name in names:
        deaths.start(name)
        deaths.die(name, failed("code", reason="TypeError"))


def test_trial_that_started_before_the_dead_is_waited_for():
    deaths = FirstDeaths()
    deaths.start("slow")
    start_and_die(deaths, "b", "c", "d", "e")
    assert deaths.bug is None
    deaths.survive(1)
    start_and_die(deaths, "f")
    assert deaths.bug is None


@pytest.mark.parametrize(
    "go",
    [
        lambda deaths: deaths.die("slow", failed("code", reason="TypeError")),
        lambda deaths: deaths.leave("slow"),
    ],
)
def test_bug_is_declared_once_nobody_is_waited_for(go):
    deaths = FirstDeaths()
    deaths.start("slow")
    start_and_die(deaths, "b", "c", "d")
    deaths.start("later")
    go(deaths)
    assert deaths.bug == "TypeError"


def test_what_failed_before_tells_nothing_of_what_has_not_been_tried():
    deaths = FirstDeaths()
    again = failed("code")
    again.events *= 2
    for name in "abcd":
        deaths.die(name, again)
    start_and_die(deaths, "e", "f")
    assert deaths.bug is None
    start_and_die(deaths, "g")
    assert deaths.bug == "TypeError"


def test_sweep_with_a_trial_done_has_no_bug_that_all_share():
    deaths = FirstDeaths(is_over=True)
    start_and_die(deaths, "a", "b", "c")
    assert deaths.bug is None


@pytest.mark.parametrize(
    ("told", "node", "failure"),
    [
        ("The actor died unexpectedly before finishing", "n1", Failure.PREEMPTED),
        ("The actor is dead because its node has died", "n1", Failure.PREEMPTED),
        (None, "n1", Failure.PREEMPTED),
        ("oom-kill", "n1", Failure.OUT_OF_MEMORY),
        ("The actor died unexpectedly before finishing", "n2", Failure.PROCESS_DIED),
        ("The actor died unexpectedly before finishing", None, Failure.PROCESS_DIED),
    ],
)
def test_process_that_died_with_a_node_that_slurm_ends_was_preempted(
    told, node, failure, tmp_path, monkeypatch
):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/.41.ended.")
    monkeypatch.setattr(deaths, "_WORD_SECONDS", 0.0)
    monkeypatch.setattr(deaths, "_awaited_at", {})
    (tmp_path / ".41.ended.n1").touch()
    folder = tmp_path / "a1"
    registry.queue(folder, {}, slurm_job_id="41")
    registry.record(folder, Status.RUNNING, slurm_node=node)
    assert deaths.record_death(folder, told and Told(told, time.time()))
    assert registry.read(folder).last("failure") == failure


@pytest.mark.parametrize(("word", "failure"), [
    (".41.ended.n1", Failure.PREEMPTED), (".41.ended.n1.memory", Failure.OUT_OF_MEMORY),
    (".42.ended.n1", Failure.PROCESS_DIED),
])  # fmt: skip
def test_process_that_died_as_its_trial_was_to_begin_goes_with_any_node_of_its_job(
    word, failure, tmp_path, monkeypatch
):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/.41.ended.")
    monkeypatch.setattr(deaths, "_WORD_SECONDS", 0.0)
    (tmp_path / word).write_text(str(time.time_ns()))
    folder = tmp_path / "a1"
    registry.queue(folder, {}, slurm_job_id="41")
    registry.record(folder, Status.RUNNING, slurm_node="n7")  # in an earlier life of the job
    registry.queue(folder, {}, slurm_job_id="41")
    assert deaths.record_death(
        folder, Told("The actor died unexpectedly before finishing", time.time())
    )
    assert registry.read(folder).last("failure") == failure


def test_process_that_the_kernel_ended_for_want_of_memory_ran_out_of_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/.41.ended.")
    monkeypatch.setattr(deaths, "_WORD_SECONDS", 0.0)
    word = tmp_path / ".41.ended.n1.memory"

    def die(node, died_at=None):
        registry.queue(tmp_path / "a1", {}, slurm_job_id="41")
        registry.record(tmp_path / "a1", Status.RUNNING, slurm_node=node)
        assert deaths.record_death(
            tmp_path / "a1", Told("The actor died unexpectedly", died_at or time.time())
        )
        return registry.read(tmp_path / "a1").last("failure")

    word.write_text(str(time.time_ns()))
    assert die("n1") == Failure.OUT_OF_MEMORY
    assert registry.read(tmp_path / "a1").last("reason") == KILLED_FOR_MEMORY
    assert die("n1") == Failure.OUT_OF_MEMORY  # the kernel took two at once
    assert die("n2") == Failure.PROCESS_DIED
    died_at = 10_000.0
    for killed_at, failure in ((9_995.0, Failure.OUT_OF_MEMORY), (9_900.0, Failure.PROCESS_DIED)):
        word.write_text(str(int(killed_at * 1e9)))
        assert die("n1", died_at) == failure  # recorded long after
    word.write_text("")  # half written
    assert die("n1") == Failure.PROCESS_DIED


def test_process_that_the_kernel_ended_on_a_laptop_ran_out_of_memory(tmp_path, monkeypatch):
    counter = tmp_path / "memory.events"
    monkeypatch.setattr(system, "find_kill_counter", lambda: counter)
    monkeypatch.setattr(deaths, "_kills", None)
    now = time.time()

    def die(num_kills, died_at):
        counter.write_text(f"low 0\noom 1\noom_kill {num_kills}\noom_group_kill 0\n")
        registry.queue(tmp_path / "a1", {})
        registry.record(tmp_path / "a1", Status.RUNNING)
        deaths.record_death(tmp_path / "a1", Told("The actor died unexpectedly", died_at))
        return registry.read(tmp_path / "a1").last("reason")

    assert die(1, now) == "its process died"  # nobody heeds it
    deaths.heed_kills()
    assert die(1, now) == "its process died"  # it was another's, before
    assert die(3, now) == KILLED_FOR_MEMORY
    assert die(3, now + 10) == KILLED_FOR_MEMORY  # the kernel took two at once
    assert die(3, now + 600) == "its process died"


def test_kills_are_seen_when_they_come_and_not_at_a_later_death(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(system, "count_kills", lambda _: looks.append(threading.get_ident()) or 0)
    monkeypatch.setattr(deaths, "_LOOK_SECONDS", 0.01)
    deaths.Kills(tmp_path).watch()
    wait_for(lambda: set(looks) > {threading.get_ident()})


def test_word_that_slurm_ended_a_node_may_come_after_the_death(tmp_path, monkeypatch):
    monkeypatch.setenv("PWMRAY_ENDED_NODES", f"{tmp_path}/.41.ended.")
    monkeypatch.setattr(deaths, "_awaited_at", {})
    for name in ("a1", "a2", "a3"):
        registry.queue(tmp_path / name, {}, slurm_job_id="41")
        registry.record(tmp_path / name, Status.RUNNING, slurm_node="n2" if name == "a3" else "n1")
    now, comes_at, waited_at = 0.0, 5.5, []

    def sleep(seconds):
        nonlocal now
        now += seconds
        waited_at.append(now)
        if now > comes_at:
            (tmp_path / ".41.ended.n2").touch()

    monkeypatch.setattr(deaths, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    assert deaths.record_death(tmp_path / "a1", Told("The actor died unexpectedly", time.time()))
    assert 1.0 <= now < 1.1
    num_waits, now = len(waited_at), 5.0
    assert deaths.record_death(tmp_path / "a2", Told("The actor died unexpectedly", time.time()))
    assert len(waited_at) == num_waits  # once for all of its node
    assert deaths.record_death(tmp_path / "a3", Told("The actor died unexpectedly", time.time()))
    assert 5.5 < now < 5.7
    failures = [registry.read(tmp_path / name).last("failure") for name in ("a1", "a2", "a3")]
    assert failures == [Failure.PROCESS_DIED, Failure.PROCESS_DIED, Failure.PREEMPTED]
