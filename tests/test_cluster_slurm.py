"""What Slurm prints, read by pure functions.

Recorded on Slurm 22.05; what needs a larger cluster or accounting is written after its manuals.
"""

import calendar
from pathlib import Path

import pytest

from cluster import slurm
from cluster.slurm import NodeKind, SlurmError
from tests.commands_here import put_command
from tests.recorded_slurm import PARTITIONS, SINFO

JOB = """\
JobId=34900 JobName=tiny UserId=root(0) JobState=RUNNING Reason=None Requeue=1 Restarts=0 \
TimeLimit=00:10:00 StartTime=2026-11-26T03:45:18 EndTime=2026-11-26T03:55:18 Partition=main \
NodeList=n[2-3] BatchHost=n2 NumNodes=2 NumCPUs=8 JOB_GRES=gpu:h200:2   Nodes=n[2-3] CPU_IDs=4-7 \
Mem=0 GRES=gpu:h200:1(IDX:0) MinCPUsNode=4 Command=/tmp/x.sh TresPerNode=gres:gpu:h200:1
"""
MIXED_JOB = """\
JobId=9 JobName=tiny EndTime=Unknown JOB_GRES=gpu:h100:2,gpu:h200:1  Nodes=n1 CPU_IDs=0-1 Mem=0 \
GRES=gpu:h100:2(IDX:0-1)  Nodes=n2 CPU_IDs=0 Mem=0 GRES=gpu:h200:1(IDX:1)  Nodes=n4 CPU_IDs=0 \
Mem=0 GRES= MinCPUsNode=1
"""


def test_partitions_are_read_with_the_nodes_that_they_have():
    main, h200 = slurm.read_partitions(PARTITIONS, SINFO).values()
    assert (main.is_default, main.state, main.limit_seconds, main.max_nodes) == (
        (True, "UP", None, None)
    )
    assert (main.accounts, main.qos) == ((slurm.ALL,), (slurm.ALL,))
    assert main.kinds == (NodeKind({"h100": 2}, 8, 4000, 1), NodeKind({"h200": 2}, 8, 4000, 2))
    assert main.gpu_types == ["h100", "h200"]
    assert (h200.is_default, h200.state, h200.max_nodes) == (False, "DRAIN", 4)
    assert h200.limit_seconds == 2 * 24 * 3600
    assert h200.accounts == ("chemistry", "robotics")
    assert h200.qos == ("normal", "preemptible")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:h100:4(S:0-1)", {"h100": 4}),
        ("gpu:H100:2,gpu:l40s:1(S:0,1),nvme:no_consume:1", {"h100": 2, "l40s": 1}),
        ("gpu:2", {"": 2}),
        ("gpu:nvidia_h100_80gb_hbm3:8(IDX:0-3,5-8)", {"nvidia_h100_80gb_hbm3": 8}),
        ("gpu", {"": 1}),
        ("shard:8,gpu_mem:80", {}),
        ("(null)", {}),
        ("", {}),
    ],
)
def test_gpus_are_read_from_generic_resources(gres, gpus):
    assert slurm.read_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("12:00:00", 43_200),
        ("1:02:03", 3723),
        ("2-12", 216_000),
        ("1-00:30", 88_200),
        ("1-00:00:05", 86_405),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert slurm.read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "2h", "1:2:3:4", "-5"])
def test_text_that_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a Slurm time, such as 90"):
        slurm.read_seconds(text)


def test_gpus_of_a_job_are_read_by_node():
    assert slurm.read_job_gpus(JOB) == {"n[2-3]": {"h200": 1}}
    assert slurm.read_job_gpus(MIXED_JOB) == {"n1": {"h100": 2}, "n2": {"h200": 1}, "n4": {}}


def test_end_of_a_job_is_read():
    assert slurm.read_end(JOB) == calendar.timegm((2026, 11, 26, 3, 55, 18))
    assert slurm.read_end(MIXED_JOB) == float("inf")


def test_accounts_are_read_with_where_and_how_they_may_be_used():
    told = "robotics||normal,preemptible\nrobotics|gpu-h200|high\n\nchemistry||\n"
    assert slurm.read_associations(told) == [
        ("robotics", "", ("normal", "preemptible")),
        ("robotics", "gpu-h200", ("high",)),
        ("chemistry", "", ()),
    ]


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        (
            "sbatch: error: invalid partition specified: gold\n"
            "allocation failure: Invalid partition name specified\n",
            "invalid partition specified: gold; allocation failure: Invalid partition name "
            "specified",
        ),
        (
            "allocation failure: Requested node configuration is not available\n",
            "allocation failure: Requested node configuration is not available",
        ),
        ("slurm_load_jobs error: Invalid job id specified\n", "Invalid job id specified"),
    ],
)
def test_complaint_becomes_one_line(printed, told):
    assert slurm.read_complaint(printed).endswith(told)
    assert "sbatch:" not in slurm.read_complaint(printed)


@pytest.mark.parametrize(
    "printed", ["34900\n", "34900;mini\n", "Welcome!\n\n--> 2 nodes: OK\n34900;mini\n"]
)
def test_job_id_is_read_with_and_without_the_cluster(printed):
    assert slurm.read_job_id(printed) == "34900"


def test_what_is_no_job_id_is_refused():
    with pytest.raises(SlurmError, match="in place of a job id"):
        slurm.read_job_id("Submitted batch job 3\n")


def test_missing_slurm_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="no scontrol here: is this a Slurm login node"):
        slurm.partitions()
    assert slurm.associations("someone") is None


def test_nodes_of_a_thousand_cpus_are_counted(monkeypatch, tmp_path):
    line = "gpu-h200|up|2-00:00:00|$cpus|1031000|12|gpu:h200:8"
    convert = "cpus=1K; case $* in *--noconvert*) cpus=1024 ;; esac"
    put_command(tmp_path, monkeypatch, "sinfo", f'{convert}; echo "{line}"')
    put_command(tmp_path, monkeypatch, "scontrol", f"echo '{PARTITIONS}'")
    (kind,) = slurm.partitions()["gpu-h200"].kinds
    assert kind.cpus == 1024


def test_line_that_is_none_of_a_partition_is_left_out():
    found = slurm.read_partitions(PARTITIONS, f"CLUSTER: big\n{SINFO}\n")
    assert found == slurm.read_partitions(PARTITIONS, SINFO)


def test_each_kind_of_node_counts_also_where_its_gpus_are_anothers(monkeypatch, tmp_path):
    both = 'echo "gpu-h200|up|1:00:00|8+|4000+|3|gpu:h200:2"'
    each = 'echo "gpu-h200|up|1:00:00|8|4000|1|gpu:h200:2"; echo "$B"'
    put_command(tmp_path, monkeypatch, "sinfo", f"case $* in *--exact*) {each};; *) {both};; esac")
    put_command(tmp_path, monkeypatch, "scontrol", f"echo '{PARTITIONS}'")
    monkeypatch.setenv("B", "gpu-h200|up|1:00:00|64|1031000|2|gpu:h200:2")
    kinds = slurm.partitions()["gpu-h200"].kinds
    assert [(kind.cpus, kind.memory_mb, kind.number) for kind in kinds] == [
        (8, 4000, 1),
        (64, 1031000, 2),
    ]


def test_database_that_does_not_know_the_user_tells_nothing(monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "sacctmgr", "true")
    assert slurm.associations("someone") is None


OF_A_SHELL = {
    "SQUEUE_PARTITION": "h200", "SINFO_FORMAT": "%N", "SLURM_TIME_FORMAT": "relative",
    "SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "big", "HOME": "/home/me",
    "SLURM_JWT": "token", "SLURM_SACK_SOCKET": "/run/slurm-big/sack.socket",
}  # fmt: skip
OF_A_JOB = {
    "SBATCH_TIMELIMIT": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_ARRAY_JOB_ID": "5",
    "SLURM_JOB_ID": "6", "SLURMD_NODENAME": "n1", "SRUN_DEBUG": "3",
}  # fmt: skip


WHERE_AND_WHO = {"SLURM_CONF", "SLURM_CLUSTERS", "HOME", "SLURM_JWT", "SLURM_SACK_SOCKET"}


@pytest.mark.parametrize(
    ("command", "kept"),
    [("sbatch", WHERE_AND_WHO), ("squeue", {*WHERE_AND_WHO, *OF_A_JOB})],
)
def test_commands_heed_none_of_the_options_that_a_shell_has_for_them(
    command, kept, monkeypatch, tmp_path
):
    put_command(tmp_path, monkeypatch, command, "env")
    for name, value in {**OF_A_SHELL, **OF_A_JOB}.items():
        monkeypatch.setenv(name, value)
    names = {line.partition("=")[0] for line in slurm.ask(command).splitlines()}
    assert names & {*OF_A_SHELL, *OF_A_JOB} == kept


def test_submission_without_an_answer_may_have_been_taken(monkeypatch, tmp_path):
    put_command(tmp_path, monkeypatch, "sbatch", "exec sleep 5")
    monkeypatch.setattr(slurm, "ASK_SECONDS", 0.05)
    with pytest.raises(SlurmError, match=r"sbatch did not answer .*squeue tells whether it"):
        slurm.submit(Path("a.sbatch"))


def test_question_that_a_busy_controller_refuses_is_repeated_for_as_long_as_is_said(monkeypatch):
    refusals = [SlurmError("busy")] * 3

    def ask(*command):
        if refusals:
            raise refusals.pop()
        return "told"

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(slurm, "AGAIN_SECONDS", 0.0)
    assert slurm.ask_again("squeue") == "told"
    refusals += [SlurmError("busy")] * 3
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(SlurmError, match="busy"):
        slurm.ask_again("squeue")
    assert len(refusals) == 2
