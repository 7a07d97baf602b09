"""What has become of a run at W&B: beside it in its folder, `wandb/run.json`."""

import json
import os
from pathlib import Path
from typing import Any

from pwmray.files import replacing
from pwmray.registry import CURVE_FILE, EVENTS_FILE

FOLDER = "wandb"  # in a trial's or a pretraining's own
CLAIM_FILE = "claim.json"  # in that: of whoever writes there
_STATE_FILE = "run.json"


def read_state(folder: Path) -> dict[str, Any]:
    """Return group, name, folder and digest of the run kept offline, and where it was sent.

    Nothing where it was never written; what cannot be read counts as that.
    """
    try:
        return json.loads((folder / FOLDER / _STATE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace it."""
    with replacing(folder / FOLDER / _STATE_FILE) as draft:
        draft.write_text(json.dumps(state, indent=2) + "\n")


def place_of(folder: Path) -> str | None:
    """Return the run's link, else its folder seen from the results folder, else None."""
    state = read_state(folder)
    if state.get("url"):
        return state["url"]
    offline = state.get("offline")
    return f"{folder.parent.name}/{folder.name}/{FOLDER}/{offline}" if offline else None


def is_behind(folder: Path) -> bool:
    """Tell whether the folder's curve or events are newer than its run, by the files' times."""
    curve, events, state = map(
        _changed_at, (folder / CURVE_FILE, folder / EVENTS_FILE, folder / FOLDER / _STATE_FILE)
    )
    return curve > 0 and state < max(curve, events)


def _changed_at(path: Path) -> int:
    """Return a file's time in nanoseconds, 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
