"""Measure what an arm cost: device time, epochs/s, network calls, and return per hour."""

from collections.abc import Sequence
from typing import NamedTuple

from analysis.arms import Arm
from analysis.load import Trial
from analysis.stats import mean_and_sd


class Cost(NamedTuple):
    """The cost of one arm's evaluated trials; None if it was not recorded."""

    arm: Arm
    devices: tuple[str, ...]
    seconds: float | None  # of training and evaluation, all seeds together
    epochs_per_second: float | None  # of training, the mean over seeds
    velocity_calls: tuple[int, ...]  # network calls of one model step plus one action
    return_per_hour: float | None  # mean return over mean training hours
    gain_per_hour: float | None  # mean return above the floor over mean training hours


def measure_costs(arms: Sequence[Arm]) -> list[Cost]:
    """Return the cost of every arm with an evaluated trial."""
    return [_measure(arm) for arm in arms if arm.trials]


def _measure(arm: Arm) -> Cost:
    seconds = [one for one in map(_sum_seconds, arm.counted) if one is not None]
    speeds = [speed for speed in map(_speed, arm.counted) if speed is not None]
    calls = {trial.record["velocity_calls"] for trial in arm.counted} - {None}
    return Cost(
        arm=arm,
        devices=tuple(sorted({str(trial.record["device"] or "?") for trial in arm.counted})),
        seconds=sum(seconds) if len(seconds) == len(arm.counted) else None,
        epochs_per_second=mean_and_sd(speeds)[0],
        velocity_calls=tuple(sorted(calls)),
        return_per_hour=arm.return_per_hour,
        gain_per_hour=arm.gain_per_hour,
    )


def _sum_seconds(trial: Trial) -> float | None:
    if trial.record["train_seconds"] is None:
        return None
    return trial.record["train_seconds"] + (trial.record["evaluation_seconds"] or 0.0)


def _speed(trial: Trial) -> float | None:
    seconds, epochs = trial.record["train_seconds"], trial.record["epochs_reached"]
    return epochs / seconds if seconds and epochs else None
