"""A results folder with trials in every status, and the command line run on it."""

from pwmray import cli, registry, results, tables
from pwmray import plan as planning
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, Status
from tests.tiny import sweep

REACHED = {
    Status.PENDING: "PENDING",
    Status.QUEUED: "PENDING QUEUED",
    Status.RUNNING: "PENDING QUEUED RUNNING",
    Status.EVALUATED: "PENDING QUEUED RUNNING COMPLETED EVALUATED",
    Status.FAILED: "PENDING QUEUED RUNNING FAILED",
    Status.CANCELLED: "PENDING QUEUED CANCELLED",
}
TRIALS = sweep.trials("tiny")
NAMES = [f"{t.label}" for t in TRIALS]


def run(capsys, results_dir, *arguments):
    """Run the command line; return its exit code, output and error output."""
    code = cli.main([*map(str, arguments), "--results", str(results_dir)])
    return (code, *capsys.readouterr())


def folder_of(results_dir, index):
    return registry.trial_folder(results_dir, TRIALS[index].fingerprint)


def stand_at(results_dir, index, status, return_mean=10.0, **fields):
    """Write what a trial leaves when it is at `status`; `fields` go into its last event."""
    folder, moves = folder_of(results_dir, index), REACHED[status].split()
    asked = {"PENDING": {"config": TRIALS[index].to_dict()}}
    seconds = {"train_seconds": 1.0, "evaluation_seconds": 1.0}
    known = {
        "COMPLETED": seconds,
        "RUNNING": {"epoch": 0, "device": "NVIDIA H100", "slurm_job_id": f"40125{index}"},
    }
    for move in moves:
        more = fields if move == moves[-1] else {}
        registry.record(
            folder, Status(move), **{**asked.get(move, {}), **known.get(move, {}), **more}
        )
    row = {"trial": folder.name, "actor": "policy", "episode": 0, "seed": 1, "length": 500}
    if status is Status.EVALUATED:
        rows = [{**row, "return": return_mean - 1}, {**row, "return": return_mean + 1}]
        results.write_rows(folder / "evaluations.arrow", rows, results.EVALUATIONS)
    if "RUNNING" in moves:
        curve = [{"trial": folder.name, "epoch": 2, "seconds": 1.0, "return_mean": 7.25}]
        results.write_rows(folder / "curve.arrow", curve, results.CURVE)
        (folder / CHECKPOINT_FILE).write_bytes(bytes(2_000_000))
        (folder / BEST_FILE).write_bytes(bytes(1_000_000))


def make_results(folder):
    """Make a results folder whose sweep has a trial in every status; return it."""
    stand_at(folder, 0, Status.EVALUATED, 30.0)
    stand_at(folder, 1, Status.EVALUATED, 50.0)
    stand_at(folder, 2, Status.EVALUATED, 20.0)
    stand_at(folder, 3, Status.RUNNING)
    stand_at(folder, 4, Status.EVALUATED, 34.0)
    reason = "ValueError: no window of 9 steps"
    traceback = "Traceback (most recent call last):\n  File 'sampler.py'\n" + reason
    for index in (5, 6):
        failed = {"failure": "config", "epochs_reached": 0, "traceback": traceback}
        stand_at(folder, index, Status.FAILED, reason=reason.replace("9", str(index)), **failed)
    tables.open_sweep(planning.make(sweep, "tiny", TRIALS[:7], folder), "python tiny.py")
    return folder
