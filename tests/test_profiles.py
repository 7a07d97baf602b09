"""Profiles: read and checked, held against a cluster and a plan, and written as a script."""

import dataclasses
import shlex
import subprocess
from pathlib import Path

import pytest

from cluster import job, preflight, profiles, script, slurm
from cluster.job_nodes import offered_by_nodes, resources
from cluster.profiles import Profile
from cluster.script import Task
from cluster.slurm import Association
from pwmray import plan
from tests.commands_here import put_command
from tests.recorded_slurm import PARTITIONS, SINFO
from tests.tiny_gpus import sweep

H100 = Profile("h100", cpus=8, time_limit="60", gpus=2, gpu_type="H100")
H200 = Profile("h200", cpus=8, time_limit="60", gpus=2, gpu_type="H200")
LINES = 'cpus = 8\ntime_limit = "60"\n'


def load(tmp_path, text):
    path = tmp_path / "profiles.toml"
    path.write_text(text)
    return profiles.load(path)


def make_plan(tmp_path):
    return plan.make(sweep, "tiny", sweep.cells("tiny"), tmp_path)


def check(profile, associations=None, state="UP"):
    partitions = slurm.read_partitions(PARTITIONS.replace("DRAIN", state), SINFO)
    preflight.check_profile(profile, partitions, associations)


def test_examples_are_valid_and_serve_the_gpus_of_phase_6():
    found = profiles.load(profiles.DEFAULT_FILE)
    assert {"H100", "H200", "L40S", ""} == {profile.gpu_type for profile in found.values()}
    assert found["h100"].gres == "gpu:h100:4"
    assert found["h100"].activate[0].startswith("module load")
    assert found["single"].serves_all and found["single"].gres == "gpu:1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LINES + 'gpu_typ = "H100"', r"\[h\]: unknown key 'gpu_typ'; did you mean 'gpu_type'\?"),
        ("cpus = 8\n", r"\[h\] lacks time_limit"),
        (LINES.replace("8", "0"), r"\[h\]: cpus is 0; it must be at least 1"),
        (LINES.replace("8", '"8"'), r"\[h\]: key 'cpus' is '8'; it must be of type int"),
        (LINES + 'sbatch = "--x"', r"\[h\]: key 'sbatch' is '--x'; it must be of type list"),
        (LINES + "gpus = -1", r"\[h\]: gpus is -1"),
        (LINES + 'gpu_type = "H100"', r"\[h\]: gpu_type is 'H100', but gpus is 0"),
        (LINES + "trials_per_gpu = 2", r"\[h\]: trials_per_gpu is 2, but gpus is 0"),
        (f'{LINES}["a b"]\n{LINES}', r"\[a b\]: a profile's name consists of letters, digits"),
        (LINES + 'sbatch = ["--array=1-4%2"]', "sbatch has '--array=1-4%2', .*: .*--jobs N"),
        (LINES + 'sbatch = ["-o x.log"]', "sbatch has '-o x.log', which a profile may not set"),
        (LINES + 'sbatch = ["-a1-3"]', "sbatch has '-a1-3', which a profile may not set"),
        (
            LINES + 'sbatch = ["--constraint=x --arr=1-3"]',
            "sbatch has '--con.*, which a profile may not",
        ),
        (
            LINES + 'sbatch = ["--exclusive\\t--outp=x"]',
            "which a profile may not set: a job's log lies",
        ),
        (LINES + 'gpus = 1\ngpu_type = "h100"', r"gpu_type is 'h100'; valid: capitals"),
        (
            LINES + 'gpus = 1\ngpu_type = "GPU"',
            r"gpu_type is 'GPU', which names no type; leave it out",
        ),
        (LINES.replace('"60"', '"1h"'), r"time_limit: '1h' is not a Slurm time"),
        (
            LINES + "signal_seconds = 3600",
            "signal_seconds is 3600; it must be less than the 3600 s",
        ),
        (LINES + 'scratch = "tmp"', "scratch is 'tmp'; valid: an absolute path"),
        (LINES + f'scratch = "/{"x" * 40}"', "valid: at most 22 characters"),
        (LINES + 'interface = "eth0@if5"', "interface is 'eth0@if5'; valid: a name that `ip addr"),
        (
            LINES + 'interface = "a name of 16 let"',
            "without an @ and what follows it, such as ib0, of at most 15 characters",
        ),
        (LINES + 'sbatch = ["constraint=x"]', r"sbatch holds 'constraint=x'; valid: options"),
        (LINES + "activate = [3]", "activate holds 3; valid: lines of text"),
        (LINES + 'sbatch = ["-t 1\\n#"]', r"sbatch holds '-t 1\\n#'; valid: lines of text"),
        (LINES + "cpus = 9", "is not valid TOML: Cannot overwrite a value"),
    ],
)
def test_profile_that_no_job_can_have_is_refused(tmp_path, text, told):
    with pytest.raises(ValueError, match=rf"profiles\.toml.*{told}"):
        load(tmp_path, f"[h]\n{text}")


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "has no profile"), ("cpus = 8", "'cpus' stands outside a profile such as")],
)
def test_file_without_a_profile_is_refused(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        load(tmp_path, text)


def test_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "profiles.toml").write_bytes(b"[h\xfc]\n")
    with pytest.raises(ValueError, match=r"profiles\.toml is not valid TOML: 'utf-8' codec"):
        profiles.load(tmp_path / "profiles.toml")


def test_unknown_profile_is_told_with_the_nearest(tmp_path):
    found = load(tmp_path, f"[h100]\n{LINES}")
    with pytest.raises(ValueError, match=r"unknown profile 'h10'; did you mean 'h100'\?.* in p"):
        profiles.choose(found, "h10", Path("p.toml"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"partition": "gold"}, "unknown partition 'gold'; .*valid: main, gpu-h200"),
        (
            {"gpu_type": "L40S"},
            r"unknown type of GPU 'l40s'; .*valid: h100, h200 \(in partition ma",
        ),
        ({"gpus": 4}, "gpus is 4, but nodes of partition main have at most 2"),
        ({"cpus": 9}, "cpus is 9, but partition main has at most 8 with gpu:h100:2"),
        ({"memory_gb": 9}, "memory_gb is 9, but partition main has at most 3"),
        ({"nodes": 2}, "nodes is 2, but partition main has at most 1 with gpu:h100:2"),
        (
            {"gpus": 8, "gpu_type": "H200", "partition": "gpu-h200", "nodes": 5},
            "nodes is 5; .*allows a job 4",
        ),
        (
            {"gpu_type": "H200", "partition": "gpu-h200", "time_limit": "3-0"},
            "time_limit is 3-0; partition gpu-h200 allows 48:00:00",
        ),
        (
            {"gpu_type": "H200", "partition": "gpu-h200", "account": "physics"},
            "account 'physics' may not use partition gpu-h200; valid: chemistry, robotics",
        ),
        (
            {"gpu_type": "H200", "partition": "gpu-h200", "qos": "high"},
            "qos 'high' may not be used in partition gpu-h200; valid: normal, preemptible",
        ),
    ],
)
def test_what_the_cluster_has_not_is_refused(changes, told):
    with pytest.raises(ValueError, match=f"profile h100: {told}"):
        check(dataclasses.replace(H100, **changes))


def test_partition_that_is_not_named_is_the_default_one():
    found = slurm.read_partitions(PARTITIONS, SINFO)
    assert [name for name in found if found[name].is_default] == ["main"]
    preflight.check_profile(H100, dict(reversed(found.items())), None)


def test_cluster_without_a_default_partition_asks_for_one_by_name():
    found = slurm.read_partitions(PARTITIONS.replace("Default=YES", "Default=NO"), SINFO)
    with pytest.raises(ValueError, match="has no default: main, gpu-h200"):
        preflight.check_profile(H100, found, None)


def test_partition_without_a_gpu_and_account_that_it_denies_are_named():
    cpus = slurm.read_partitions(PARTITIONS, "main|up|infinite|8|4000|1|(null)\n")
    with pytest.raises(ValueError, match="gpus is 2, but no node of partition main has one"):
        preflight.check_profile(H100, cpus, None)
    denied = PARTITIONS.replace("AllowAccounts=ALL", "AllowAccounts=ALL DenyAccounts=chemistry")
    with pytest.raises(ValueError, match=r"account 'chemistry' may not use partition main$"):
        preflight.check_profile(
            dataclasses.replace(H100, account="Chemistry"),
            slurm.read_partitions(denied, SINFO),
            None,
        )


def test_qos_that_a_partition_denies_is_named():
    denied = slurm.read_partitions(PARTITIONS.replace("AllowQos=ALL", "DenyQos=Normal,test"), SINFO)
    preflight.check_profile(dataclasses.replace(H100, qos="high"), denied, None)
    with pytest.raises(ValueError, match=r"qos 'normal' may not be used in partition main$"):
        preflight.check_profile(dataclasses.replace(H100, qos="normal"), denied, None)


def test_partition_that_takes_no_jobs_is_refused():
    with pytest.raises(ValueError, match="partition gpu-h200 is DRAIN"):
        check(dataclasses.replace(H200, partition="gpu-h200"), state="DRAIN")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"account": "robotic"}, "unknown account 'robotic'; did you mean 'robotics'"),
        ({"account": "robotics", "qos": "high"}, "unknown qos 'high'; .*valid: normal"),
        ({"account": "chemistry"}, "unknown account 'chemistry'; .*valid: robotics"),
    ],
)
def test_account_and_qos_are_held_against_the_database_where_there_is_one(changes, told):
    profile = dataclasses.replace(H100, **changes)
    check(profile)
    with pytest.raises(ValueError, match=told):
        elsewhere = Association("chemistry", "gpu-h200", ("high",))
        check(profile, [Association("robotics", "", ("normal",)), elsewhere])


@pytest.fixture
def account_below_another(tmp_path, monkeypatch):
    """Have the database tell that lab1 is part of chemistry, lab2 of physics; it hides lab3."""
    put_command(tmp_path, monkeypatch, "scontrol", "echo 'ClusterName = mini'")
    parents = "*lab1*) echo chemistry;; *lab2*) echo physics;; *lab3*) ;; *) echo root;;"
    script = f'case $* in *cluster=mini*) ;; *) exit 1;; esac; echo; case "$*" in {parents} esac'
    put_command(tmp_path, monkeypatch, "sacctmgr", script)


def check_account(name):
    h200 = dataclasses.replace(H200, partition="gpu-h200", account=name)
    check(h200, [Association(name, "", ())])


@pytest.mark.parametrize("name", ["chemistry", "lab1", "lab3"])
def test_account_within_one_that_a_partition_admits_is_admitted(account_below_another, name):
    check_account(name)


@pytest.mark.parametrize("name", ["lab2", "root"])
def test_account_within_none_that_a_partition_admits_is_refused(account_below_another, name):
    told = f"account '{name}' may not use partition gpu-h200; valid: chemistry"
    with pytest.raises(ValueError, match=told):
        check_account(name)


def test_list_of_denied_accounts_is_void_beside_one_of_admitted():
    both = PARTITIONS.replace("DenyQos=test", "DenyAccounts=chemistry").replace("DRAIN", "UP")
    h200 = dataclasses.replace(H200, partition="gpu-h200", account="chemistry")
    preflight.check_profile(h200, slurm.read_partitions(both, SINFO), None)


def test_capitals_of_an_account_or_a_qos_mean_nothing_to_slurm():
    named = {"account": "Robotics", "qos": "Normal"}
    profile = dataclasses.replace(H200, partition="gpu-h200", gpus=8, **named)
    check(profile, [Association("robotics", "", ("normal",))])


def test_file_of_an_editor_that_marks_utf_8_is_read(tmp_path):
    assert load(tmp_path, "\ufeff[h]\r\n" + LINES.replace("\n", "\r\n"))["h"].cpus == 8


def test_gpus_without_a_type_in_slurm_are_taken_for_what_the_profile_says():
    untyped = slurm.read_partitions(PARTITIONS, "main|up|infinite|8|4000|1|gpu:2\n")
    assert preflight.check_profile(H100, untyped, None).gres == "gpu:2"
    assert dataclasses.replace(H100, slurm_gpu="none").gres == "gpu:2"
    with pytest.raises(ValueError, match="gpus is 3, but nodes of partition main have at most 2"):
        preflight.check_profile(dataclasses.replace(H100, gpus=3), untyped, None)


def test_profile_that_fits_is_taken():
    check(H100, [Association("robotics", "", ("normal",))])
    check(dataclasses.replace(H200, partition="gpu-h200", account="robotics", qos="normal", gpus=8))


def test_every_trial_needs_a_profile_and_every_profile_a_trial(tmp_path):
    made = [trial.config for trial in make_plan(tmp_path).to_run]
    preflight.check_served(made, [H100, H200], [])
    preflight.check_served(made, [dataclasses.replace(H100, gpu_type="")], [])
    with pytest.raises(ValueError, match=r"2 trials ask for an H200, .* add --profile h200, or"):
        preflight.check_served(made, [H100], [H200])
    l40s = dataclasses.replace(H100, name="l40s", gpu_type="L40S")
    with pytest.raises(ValueError, match="profile l40s: no trial to run asks for its GPUs"):
        preflight.check_served(made, [H100, H200, l40s], [])


def test_gpus_that_wait_for_cpus_are_told(tmp_path):
    made = [trial.config for trial in make_plan(tmp_path).to_run]
    assert preflight.check_cpus(H100, made) == ""
    assert preflight.check_cpus(dataclasses.replace(H100, trials_per_gpu=4), made) == ""
    narrow = dataclasses.replace(H100, cpus=3, trials_per_gpu=4)
    with pytest.raises(ValueError, match="profile h100: cpus is 0, but a trial takes 1"):
        preflight.check_cpus(dataclasses.replace(H100, cpus=0), made)
    told = "3 CPUs are enough for 3 of the 8 trials that its GPUs take side by side"
    assert told in preflight.check_cpus(narrow, made)


@pytest.mark.parametrize(
    ("gpus", "gres", "gpu_type", "offered"),
    [
        ({"h100": 2}, "gpu:h100:2", "H100", {"H100": 2, "accelerator_type:H100": 1}),
        ({"": 2}, "gpu:2", "H100", {"H100": 2, "accelerator_type:H100": 1}),
        ({"h100_80gb": 1}, "gpu:h100_80gb:1", "H100", {"H100": 1, "accelerator_type:H100": 1}),
        ({"h200": 1}, "gpu:1", "", {"H200": 1, "accelerator_type:H200": 1}),
        ({"": 1}, "gpu:1", "", {}),
        ({}, "", "", {}),
    ],
)
def test_node_offers_its_gpus_by_the_name_that_sweeps_have(gpus, gres, gpu_type, offered):
    assert resources(gpus, gres, gpu_type) == offered


@pytest.mark.parametrize(
    ("asked", "given", "of_step"),
    [
        ("gpu:h100:1", "gpu:h100:1(IDX:0)", "gpu:h100:1"),
        ("gpu:h100:1", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("gpu:1", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("", "gpu:h100:2(IDX:0-1)", "gpu:2"),
        ("gpu:h100:1", "", "gpu:h100:1"),
        ("", "", ""),
    ],
)
def test_ray_has_all_the_gpus_of_an_exclusive_job(asked, given, of_step, monkeypatch):
    monkeypatch.setattr(slurm, "hostnames", lambda names: names)
    for name in ("SLURMD_NODENAME", "SLURM_JOB_NODELIST"):
        monkeypatch.setenv(name, "n1")
    options = ["--jobs=/r", "--cpus=1", "--interface=lo", f"--gres={asked}", "sweep.py"]
    details = f"JobId=41 Nodes=n1 CPU_IDs=0-7 Mem=0 GRES={given}"
    (node,) = offered_by_nodes(details, job.parser().parse_args(options)).values()
    assert node["gres"] == of_step
    chosen = job.parser().parse_args(["--simulated-gpus", "--gpu-type=H100", *options])
    (simulated,) = offered_by_nodes(details, chosen).values()
    assert simulated["gpus"] == 0  # which Ray would look for, and sweeps want their types alone
    assert ("H100" in simulated["resources"]) == bool(given)


def fill(profile, **changes):
    task = Task(
        "tiny", ["sweeps/a b.py", "--scale", "paper"], "python x.py", Path("/r/jobs"), Path("/w")
    )
    return script.fill(profile, dataclasses.replace(task, **changes))


def test_script_asks_for_what_the_profile_says_and_is_valid_shell():
    profile = dataclasses.replace(
        H100, account="lab", memory_gb=64, activate=("module load cuda",), sbatch=("--exclusive",)
    )
    text = fill(profile)
    options = [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]
    assert {
        "--gres=gpu:h100:2", "--account=lab", "--mem=64G", "--signal=B:USR1@300", "--requeue",
        "--no-kill", "--exclusive", "--output=/r/jobs/%j.log", "--nodes=1", "--cpus-per-task=8",
    } <= set(options)  # fmt: skip
    assert not any("partition" in option or "array" in option for option in options)
    assert text.index("module load cuda") < text.index("exec python ")
    assert "@" not in text.replace("USR1@300", "")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    *_, last = text.splitlines()
    assert shlex.split(last)[-3:] == ["sweeps/a b.py", "--scale", "paper"]


@pytest.mark.parametrize("is_set", [True, False])
def test_job_reads_what_its_script_tells_it(is_set):
    gpu = {"gpus": 2, "gpu_type": "H100", "simulated_gpus": True} if is_set else {}
    profile = Profile(
        "p", cpus=3, time_limit="60", scratch="/s", dashboard=is_set, max_requeues=5,
        interface="ib0" if is_set else "", **gpu,
    )  # fmt: skip
    text = fill(profile)
    words = shlex.split(text.splitlines()[-1])
    read = vars(job.parser().parse_args(words[words.index("--jobs=/r/jobs") :]))
    assert read == {
        "jobs": Path("/r/jobs"), "cpus": 3, "gres": profile.gres, "gpu_type": profile.gpu_type,
        "scratch": "/s", "signal_seconds": 300, "max_requeues": 5, "dashboard": is_set,
        "interface": profile.interface, "simulated_gpus": is_set,
        "driver": ["sweeps/a b.py", "--scale", "paper"],
    }  # fmt: skip
    assert ("--gres" in text) == is_set


def test_sweep_runs_where_it_was_submitted_wherever_the_activation_goes(tmp_path):
    place = tmp_path / "a place"
    place.mkdir()
    text = fill(dataclasses.replace(H100, activate=("cd / && true",)), folder=place)
    script = text[: text.index("exec python ")] + "pwd\n"
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout == f"{place}\n"


def test_unusual_path_is_quoted_as_sbatch_reads_it():
    text = fill(H100, folder=Path('/w/a#b it\'s "x"'), jobs_folder=Path("/r/a#b"))
    assert '#SBATCH --chdir="/w/a#b it\'s \\"x\\""\n' in text
    assert '#SBATCH --output="/r/a#b/%j.log"\n' in text


@pytest.mark.parametrize("path", ["/r/p%jq", "/r/p\\q", "/r/p\nq"])
def test_path_that_sbatch_would_change_is_refused(path):
    with pytest.raises(ValueError, match=r"the path .* has .* in it, which sbatch replaces"):
        fill(H100, jobs_folder=Path(path))


def test_several_jobs_alike_are_an_array_with_a_log_for_each():
    text = fill(H100, num_jobs=3)
    assert "#SBATCH --array=1-3\n" in text
    assert "#SBATCH --output=/r/jobs/%A_%a.log\n" in text
