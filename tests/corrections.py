"""Sweeps over variant, fidelity and methodology, written by hand for the tests of figures."""

from pathlib import Path

from analysis.load import Sweep, load_sweep
from pwmray.results import CURVE, write_rows
from tests.made_sweeps import SEEDS, TASKS, Rows, curve, make_row
from tests.squares import write_trials

METHODOLOGIES = ("policy_finetuning", "policy_and_wm_finetuning", "joint_from_scratch")
FIDELITIES = ("published", "corrected")


def make_corrections(variants=("baseline", "fullflow"), methodologies=METHODOLOGIES) -> Rows:
    """Return the trials of a sweep over variant, fidelity and methodology, epochs held."""
    return [
        make_row(task, variant, 100, seed)
        | {"methodology": methodology, "fidelity": fidelity}
        | {"trial": f"{task}-{variant}-{methodology}-{fidelity}-{seed}"}
        | {"real_start_value": 10.0, "imagined_start_value": 15.0}
        for task in TASKS
        for variant in variants
        for fidelity in FIDELITIES
        for methodology in methodologies
        for seed in SEEDS
    ]


def write_corrections(folder: Path, rows: Rows) -> Sweep:
    """Write them and load them; those that are not evaluated have a curve, too."""
    write_trials(folder, rows, ["variant", "fidelity", "methodology", "task", "seed"], "fidelity")
    write_rows(folder / "curves.arrow", [point for row in rows for point in curve(row)], CURVE)
    return load_sweep(folder)
