"""`pwmray watch` and `pwmray cancel` over recorded words of Slurm, and on a real one."""

import dataclasses
import errno
import io
import itertools
import json
import os
import shlex
import sys
import time
from types import SimpleNamespace

import pytest

from cluster import cancel, submissions, watch
from cluster.submissions import Submission
from pwmray import cli, registry, results, slurm_jobs, tables
from pwmray import plan as planning
from pwmray.registry import CLAIM_FILE, CURVE_FILE, Status, claim
from pwmray.slurm_jobs import read_squeue
from tests.claims import refuse_claims
from tests.commands_here import put_command
from tests.minislurm import MiniSlurm
from tests.tiny import sweep
from tests.waiting import wait_for

TRIALS = sweep.trials("tiny")[:4]
NAMES = [trial.label for trial in TRIALS]
RUNS = "41|41|N/A|RUNNING|None|0|1|2|n[1-2]|gpu|1:04|30:00|2026-11-26T03:40:00|%s|/s|pwmray|"
WAITS = "43|40|1-3%%1|PENDING|QOSMaxGRESPerUser|0|0|1||gpu|0:00|10:00|N/A|%s|/s|pwmray|"
TASK = "42|40|0|RUNNING|None|0|0|1|n3|gpu|0:03|10:00|2026-11-26T03:40:01|%s|/s|pwmray|"
ENDED = "44|44|N/A|FAILED|NonZeroExitCode|768|0|1|n2|gpu|0:07|1:00:00|N/A|%s|/s|pwmray|"
THEIRS = RUNS % "somebody"
RUNS, WAITS, TASK, ENDED = (line % slurm_jobs.user() for line in (RUNS, WAITS, TASK, ENDED))


def folder_of(results_dir, index):
    return registry.trial_folder(results_dir, TRIALS[index].fingerprint)


def submission(job_id, profile="h100", num_tasks=1, cluster="mini", script="/s"):
    return Submission(
        time=submissions.now(), job_id=str(job_id), num_tasks=num_tasks, cluster=cluster,
        profile=profile, script=script, log="/l", command="python tiny.py", trials=4,
    )  # fmt: skip


def queue(results_dir, submitted, indices=range(4)):
    """Leave what a submission leaves: its line, and QUEUED trials."""
    planned = planning.make(sweep, "tiny", TRIALS, results_dir)
    folder = tables.open_sweep(planned, "python tiny.py")
    submissions.append(folder, submitted)
    for index in indices:
        trial = folder_of(results_dir, index)
        if registry.read(trial).status is None:
            registry.record(trial, Status.PENDING, config=TRIALS[index].to_dict())
        registry.record(trial, Status.QUEUED, **submitted.event)
    return folder


def begin(results_dir, index, job_id):
    """Leave what a trial leaves that runs."""
    folder = folder_of(results_dir, index)
    where = {"slurm_job_id": str(job_id), "host": "n1", "device": "NVIDIA H100"}
    registry.record(folder, Status.RUNNING, epoch=0, **where)
    row = {"trial": folder.name, "epoch": 2, "seconds": 1.0, "return_mean": 7.25}
    results.write_rows(folder / CURVE_FILE, [row], results.CURVE)
    return folder


def run(capsys, results_dir, *arguments):
    code = cli.main([*map(str, arguments), "--results", str(results_dir)])
    return (code, *capsys.readouterr())


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Slurm's words: lines of squeue, or None where it does not answer; its scancel is heard."""
    said, ended = [], tmp_path / "ended"
    ended.touch()
    put_command(tmp_path, monkeypatch, "scancel", f"echo $@ >> {ended}")

    def ask(*_):
        if None in said:
            return None
        jobs, gone = read_squeue("\n".join(said)), ended.read_text().split()
        return [job._replace(state="CANCELLED") if job.job_id in gone else job for job in jobs]

    monkeypatch.setattr(slurm_jobs, "is_here", lambda: True)
    monkeypatch.setattr(slurm_jobs, "cluster_name", lambda *_: "mini")
    monkeypatch.setattr(slurm_jobs, "ask", ask)
    return said


@pytest.fixture
def ended(tmp_path, told):
    """The numbers that scancel was given, of a sweep whose job runs and is this user's."""
    queue(tmp_path, submission(41))
    told.append(RUNS)
    return tmp_path / "ended"


class Terminal(io.StringIO):
    """A terminal at which this is typed."""

    def isatty(self):
        return True


# What is seen.


def test_watch_shows_jobs_and_trials_in_one_table(tmp_path, capsys, told):
    queue(tmp_path, submission(41))
    queue(tmp_path, submission(40, "h200", num_tasks=4), [2, 3])
    told += [RUNS, TASK, WAITS]
    folder = begin(tmp_path, 1, 41)
    with claim.acquire(folder / CLAIM_FILE):
        code, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].split() == ["tiny", "4", "0", "1", "3", "0", "0", "0", "0"]
    header = "job profile state nodes where time limit restarts trials"
    assert lines[3].split() == header.split()
    assert lines[4].split() == ["41", "h100", "RUNNING", "2", "n[1-2]", "1:04", "30:00", "1", "1"]
    assert lines[5].split() == ["40_0", "h200", "RUNNING", "1", "n3", "0:03", "10:00", "0", "0"]
    assert lines[6].split() == ["40_1..3", "h200", "PENDING", "1", "-", "0:00", "10:00", "0", "0"]
    assert lines[7] == "  your limit of GPUs in this QOS is used up (QOSMaxGRESPerUser)"
    row = lines[-1].split()
    assert (row[:2], row[-4:]) == ([NAMES[1], "2/4"], ["41", "n1", "NVIDIA", "H100"])


def test_watch_names_a_broken_line_of_jobs_and_shows_the_others(tmp_path, capsys, told):
    queue(tmp_path, submission(41))
    told += [RUNS]
    path = tmp_path / "tiny" / submissions.JOBS_FILE
    path.write_text("<<<<<<< HEAD\n" + path.read_text())
    code, out, _ = run(capsys, tmp_path, "watch", "--once")
    assert code == 0
    assert ["41", "h100", "RUNNING"] in [line.split()[:3] for line in out.splitlines()]
    assert f"left out: {path} line 1 is not a job" in out
    assert "correct it or delete it" in out


def test_watch_says_how_a_job_ended(tmp_path, capsys, told):
    queue(tmp_path, submission(44))
    told.append(ENDED)
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    assert "  FAILED NonZeroExitCode, exit code 3:0" in out.splitlines()
    assert (
        "set right: 4 trials FAILED, job 44 ended before it began: FAILED NonZeroExitCode, "
        "exit code 3:0"
    ) in out.splitlines()
    assert out.splitlines()[1].split() == ["tiny", "4", "0", "0", "0", "0", "4", "0", "0"]


def test_watch_claims_nothing_of_a_job_that_accounting_alone_knows(tmp_path, capsys, told):
    queue(tmp_path, submission(44))
    told.append("44|44|N/A|COMPLETED|None|0|0" + 10 * "|")  # as it is read from sacct
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    row = ["44", "h100", "COMPLETED", "-", "-", "-", "-", "-", "0"]
    assert row in [line.split() for line in out.splitlines()]


def test_watch_opens_the_dashboard_through_ssh(tmp_path, capsys, told):
    folder = queue(tmp_path, submission(41))
    told.append(RUNS)
    (folder / "jobs").mkdir()
    where = {"node": "n1", "address": "10.0.0.1:6379", "token": "/home/me/.41.token"}
    for more, is_shown in (({}, False), ({"dashboard": "10.0.0.1:8231"}, True)):
        (folder / "jobs" / "41.json").write_text(json.dumps({**where, **more}))
        _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
        assert ("ssh -N -L 8265:10.0.0.1:8231 " in out) == is_shown
        assert ("/home/me/.41.token" in out) == is_shown


def test_dashboards_of_two_sweeps_have_a_port_each(tmp_path, capsys, told):
    for name, number in (("tiny", 41), ("other", 45)):
        named = dataclasses.replace(sweep, name=name)
        planned = planning.make(named, "tiny", TRIALS, tmp_path)
        folder = tables.open_sweep(planned, "python tiny.py")
        submissions.append(folder, submission(number))
        told.append(RUNS.replace("41", str(number)))
        (folder / "jobs").mkdir()
        where = {"dashboard": f"10.0.0.1:{number}", "token": "/home/me/.token"}
        (folder / "jobs" / f"{number}.json").write_text(json.dumps(where))
    _, out, _ = run(capsys, tmp_path, "watch", "--once")
    assert "-L 8265:10.0.0.1:45 " in out and "-L 8266:10.0.0.1:41 " in out


def test_dashboard_of_another_users_job_is_not_offered_as_its_token_cannot_be_read(
    tmp_path, capsys, told
):
    folder = queue(tmp_path, submission(41))
    told.append(THEIRS)
    (folder / "jobs" / "41.json").mkdir(parents=True)  # neither can this, under some umasks
    code, out, _ = run(capsys, tmp_path, "watch", "--once")
    assert (code, "dashboard" in out) == (0, False)
    assert out.splitlines()[5] == "  somebody's"


def test_task_of_an_array_has_one_number_throughout(tmp_path, capsys, told):
    sweep_folder = queue(tmp_path, submission(40, "h200", num_tasks=4))
    told.append(TASK)
    (sweep_folder / "jobs").mkdir()
    where = {"token": "/home/me/.42.token", "dashboard": "10.0.0.1:8231"}
    (sweep_folder / "jobs" / "42.json").write_text(json.dumps(where))
    with claim.acquire(begin(tmp_path, 1, 42) / CLAIM_FILE):
        _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    lines = out.splitlines()
    assert lines[4].split()[0] == "40_0"
    assert any(line.startswith("dashboard of 40_0: ssh ") for line in lines)
    assert lines[-1].split()[-4:] == ["40_0", "n1", "NVIDIA", "H100"]


def test_jobs_of_another_cluster_are_looked_for_there(tmp_path, capsys, told):
    queue(tmp_path, submission(41, cluster="other"))
    told.append(RUNS)
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    assert "more jobs were submitted on other: look there" in out
    assert "RUNNING" not in out
    assert registry.read(folder_of(tmp_path, 0)).status is Status.QUEUED


def test_job_of_the_same_number_that_runs_another_script_is_none_of_the_sweep(
    tmp_path, capsys, told
):
    queue(tmp_path, submission(41, script="/results/tiny/jobs/h100-1.sbatch"))
    told.append(RUNS)
    assert " RUNNING " not in run(capsys, tmp_path, "watch", "tiny", "--once")[1]
    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, out.splitlines()[0]) == (0, "no job of tiny waits or runs")


def test_slurm_that_does_not_answer_changes_nothing(tmp_path, capsys, told):
    queue(tmp_path, submission(41))
    told.append(None)
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    assert out.splitlines()[-1] == "Slurm does not answer: its jobs are shown as last seen"
    assert registry.read(folder_of(tmp_path, 0)).status is Status.QUEUED


def test_watch_keeps_what_it_saw_and_goes_on_while_slurm_does_not_answer(
    tmp_path, told, monkeypatch
):
    folder = queue(tmp_path, submission(41))
    for index in range(4):
        begin(tmp_path, index, 41)
    told.append(RUNS)
    watcher = watch.Watcher(tmp_path, [folder])
    seen = watcher.look()
    monkeypatch.setattr(slurm_jobs, "cluster_name", lambda *_: None)
    told.clear()
    view = watcher.look()
    assert (view.jobs, view.is_over) == (seen.jobs, False)
    assert view.remarks == ["Slurm does not answer: its jobs are shown as last seen"]
    assert not watch.Watcher(tmp_path, [folder]).look().is_over
    assert registry.read(folder_of(tmp_path, 0)).status is Status.RUNNING


def test_nothing_is_cancelled_while_slurm_does_not_answer(tmp_path, capsys, ended, monkeypatch):
    for silent in ("cluster_name", "ask"):
        monkeypatch.setattr(slurm_jobs, silent, lambda *_: None)
        code, out, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert err.startswith("error: Slurm does not answer") and "try again" in err
        monkeypatch.setattr(slurm_jobs, "cluster_name", lambda *_: "mini")
    assert ended.read_text() == ""
    assert registry.read(folder_of(tmp_path, 0)).status is Status.QUEUED


def test_trials_are_left_alone_where_slurm_falls_silent_after_scancel(
    tmp_path, capsys, ended, monkeypatch
):
    answers = iter([read_squeue(RUNS), [], None])  # before scancel, after it, of the trials' jobs
    monkeypatch.setattr(slurm_jobs, "ask", lambda *_: next(answers))
    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "tiny: 4 QUEUED")


@pytest.mark.parametrize(
    ("answer", "cancelled", "last"),
    [
        ("y", "41\n", "\ntiny: 4 CANCELLED\n"),
        ("Yes ", "41\n", "\ntiny: 4 CANCELLED\n"),
        ("n", "", "[y/N] nothing was cancelled\n"),
        ("", "", "[y/N] \nnothing was cancelled\n"),  # Ctrl-D
    ],
)
def test_jobs_end_where_the_answer_is_yes(
    tmp_path, capsys, ended, monkeypatch, answer, cancelled, last
):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, out, err = run(capsys, tmp_path, "cancel", "tiny")
    assert (code, err) == (0, "")
    assert ended.read_text() == cancelled
    assert out.endswith(last)


def test_ctrl_c_while_jobs_end_leaves_told_that_they_were_cancelled(
    tmp_path, capsys, ended, monkeypatch
):
    def interrupt(_):
        raise KeyboardInterrupt

    put_command(tmp_path, monkeypatch, "scancel", "")
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=interrupt)
    monkeypatch.setattr(cancel, "time", clock)
    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert code == 130
    assert out.endswith("\nscancel is sent; waiting until all processes are gone\n")


def test_nobody_to_be_asked_cancels_nothing(tmp_path, capsys, ended, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    code, _, err = run(capsys, tmp_path, "cancel", "tiny")
    assert (code, err) == (2, "error: no terminal to ask on; --yes cancels without asking\n")
    assert ended.read_text() == ""


def test_scancel_that_does_not_end_is_told_in_a_line(tmp_path, capsys, ended, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    put_command(tmp_path, monkeypatch, "scancel", "exec sleep 5")
    monkeypatch.setattr(cancel, "_END_SECONDS", 0.05)
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, err.splitlines()[0][:29]) == (2, "error: Slurm does not answer:")


def test_scancel_that_fails_is_told_in_a_line(tmp_path, capsys, ended, monkeypatch):
    refusal = "scancel: error: Kill job error on job id 41: Access/permission denied"
    put_command(tmp_path, monkeypatch, "scancel", f"echo '{refusal}' >&2; exit 1")
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    said = "error: scancel: Kill job error on job id 41: Access/permission denied\n"
    assert (code, err) == (2, said)


def test_jobs_that_do_not_end_are_told_in_a_line(tmp_path, capsys, ended, monkeypatch):
    put_command(tmp_path, monkeypatch, "scancel", "")
    clock = SimpleNamespace(monotonic=itertools.count(0, 100).__next__, sleep=lambda _: None)
    monkeypatch.setattr(cancel, "time", clock)
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, err) == (2, "error: its jobs have not ended 180 s after scancel; see squeue\n")


def test_job_of_another_user_is_not_cancelled(tmp_path, capsys, ended, told):
    told[:] = [THEIRS]
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, err) == (2, "error: job 41 belongs to somebody, who alone may cancel it\n")
    assert ended.read_text() == ""


def test_job_of_another_user_does_not_keep_ones_own_from_being_cancelled(
    tmp_path, capsys, ended, told
):
    submissions.append(tmp_path / "tiny", submission(45))
    told[:] = [THEIRS, RUNS.replace("41|41", "45|45")]
    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    said = "job 41 belongs to somebody, who alone may cancel it\n45 (h100): RUNNING\n"
    assert (code, out[: len(said)], ended.read_text()) == (0, said, "45\n")


def test_one_job_of_a_sweep_is_cancelled_by_its_number(tmp_path, capsys, ended, told):
    submissions.append(tmp_path / "tiny", submission(45))
    told.append(RUNS.replace("41|41", "45|45"))
    assert run(capsys, tmp_path, "cancel", "tiny", "--yes", "--job", "45")[0] == 0
    assert ended.read_text() == "45\n"
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes", "--job", "46")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: unknown job '46'; ")


def test_trials_that_a_process_still_holds_are_told_after_their_job_is_gone(
    tmp_path, capsys, told, monkeypatch
):
    queue(tmp_path, submission(44))
    told.append(ENDED)
    monkeypatch.setattr(cancel, "LEASE_SECONDS", 0.0)
    with claim.acquire(begin(tmp_path, 0, 44) / CLAIM_FILE):
        code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert code == 0
    assert "waiting until the processes of 1 trial let go\n" in out
    watching = f"`pwmray watch tiny --results {tmp_path}`"
    assert out.endswith(f"\nstill held: 1 trial; {watching} records them later\n")


def test_sweep_that_no_slurm_has_seen_is_watched_without_one(tmp_path, told, monkeypatch):
    """Its commands may lie on a machine that has no cluster."""
    queue(tmp_path, submission(41))
    (tmp_path / "tiny" / submissions.JOBS_FILE).unlink()
    for index in range(4):
        registry.record(folder_of(tmp_path, index), Status.CANCELLED)
    monkeypatch.setattr(slurm_jobs, "cluster_name", lambda *_: None)
    view = watch.Watcher(tmp_path, [tmp_path / "tiny"]).look()
    assert (view.remarks, view.is_over) == ([], True)


def test_without_slurm_the_records_alone_are_shown(tmp_path, capsys, monkeypatch):
    queue(tmp_path, submission(41))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = run(capsys, tmp_path, "watch", "--once")
    assert code == 0
    assert out.splitlines()[1].split() == ["tiny", "4", "0", "0", "4", "0", "0", "0", "0"]
    assert out.splitlines()[3:] == [
        "no Slurm on this machine: this is what the trials' records say"
    ]


def test_without_slurm_nothing_can_be_cancelled(tmp_path, capsys, monkeypatch):
    queue(tmp_path, submission(41))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, "no Slurm on this machine" in err) == (2, True)


def test_watch_ends_with_the_sweep(tmp_path, capsys, told, monkeypatch):
    looks = []

    def wait(_):
        looks.append(told[0])
        if len(looks) == 3:
            told[0] = RUNS.replace("RUNNING", "COMPLETED")

    monkeypatch.setattr(watch.time, "sleep", wait)
    queue(tmp_path, submission(41))
    told.append(RUNS)
    code, out, _ = run(capsys, tmp_path, "watch", "tiny")
    assert (len(looks), code) == (3, watch.NOT_ALL_DONE)
    assert "job 41 ended before it began: COMPLETED" in out.splitlines()[-1]
    assert out.count("sweep  trials") == 2  # what is not new is not printed again


def test_screen_shows_the_sweep_until_it_is_over(tmp_path, told, monkeypatch):
    watcher, looks = watch.Watcher(tmp_path, [queue(tmp_path, submission(41))]), []

    def wait(_):
        looks.append(told[0])
        if len(looks) == 3:
            told[0] = RUNS.replace("RUNNING", "COMPLETED")

    monkeypatch.setattr(watch.time, "sleep", wait)
    told.append(RUNS)
    view = watch._show_on_screen(watcher)
    assert (len(looks), view.is_over, view.is_done) == (3, True, False)


@pytest.mark.parametrize("cancelled", ["never", "before", "since"])
def test_sweep_that_a_driver_outside_slurm_took_up_is_not_over(tmp_path, told, cancelled):
    folder = queue(tmp_path, submission(41))
    told.append(RUNS.replace("RUNNING", "COMPLETED"))
    for index, trial in enumerate(TRIALS):
        if cancelled == "before":
            registry.record(folder_of(tmp_path, index), Status.CANCELLED)
        registry.queue(folder_of(tmp_path, index), trial.to_dict())
        if cancelled == "since":  # by another driver, while this process lives
            registry.record(folder_of(tmp_path, index), Status.CANCELLED)
    assert not watch.Watcher(tmp_path, [folder]).look().is_over


def test_sweep_of_which_a_trial_runs_outside_slurm_is_not_over(tmp_path, told):
    folder = queue(tmp_path, submission(41))
    told.append(RUNS.replace("RUNNING", "COMPLETED"))
    for index in range(4):
        registry.record(folder_of(tmp_path, index), Status.CANCELLED)
    watcher = watch.Watcher(tmp_path, [folder])
    assert watcher.look().is_over
    trial = folder_of(tmp_path, 2)
    registry.queue(trial, TRIALS[2].to_dict())
    registry.record(trial, Status.RUNNING, epoch=0, host="n1")
    with claim.acquire(trial / CLAIM_FILE):
        assert not watcher.look().is_over


def test_watch_ends_where_trials_whose_job_is_gone_cannot_be_set_right(
    tmp_path, capsys, told, monkeypatch
):
    queue(tmp_path, submission(41))
    begin(tmp_path, 0, 41)
    refuse_claims(monkeypatch, number=errno.EROFS)
    monkeypatch.setattr(watch.time, "sleep", lambda _: pytest.fail("it looks again"))
    code, out, _ = run(capsys, tmp_path, "watch", "tiny")
    assert code == watch.NOT_ALL_DONE
    assert out.count("whose job is gone cannot be set right: Read-only file system") == 1


def test_watch_of_a_sweep_all_done_ends_also_where_slurm_does_not_answer(tmp_path, told):
    watcher = watch.Watcher(tmp_path, [queue(tmp_path, submission(41))])
    told.append(RUNS)
    assert not watcher.look().is_over
    for index in range(4):
        folder = begin(tmp_path, index, 41)
        registry.record(folder, Status.COMPLETED)
        registry.record(folder, Status.EVALUATED, return_mean=1.0)
    assert not watcher.look().is_over
    told[:] = [None]
    view = watcher.look()
    assert (view.is_over, view.is_done) == (True, True)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_last_trials_that_end_while_slurm_is_asked_are_done(tmp_path, told, monkeypatch, status):
    def ask(*_):
        for index in range(4):
            if status is Status.QUEUED:
                begin(tmp_path, index, 41)
            registry.record(folder_of(tmp_path, index), Status.COMPLETED)
            registry.record(folder_of(tmp_path, index), Status.EVALUATED, return_mean=1.0)
        return read_squeue(RUNS.replace("RUNNING", "COMPLETED"))

    watcher = watch.Watcher(tmp_path, [queue(tmp_path, submission(41))])
    if status is Status.RUNNING:
        for index in range(4):
            begin(tmp_path, index, 41)
    monkeypatch.setattr(slurm_jobs, "ask", ask)
    view = watcher.look()
    assert (view.is_over, view.is_done) == (True, True)


def test_watch_of_a_search_waits_for_what_it_has_yet_to_propose(tmp_path, told):
    more = dataclasses.replace(submission(41), trials=5)
    told.append(None)
    watcher = watch.Watcher(tmp_path, [queue(tmp_path, more)])
    for index in range(4):
        folder = begin(tmp_path, index, 41)
        registry.record(folder, Status.COMPLETED)
        registry.record(folder, Status.EVALUATED, return_mean=1.0)
    assert not watcher.look().is_over


def test_watch_of_a_sweep_all_done_gives_0(tmp_path, capsys, told):
    queue(tmp_path, submission(41))
    for index in range(4):
        folder = begin(tmp_path, index, 41)
        registry.record(folder, Status.COMPLETED)
        registry.record(folder, Status.EVALUATED, return_mean=1.0)
    assert run(capsys, tmp_path, "watch", "tiny")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["watch", "tny"], "did you mean 'tiny'"),
        (["cancel", "tny"], "did you mean 'tiny'"),
        (["cancel"], "the following arguments are required: SWEEP"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    queue(tmp_path, submission(41))
    code, out, err = run(capsys, tmp_path, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


# On a real Slurm.

# Takes up a trial as a job does and holds it, in the job's own words of where it runs.
TRIAL = """
import sys, time
from pathlib import Path
from pwmray import provenance, registry
from pwmray.registry import claim
folder = Path(sys.argv[1])
while registry.read(folder).status is not registry.Status.QUEUED:  # who submitted it may be later
    time.sleep(0.05)
with claim.acquire(folder / registry.CLAIM_FILE):
    registry.record(folder, registry.Status.RUNNING, epoch=0, device="cpu", **provenance.process())
    time.sleep(1000)
"""


def job_script(*folders):
    path = os.environ["PYTHONPATH"]
    runs = [f"{sys.executable} -c '{TRIAL}' {folder} &\n" for folder in folders]
    return f"#!/bin/bash\nexport PYTHONPATH={shlex.quote(path)}\n{''.join(runs)}wait\nexit 3\n"


@pytest.fixture
def real(slurm: MiniSlurm, monkeypatch):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    yield slurm
    slurm.clear()


def submit(slurm, results_dir, indices, *options, script=None, profile="h100"):
    folders = [folder_of(results_dir, index) for index in indices]
    job = slurm.submit(script or job_script(*folders), "--output=/dev/null", *options)
    queue(results_dir, submission(job, profile, script=slurm.job(job)["Command"]), indices)
    return job


def are_held(results_dir, indices):
    return [bool(registry.running_elsewhere(folder_of(results_dir, i))) for i in indices]


def wait_until_they_run(results_dir, indices):
    wait_for(lambda: all(are_held(results_dir, indices)))
    wait_for(lambda: all(status_of(results_dir, i)[0] is Status.RUNNING for i in indices))


def status_of(results_dir, index):
    record = registry.read(folder_of(results_dir, index))
    return record.status, record.last("failure"), record.last("reason")


@pytest.mark.slow
@pytest.mark.slurm
def test_real_jobs_and_their_trials_are_shown(real, tmp_path, capsys):
    first = submit(real, tmp_path, [0, 1], "--partition=h100", "--gres=gpu:2", "--time=30")
    second = submit(real, tmp_path, [2], "--partition=h100", "--gres=gpu:2", profile="late")
    wait_until_they_run(tmp_path, [0, 1])
    wait_for(lambda: real.job(second)["Reason"] == "Resources")
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    print(out)
    rows = [line.split() for line in out.splitlines()]
    assert ["tiny", "4", "0", "2", "1", "0", "0", "0", "0", "1"] in rows  # one asked of nobody yet
    (row,) = [row for row in rows if row[:2] == [str(first), "h100"]]
    assert (row[2:5], row[6:]) == (["RUNNING", "1", "n1"], ["30:00", "0", "2"])
    assert [str(second), "late", "PENDING"] in [row[:3] for row in rows]
    assert "next in line, waits for nodes or GPUs to become free" in out
    assert sorted(row[0] for row in rows if row[-1:] == ["cpu"]) == sorted(NAMES[:2])


@pytest.mark.slow
@pytest.mark.slurm
def test_trial_whose_job_is_gone_is_set_right_by_status_too(real, tmp_path, capsys):
    cancelled = submit(real, tmp_path, [0], "--partition=h100")
    lost = submit(real, tmp_path, [1], "--nodelist=n3", "--no-requeue", "--gres=gpu:1")
    failed = submit(real, tmp_path, [2], "--partition=h200", script="#!/bin/bash\nexit 3\n")
    unknown = real.submit("#!/bin/bash\n", "--hold") + 500
    queue(tmp_path, submission(unknown), [3])
    wait_until_they_run(tmp_path, [0, 1])
    real.run("scancel", str(cancelled))
    real.run("scontrol", "update", "nodename=n3", "state=DOWN", "reason=test")
    for job in (cancelled, lost, failed):
        real.wait(job)
    wait_for(lambda: not any(are_held(tmp_path, range(4))))
    _, out, _ = run(capsys, tmp_path, "status", "tiny")
    assert out.splitlines()[1].split() == ["tiny", "4", "0", "0", "0", "0", "3", "1", "0"]
    assert status_of(tmp_path, 0)[0] is Status.CANCELLED
    assert f"job {cancelled} ended while it ran: CANCELLED" in status_of(tmp_path, 0)[2]
    assert status_of(tmp_path, 1)[:2] == (Status.FAILED, "node lost")
    assert status_of(tmp_path, 2) == (
        Status.FAILED,
        "code",
        f"job {failed} ended before it began: FAILED NonZeroExitCode, exit code 3:0",
    )
    assert status_of(tmp_path, 3) == (
        Status.FAILED,
        "process died",
        f"job {unknown} is gone, Slurm no longer knows how: before it began",
    )


@pytest.mark.slow
@pytest.mark.slurm
def test_requeued_job_keeps_its_trials(real, tmp_path, capsys):
    job = submit(real, tmp_path, [0], "--partition=h100", "--requeue")
    wait_until_they_run(tmp_path, [0])
    real.run("scontrol", "requeue", str(job))
    # Not before it was looked at: a requeued job waits for some seconds only.
    real.run("scontrol", "update", f"jobid={job}", "StartTime=now+1hour")
    # The scheduler gives a reason only at its next pass, which is a second away.
    wait_for(lambda: real.job(job)["Reason"] == "BeginTime")
    _, out, _ = run(capsys, tmp_path, "watch", "tiny", "--once")
    assert "not before its begin time" in out
    assert status_of(tmp_path, 0)[0] is Status.RUNNING


@pytest.mark.slow
@pytest.mark.slurm
def test_cancel_ends_the_sweeps_jobs_alone(real, tmp_path, capsys):
    other = real.submit("#!/bin/bash\nsleep 1000\n", "--output=/dev/null")
    real.wait(other, "RUNNING")
    first = submit(real, tmp_path, [0, 1], "--partition=h100")
    second = submit(real, tmp_path, [2], "--hold")
    wait_until_they_run(tmp_path, [0, 1])

    code, _, err = run(capsys, tmp_path, "cancel", "tiny")
    assert (code, "--yes cancels without asking" in err) == (2, True)
    code, _, err = run(capsys, tmp_path, "cancel", "tiny", "--yes", "--job", other)
    assert (code, f"unknown job '{other}'" in err) == (2, True)
    assert real.job(first)["JobState"] == "RUNNING"

    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes", "--job", first)
    assert (code, out.splitlines()[0]) == (0, f"{first} (h100): RUNNING")
    assert out.splitlines()[-1] == "tiny: 2 CANCELLED, 1 QUEUED, 1 not asked for"
    assert [status_of(tmp_path, i)[0] for i in (0, 1)] == [Status.CANCELLED] * 2
    assert status_of(tmp_path, 2)[0] is Status.QUEUED
    assert real.job(second)["JobState"] == "PENDING"

    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert (code, out.splitlines()[0]) == (0, f"{second} (h100): PENDING")
    assert status_of(tmp_path, 2)[0] is Status.CANCELLED
    assert real.job(other)["JobState"] == "RUNNING"
    code, out, _ = run(capsys, tmp_path, "cancel", "tiny", "--yes")
    assert out.splitlines() == [
        "no job of tiny waits or runs",
        "tiny: 3 CANCELLED, 1 not asked for",
    ]


@pytest.mark.slow
@pytest.mark.slurm
def test_job_that_only_the_file_of_ended_jobs_knows_is_explained(slurm, tmp_path, monkeypatch):
    """`slurm` is there only to skip or fail where Slurm is missing."""
    with MiniSlurm() as other:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, other.environment[name])
        job = other.submit("#!/bin/bash\nexit 3\n", "--output=/dev/null")
        other.wait(job)
        (known,) = slurm_jobs.ask([str(job)], 10.0) or []
        assert (known.state, known.exit_code, known.user != "") == ("FAILED", "3:0", True)
        past = {}
        monkeypatch.setattr(slurm_jobs, "read_squeue", lambda _: [])  # as after MinJobAge
        (known,) = slurm_jobs.ask([str(job)], 10.0, past) or []
        assert (known.state, known.exit_code) == ("FAILED", "3:0")
        assert past == {str(job): [known]}
