"""Put published MT30 returns beside ours, and list where their protocol differs from ours.

A published return is of one run, or of one agent: its spread over training seeds is unknown, so no
verdict can rest on it. A difference is given only if every setting below agrees.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from analysis.arms import Arm
from analysis.guard import FROZEN, PARAMETER_TOLERANCE
from analysis.load import Trial, find_level, format_value
from analysis.stats import mean_and_sd
from pwmray.published_returns import PUBLISHED_RETURNS, PublishedReturns
from pwmray.wording import unknown

UNRECORDED = "not recorded"


class Setting(NamedTuple):
    """One setting of a published protocol, and how to read it from a trial of ours."""

    name: str
    published: Any
    read: Callable[[Trial], Any]  # None if the trial does not record it
    tolerance: float = 0.0  # as a share of the published number

    def is_met(self, trial: Trial) -> bool:
        """Tell whether a trial has the published setting."""
        ours = self.read(trial)
        if not self.tolerance or ours is None:
            return ours == self.published
        return abs(ours - self.published) <= self.tolerance * self.published


class Reference(NamedTuple):
    """One method whose returns on MT30 are published."""

    title: str
    pick: Callable[[PublishedReturns], tuple[float, float | None]]  # mean, and sd where known
    settings: tuple[Setting, ...]  # these must agree before a difference means anything
    ours: Callable[[Arm], float | None]  # the mean that is compared with the published one
    notes: tuple[str, ...]  # what differs whatever our settings are


class ReferenceRow(NamedTuple):
    """One arm beside the published return of its task."""

    arm: Arm
    published: float
    published_sd: float | None
    differs_in: tuple[str, ...]  # the names of settings
    # Ours minus published, of the same kind of actor; None unless the protocol agrees.
    difference: float | None


class ReferenceTable(NamedTuple):
    """Every arm with an evaluated trial beside one reference."""

    name: str
    title: str
    rows: tuple[ReferenceRow, ...]
    notes: tuple[str, ...]


def list_beside(name: str, arms: Sequence[Arm]) -> ReferenceTable:
    """Put the arms beside the published returns of `name`; raise ValueError for an unknown one."""
    if name not in REFERENCES:
        raise ValueError(unknown("reference", name, REFERENCES))
    reference = REFERENCES[name]
    rows = tuple(_place(reference, arm) for arm in arms if arm.trials)
    notes = (*_describe_protocol(reference, rows), *reference.notes)
    return ReferenceTable(name, reference.title, rows, notes)


def _place(reference: Reference, arm: Arm) -> ReferenceRow:
    differs_in = tuple(
        setting.name
        for setting in reference.settings
        if not all(setting.is_met(trial) for trial in arm.compared)
    )
    published, sd = reference.pick(PUBLISHED_RETURNS[arm.task.name])
    ours = reference.ours(arm)
    difference = None if differs_in or ours is None else ours - published
    return ReferenceRow(arm, published, sd, differs_in, difference)


def _describe_protocol(reference: Reference, rows: Sequence[ReferenceRow]) -> list[str]:
    """Say whether anything can be compared, then every setting that differs, with its values."""
    notes = [_describe_standing(reference, rows)]
    for setting in reference.settings:
        odd = [row.arm for row in rows if setting.name in row.differs_in]
        ours = dict.fromkeys(setting.read(trial) for arm in odd for trial in arm.compared)
        if ours:
            listed = ", ".join(map(_name, ours))
            notes.append(f"{setting.name}: {_name(setting.published)} published, ours {listed}.")
    return notes


def _describe_standing(reference: Reference, rows: Sequence[ReferenceRow]) -> str:
    num_alike = sum(not row.differs_in for row in rows)
    if num_alike == 0:
        return (
            f"Not a comparison with {reference.title}: no arm was made under its protocol. The "
            "published returns only say what these tasks allow; what differs:"
        )
    if num_alike < len(rows):
        return (
            f"A difference is given for the {num_alike} of {len(rows)} arms whose protocol "
            "agrees; what differs in the others:"
        )
    return "The protocol agrees in the settings checked: " + "; ".join(
        f"{setting.name} {_name(setting.published)}" for setting in reference.settings
    )


def _name(value: Any) -> str:
    return UNRECORDED if value is None else format_value(value)


def _read_action_repeat(trial: Trial) -> int | None:
    found = re.search(r"action repeat (\d+)", trial.record["evaluation_protocol"] or "")
    return int(found[1]) if found else None


_OF_BOTH = (
    Setting("data", "mt30", lambda trial: find_level(trial, "data.source")),
    Setting(
        "size",
        18_983_909,  # parameters of the world model, size 48 as `pwmray models` counts it
        lambda trial: trial.record["world_model_parameters"],
        PARAMETER_TOLERANCE,
    ),
    Setting("action repeat", 2, _read_action_repeat),
)
_NO_VERDICT = "No verdict: the spread of the published returns over training seeds is not known."
# PWM: scripts/train_multitask.py, scripts/cfg/config_mt30.yaml and pwm_48M.yaml of its repository.
REFERENCES = {
    "pwm": Reference(
        title="PWM (48M)",
        pick=lambda returns: (returns.pwm, None),
        settings=(
            *_OF_BOTH,
            Setting("methodology", FROZEN, lambda trial: trial.record["methodology"]),
            Setting("epochs", 10_000, lambda trial: trial.record["epochs_reached"]),
        ),
        ours=lambda arm: arm.mean,
        notes=(
            "Published: one run a task (seed 42), the last iteration, the mean of 10 episodes "
            "acted by the deterministic policy; MLP world model, Gaussian policy, and the learner "
            "before its corrections (fidelity `published`).",
            _NO_VERDICT,
        ),
    ),
    "tdmpc2": Reference(
        title="TD-MPC2 (48M)",
        pick=lambda returns: (returns.tdmpc2_mean, returns.tdmpc2_sd),
        settings=_OF_BOTH,
        ours=lambda arm: mean_and_sd(arm.plan_returns)[0],
        notes=(
            "Published: one agent for all 30 tasks, trained on all of their data together and "
            "not for a number of epochs a task; mean +- sd of 10 evaluations in which its planner "
            "acted. A difference is therefore taken of our plan return, and there is none without.",
            _NO_VERDICT,
        ),
    ),
}
