"""Trials whose job is gone: what Slurm says decides, and who runs or may run one is left alone."""

import errno
import json
import os
import threading

import pytest

from pwmray import lost, registry, slurm_jobs
from pwmray.cli import main
from pwmray.failures import Failure
from pwmray.registry import CLAIM_FILE, Record, Status, claim, listing
from pwmray.registry.listing import summarize
from pwmray.slurm_jobs import Job
from tests.claims import do_not_watch, leave_claim, refuse_claims


def queued(job="5", **fields):
    return {"status": "QUEUED", "slurm_job_id": job, "slurm_cluster": "here", **fields}


def running(job="5", **fields):
    return {"status": "RUNNING", "slurm_job_id": job, "slurm_cluster": "here", **fields}


ASKED = {"status": "PENDING"}
COMPLETED = {"status": "COMPLETED"}


def trial_after(*events):
    time = {"time": "2026-01-01T00:00:00.000+00:00"}
    return summarize(Record([{**time, **event} for event in (ASKED, *events)]))


def job(state, exit_code="0:0", job_id="5", reason="None", **fields):
    return Job(job_id, fields.pop("array", job_id), state=state, reason=reason,
               exit_code=exit_code, **fields)  # fmt: skip


def write_trial(results, *events, name="a1"):
    folder = registry.trial_folder(results, name)
    for event in (ASKED, *events):
        fields = {key: value for key, value in event.items() if key != "status"}
        registry.record(folder, Status(event["status"]), **fields)
    return folder


def settle_all(results, names):
    return lost.settle_all(results, listing.list_trials(results, names), 1.0)


@pytest.fixture
def here(monkeypatch):
    """A machine with a Slurm that knows what `here` is told."""
    known = []
    monkeypatch.setattr(slurm_jobs, "is_here", lambda: True)
    monkeypatch.setattr(slurm_jobs, "cluster_name", lambda *_: "here")
    monkeypatch.setattr(slurm_jobs, "ask", lambda names, *_: list(known) if names else [])
    return known


# In whose hands a trial is.


@pytest.mark.parametrize(
    ("events", "jobs"),
    [
        ([], []),
        ([queued()], ["5"]),
        ([queued(), queued("6"), queued("5")], ["5", "6"]),
        ([queued(slurm_array_job_id="5")], ["5_*"]),
        ([queued("7", slurm_array_job_id="5", slurm_array_task_id="2")], ["5_2"]),
        ([queued("7", slurm_array_job_id="5", slurm_array_task_id=0)], ["5_0"]),
        ([queued(), running("6")], ["6"]),
        ([queued(), running("6"), COMPLETED], ["6"]),
        ([queued(), running(), queued("6")], ["6"]),
        ([queued(), {"status": "QUEUED"}], []),  # by a driver outside Slurm
        ([queued(), running(None)], []),
        ([queued(), running(), {"status": "FAILED"}], []),
        ([queued(), running(), COMPLETED, {"status": "EVALUATED"}], []),
    ],
)
def test_trial_is_in_the_hands_of_who_may_run_it(events, jobs):
    assert trial_after(*events).jobs == jobs


# What Slurm says decides.


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "NEW_STATE"])
@pytest.mark.parametrize("events", [[queued()], [queued(), running()]])
def test_trial_of_a_job_that_is_not_over_stands_as_it_says(events, state):
    assert lost.judge(trial_after(*events), [job(state)]) is None


@pytest.mark.parametrize(
    ("events", "gone", "status", "failure", "reason"),
    [
        ([queued(), running()], job("TIMEOUT", "0:15", reason="TimeLimit"), "FAILED",
         Failure.TIME_LIMIT, "job 5 ended while it ran: TIMEOUT TimeLimit, exit code 0:15"),
        ([queued(), running()], job("NODE_FAIL", reason="NodeDown"), "FAILED",
         Failure.NODE_LOST, "job 5 ended while it ran: NODE_FAIL NodeDown"),
        ([queued(), running()], job("PREEMPTED"), "FAILED", Failure.PREEMPTED,
         "job 5 ended while it ran: PREEMPTED"),
        ([queued(), running()], job("OUT_OF_MEMORY", "0:125"), "FAILED", Failure.OUT_OF_MEMORY,
         "job 5 ended while it ran: OUT_OF_MEMORY, exit code 0:125"),
        ([queued(), running()], job("FAILED", "0:9"), "FAILED", Failure.PROCESS_DIED,
         "job 5 ended while it ran: FAILED, exit code 0:9"),
        ([queued(), running()], job("COMPLETED"), "FAILED", Failure.PROCESS_DIED,
         "job 5 ended while it ran: COMPLETED"),
        ([queued(), running(), COMPLETED], job("TIMEOUT"), "FAILED", Failure.TIME_LIMIT,
         "job 5 ended while it ran: TIMEOUT"),
        ([queued(), running()], job("CANCELLED", "0:15"), "CANCELLED", None,
         "job 5 ended while it ran: CANCELLED, exit code 0:15"),
        ([queued()], job("CANCELLED", reason="Priority"), "CANCELLED", None,
         "job 5 ended before it began: CANCELLED"),
        ([queued()], job("COMPLETED"), "CANCELLED", None,
         "job 5 ended before it began: COMPLETED"),
        ([queued()], job("FAILED", "2:0"), "FAILED", Failure.CONFIG,
         "job 5 ended before it began: FAILED, exit code 2:0"),
        ([queued()], job("FAILED", "75:0"), "CANCELLED", None,
         "job 5 stopped before it began and was not requeued; submit the sweep again"),
        ([queued()], job("TIMEOUT"), "FAILED", Failure.TIME_LIMIT,
         "job 5 ended before it began: TIMEOUT"),
        ([queued()], job("OUT_OF_MEMORY"), "FAILED", Failure.PROCESS_DIED,
         "job 5 ended before it began: OUT_OF_MEMORY"),
        ([queued(), running()], job("RUNNING", job_id="6"), "FAILED", Failure.PROCESS_DIED,
         "job 5 is gone, Slurm no longer knows how: while it ran"),
    ],
)  # fmt: skip
def test_trial_of_a_job_that_is_gone_has_its_class_and_reason(
    events, gone, status, failure, reason
):
    verdict = lost.judge(trial_after(*events), [gone])
    assert verdict is not None
    assert (verdict.status, verdict.fields["reason"]) == (status, reason)
    assert verdict.fields.get("failure") == failure


def test_trial_that_another_job_may_still_run_is_not_lost():
    trial = trial_after(queued("5"), queued("6"))
    assert lost.judge(trial, [job("FAILED", "1:0"), job("PENDING", job_id="6")]) is None
    verdict = lost.judge(trial, [job("FAILED", "1:0"), job("TIMEOUT", job_id="6")])
    assert verdict is not None
    assert verdict.fields["reason"] == "job 6 ended before it began: TIMEOUT"


def test_trial_of_an_array_is_lost_when_all_its_tasks_are_over():
    trial = trial_after(queued(slurm_array_job_id="5"))
    ended = job("FAILED", "1:0", "6", array="5", array_tasks=("5_0",))
    waits = job("PENDING", "0:0", "5", array_tasks=("5_1", "5_2"))
    assert lost.judge(trial, [ended, waits]) is None
    over = lost.judge(trial, [ended, waits._replace(state="COMPLETED")])
    assert over is not None
    assert over.fields == {
        "failure": Failure.CODE,
        "reason": "job 5 ended before it began: FAILED, exit code 1:0",
    }


@pytest.mark.parametrize("status", [s for s in Status if s not in registry.IN_HANDS])
def test_trial_in_nobodys_hands_is_never_lost(status):
    trial = trial_after(queued(), running())._replace(status=status)
    assert lost.judge(trial, []) is None


# Setting right.


def test_lost_trial_is_set_right_once(tmp_path, here):
    folder = write_trial(tmp_path, queued(), running())
    here.append(job("TIMEOUT", reason="TimeLimit"))
    assert set(settle_all(tmp_path, ["a1"])) == {"a1"}
    record = registry.read(folder)
    assert (record.status, record.last("failure")) == (Status.FAILED, "time limit")
    assert settle_all(tmp_path, ["a1"]) == {}
    assert len(registry.read(folder).events) == 4
    assert not (folder / CLAIM_FILE).exists()


def test_trial_whose_claim_is_alive_is_never_touched(tmp_path, here):
    folder = write_trial(tmp_path, queued(), running())
    before = (folder / "events.jsonl").read_bytes()
    with claim.acquire(folder / CLAIM_FILE):
        assert settle_all(tmp_path, ["a1"]) == {}
        trials = listing.list_trials(tmp_path, ["a1"])
        assert lost.settle(tmp_path, trials, []) == {}  # taken up since it was looked at
    assert (folder / "events.jsonl").read_bytes() == before


def test_what_a_lost_machine_left_is_set_right_in_one_wait(tmp_path, here, monkeypatch):
    do_not_watch(monkeypatch)
    waits = []
    monkeypatch.setattr(claim, "_wait_for_takers", lambda: waits.append(1))
    for name in ("a1", "a2", "a3"):
        folder = write_trial(tmp_path, queued(), running(), name=name)
        leave_claim(folder / CLAIM_FILE, 4711, host="n9", age=600)
    here.append(job("NODE_FAIL"))
    assert settle_all(tmp_path, ["a1", "a2", "a3"]) == {}  # watched first
    assert set(settle_all(tmp_path, ["a1", "a2", "a3"])) == {"a1", "a2", "a3"}
    assert len(waits) == 1


@pytest.mark.parametrize("later", [[], ["6"]], ids=["submitted after Slurm was asked", "runs"])
def test_trial_that_another_job_has_meanwhile_is_left_to_it(later, tmp_path, here):
    folder = write_trial(tmp_path, queued(), running())
    seen = listing.list_trials(tmp_path, ["a1"])
    registry.record(folder, Status.QUEUED, slurm_job_id="6", slurm_cluster="here")
    jobs = [job("TIMEOUT"), *(job("RUNNING", job_id=number) for number in later)]
    assert lost.settle(tmp_path, seen, jobs) == {}
    assert registry.read(folder).status is Status.QUEUED


def test_trial_of_another_cluster_is_left_alone(tmp_path, here):
    write_trial(tmp_path, queued(), running(slurm_cluster="elsewhere"))
    assert settle_all(tmp_path, ["a1"]) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_trial_of_another_user_is_left_alone(tmp_path, here):
    folder = write_trial(tmp_path, queued(), running())
    os.chown(folder / "events.jsonl", 12345, -1)
    assert settle_all(tmp_path, ["a1"]) == {}


OURS, THEIRS = {"slurm_uid": str(os.geteuid())}, {"slurm_uid": "12345"}


@pytest.mark.parametrize("events", [[queued(**THEIRS)], [queued(), running(**THEIRS)]])
def test_trial_in_the_hands_of_another_users_job_is_left_alone_whoever_began_it(
    events, tmp_path, here
):
    write_trial(tmp_path, *events)
    assert settle_all(tmp_path, ["a1"]) == {}  # Slurm may hide it
    here.append(job("FAILED"))
    assert settle_all(tmp_path, ["a1"]) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_trial_that_another_user_began_is_set_right_where_our_job_had_it(tmp_path, here):
    folder = write_trial(tmp_path, queued(**THEIRS), running(**THEIRS), queued("6", **OURS))
    os.chown(folder / "events.jsonl", 12345, -1)
    here.append(job("TIMEOUT", job_id="6"))
    assert set(settle_all(tmp_path, ["a1"])) == {"a1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_trial_that_another_user_queued_by_an_earlier_version_is_left_alone(tmp_path, here):
    folder = write_trial(tmp_path, queued(), queued("6", **OURS))
    os.chown(folder / "events.jsonl", 12345, -1)
    here.append(job("FAILED", job_id="6"))
    assert settle_all(tmp_path, ["a1"]) == {}


def test_trial_that_waits_for_our_and_for_anothers_job_needs_word_of_both(tmp_path, here):
    write_trial(tmp_path, queued(**THEIRS), queued("6", **OURS))
    here.append(job("CANCELLED", job_id="6"))
    assert settle_all(tmp_path, ["a1"]) == {}
    here.append(job("CANCELLED"))
    assert set(settle_all(tmp_path, ["a1"])) == {"a1"}


def test_trial_that_cannot_be_set_right_hides_no_status(tmp_path, here, monkeypatch, capsys):
    write_trial(tmp_path, queued(), running(), name="0" * 16)
    (tmp_path / "some").mkdir()
    described = {"name": "some", "trials": ["0" * 16]}
    (tmp_path / "some" / "sweep.json").write_text(json.dumps(described))
    refuse_claims(monkeypatch, number=errno.EROFS)
    for command in (["status"], ["watch", "--once"]):
        assert main([*command, "--results", str(tmp_path)]) == 0
        told = capsys.readouterr().out
        assert "set right: Read-only file system" in told.replace("\n", " ")
        assert told.splitlines()[1].split()[:2] == ["some", "1"]


@pytest.mark.parametrize("silent", ["ask", "cluster_name"])
def test_without_an_answer_of_slurm_nothing_is_lost(silent, tmp_path, here, monkeypatch):
    write_trial(tmp_path, queued(), running())
    here.append(job("TIMEOUT"))
    monkeypatch.setattr(slurm_jobs, silent, lambda *_: None)
    assert settle_all(tmp_path, ["a1"]) == {}


def test_several_watchers_at_once_write_one_event(tmp_path, here):
    folders = [write_trial(tmp_path, queued(), running(), name=f"a{i}") for i in range(10)]
    here.append(job("TIMEOUT"))
    names = [folder.name for folder in folders]
    start = threading.Barrier(4)
    found = []

    def watch():
        start.wait()
        found.append(settle_all(tmp_path, names))

    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle_all(tmp_path, names)  # what the others held when it was looked at
    assert [len(registry.read(folder).events) for folder in folders] == [4] * 10
    assert sum(map(len, found)) <= 10


def test_listing_keeps_the_jobs(tmp_path):
    write_trial(tmp_path, queued(slurm_array_job_id="5"))
    for _ in range(2):
        (trial,) = listing.list_trials(tmp_path, ["a1"]).values()
        assert (trial.jobs, trial.cluster) == (["5_*"], "here")


def test_what_was_set_right_is_said_once_a_reason(tmp_path, here):
    for name in ("a1", "a2"):
        write_trial(tmp_path, queued(), running(), name=name)
    write_trial(tmp_path, queued(), name="a3")
    here.append(job("CANCELLED"))
    assert lost.describe(settle_all(tmp_path, ["a1", "a2", "a3"])) == [
        "set right: 2 trials CANCELLED, job 5 ended while it ran: CANCELLED",
        "set right: 1 trial CANCELLED, job 5 ended before it began: CANCELLED",
    ]
