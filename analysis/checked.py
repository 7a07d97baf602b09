"""Read and check a sweep's description and rows before anything is computed: people edit files."""

import contextlib
import functools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pwmray.registry.sweep_folders import check_kind, read_text
from pwmray.tasks import TASKS

OWN = ("task", "seed", "epochs")  # settings in which trials differ that share all others
NEEDED = ("status", "task", "variant", "seed")  # columns without a null
NEEDED_IF_EVALUATED = ("epochs",)  # an imported run that failed may not say what it was asked for
# The keys that sweep.json must have, and those that it may have.
REQUIRED = {"name": str, "scale": str, "compare": str, "varies": list, "trials": list}
OPTIONAL = {"within": list, "axes": dict}


def read_description(path: Path) -> dict[str, Any]:
    """Return a sweep.json's content; raise ValueError naming the file and what is wrong with it."""
    try:
        described = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(described, dict):
        raise ValueError(f"{path} is not a JSON object")
    missing = [key for key in REQUIRED if key not in described]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    described = {"within": [], "axes": {}} | described
    for key, kind in (REQUIRED | OPTIONAL).items():
        check_kind(path, key, described[key], kind)
    for name, keys in described["axes"].items():
        check_kind(path, f"axes.{name}", keys, list)
    return described


def check_once(path: Path, trials: Sequence[str]) -> None:
    """Raise ValueError naming the file and a trial that it has more than once.

    Tables are joined by trial, so each of two would get the episodes of both.
    """
    if len(set(trials)) < len(trials):
        trial, times = Counter(trials).most_common(1)[0]
        raise ValueError(f"{path} has trial {trial} {times} times; run or import the sweep again")


def check_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError naming the file and the first row of `trials` that says too little."""
    for record in records:
        is_evaluated = record["status"] == "EVALUATED"
        needed = (*NEEDED, *(NEEDED_IF_EVALUATED if is_evaluated else ()))
        lacking = [name for name in needed if record[name] is None]
        if lacking:
            raise ValueError(f"{path}: trial {record['trial']} has no {', '.join(lacking)}")
        if record["task"] not in TASKS:
            where = f"{path}: trial {record['trial']}"
            raise ValueError(f"{where} has the unknown task {record['task']!r}")


def read_config(record: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a row of `trials`, empty where none was recorded.

    Raises ValueError naming the trial if it is not a JSON object.
    """
    try:
        config = json.loads(record.get("config") or "{}")
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(
            f"trials.arrow: the config of trial {record['trial']} is not a JSON object"
        )
    return config


def read_settings(record: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a row of `trials` without task, seed and epochs; do not change it.

    Those three come first in the text. The rest is parsed once for all the trials that share it:
    of thousands of trials, parsing configs would take longest. Raises ValueError as `read_config`.
    """
    text = record.get("config") or "{}"
    first = json.dumps({name: record.get(name) for name in OWN}).removesuffix("}")
    rest = text.removeprefix(first)
    if len(rest) < len(text) and rest.startswith(", "):
        with contextlib.suppress(ValueError):  # then `read_config` says whose it is
            return _read_object("{" + rest.removeprefix(", "))
    return {name: value for name, value in read_config(record).items() if name not in OWN}


@functools.lru_cache(maxsize=1024)
def _read_object(text: str) -> dict[str, Any]:
    return json.loads(text)
