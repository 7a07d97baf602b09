"""What `cluster/submit.py` checks and writes, over recorded words of Slurm."""

import shlex
from pathlib import Path

import pytest

from cluster import slurm, submissions, submit, work
from cluster.slurm import SlurmError
from cluster.submit import load_experiment
from pwmray import registry, slurm_jobs
from pwmray.commands import TRIALS_FAILED
from pwmray.registry import Status
from pwmray.registry.sweep_folders import read_sweep
from pwmray.search import search_parser
from pwmray.sweep_options import sweep_parser
from tests.recorded_slurm import PARTITIONS, SINFO
from tests.tiny_search import search

SWEEPS = Path(__file__).parent.parent / "sweeps"
PROFILES = """
[h100]
gpus = 1
gpu_type = "H100"
cpus = 2
time_limit = "30"

[h200]
gpus = 1
gpu_type = "H200"
cpus = 2
time_limit = "30"

[any]
gpus = 1
cpus = 2
time_limit = "30"
"""
# Two trials each for an H100, an H200, and any.
SWEEP = """
import dataclasses
from tests import tiny_gpus
vary = {**tiny_gpus.sweep.vary, "epochs": [3, 5, 8]}
sweep = dataclasses.replace(tiny_gpus.sweep, vary=vary)
if __name__ == "__main__":
    sweep.main()
"""
PRETRAINED = """
import dataclasses
from tests.tiny_pretrained import sweep
(scale,) = sweep.scales.values()
pretrain = {**scale["pretrain"], "tasks": ("pendulum-spin", "reacher-easy")}
scale = {**scale, "set": {**scale["set"], "data.source": "mt30"}, "pretrain": pretrain}
sweep = dataclasses.replace(sweep, scales={"tiny": scale})
if __name__ == "__main__":
    sweep.main()
"""
SEARCH = """
from tests.tiny_search import search
if __name__ == "__main__":
    search.main()
"""
ANSWERS = {
    "scontrol --all --oneliner show partition": PARTITIONS,
    "scontrol show config": "ClusterName             = mini\n",
    "sinfo": SINFO,
    "squeue": "",
    "sbatch": "",
    "sbatch --parsable": "41\n",
}


class Place:
    """A folder from which sweeps are submitted; the Slurm there says what `answers` has."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        self.folder, self._capsys = folder, capsys
        self.answers = dict(ANSWERS)
        self.asked: list[str] = []

    def ask(self, *command: str, given: str | None = None) -> str:
        asked = shlex.join(command)
        self.asked.append(asked)
        known = [start for start in self.answers if asked.startswith(start)]
        if not known:
            raise SlurmError(f"{command[0]}: recorded nothing")
        return self.answers[max(known, key=len)]

    @property
    def sweep_folder(self) -> Path:
        return self.folder / "results" / "tiny_gpus"

    @property
    def has_submitted(self) -> bool:
        return any(asked.startswith("sbatch --parsable") for asked in self.asked)

    def submit(self, *options: str, file: str = "sweep.py") -> tuple[int, str, str]:
        """Return exit code, output and error output."""
        fixed = [file, "--scale", "tiny", "--profiles", "profiles.toml", "--data", "data"]
        return (submit.main([*fixed, *options]), *self._capsys.readouterr())

    def drivers(self, *options: str, file: str = "sweep.py") -> list[list[str]]:
        """Return the options with which each job's driver would be started."""
        code, out, err = self.submit(*options, "--dry-run", file=file)
        assert code == 0, err
        lines = [line for line in out.splitlines() if line.startswith("exec ")]
        return [words[words.index(file) + 1 :] for words in map(shlex.split, lines)]


@pytest.fixture
def place(tmp_path, monkeypatch, capsys):
    (tmp_path / "profiles.toml").write_text(PROFILES)
    (tmp_path / "sweep.py").write_text(SWEEP)
    (tmp_path / "search.py").write_text(SEARCH)
    monkeypatch.chdir(tmp_path)
    found = Place(tmp_path, capsys)
    monkeypatch.setattr(slurm, "ask", found.ask)
    return found


def test_unknown_file_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no sweep file .*phase6\.py; did you mean ") as refused:
        load_experiment(SWEEPS / "phase6.py")
    assert str(SWEEPS / "phase6_epochs.py") in str(refused.value)


def test_file_without_a_sweep_is_refused():
    with pytest.raises(ValueError, match=r"phase8_pretrain\.py defines no Sweep and no Search"):
        load_experiment(SWEEPS / "phase8_pretrain.py")


def test_sweeps_own_option_before_its_file_is_told_to_follow_it(place, capsys):
    assert submit.main(["--limit", "2", "sweep.py", "--profile", "h100"]) == 2
    assert capsys.readouterr().err == (
        "error: no sweep file 2; --limit is an option of the sweep's own command, and those follow "
        "its file: sweep.py --limit 2\n"
    )


def run_by(place, driver):
    """Return the epochs of the trials that a job's driver runs; they tell the types of GPU."""
    sweep = load_experiment(place.folder / "sweep.py")
    plan = sweep.plan(sweep_parser(sweep.name, sweep.scales).parse_args(driver))
    return [trial.config.epochs for trial in plan.to_run]


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        (["--profile", "h100", "--profile", "h200"], [{3, 5}, {3, 8}]),
        (
            ["--profile", "h100", "--profile", "h200", "--gpu-types", "H100,H200"],
            [{3, 5}, {3, 8}],
        ),
        (["--profile", "h100", "--profile", "h200", "--gpu-types=H200"], [{3}, {3, 8}]),
        (["--profile", "h100", "--gpu-types", "H100"], [{3, 5}]),
        (["--profile", "any", "--gpu-types", "H100,H200"], [{3, 5, 8}]),
        (["--profile", "any", "--gpu-types", "H100"], [{3, 5}]),
    ],
)
def test_each_job_runs_the_trials_that_its_gpus_serve(place, options, epochs):
    assert [set(run_by(place, driver)) for driver in place.drivers(*options)] == epochs


@pytest.mark.parametrize(
    ("options", "seconds"),
    [([], 200), (["--patience", "5000"], 5000), (["--patience=7"], 7)],
)
def test_job_has_the_patience_that_is_asked_for(place, options, seconds):
    (driver,) = place.drivers("--profile", "any", *options)
    sweep = load_experiment(place.folder / "sweep.py")
    assert sweep_parser(sweep.name, sweep.scales).parse_args(driver).patience == seconds


def test_plan_counts_for_each_profile_what_its_job_runs(place):
    chosen = ["--profile", "h100", "--profile", "h200", "--gpu-types", "H200"]
    drivers = place.drivers(*chosen)
    _, out, _ = place.submit(*chosen, "--dry-run")
    for name, driver in zip(("h100", "h200"), drivers, strict=True):
        assert f"profile {name}, {len(run_by(place, driver))} trials:" in out.splitlines()


def test_plan_tells_the_wall_time_on_the_nodes_of_the_jobs(place):
    _, out, _ = place.submit(
        "--profile", "any", "--nodes", "3", "--jobs", "2", "--gpu-types", "", "--dry-run"
    )
    assert " on 12 devices; " in out  # two cores a node, which is what this scale counts


def test_plan_is_of_trials_that_share_a_gpu_as_the_profile_says(place):
    (place.folder / "profiles.toml").write_text(PROFILES + "trials_per_gpu = 4\n")
    _, out, _ = place.submit("--profile", "any", "--gpu-types", "", "--dry-run")
    assert "1 CPU, 0.25 GPU if there is one" in out


def test_profile_whose_gpus_nothing_asks_for_is_refused(place):
    main = 'if __name__ == "__main__":\n    sweep.main()\n'
    (place.folder / "sweep.py").write_text(f"from tests.tiny_gpus import sweep\n{main}")
    both = ["--profile", "h100", "--profile", "h200"]
    code, _, err = place.submit(*both, "--gpu-types", "H200", "--dry-run")
    assert (code, err) == (2, "error: profile h100: no trial to run asks for its GPUs\n")


def test_gpus_without_a_type_in_slurm_are_asked_for_by_number(place):
    place.answers["sinfo"] = "main|up|infinite|8|4000|3|gpu:2\n"
    code, out, err = place.submit("--profile", "h100", "--gpu-types", "H100", "--dry-run")
    assert code == 0, err
    assert "#SBATCH --gres=gpu:1\n" in out
    assert "--gres=gpu:1 --gpu-type=H100 " in out


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PWMRAY_WEBHOOK", "http://hooks.example.org/x", "PWMRAY_WEBHOOK must be https"),
        ("WANDB_MODE", "onlin", "unknown WANDB_MODE 'onlin'; did you mean 'online'?"),
    ],
)
@pytest.mark.parametrize("file", ["sweep.py", "search.py"])
def test_variable_that_would_end_the_job_is_refused(place, monkeypatch, name, value, told, file):
    monkeypatch.setenv(name, value)
    code, _, err = place.submit("--profile", "h100", file=file)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {told}")
    assert not place.asked


# Recording.


def test_submitted_job_is_recorded_with_its_trials(place):
    code, out, _ = place.submit("--profile", "any")
    assert code == 0
    assert "submitted job 41: profile any, 6 trials; log " in out
    (job,) = submissions.read(place.sweep_folder)
    assert (job.job_id, job.cluster, job.trials) == ("41", "mini", 6)
    assert place.asked.count(f"sbatch --parsable {job.script}") == 1
    names = read_sweep(place.sweep_folder)["trials"]
    records = [registry.read(registry.trial_folder(place.folder / "results", n)) for n in names]
    told = {(record.status, record.last("slurm_job_id"), record.last("log")) for record in records}
    assert (len(names), told) == (6, {(Status.QUEUED, "41", job.log)})


def test_nodes_are_those_of_the_profile_before_them(place):
    options = ["--profile", "any", "--nodes", "2", "--profile", "h100"]
    _, out, _ = place.submit(*options, "--dry-run")
    found = [line for line in out.splitlines() if line.startswith("#SBATCH --nodes=")]
    assert found == ["#SBATCH --nodes=2", "#SBATCH --nodes=1"]
    code, _, err = place.submit("--nodes", "2", "--profile", "any")
    assert (code, "--nodes must follow the --profile that it is for" in err) == (2, True)


def test_submission_without_a_profile_is_refused(place):
    code, _, err = place.submit()
    assert (code, err.startswith("error: --profile is missing: ")) == (2, True)


def test_profile_that_is_given_twice_is_refused(place):
    code, _, err = place.submit("--profile", "any", "--profile", "any")
    assert (code, err) == (2, "error: --profile names one twice; --jobs N submits N of it\n")


@pytest.mark.parametrize(("profile", "scale"), [("any", "paper"), ("cpu", "laptop")])
def test_scale_that_is_not_said_follows_from_the_nodes(place, profile, scale, capsys):
    cpu = PROFILES + '[cpu]\ncpus = 2\ntime_limit = "30"\n'
    (place.folder / "profiles.toml").write_text(cpu)
    tiny = """
tiny = sweep.scales["tiny"]
sweep = dataclasses.replace(sweep, scales={"paper": tiny, "laptop": tiny})
if __name__"""
    (place.folder / "sweep.py").write_text(SWEEP.replace("\nif __name__", tiny))
    fixed = ["sweep.py", "--profiles", "profiles.toml", "--data", "data", "--dry-run"]
    assert submit.main([*fixed, "--profile", profile]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("exec ")]
    assert f" --scale {scale}" in line


def test_scale_that_is_not_there_is_named(place, capsys):
    fixed = ["sweep.py", "--profiles", "profiles.toml", "--data", "data", "--profile", "any"]
    assert submit.main([*fixed, "--scale", "tny"]) == 2
    error = "unknown scale 'tny'; did you mean 'tiny'? valid: "
    assert capsys.readouterr().err.startswith(f"error: {error}")


def test_job_of_another_profile_is_no_second_one(place):
    assert place.submit("--profile", "any")[0] == 0
    place.answers["squeue"] = f"41 {slurm_jobs.user()}\n"
    assert place.submit("--profile", "h100", "--profile", "h200")[0] == 0
    code, _, err = place.submit("--profile", "h100", "--profile", "h200")
    assert (code, "job 41 of this sweep with profile h100" in err) == (2, True)
    assert " by " not in err
    assert [job.profile for job in submissions.read(place.sweep_folder)] == ["any", "h100", "h200"]


def test_job_of_another_user_on_the_same_sweep_is_told_with_whose_it_is(place):
    assert place.submit("--profile", "any")[0] == 0
    place.answers["squeue"] = "40 bob\n41 alice\n"
    code, _, err = place.submit("--profile", "any")
    assert (code, " by alice, waits or runs; add --again " in err) == (2, True)


def test_sweep_that_is_done_is_not_submitted_again(place):
    assert place.submit("--profile", "any")[0] == 0
    names = read_sweep(place.sweep_folder)["trials"]
    folders = [registry.trial_folder(place.folder / "results", name) for name in names]
    for folder in folders:
        for status in (Status.RUNNING, Status.COMPLETED, Status.EVALUATED):
            registry.record(folder, status)
    code, out, _ = place.submit("--profile", "any")
    assert (code, out.splitlines()[-1]) == (0, "nothing to run: all trials are done, or running")
    (folders[0] / registry.EVENTS_FILE).write_text("{broken\n")
    code, out, _ = place.submit("--profile", "any")
    said = "nothing to run: all others are done, or running"
    assert (code, out.splitlines()[-1]) == (TRIALS_FAILED, said)
    assert len(submissions.read(place.sweep_folder)) == 1


def test_each_job_has_a_script_of_its_own(place):
    for again in ([], ["--again"]):
        assert place.submit("--profile", "any", *again)[0] == 0
    first, second = submissions.read(place.sweep_folder)
    assert [Path(job.script).name for job in (first, second)] == ["any-1.sbatch", "any-2.sbatch"]
    assert Path(second.script).read_text().startswith("#!")


def test_profile_that_slurm_refuses_after_another_was_submitted_is_named(place, monkeypatch):
    def ask(*command, given=None):
        if command[:2] == ("sbatch", "--parsable") and "h200-1" in command[2]:
            raise SlurmError("sbatch: QOSMaxSubmitJobPerUserLimit")
        return place.ask(*command, given=given)

    monkeypatch.setattr(slurm, "ask", ask)
    code, out, err = place.submit("--profile", "h100", "--profile", "h200")
    assert (code, err) == (2, "error: profile h200: sbatch: QOSMaxSubmitJobPerUserLimit\n")
    assert "submitted job 41: profile h100" in out
    assert [job.profile for job in submissions.read(place.sweep_folder)] == ["h100"]


def test_nothing_is_submitted_while_slurm_does_not_tell_its_name(place):
    del place.answers["scontrol show config"]
    code, _, err = place.submit("--profile", "any")
    assert (code, err) == (2, "error: scontrol: recorded nothing\n")
    assert not place.has_submitted and not place.sweep_folder.exists()


def test_nothing_is_submitted_where_it_could_not_be_recorded(place):
    (place.sweep_folder / submissions.JOBS_FILE).mkdir(parents=True)
    code, _, err = place.submit("--profile", "any", "--again")
    assert (code, len(err.splitlines()), "jobs.jsonl" in err) == (2, 1, True)
    assert not place.has_submitted


def test_nothing_is_submitted_where_nothing_can_be_written(place, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system", "jobs.jsonl")

    monkeypatch.setattr(submissions, "append_lines", refuse)
    code, _, err = place.submit("--profile", "any")
    assert (code, len(err.splitlines()), "Read-only file system" in err) == (2, 1, True)
    assert not place.has_submitted


REFUSED, WAITS = "error: profile any: Slurm refuses it:", "the job waits for nodes:"


@pytest.mark.parametrize(
    ("said", "away", "reserved", "told"),
    [
        ("Invalid qos specification", "n1\n", "", f"{REFUSED} Invalid qos"),
        (slurm.NO_SUCH_NODES, "", "", f"{REFUSED} Requested node"),
        (slurm.NO_SUCH_NODES, "n2\nn1\nn2\n", "", f"{WAITS} n1, n2 are away or reserved"),
        (slurm.NO_SUCH_NODES, "n1\n", "n[2-3]", f"{WAITS} n1, n2, n3 are away or reserved"),
    ],
)
def test_script_that_slurm_would_not_take_is_told_before_it_waits(
    place, monkeypatch, said, away, reserved, told
):
    def ask(*command, given=None):
        if command[:2] == ("sbatch", "--test-only"):
            raise SlurmError(said)
        if command[-1] == "reservation":
            return (
                f"ReservationName=m Nodes={reserved} NodeCnt=2\n" if reserved else "No reservations"
            )
        if f"--nodes={reserved}" in command:
            return "n2\nn3\n"
        return away if "--Node" in command else place.ask(*command, given=given)

    monkeypatch.setattr(slurm, "ask", ask)
    code, out, err = place.submit("--profile", "any")
    assert told in out + err
    assert (code, place.has_submitted) == ((0, True) if "are away" in told else (2, False))


@pytest.mark.parametrize("check", ["planning.check_disk", "prerequisites.check_made"])
def test_what_would_only_fail_in_the_job_is_told_before(place, monkeypatch, check):
    def refuse(_):
        raise ValueError("not here")

    monkeypatch.setattr(f"cluster.work.{check}", refuse)
    code, _, err = place.submit("--profile", "any")
    assert (code, err, place.has_submitted) == (2, "error: not here\n", False)


@pytest.mark.parametrize("step", ["append", "queue"])
def test_job_that_could_not_be_recorded_is_named_with_how_to_cancel_it(place, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device", "jobs.jsonl")

    monkeypatch.setattr(submissions, step, fail)
    code, _, err = place.submit("--profile", "any")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("error: job 41 was submitted, but not recorded: ")
    assert err.endswith("; cancel it by scancel 41\n")


def test_command_that_watches_the_sweep_names_its_results_folder(place):
    _, out, _ = place.submit("--profile", "any", "--results", "my results")
    command = out.splitlines()[-1].removeprefix("watch it: ")
    results = str(place.folder / "my results")
    assert shlex.split(command) == ["pwmray", "watch", "tiny_gpus", "--results", results]
    _, out, _ = place.submit("--profile", "any")
    assert out.splitlines()[-1] == "watch it: pwmray watch tiny_gpus"


def test_search_is_submitted_with_its_trials_to_come(place):
    (driver,) = place.drivers("--profile", "h100", "--limit", "4", file="search.py")
    chosen = search_parser(search).parse_args(driver)
    assert (chosen.patience, chosen.limit, chosen.trials_per_gpu) == (200, 4, 1)
    assert not place.has_submitted

    code, out, _ = place.submit("--profile", "h100", "--limit", "4", file="search.py")
    assert code == 0
    assert "to run: 4 trials" in out
    assert "submitted job 41: profile h100, 4 trials; log " in out
    (job,) = submissions.read(place.folder / "results" / "tiny_search")
    assert (job.job_id, job.profile, job.trials) == ("41", "h100", 4)
    assert read_sweep(place.folder / "results" / "tiny_search")["trials"] == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--profile", "h100", "--profile", "any"], "one driver runs a search: give one --profile"),
        (["--profile", "any", "--jobs", "2"], "one driver runs a search: give one --profile"),
        (["--profile", "any", "--gpu-types", "H100"], "unrecognized arguments: --gpu-types"),
        (["--profile", "any", "--trials-per-gpu", "2"], "--trials-per-gpu is not for a job"),
    ],
)
def test_what_a_job_of_a_search_cannot_do_is_refused(place, options, told):
    code, _, err = place.submit(*options, file="search.py")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {told}")
    assert not place.has_submitted and not (place.folder / "results").exists()


def test_trials_of_a_search_share_a_gpu_as_the_profile_says(place):
    text = PROFILES.replace('gpu_type = "H100"', 'gpu_type = "H100"\ntrials_per_gpu = 4')
    (place.folder / "profiles.toml").write_text(text)
    (driver,) = place.drivers("--profile", "h100", file="search.py")
    plan = search.plan(search_parser(search).parse_args(driver))
    assert plan.config("pendulum-spin", {}).runtime.gpu_fraction == 0.25


def test_data_of_a_search_is_looked_for_before_its_job_waits(place):
    of_mt30 = """
import dataclasses
search = dataclasses.replace(search, hold={**search.hold, "data.source": "mt30"})
if __name__"""
    (place.folder / "search.py").write_text(SEARCH.replace("\nif __name__", of_mt30))
    code, _, err = place.submit("--profile", "any", file="search.py")
    assert (code, place.has_submitted) == (2, False)
    assert err.startswith(f"error: mt30 is not in {place.folder / 'data'}; import it with: ")


def test_data_of_a_pretraining_is_looked_for_before_its_job_waits(place, monkeypatch):
    (place.folder / "sweep.py").write_text(PRETRAINED)
    asked = []

    def find(task, *_):
        asked.append(task)
        if task != "pendulum-spin":
            raise ValueError(f"mt30 has no {task}")

    monkeypatch.setattr(work, "imported_path", find)
    code, _, err = place.submit("--profile", "any", "--pretrain")
    assert (code, err) == (2, "error: mt30 has no reacher-easy\n")
    assert asked == ["pendulum-spin", "reacher-easy"]  # its trials' task, then what it sees too
    assert not place.has_submitted


def test_pretraining_is_for_one_job(place):
    (place.folder / "sweep.py").write_text(PRETRAINED)
    code, _, err = place.submit("--profile", "any", "--pretrain", "--jobs", "2")
    assert (code, err) == (2, "error: --pretrain is for one job: the others would wait for it\n")
    assert not place.has_submitted


@pytest.mark.parametrize("option", ["--addr=auto", "--pla", "--gpu-typ=A100"])
def test_abbreviated_option_gets_past_no_check(option, capsys):
    sweep = str(SWEEPS / "phase6_epochs.py")
    assert submit.main([sweep, "--profile", "h100", "--scale", "laptop", option]) == 2
    assert f"unrecognized arguments: {option} " in capsys.readouterr().err
