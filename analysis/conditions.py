"""Say under what trials ran: their code, and what of their machines is in their times."""

from collections.abc import Sequence
from typing import Any

from analysis.flags import list_first
from analysis.load import Sweep, Trial, format_value
from pwmray.registry import flat_settings
from pwmray.variants import SCRATCH

VERSIONS = {  # columns of trials, and what they are called
    "git_commit": "commit",
    "code_fingerprint": "learner code",
    "world_model_code": "world model code",
    "policy_code": "policy code",
    "code_version": "package",
    "python_version": "Python",
    "torch_version": "torch",
    "mujoco_version": "MuJoCo",
    "dm_control_version": "DMControl",
    "ray_version": "Ray",
}
CODE = {c: name for c, name in VERSIONS.items() if c not in ("python_version", "ray_version")}
CHANGED = "+changes"  # in a commit's name: files differed from it


def describe_code(sweep: Sweep) -> str:
    """Say which code and versions the trials are of, as far as they tell."""
    found = {name: _list_values(sweep.usable, column) for column, name in CODE.items()}
    said = ", ".join(f"{name} {list_first(values)}" for name, values in found.items() if values)
    if not said:
        return ""
    partly = [
        name
        for column, name in CODE.items()
        if found[name] and any(trial.record[column] is None for trial in sweep.usable)
    ]
    unknown = f" Some recorded no {', '.join(partly)}." if partly else ""
    is_changed = any(CHANGED in commit for commit in found["commit"])
    warning = (
        f" No commit holds what {CHANGED} stands for: others cannot run it." if is_changed else ""
    )
    return f"Trials of {said}.{unknown}{warning}"


def describe_machines(sweep: Sweep) -> str:
    """Say in what trials differ that is in their times and that no arm is about."""
    on_cpus = [trial for trial in sweep.usable if trial.record["device"] == "cpu"]
    found = {
        "device": _list_values(sweep.usable, "device"),
        "host": _list_values(on_cpus, "host"),  # a GPU's name tells its speed
        "kernels": _list_values(sweep.usable, "kernels"),
        "CUDA graph": _list_values(sweep.usable, "cuda_graph"),
        "CPUs": _list_settings(sweep.usable, "runtime.num_cpus"),
        "share of a GPU": _list_settings(sweep.usable, "runtime.gpu_fraction"),
    }
    odd = [f"{name} ({list_first(some)})" for name, some in found.items() if len(some) > 1]
    return f"Trials ran under unlike {', '.join(odd)}: compare times with care." if odd else ""


def describe_pretraining(sweep: Sweep) -> str:
    """Say of which training no trial's time tells, where there was some."""
    if all(trial.record["world_model_from"] in (SCRATCH, None) for trial in sweep.usable):
        return ""
    return "The time that pretrained world models took to train is in none of these."


def _list_values(trials: Sequence[Trial], column: str) -> list[str]:
    return _sort(trial.record[column] for trial in trials)


def _list_settings(trials: Sequence[Trial], name: str) -> list[str]:
    # Trials of the same settings have them in one object.
    found = {id(trial.settings): trial.settings for trial in trials}.values()
    return _sort(dict(flat_settings(settings)).get(name) for settings in found)


def _sort(values: Any) -> list[str]:
    """Return values as printed, each once, those that were not recorded left out."""
    return sorted({format_value(value) for value in values if value is not None})
