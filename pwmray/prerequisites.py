"""What a sweep's trials start from: the pretrained world models that they need, made or missing."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray.commands import unknown
from pwmray.config import TrialConfig
from pwmray.models import WORLD_MODELS
from pwmray.pretrained import find_file, kind_of
from pwmray.pretraining_config import PretrainingConfig
from pwmray.pretraining_folder import BEST_FILE, is_done, state_of


class Prerequisite(NamedTuple):
    """A pretrained world model that trials of a sweep start from."""

    pretraining: PretrainingConfig
    folder: Path
    command: str  # that makes it
    num_trials: int  # that start from it

    @property
    def path(self) -> Path:
        """The file that the trials start from."""
        return self.folder / BEST_FILE

    @property
    def state(self) -> str:
        """done, running (another live process), resumes or missing."""
        return state_of(self.folder)


class Found(NamedTuple):
    """Trials with the files of the world models that there are, and all that they need."""

    configs: list[TrialConfig]
    prerequisites: list[Prerequisite]


def find(
    sweep: Any,
    scale: str,
    configs: Sequence[TrialConfig],
    results: Path,
    given: Mapping[str, Path] | None = None,
) -> Found:
    """Look the pretrained world models of a sweep's trials up in the results folder.

    `given` has files that stand in, by kind. A trial whose file is missing goes on awaiting it.
    Raises ValueError for a trial whose task the pretraining does not see.
    """
    found, needed = [], {}
    for config in configs:
        if not config.awaits_world_model:
            found.append(config)
            continue
        kind = config.world_model.kind
        if given and kind in given:
            found.append(_start_from(config, given[kind]))
            continue
        pretraining = PretrainingConfig.behind(config, sweep.scales[scale])
        command = _command(sweep, scale, results)
        _check_task(config, pretraining, command)
        folder = pretraining.folder(results)
        before = needed.get(folder)
        number = 1 + (before.num_trials if before else 0)
        needed[folder] = Prerequisite(pretraining, folder, command, number)
        found.append(_start_from(config, folder / BEST_FILE) if is_done(folder) else config)
    return Found(found, list(needed.values()))


def check_made(prerequisites: Sequence[Prerequisite]) -> None:
    """Raise ValueError with the commands that make what is missing."""
    missing = [wanted for wanted in prerequisites if wanted.state != "done"]
    if missing:
        what = "; ".join(f"no pretrained {w.pretraining.label} at {w.path}" for w in missing)
        commands = " and ".join(dict.fromkeys(wanted.command for wanted in missing))
        raise ValueError(f"{what}; make it with: {commands} (or add --pretrain to this command)")


def read_files(text: str | None) -> dict[str, Path]:
    """Read --world-model, FILE or KIND=FILE,KIND=FILE, into whole paths by kind of world model.

    Raises ValueError for a kind that there is not or is given twice, or a file that is none.
    """
    if text is None:
        return {}
    if Path(text).expanduser().is_file() or "=" not in text:
        path = find_file(text, "--world-model")
        return {kind_of(path): path}
    files: dict[str, Path] = {}
    for part in text.split(","):
        kind, equals, name = part.strip().partition("=")
        if not equals:
            raise ValueError(f"--world-model is {text!r}; valid: FILE, or mlp=FILE,flow=FILE")
        if kind not in WORLD_MODELS:
            raise ValueError(f"--world-model: {unknown('kind of world model', kind, WORLD_MODELS)}")
        if kind in files:
            raise ValueError(f"--world-model gives a {kind} world model twice")
        files[kind] = find_file(name, "--world-model")
    return files


def check_given(sweep: Any, configs: Sequence[TrialConfig], given: Mapping[str, Path]) -> None:
    """Raise ValueError for a file that no trial of the sweep would start from."""
    awaited = {config.world_model.kind for config in configs if config.awaits_world_model}
    for kind in given:
        if kind not in awaited:
            others = f"; they take: {', '.join(sorted(awaited))}" if awaited else ""
            raise ValueError(
                f"--world-model gives a {kind} world model, but no trial of {sweep.name} starts "
                f"from a pretrained one of that kind{others}"
            )


def _start_from(config: TrialConfig, path: Path) -> TrialConfig:
    return dataclasses.replace(config, world_model_from=str(path))


def _command(sweep: Any, scale: str, results: Path) -> str:
    command = f"python sweeps/{sweep.pretraining}.py --scale {scale}"
    if results != Path("results").resolve():
        command += f" --results {shlex.quote(str(results))}"
    return command


def _check_task(config: TrialConfig, pretraining: PretrainingConfig, command: str) -> None:
    if config.task not in pretraining.tasks:
        raise ValueError(
            f"{config.label} needs a world model pretrained on {config.task}; that of this scale "
            f"sees {', '.join(pretraining.tasks)}. Make one with: {command} --tasks "
            f"{config.task},... and give its file with --world-model"
        )
