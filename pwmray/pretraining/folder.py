"""A pretraining's folder: its files, what it is, where it stands; read without what trains.

`results/pretrained/<fingerprint>/` holds `best.ckpt` (lowest loss on the episodes held out),
`last.ckpt`, `curve.arrow`, `about.json`, TensorBoard's event file and, until it is done,
`resume.ckpt`.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pwmray.files import replacing
from pwmray.registry import claim

PRETRAINED_FOLDER = "pretrained"  # in the results folder
BEST_FILE, LAST_FILE, CURVE_FILE = "best.ckpt", "last.ckpt", "curve.arrow"
RESUME_FILE, CLAIM_FILE, ABOUT_FILE = "resume.ckpt", "claim", "about.json"
_OF_BOTH = ("iteration", "seconds")  # of the rows of one iteration


class ElsewhereError(ValueError):
    """Another process has the folder."""


def is_done(folder: Path) -> bool:
    """Whether a pretraining has come to its end, and both of its checkpoints are there."""
    return (folder / LAST_FILE).exists() and (folder / BEST_FILE).exists()


def state_of(folder: Path) -> str:
    """Return where a pretraining stands: done, running (in a live process), resumes or missing."""
    if is_done(folder):
        return "done"
    if claim.owner(folder / CLAIM_FILE):
        return "running"
    return "resumes" if (folder / RESUME_FILE).exists() else "missing"


def holder_of(folder: Path) -> str | None:
    """Return which live process works in the folder, None where none does."""
    found = claim.owner(folder / CLAIM_FILE)
    return f"pid {claim.describe(found)}" if found else None


def find_leftovers(folder: Path) -> list[Path]:
    """Return what killed processes left: files half written, and of what is done resume.ckpt.

    Whoever does not hold the folder's claim may meet what its owner is writing.
    """
    drafts = claim.find_drafts(folder)
    resume = folder / RESUME_FILE
    return [*drafts, resume] if is_done(folder) and resume.exists() else drafts


def clear_leftovers(folder: Path) -> bool:
    """Delete what killed processes left; return False where a process works in the folder."""
    if not find_leftovers(folder):
        return True
    held = claim.acquire(folder / CLAIM_FILE)
    if held is None:
        return False
    with held:
        delete_leftovers(folder)
    return True


def delete_leftovers(folder: Path) -> None:
    """Delete what killed processes left, for whoever holds the folder's claim."""
    for path in find_leftovers(folder):
        path.unlink(missing_ok=True)


def best_iteration(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the iteration of a curve with the lowest loss on the episodes held out."""
    losses = {r["iteration"]: r["world_model_loss"] for r in rows if r["episodes"] == "held_out"}
    return min(losses, key=losses.__getitem__, default=None)


def describe(
    folder: Path, phase: str, label: str, config: Mapping[str, Any], code: Mapping[str, Any]
) -> float:
    """Leave beside the checkpoints what they are and by which code; return when they were begun."""
    about = read_about(folder)
    if not about:
        begun = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        about = {"phase": phase, "label": label, "begun": begun, "config": config, **code}
        _write_about(folder, about)
    for name in ("git_commit", "code_fingerprint", "world_model_code"):
        now, told = code.get(name), about.get(name)
        if now and told and now not in told.split(" and "):  # resumed by other code
            about[name] = f"{told} and {now}"
            _write_about(folder, about)
    return begun_at(about)


def _write_about(folder: Path, about: Mapping[str, Any]) -> None:
    with replacing(folder / ABOUT_FILE) as draft:
        draft.write_text(json.dumps(about, indent=2) + "\n")


def read_about(folder: Path) -> dict[str, Any]:
    """Return what `describe` left, nothing for a pretraining of an earlier version."""
    path = folder / ABOUT_FILE
    return json.loads(path.read_text()) if path.exists() else {}


def begun_at(about: Mapping[str, Any]) -> float:
    """Return when the pretraining was begun, seconds since 1970."""
    return datetime.datetime.fromisoformat(about["begun"]).timestamp()


def by_iteration(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row an iteration of a curve that has one for each kind of episodes.

    Columns are named `training/world_model_loss`, `held_out/world_model_loss` and so on.
    """
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        found = merged.setdefault(row["iteration"], {})
        for name, value in row.items():
            if name in _OF_BOTH:
                found[name] = value
            elif name != "episodes":
                found[f"{row['episodes']}/{name}"] = value
    return list(merged.values())
