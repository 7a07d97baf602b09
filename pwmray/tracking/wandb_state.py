"""What has become of a run at W&B: beside it in its folder, `wandb/run.json` and `rows.json`."""

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
CLAIM_FILE = "claim.json"  # in that: of whoever writes there
_STATE_FILE = "run.json"
_ROWS_FILE = "rows.json"  # apart, for a curve may have thousands, and the state is read often
_READ = (CURVE_FILE, EVENTS_FILE, LAST_FILE)  # what a run is made from, where it is there


class ServiceDied(ConnectionError):
    """wandb's service died, with the runs that were open in it."""


def read_state(folder: Path) -> dict[str, Any]:
    """Return what is known of a run: nothing where it was never written or that cannot be read.

    `group` and `name`; of the run kept offline `offline` (its folder), `digest` and `stamps` (of
    the files that it was made from); where it was sent `url` and `sent` (digest and place), and
    where the server's rows are others than the curve's `other_rows_from`.
    """
    return _read(folder / FOLDER / _STATE_FILE)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace it; for who holds the claim there.

    Where the server has rows, `wandb sync` is told that it has the run: wandb's own command would
    put all rows of the offline folder behind them.
    """
    remove_drafts(folder / FOLDER / _STATE_FILE)
    with replacing(folder / FOLDER / _STATE_FILE) as draft:
        draft.write_text(json.dumps(state, indent=2) + "\n")
    if state.get("offline") and (folder / FOLDER / _ROWS_FILE).exists():
        for kept in (folder / FOLDER / state["offline"]).glob("*.wandb"):
            kept.with_name(kept.name + ".synced").touch()


def sent_to(state: Mapping[str, Any]) -> list[str | None]:
    """Return the digest of the run as it was last sent, and the place: project, entity, server.

    Empty where it never was.
    """
    digest, *place = state.get("sent") or [None]
    return [digest, *_with_server(place)] if digest else []


def read_rows(folder: Path, place: list[str | None]) -> dict[int, str]:
    """Return the digests (see row_digests) of the rows that the server has at that place."""
    # An earlier version kept them in the state.
    found = _read(folder / FOLDER / _ROWS_FILE) or read_state(folder)
    is_there = "rows" in found and _with_server(found["rows_at"]) == place
    return _unpack_rows(found["rows"]) if is_there else {}


def write_rows(folder: Path, rows: Mapping[int, str], place: list[str | None]) -> None:
    """Replace them, those of another place, too; for who holds the claim there."""
    remove_drafts(folder / FOLDER / _ROWS_FILE)
    with replacing(folder / FOLDER / _ROWS_FILE) as draft:
        draft.write_text(json.dumps({"rows": _pack_rows(rows), "rows_at": place}) + "\n")


def place_of(folder: Path) -> str | None:
    """Return the run's link, else its folder seen from the results folder, else None."""
    state = read_state(folder)
    if state.get("url"):
        return state["url"]
    offline = state.get("offline")
    return f"{folder.parent.name}/{folder.name}/{FOLDER}/{offline}" if offline else None


def stamps_of(folder: Path) -> dict[str, list[int]]:
    """Return time and size of each file that a run is made from, as far as they can be seen.

    Whoever makes one takes them before it reads: what is written meanwhile is seen the next time.
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
    """Tell whether the folder's files are others than those that its run was made from."""
    stamps = stamps_of(folder)
    return CURVE_FILE in stamps and read_state(folder).get("stamps") != stamps


def row_digests(rows: Iterable[Mapping[str, float]], axis: str) -> dict[int, str]:
    """Return a few letters for each row's content, by its epoch or iteration.

    Without the time that it took: a resumed trial computes the same rows again, not as fast.
    """
    contents = {int(row[axis]): {k: v for k, v in row.items() if k != "seconds"} for row in rows}
    texts = {step: json.dumps(row, sort_keys=True) for step, row in contents.items()}
    return {step: hashlib.sha256(text.encode()).hexdigest()[:6] for step, text in texts.items()}


def _read(path: Path) -> dict[str, Any]:
    """Return an object in a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _with_server(place: list[str | None]) -> list[str | None]:
    """Return a place with its server: earlier versions did not put it down."""
    return [*place, None][:3]


def _pack_rows(digests: Mapping[int, str]) -> str:
    return " ".join(f"{step}:{digest}" for step, digest in sorted(digests.items()))


def _unpack_rows(text: str) -> dict[int, str]:
    pairs = (word.partition(":") for word in text.split())
    return {int(step): digest for step, _, digest in pairs}
