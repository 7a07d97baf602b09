"""What a sweep's trials start from: the pretrained world models that they need, made or missing."""

import contextlib
import dataclasses
import functools
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pwmray import sweep_file
from pwmray.config import TrialConfig
from pwmray.files import named_path
from pwmray.models import WORLD_MODELS
from pwmray.pretraining.config import PretrainingConfig
from pwmray.pretraining.folder import BEST_FILE, holder_of, is_done, state_of
from pwmray.pretraining.pretrained import find_file, kind_of, misfit
from pwmray.wording import as_typed, unknown

_SWEEPS = Path(__file__).parents[2] / "sweeps"  # where `./run python sweeps/x.py` looks, too


class Prerequisite(NamedTuple):
    """A pretrained world model that trials of a sweep start from."""

    pretraining: PretrainingConfig
    folder: Path
    command: str  # that makes it; empty where only --pretrain does
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
    words: dict[str, str]  # "pretrained:1", for which a trial's file stands, by fingerprint


def find(
    sweep: Any,
    scale: str,
    configs: Sequence[TrialConfig],
    results: Path,
    given: Mapping[str, Sequence[Path]] | None = None,
    data_dir: Path = Path("data"),
) -> Found:
    """Look up the pretrained world models of a sweep's trials in the results folder.

    `given` has files to take instead, by kind; of several, each is for the trials that it fits. A
    trial whose file is missing goes on awaiting it. The command that makes the file names `results`
    and `data_dir` where they are not that command's defaults.
    Raises ValueError for a trial whose task is not one of the pretraining's, for one that no given
    file of its kind fits, or several do, and for trials that differ only in the pretrainings that
    they name where one given file replaces those.
    """
    command = _command(sweep, scale, results, data_dir)
    found: list[TrialConfig] = []
    needed: dict[Path, list[PretrainingConfig]] = {}  # once for each trial
    for config in configs:
        files = (given or {}).get(config.world_model.kind)
        if not config.awaits_world_model:
            found.append(config)
        elif files:
            found.append(_start_from(config, _choose(config, files)))
        else:
            pretraining = PretrainingConfig.behind(config, sweep.scales[scale])
            _check_task(config, pretraining, command)
            folder = pretraining.folder(results)
            needed.setdefault(folder, []).append(pretraining)
            found.append(_start_from(config, folder / BEST_FILE) if is_done(folder) else config)
    wanted = []
    for folder, (pretraining, *others) in needed.items():
        makes = command if is_done(folder) or _makes(sweep, scale, pretraining) else ""
        wanted.append(Prerequisite(pretraining, folder, makes, 1 + len(others)))
    return Found(found, wanted, _words(configs, found))


def check_made(prerequisites: Sequence[Prerequisite]) -> None:
    """Raise ValueError with the commands that make what is missing."""
    missing = [wanted for wanted in prerequisites if wanted.state != "done"]
    if missing:
        holders = [holder_of(wanted.folder) for wanted in missing]
        what = "; ".join(
            f"no pretrained {w.pretraining.label} at {w.path}"
            + (f" yet (being made by {holder})" if holder else "")
            for w, holder in zip(missing, holders, strict=True)
        )
        if all(holders):
            raise ValueError(f"{what}; wait for it, or add --pretrain to this command")
        if not all(wanted.command for wanted in missing):
            raise ValueError(f"{what}; add --pretrain to this command, which makes it")
        commands = " and ".join(dict.fromkeys(wanted.command for wanted in missing))
        raise ValueError(f"{what}; make it with: {commands} (or add --pretrain to this command)")


def read_files(text: str | None) -> dict[str, tuple[Path, ...]]:
    """Read --world-model, FILE or KIND=FILE,KIND=FILE, into whole paths by kind of world model.

    A kind may have several. Raises ValueError for a kind that there is not, a file that is none, or
    one that is given twice.
    """
    if text is None:
        return {}
    if named_path(text).is_file() or "=" not in text:
        path = find_file(text, "--world-model")
        return {kind_of(path): (path,)}
    files: dict[str, tuple[Path, ...]] = {}
    for part in text.split(","):
        kind, equals, name = part.strip().partition("=")
        if not equals:
            raise ValueError(f"--world-model is {text!r}; valid: FILE, or mlp=FILE,flow=FILE")
        if kind not in WORLD_MODELS:
            raise ValueError(f"--world-model: {unknown('kind of world model', kind, WORLD_MODELS)}")
        path = find_file(name, "--world-model")
        if path in files.get(kind, ()):
            raise ValueError(f"--world-model gives {path} twice")
        files[kind] = (*files.get(kind, ()), path)
    return files


def check_given(
    sweep: Any, cells: Sequence[TrialConfig], given: Mapping[str, Sequence[Path]]
) -> None:
    """Raise ValueError for a kind of given files, or a file, that no trial of a sweep starts from.

    `cells` are all of its trials, however few are to run: the others may need it later.
    """
    waiting: dict[str, list[TrialConfig]] = {}
    for config in cells:
        if config.awaits_world_model:
            waiting.setdefault(config.world_model.kind, []).append(config)
    for kind, paths in given.items():
        if kind not in waiting:
            others = f"; they take: {', '.join(sorted(waiting))}" if waiting else ""
            raise ValueError(
                f"--world-model gives a {kind} world model, but no trial of {sweep.name} starts "
                f"from a pretrained one of that kind{others}"
            )
        for path in paths:
            started = [_start_from(config, path) for config in waiting[kind]]
            if all(map(misfit, started)):
                raise ValueError(
                    f"--world-model: no trial starts from {path}: {misfit(started[0])}"
                )


def _choose(config: TrialConfig, paths: Sequence[Path]) -> Path:
    """Return the one of the given files that fits the trial."""
    misfits = {path: misfit(_start_from(config, path)) for path in paths}
    fitting = [path for path, wrong in misfits.items() if not wrong]
    if not fitting:
        raise ValueError("; ".join(wrong for wrong in misfits.values() if wrong))
    if len(fitting) > 1:
        raise ValueError(
            f"--world-model: {' and '.join(map(str, fitting))} both fit {config.label}; give one"
        )
    return fitting[0]


def _words(configs: Sequence[TrialConfig], found: Sequence[TrialConfig]) -> dict[str, str]:
    """Return the words that name pretrainings, by the fingerprints of trials with their files.

    Raises ValueError for trials that have become one by starting from the same file.
    """
    seen: dict[str, TrialConfig] = {}
    for config, made in zip(configs, found, strict=True):
        if not config.awaits_world_model:
            continue
        before = seen.setdefault(made.fingerprint, config)
        if before is not config and not made.awaits_world_model:
            raise ValueError(
                f"{made.world_model_from} would replace both {before.world_model_from!r} and "
                f"{config.world_model_from!r}: {config.label} would run twice; where a sweep "
                "varies pretrainings, --world-model can replace none"
            )
    return {fingerprint: config.world_model_from for fingerprint, config in seen.items()}


def _start_from(config: TrialConfig, path: Path) -> TrialConfig:
    return dataclasses.replace(config, world_model_from=str(path))


def _command(sweep: Any, scale: str, results: Path, data_dir: Path) -> str:
    command = f"python sweeps/{sweep.pretraining}.py --scale {scale}"
    for name, path in (("results", results), ("data", data_dir)):
        if path.resolve() != Path(name).resolve():
            command += f" --{name} {shlex.quote(str(path))}"
    return as_typed(command)


def _makes(sweep: Any, scale: str, pretraining: PretrainingConfig) -> bool:
    """Tell whether the sweep's pretraining file makes it, as far as that can be told.

    It has kinds, sizes and seeds of its own, and a trial may start from others.
    """
    found = [folder / f"{sweep.pretraining}.py" for folder in (Path("sweeps"), _SWEEPS)]
    file = next((file.resolve() for file in found if file.is_file()), None)
    if file is None:
        return False
    made = _made_by(file, scale)
    return made is None or pretraining.fingerprint in made


@functools.cache
def _made_by(file: Path, scale: str) -> frozenset[str] | None:
    """Return the fingerprints of what a pretraining's file makes, None where it does not tell.

    It is a person's program: it tells what is wrong with it when it is run.
    """
    from pwmray.pretrain_command import Pretraining

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            values = sweep_file.load(file).values()
        sets = [value for value in values if isinstance(value, Pretraining)]
        return frozenset(config.fingerprint for one in sets for config in one.configs(scale))
    except Exception:
        return None


def _check_task(config: TrialConfig, pretraining: PretrainingConfig, command: str) -> None:
    if config.task not in pretraining.tasks:
        raise ValueError(
            f"{config.label} needs a world model pretrained on {config.task}; the one of this "
            f"scale is trained on {', '.join(pretraining.tasks)}. Make one with: {command} "
            f"--tasks {config.task},... and give its file with --world-model"
        )
