"""Finding sweeps and trials in a results folder, by their names; this does not load torch."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from pwmray import registry
from pwmray.files import outlasting_stale
from pwmray.wording import nearest, unknown

SWEEP_FILE = "sweep.json"
IMPORTED = "legacy"  # the scale of results from before this package: they have no records
# Keys of a sweep's file.
WORDS = "pretrained"  # by trial: "pretrained:1", in whose place its world model's file stands
FILES = "world_models"  # by a world model's id in the tables: where its file lies now
_OBJECTS = ("axes", "named_levels", WORDS, FILES)
_KINDS = {"name": str, "scale": str, "trials": list, **dict.fromkeys(_OBJECTS, dict)}
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
TRIALS = "trials"  # the folder of all trials; in a sweep's folder, that of links to its own


def read_sweep(folder: Path) -> dict[str, Any]:
    """Return what a sweep's file says, empty for a folder without one.

    Raises ValueError naming the file and what is wrong with it.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return {}
    try:
        described = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; delete it to go on") from error
    if not isinstance(described, dict):
        raise ValueError(f"{path} is not a JSON object; delete it to go on")
    for key in _KINDS.keys() & described.keys():
        check_kind(path, key, described[key], _KINDS[key])
    return {"trials": [], **described}


@outlasting_stale
def read_text(path: Path) -> str:
    """Return a file's text; a driver, also on another machine, may replace the file meanwhile."""
    return path.read_text(encoding="utf-8")


def check_kind(path: Path, key: str, value: Any, kind: type) -> None:
    """Raise ValueError naming file and key for a value that is not of `kind`: str, list, dict."""
    names = {str: "text", list: "a list of texts", dict: "an object"}
    is_right = isinstance(value, kind) and (
        kind is not list or all(isinstance(item, str) for item in value)
    )
    if not is_right:
        raise ValueError(f"{path}: {key} is {value!r:.60}, not {names[kind]}")


def list_sweeps(results: Path) -> list[str]:
    """Return the names of the sweeps in a results folder.

    Raises ValueError where there is no such folder, and OSError where it is closed to us.
    """
    if not results.is_dir():
        raise ValueError(f"there is no results folder {results}; give another with --results")
    names = os.listdir(results)  # a pattern would find nothing in a folder that is closed to us
    return sorted(name for name in names if os.path.exists(results / name / SWEEP_FILE))


def find_sweep(results: Path, name: str) -> Path:
    """Return the folder of the sweep `name`.

    Raises ValueError for one that is not there, and OSError for one that is closed to us.
    """
    known = list_sweeps(results)
    if name not in known:
        if name in os.listdir(results):
            os.listdir(results / name)
        raise ValueError(f"{unknown('sweep', name, known)} in {results}")
    return results / name


def names_in(sweep: Path) -> dict[str, str]:
    """Return the readable names of a sweep's trials by fingerprint."""
    links = sweep / TRIALS
    if not links.is_dir():  # a file system without links
        return {}
    names = {}
    with os.scandir(links) as entries:
        for entry in filter(os.DirEntry.is_symlink, entries):
            with contextlib.suppress(FileNotFoundError):  # it was renamed meanwhile
                names[Path(os.readlink(entry.path)).name] = entry.name
    return names


def list_fingerprints(results: Path) -> list[str]:
    """Return the fingerprints of all trials in the results folder."""
    folder = results / TRIALS
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(filter(_FINGERPRINT.fullmatch, names))


def find_trial(results: Path, text: str) -> Path:
    """Return the folder of a trial by its fingerprint, a prefix that only it has, or its name.

    Raises ValueError for text that is none of a trial's, or several trials'.
    """
    sweeps = list_sweeps(results)
    known = list_fingerprints(results)
    names = {sweep: names_in(results / sweep) for sweep in sweeps}
    found = {name for name in known if text and name.startswith(text)} | {
        fingerprint
        for by_fingerprint in names.values()
        for fingerprint, name in by_fingerprint.items()
        if name == text
    }
    if text in known:
        found = {text}
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:5])
        raise ValueError(
            f"{text!r} matches {len(found)} trials: {shown}; give more characters of one"
        )
    if not found:
        every = {name for by_fingerprint in names.values() for name in by_fingerprint.values()}
        raise ValueError(
            f"no trial {text!r} in {results}{nearest(text, every | set(known))} valid: a "
            "fingerprint, the beginning of one, or a name in results/<sweep>/trials"
        )
    return registry.trial_folder(results, found.pop())


def names_of_all(results: Path) -> dict[str, str]:
    """Return the readable names of all trials by fingerprint, each from the first sweep with it."""
    names: dict[str, str] = {}
    for sweep in reversed(list_sweeps(results)):
        names |= names_in(results / sweep)
    return names
