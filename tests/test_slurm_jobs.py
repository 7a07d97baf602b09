"""What squeue and sacct print, read: lines as Slurm 22.05, 24.11 and 26.05 printed them."""

import os
import pwd
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pwmray import slurm_jobs
from pwmray.slurm_jobs import (
    Job,
    ask,
    cluster_name,
    describe_wait,
    ends_at,
    find,
    is_here,
    own_name,
    read_sacct,
    read_squeue,
)
from tests.commands_here import put_command
from tests.waiting import wait_for

WAITS = (
    "27627|27627|N/A|PENDING|Resources|0|0|1||h100|0:00|30:00|2026-11-26T04:10:00|me|/s.sh|a.sh|"
)
RUNS = "27626|27626|N/A|RUNNING|None|0|1|1|n1|h100|0:04|30:00|2026-11-26T03:40:00|me|/s.sh|a b|x|"
TASK = "27632|27628|0|RUNNING|None|0|0|1|n2|h200|0:03|10:00|2026-11-26T03:40:01|me|/s.sh|b.sh|"
TASKS = "27628|27628|1-3%1|PENDING|JobArrayTaskLimit|0|0|1||h200|0:00|10:00|N/A|me|/s.sh|b.sh|"
CANCELLED = "27631|27631|N/A|CANCELLED|None|15|0|1|n2|main|0:00|365-00:00:00|N/A|me|/s.sh|c.sh|"
FAILED = "27629|27629|N/A|FAILED|NonZeroExitCode|768|0|1|n2|main|0:00|1:00:00|N/A|me|/s.sh|d.sh|"
KILLED = "27630|27630|N/A|FAILED|JobLaunchFailure|9|0|1|n2|main|0:00|1:00:00|N/A|me|/s.sh|e.sh|"
# As 24.11 and 26.05 print them.
NEW_FAILED = FAILED.replace("768", "3:0")
NEW_KILLED = KILLED.replace("JobLaunchFailure|9|", "RaisedSignal:9(Killed)|0:9|")
LINES = [WAITS, RUNS, TASK, TASKS, CANCELLED, FAILED, KILLED]


def waiting(reason, start=""):
    return Job("1", state="PENDING", reason=reason, start=start)


def test_every_field_of_a_job_is_read():
    assert read_squeue(RUNS) == [
        Job(
            job_id="27626", array_job_id="27626", state="RUNNING", reason="None", restarts=1,
            num_nodes=1, nodes="n1", partition="h100", time_used="0:04", time_limit="30:00",
            start="2026-11-26T03:40:00", user="me", script="/s.sh", name="a b|x",
        )
    ]  # fmt: skip


def test_line_that_is_none_of_a_job_is_left_out():
    assert read_squeue("slurm_load_jobs error: Invalid job id specified\n\n") == []


@pytest.mark.parametrize(
    ("line", "exit_code", "is_over"),
    [
        (FAILED, "3:0", True),
        (KILLED, "0:9", True),
        (CANCELLED, "0:15", True),
        (NEW_FAILED, "3:0", True),
        (NEW_KILLED, "0:9", True),
        (RUNS, "0:0", False),
        (WAITS, "0:0", False),
        (WAITS.replace("Resources|0|", "Resources|0:0|"), "0:0", False),
        (RUNS.replace("RUNNING", "COMPLETING"), "0:0", False),
        (RUNS.replace("RUNNING", "SOMETHING_NEW"), "0:0", False),
    ],
)
def test_ended_job_tells_its_exit(line, exit_code, is_over):
    (job,) = read_squeue(line)
    assert (job.exit_code, job.is_over) == (exit_code, is_over)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("27626", ["27626"]),
        ("27628_0", ["27632"]),
        ("27628_2", ["27628"]),
        ("27628_4", []),
        ("27628_*", ["27632", "27628"]),
        ("99", []),
    ],
)
def test_job_is_found_by_its_id_and_by_its_place_in_an_array(name, expected):
    jobs = read_squeue("\n".join(LINES))
    assert [job.job_id for job in find(jobs, name)] == expected


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("5", ["9_5"]),
        ("0,3-4%2", ["9_0", "9_3", "9_4"]),
        ("0-6:3", ["9_0", "9_3", "9_6"]),
        ("1,...", ["9_1"]),
    ],
)
def test_tasks_of_an_array_are_counted_out(text, tasks):
    (job,) = read_squeue(TASKS.replace("27628|27628|1-3%1", f"9|9|{text}"))
    assert list(job.array_tasks) == tasks


def test_accounting_is_read():
    text = (
        "27629|27629|FAILED|3:0\n27632|27628_0|CANCELLED by 1000|0:15\n"
        "27640|27640|OUT_OF_MEMORY|0:125\n27626|27626||0:0\nsacct: error: Unknown type\n"
    )
    jobs = read_sacct(text)
    assert [(j.job_id, j.state, j.exit_code) for j in jobs] == [
        ("27629", "FAILED", "3:0"),
        ("27632", "CANCELLED", "0:15"),
        ("27640", "OUT_OF_MEMORY", "0:125"),
    ]
    assert find(jobs, "27628_0") == find(jobs, "27628_*") == [jobs[1]]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "jobs of higher priority are before it"),
        ("Resources", "next in line, waits for nodes or GPUs to become free"),
        ("QOSMaxGRESPerUser", "your limit of GPUs in this QOS is used up (QOSMaxGRESPerUser)"),
        ("QOSMaxCpuPerUserLimit", "your limit of CPUs in this QOS is used up"),
        ("QOSMaxJobsPerUserLimit", "your limit of jobs in this QOS is used up"),
        ("QOSGrpGRES", "all users' limit of GPUs in this QOS is used up (QOSGrpGRES)"),
        ("QOSGrpNodeLimit", "all users' limit of nodes in this QOS is used up"),
        ("AssocGrpGRES", "all users' limit of GPUs in this account is used up"),
        ("AssocGrpGRESMinutes", "all users' budget of GPUs times minutes in this account"),
        ("AssocGrpCPURunMinutesLimit", "all users' budget of CPUs times minutes in this account"),
        ("QOSMaxGRESPerJob", "never starts: asks for more GPUs than this QOS allows"),
        ("QOSMinGRES", "never starts: this QOS demands more GPUs of a job (QOSMinGRES)"),
        ("QOSMinCpuNotSatisfied", "never starts: this QOS demands more CPUs of a job"),
        ("QOSMaxMemoryPerUser", "your limit of memory in this QOS is used up"),
        ("MaxGRESPerAccount", "your account's limit of GPUs in this QOS is used up"),
        ("MaxJobsPerAccount", "your account's limit of jobs in this QOS is used up"),
        ("MaxGRESRunMinsPerUser", "your budget of GPUs times minutes in this QOS is used up"),
        ("MaxPoweredUpNodes", "MaxPoweredUpNodes"),
        ("job requeued in held state", "held by who requeued it; `scontrol release`"),
        ("QOSMaxWallDurationPerJobLimit", "never starts: asks for more time than this QOS allows"),
        ("QOSMaxCpuMinutesPerJobLimit", "never starts: asks for more CPUs times minutes than this"),
        ("QOSMaxMemoryPerJob", "never starts: asks for more memory than this QOS allows"),
        ("MaxMemPerLimit", "never starts: asks for more memory than its partition allows"),
        (
            "Job's account not permitted to use this partition (chem allows a,chem not lab)",
            "never starts: Job's account not permitted to use this partition (chem allows a,chem",
        ),
        (
            "Job's QOS not permitted to use this partition (onlyqos allows high not normal)",
            "never starts: Job's QOS not permitted to use this partition (onlyqos allows high",
        ),
        (
            "Job's account not known, so it can't use this partition (chem allows chem)",
            "never starts: Job's account not known, so it can't use this partition (chem allows",
        ),
        ("ReqNodeNotAvail, UnavailableNodes:n[3-4]", "nodes it needs are down, drained or"),
        ("DependencyNeverSatisfied", "never starts: the job it depends on failed; cancel it"),
        ("SomethingNew", "SomethingNew"),
        ("", ""),
    ],
)
def test_reason_for_waiting_is_said_in_plain_words(reason, words):
    assert describe_wait(waiting(reason)).startswith(words)


@pytest.fixture
def central_europe(monkeypatch):
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_wait_names_the_nodes_that_lack_and_when_it_is_expected_to_end(central_europe):
    job = waiting("ReqNodeNotAvail, UnavailableNodes:n[3-4]", "2026-11-26T04:10:00")
    assert describe_wait(job) == (
        "nodes it needs are down, drained or reserved (n[3-4]); expected 2026-11-26 05:10"
    )


@pytest.mark.parametrize("reason", ["job requeued in held state", "JobHeldUser", "InvalidQOS"])
def test_job_that_does_not_start_by_itself_is_expected_at_no_time(reason):
    assert "expected" not in describe_wait(waiting(reason, "2026-11-26T04:10:00"))


def test_only_a_job_that_waits_has_a_reason_to():
    assert describe_wait(read_squeue(RUNS)[0]) == ""


def test_where_there_is_no_slurm_nothing_answers(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_here()
    assert ask(["1"], 1.0) is None
    assert ask([], 1.0) == []


@pytest.mark.parametrize(
    ("script", "seconds", "name"),
    [
        ("echo 'AuthType = x\nClusterName             = mini\nX = y'", 20.0, "mini"),
        ("echo 'X = y'", 20.0, ""),
        ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", 20.0, None),
        ("exec sleep 5", 0.05, None),
    ],
)
def test_cluster_without_an_answer_has_no_name(monkeypatch, tmp_path, script, seconds, name):
    put_command(tmp_path, monkeypatch, "scontrol", script)
    assert cluster_name(seconds) == name


def test_machine_without_slurm_is_of_no_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster_name(1.0) == ""


def test_squeue_that_does_not_answer_in_time_is_not_waited_for(monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "squeue", "exec sleep 5")
    assert ask(["1"], 0.05) is None


def test_accounting_that_lags_behind_is_asked_again(monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "squeue", "true")
    past = {}
    for state, is_asked_again in (("RUNNING", True), ("CANCELLED by 0", False)):
        put_command(tmp_path, monkeypatch, "sacct", f"echo '7|7|{state}|0:0'")
        (job,) = ask(["7"], 5.0, past) or []
        assert (job.state, "7" not in past) == (state.split()[0], is_asked_again)
    put_command(tmp_path, monkeypatch, "sacct", "exit 1")
    assert ask(["7"], 5.0, past) == [job]


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"SLURM_JOB_ID": "77"}, "77"),
        ({"SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}, "77_3"),
        ({"SLURM_JOB_ID": "75", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "0"}, "77_0"),
        ({}, None),
    ],
)
def test_task_of_an_array_is_never_called_by_the_number_of_all(variables, name, monkeypatch):
    monkeypatch.setattr(os, "environ", variables)
    assert own_name() == name


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ("2026-11-26T03:40:00", 1795664400),
        ("N/A", None),
        ("", None),
    ],
)
def test_end_of_a_job_is_read(said, end, monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "squeue", f"echo '{said}|'")
    assert ends_at("77", 5.0) == end


@pytest.mark.parametrize("end", [1792888200, 1792891800])  # both 02:30, in summer and in winter
def test_end_in_the_hour_that_autumn_has_twice_is_read(end, central_europe, monkeypatch, tmp_path):
    says = f"import time; print(time.strftime('%FT%T|', time.localtime({end})))"
    put_command(tmp_path, monkeypatch, "squeue", f'{sys.executable} -c "{says}"')
    assert ends_at("77", 5.0) == end


@pytest.mark.parametrize(("restarts", "is_requeued"), [("1", False), ("2", True)])
def test_job_that_slurm_put_back_into_its_queue_is_known(
    restarts, is_requeued, monkeypatch, tmp_path
):
    line = f"77||N/A|COMPLETING|None|0|{restarts}|1|n1|p|0:10|1:00|N/A|me|run.sh|sweep|"
    put_command(tmp_path, monkeypatch, "squeue", f"echo '{line}'")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not slurm_jobs.was_requeued(5.0)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm_jobs.was_requeued(5.0) is is_requeued
    put_command(tmp_path, monkeypatch, "squeue", "exit 1")
    assert not slurm_jobs.was_requeued(5.0)


OWN = """#!/bin/bash
python -c "
from pwmray.slurm_jobs import ends_at, own_name
print(own_name(), ends_at(own_name(), 20.0))
"
sleep 1000
"""


@pytest.mark.slow
@pytest.mark.slurm
def test_each_task_of_an_array_knows_its_end_and_is_requeued_alone(slurm, monkeypatch):
    monkeypatch.setitem(slurm.environment, "PYTHONPATH", str(Path(__file__).parent.parent))
    path = f"{Path(sys.executable).parent}{os.pathsep}{slurm.environment['PATH']}"
    monkeypatch.setitem(slurm.environment, "PATH", path)
    array = slurm.submit(OWN, "--array=1-2", "--requeue", "--time=30", "--output=%A_%a.log")
    tasks = sorted(
        (f"{array}_{index}" for index in (1, 2)),
        key=lambda task: slurm.wait(task, "RUNNING")["JobId"] != str(array),
    )
    assert slurm.job(tasks[0])["JobId"] == str(array)
    for task in tasks:
        log = slurm.folder / f"{task}.log"  # which is opened after Slurm says that it runs
        told = wait_for(lambda log=log: log.exists() and log.read_text()).split()
        assert (told[0], 0 < float(told[1]) - time.time() <= 1800) == (task, True)
    slurm.run("scontrol", "requeue", tasks[0])
    assert [slurm.job(task)["Restarts"] for task in tasks] == ["1", "0"]
    assert slurm.job(tasks[1])["JobState"] == "RUNNING"
    slurm.clear()


def test_end_of_a_job_is_read_whatever_form_a_shell_gives_to_times(monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "squeue", "echo ${SLURM_TIME_FORMAT:-2026-11-26T03:40:00}")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    assert ends_at("77", 5.0) == slurm_jobs.read_time("2026-11-26T03:40:00")


def test_user_is_who_runs_this_whatever_a_shell_calls_them(monkeypatch):
    numbers = {os.geteuid(): SimpleNamespace(pw_name="ada")}
    monkeypatch.setattr(pwd, "getpwuid", numbers.__getitem__)
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert slurm_jobs.user() == "ada"
    numbers.clear()  # as in a container
    assert slurm_jobs.user() == str(os.geteuid())
