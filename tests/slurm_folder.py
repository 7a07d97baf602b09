"""A person's folder on a real Slurm, from which sweeps are submitted."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from cluster import submissions
from pwmray import registry
from pwmray.registry import Record, Status
from pwmray.results import CURVE, read_table
from tests.held import HOLD, put_hold
from tests.minislurm import MiniSlurm
from tests.tiny_gpus import NUM_ROWS, sweep
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent
PATHS = f"export PATH={Path(sys.executable).parent}:/usr/bin:/bin PYTHONPATH={ROOT}"
PROFILES = """
[h100]
partition = "h100"
gpus = 2
gpu_type = "H100"
cpus = 2
time_limit = "30"
dashboard = false
simulated_gpus = true

[h200]
partition = "h200"
gpus = 1
gpu_type = "H200"
cpus = 1
nodes = 2
time_limit = "30"
dashboard = false
simulated_gpus = true

[any]
gpus = 1
cpus = 1
nodes = 3
time_limit = "30"
dashboard = false
simulated_gpus = true

[elsewhere]
partition = "h300"
cpus = 1
time_limit = "30"

[not-ours]
partition = "closed"
account = "physics"
cpus = 1
time_limit = "30"

[bare]
partition = "h100"
gpus = 2
gpu_type = "H100"
cpus = 2
time_limit = "30"
activate = ["%(paths)s", 'PATH="$PWD/an environment/bin:$PATH"']
dashboard = false
simulated_gpus = true
sbatch = ["--export=NONE"]

[hasty]
partition = "h200"
gpus = 1
gpu_type = "H200"
cpus = 1
nodes = 2
time_limit = "30"
activate = ["%(paths)s", "export RAY_gcs_rpc_server_reconnect_timeout_s=10"]
dashboard = false
simulated_gpus = true

[l40s]
partition = "h100"
gpus = 1
gpu_type = "L40S"
cpus = 1
time_limit = "30"
""" % {"paths": PATHS}  # noqa: UP031
TINY_GPUS = str(ROOT / "tests" / "tiny_gpus.py")
SECONDS = 300.0  # 80 until there are rows, on a machine with ten times as much to do as it can
STOPPING = "preempted: trials stop at their next rows"


class SlurmFolder(NamedTuple):
    """A folder from which sweeps are submitted, on a Slurm with nothing in it."""

    slurm: MiniSlurm
    folder: Path
    data: Path

    def submit(
        self, *options: str, file: str = TINY_GPUS, **variables: str
    ) -> subprocess.CompletedProcess:
        """Submit a sweep with these options, in a process as a person would."""
        fixed = ["--scale", "tiny", "--profiles", "profiles.toml", "--data", str(self.data)]
        submit = [sys.executable, str(ROOT / "cluster" / "submit.py"), file, *fixed, *options]
        return subprocess.run(
            [*self.slurm.enter("login"), "env", f"--chdir={self.folder}", *submit],
            env={**self.slurm.environment, "PYTHONPATH": str(ROOT), **variables},
            capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip

    def submitted(self, *options: str, **variables: str) -> list[int]:
        """Submit the sweep and return the ids of the jobs that its record has since."""
        before = len(submissions.read(self.sweep_folder))
        done = self.submit(*options, **variables)
        assert done.returncode == 0, done.stderr
        return [int(job.job_id) for job in submissions.read(self.sweep_folder)[before:]]

    @property
    def sweep_folder(self) -> Path:
        return self.folder / "results" / "tiny_gpus"

    def trial_folders(self, gpu_type: str | None = None) -> list[Path]:
        """Return the folders of the trials, of those that ask for a type of GPU."""
        return [
            registry.trial_folder(self.folder / "results", trial.fingerprint)
            for trial in sweep.cells("tiny")
            if gpu_type in (None, trial.runtime.gpu_type)
        ]

    def records(self, gpu_type: str | None = None) -> list[Record]:
        return [registry.read(folder) for folder in self.trial_folders(gpu_type)]

    def hold(self) -> None:
        """Have trials wait behind their first rows from now on, so that none comes to its end."""
        put_hold(self.folder / "results")

    def release(self) -> None:
        """Let trials go on that wait."""
        (self.folder / "results" / HOLD).unlink()

    def wait_for_rows(self, node: str | None = None, gpu_type: str | None = "H200") -> Path:
        """Wait until a trial, on this node, waits behind its first rows; return its folder."""

        def find() -> Path | None:
            for folder in self.trial_folders(gpu_type):
                if num_rows(folder) < NUM_ROWS:
                    continue
                record = registry.read(folder)
                if node in (None, record.last("slurm_node")):
                    assert record.status is Status.RUNNING
                    return folder

        return wait_for(find, SECONDS, self.logs)

    def wait_for_words(self, words: str) -> None:
        """Wait until a job's log says something."""
        wait_for(lambda: words in self.logs(), SECONDS, self.logs)

    def wait(self, job: int | str, *states: str) -> dict[str, str]:
        try:
            return self.slurm.wait(job, *states, seconds=SECONDS)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.logs()}") from None

    def wait_for_all(self) -> None:
        wait_for(lambda: not self.slurm.run("squeue", "--noheader"), SECONDS, self.logs)

    def logs(self) -> str:
        paths = sorted((self.folder / "results").glob("*/jobs/*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in paths)


def num_rows(folder: Path) -> int:
    path = folder / registry.CURVE_FILE
    return read_table(path).num_rows if path.exists() else 0


def epochs_of(folder: Path) -> list[int]:
    """Return the epochs of a trial's rows, and of no other trial's."""
    table = read_table(folder / registry.CURVE_FILE)
    assert table.schema.names == CURVE.names
    return table["epoch"].to_pylist()


def assert_each_ran_whole(place: SlurmFolder, gpu_type: str | None = None) -> None:
    for folder, record in zip(place.trial_folders(gpu_type), place.records(gpu_type), strict=True):
        assert record.status is Status.EVALUATED, place.logs()
        assert record.count(Status.EVALUATED) == 1
        assert epochs_of(folder) == list(range(1, record.last("config")["epochs"] + 1))
