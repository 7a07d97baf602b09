"""What W&B has of a run, in files of the trial's folder: `wandb/run.json`, `wandb/rows.json`."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pwmray.files import ask_anew, remove_drafts, replacing
from pwmray.pretraining.folder import LAST_FILE
from pwmray.registry import CURVE_FILE, EVENTS_FILE

FOLDER = "wandb"  # in a trial's or a pretraining's own
CLAIM_FILE = "claim.json"  # in that folder: of the recorder that writes there
_STATE_FILE = "run.json"
_ROWS_FILE = "rows.json"  # apart: there may be thousands, and the state is read often
_READ = (CURVE_FILE, EVENTS_FILE, LAST_FILE)  # what a run is made from, if it is there


class ServiceDied(ConnectionError):
    """wandb's service died, with the runs that were open in it."""


def read_state(folder: Path) -> dict[str, Any]:
    """Return what is known of a run, empty if it was never written or the file is unreadable.

    The keys are `group` and `name`; `offline` (its folder), `digest` and `stamps` (of the files
    that it was made from), if it was written offline; `url` and `sent` (digest, project, entity and
    server), if it was sent; and `other_rows_from`, if the server has other rows than the curve.
    """
    return _read(folder / FOLDER / _STATE_FILE)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state. The caller holds the claim there.

    If the server has rows of the run, the offline copy is marked as synced: wandb's own command
    `wandb sync` would append all its rows to those.
    """
    remove_drafts(folder / FOLDER / _STATE_FILE)
    with replacing(folder / FOLDER / _STATE_FILE) as draft:
        draft.write_text(json.dumps(state, indent=2) + "\n")
    if state.get("offline") and (folder / FOLDER / _ROWS_FILE).exists():
        for kept in (folder / FOLDER / state["offline"]).glob("*.wandb"):
            kept.with_name(kept.name + ".synced").touch()


def read_rows(folder: Path, place: list[str | None]) -> dict[int, str]:
    """Return the digests (see `row_digests`) of the rows that the server has at a place."""
    found = _read(folder / FOLDER / _ROWS_FILE)
    if found.get("rows_at") != place:
        return {}
    pairs = (word.partition(":") for word in found["rows"].split())
    return {int(step): digest for step, _, digest in pairs}


def write_rows(folder: Path, rows: Mapping[int, str], place: list[str | None]) -> None:
    """Replace the digests, also those of another place. The caller holds the claim there."""
    packed = " ".join(f"{step}:{digest}" for step, digest in sorted(rows.items()))
    remove_drafts(folder / FOLDER / _ROWS_FILE)
    with replacing(folder / FOLDER / _ROWS_FILE) as draft:
        draft.write_text(json.dumps({"rows": packed, "rows_at": place}) + "\n")


def place_of(folder: Path) -> str | None:
    """Return the run's URL, else its offline folder relative to the results folder, else None."""
    state = read_state(folder)
    if state.get("url"):
        return state["url"]
    offline = state.get("offline")
    return f"{folder.parent.name}/{folder.name}/{FOLDER}/{offline}" if offline else None


def stamps_of(folder: Path) -> dict[str, list[int]]:
    """Return time and size of each file that a run is made from, if the file is there.

    Take them before reading the files: what is written in between is then noticed the next time.
    """
    found = {}
    if not (folder / CURVE_FILE).exists():
        ask_anew(folder)  # on another machine it may have begun and ended since
    for name in _READ:
        with contextlib.suppress(OSError):
            status = os.stat(folder / name)
            found[name] = [status.st_mtime_ns, status.st_size]
    return found


def is_behind(folder: Path) -> bool:
    """Tell whether the folder's files have changed since its run was made."""
    stamps = stamps_of(folder)
    return CURVE_FILE in stamps and read_state(folder).get("stamps") != stamps


def row_digests(rows: Iterable[Mapping[str, float]], axis: str) -> dict[int, str]:
    """Return a short digest of each row, by its epoch or iteration.

    The time is left out: a resumed trial computes the same rows again, but not as fast.
    """
    contents = {int(row[axis]): {k: v for k, v in row.items() if k != "seconds"} for row in rows}
    texts = {step: json.dumps(row, sort_keys=True) for step, row in contents.items()}
    return {step: hashlib.sha256(text.encode()).hexdigest()[:6] for step, text in texts.items()}


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
