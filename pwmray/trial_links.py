"""What a sweep calls its trials: links by readable names to their folders."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pwmray import registry
from pwmray.config import TrialConfig
from pwmray.levels import as_placed, name_trial, tell_apart
from pwmray.registry.sweep_folders import FILES, WORDS


def name_anew(
    results_dir: Path, fingerprints: Sequence[str], sweep: Mapping[str, Any]
) -> dict[str, str]:
    """Return what trials are called by the sweep's levels of today, of those that can be read."""
    names = {}
    for fingerprint in fingerprints:
        with contextlib.suppress(ValueError, OSError):
            record = registry.read(registry.trial_folder(results_dir, fingerprint))
            recorded = TrialConfig.from_dict(record.last("config") or {})
            config = as_placed(recorded, record.last("world_model_id"), sweep[FILES])
            names[fingerprint] = name_trial(
                config, sweep["axes"], sweep["named_levels"], sweep[WORDS]
            )
    return names


def link(folder: Path, names: Mapping[str, str], renamed: Mapping[str, str]) -> None:
    """Point readable names at the folders of trials; a file system without links goes without.

    `names` are by fingerprint. A name that another trial of the sweep has had stays with it, unless
    it is one of the `renamed`, by fingerprint, and called otherwise now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # From where the links lie in truth: the sweep's folder may be a link to another disk.
    trials = Path(os.path.relpath(folder.parents[1].resolve() / "trials", folder.resolve()))
    taken = {path.name: path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    names, used = dict(names), set(names.values())
    for before, fingerprint in taken.items():
        name = renamed.get(fingerprint, before)
        if before not in (name, tell_apart(name, fingerprint)):
            names[fingerprint] = tell_apart(name, fingerprint) if name in used else name
            used.add(names[fingerprint])
    for name, fingerprint in taken.items():
        if names.get(fingerprint, name) != name:
            (folder / name).unlink(missing_ok=True)
    for fingerprint, name in names.items():
        if taken.get(name, fingerprint) not in names:
            name = tell_apart(name, fingerprint)
        with contextlib.suppress(OSError):
            if taken.get(name) == fingerprint:
                if (folder / name).exists():
                    continue
                (folder / name).unlink()  # moved since
            os.symlink(trials / fingerprint, folder / name)
