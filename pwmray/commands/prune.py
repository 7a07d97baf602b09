"""`pwmray prune`: delete checkpoints by rule to free room; the trials' records say which."""

import argparse
import contextlib
import datetime
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pwmray import registry
from pwmray.commands import FAILED, Subcommands, add_results_option, names, say
from pwmray.failures import is_disk_full
from pwmray.pretraining.folder import CLAIM_FILE as PRETRAINING_CLAIM_FILE
from pwmray.pretraining.folder import PRETRAINED_FOLDER, clear_leftovers, find_leftovers, holder_of
from pwmray.registry import BEST_FILE, CHECKPOINT_FILE, CLAIM_FILE, EVENTS_FILE, Status, claim
from pwmray.registry.sweep_folders import (
    find_sweep,
    list_fingerprints,
    list_sweeps,
    names_of_all,
    read_sweep,
)
from pwmray.wording import one_line

_FILES = {"last": CHECKPOINT_FILE, "best": BEST_FILE}
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_OLDEST = datetime.timedelta(days=36_500)  # before any trial, and after the calendar's first year


class Freed(NamedTuple):
    """The files of one trial that the rule does not keep, and the room that they take."""

    fingerprint: str
    files: list[Path]
    num_bytes: int
    makes_room: bool  # on a full disk, too, for no process will run the trial again


def add_prune_command(commands: Subcommands) -> None:
    """Add `prune`."""
    prune = commands.add_parser(
        "prune", help="delete checkpoints to free room; a dry run without --yes"
    )
    prune.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: all trials")
    prune.add_argument(
        "--older-than", type=_age, default=datetime.timedelta(), metavar="30d",
        help="only trials whose last event is at least so old: 12h, 30d, 8w",
    )  # fmt: skip
    prune.add_argument(
        "--keep", type=_kept, default="last,best", metavar="last,best",
        help="the checkpoints to keep: last, best, both (the default) or none; what an unfinished "
        "trial needs to go on is always kept",
    )  # fmt: skip
    prune.add_argument("--yes", action="store_true", help="delete them")
    add_results_option(prune)
    prune.set_defaults(run=_prune)


def _prune(chosen: argparse.Namespace) -> int:
    results = chosen.results
    if chosen.sweep is None:
        list_sweeps(results)  # raises where there is no such folder
        fingerprints = list_fingerprints(results)
    else:
        fingerprints = read_sweep(find_sweep(results, chosen.sweep)).get("trials", [])
    before = datetime.datetime.now(datetime.UTC) - chosen.older_than
    left_out: list[str] = []
    freeable = find_freeable(results, fingerprints, chosen.keep, before, left_out)
    total, known = 0, names_of_all(results) if freeable else {}
    if chosen.yes:
        folders = [registry.trial_folder(results, freed.fingerprint) for freed in freeable]
        claim.watch_dead((folder / CLAIM_FILE for folder in folders), say)
        freeable.sort(key=lambda freed: not freed.makes_room)
    for freed in freeable:
        if chosen.yes:
            try:
                freed = free(results, freed.fingerprint, chosen.keep, before)
            except (OSError, ValueError) as error:  # the others are freed all the same
                left_out.append(one_line(error))
                total += freed.num_bytes - _bytes_of(freed.files)  # deleted, and yet no room
                continue
        if freed is not None:
            total += freed.num_bytes
            names = ", ".join(path.name for path in freed.files)
            name = known.get(freed.fingerprint, freed.fingerprint)
            print(f"{name}: {names}, {freed.num_bytes / 1e6:.1f} MB")
    if chosen.sweep is None:
        total += _free_pretrained(results, before, chosen.yes, left_out)
    for line in left_out:
        print(f"left out: {line}")
    if chosen.yes:
        print(f"{total / 1e6:.1f} MB freed")
    else:
        more = [] if total else find_freeable(results, fingerprints, [], before, [])
        kept = sum(freed.num_bytes for freed in more)
        how = f"--keep none would free {kept / 1e6:.1f} MB" if kept else "--yes does it"
        print(f"{total / 1e6:.1f} MB would be freed; {how}")
    return FAILED if chosen.yes and left_out and not total else 0


def _free_pretrained(
    results: Path, before: datetime.datetime, does_it: bool, left_out: list[str]
) -> int:
    """List what killed pretrainings left half written, and delete it if asked; return its bytes.

    Why some of that cannot be deleted goes into `left_out`.
    """
    left: dict[Path, list[Path]] = {}
    for folder in sorted((results / PRETRAINED_FOLDER).glob("*/")):
        files = find_leftovers(folder)
        newest = max((found.st_mtime for found in _stats_of(files)), default=0.0)
        if files and holder_of(folder) is None and newest <= before.timestamp():
            left[folder] = files
    if does_it:
        claim.watch_dead((folder / PRETRAINING_CLAIM_FILE for folder in left), say)
    total = 0
    for folder, files in left.items():
        num_bytes = _bytes_of(files)
        try:
            if does_it and not clear_leftovers(folder):
                continue
        except OSError as error:  # another user's, say; ours are freed all the same
            left_out.append(one_line(error))
            continue
        total += num_bytes
        names = ", ".join(path.name for path in files)
        print(f"{PRETRAINED_FOLDER}/{folder.name}: {names}, {num_bytes / 1e6:.1f} MB")
    return total


def find_freeable(
    results: Path,
    fingerprints: Iterable[str],
    keep: Sequence[str],
    before: datetime.datetime,
    unreadable: list[str],
) -> list[Freed]:
    """Return what may be freed, for each trial that has anything to free; writes nothing.

    A trial whose record cannot be read is left alone, and `unreadable` gets the reason.
    """
    found = []
    for fingerprint in fingerprints:
        try:
            freed = _freeable(registry.trial_folder(results, fingerprint), keep, before)
        except (ValueError, OSError) as error:
            unreadable.append(one_line(error))
            continue
        if freed is not None:
            found.append(freed)
    return found


def free(
    results: Path, fingerprint: str, keep: Sequence[str], before: datetime.datetime
) -> Freed | None:
    """Delete what may be freed of a trial and record it; return None if it runs by now.

    The trial is claimed meanwhile, so that no process starts it. Raises PermissionError, and
    deletes nothing, if the deletion could not be recorded.
    """
    folder = registry.trial_folder(results, fingerprint)
    seen = _freeable(folder, keep, before)
    if seen is None:
        return None
    events = folder / EVENTS_FILE  # written last: only then has a full disk room for a line
    if not os.access(events, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(events))
    held = _claim(folder, seen.files if seen.makes_room else [])
    if held is None:
        return None
    with held:
        freed = seen if seen.makes_room else _freeable(folder, keep, before, is_ours=True)
        if freed is None:
            return None
        for path in freed.files:
            path.unlink(missing_ok=True)
        registry.remark(
            folder, pruned=[path.name for path in freed.files], freed_bytes=freed.num_bytes
        )
        return freed


def _claim(folder: Path, files: Sequence[Path]) -> claim.Claim | None:
    """Claim a trial; where a full disk has no room for that, delete of its `files` until it has."""
    for path in files:
        try:
            return claim.acquire(folder / CLAIM_FILE)
        except OSError as error:
            if not is_disk_full(error):
                raise
        path.unlink(missing_ok=True)
    return claim.acquire(folder / CLAIM_FILE)


def _freeable(
    folder: Path, keep: Sequence[str], before: datetime.datetime, is_ours: bool = False
) -> Freed | None:
    if not is_ours and registry.running_elsewhere(folder):
        return None
    record = registry.read(folder)
    moved = record.time_of(*Status)
    if moved is None or moved > before:
        return None
    is_done = record.status is Status.EVALUATED
    kept = {_FILES[name] for name in keep}
    if not is_done and not record.is_stopped_early:
        kept.add(CHECKPOINT_FILE)
    if not (folder / BEST_FILE).exists() and "best" in keep:
        kept.add(CHECKPOINT_FILE)  # of a trial of an earlier version, which kept no best one
    files = [folder / name for name in _FILES.values() if name not in kept]
    # The trial is not running, so the process that wrote a draft was killed.
    files = [path for path in files if path.exists()] + claim.find_drafts(folder)
    num_bytes = _bytes_of(files)
    return Freed(folder.name, files, num_bytes, is_done and num_bytes > 0) if files else None


def _bytes_of(files: Sequence[Path]) -> int:
    """Return the bytes that deleting the files frees: a file whose other name stays frees none."""
    stats = _stats_of(files)
    names = [found.st_ino for found in stats]
    by_file = {found.st_ino: found for found in stats}
    return sum(f.st_size for i, f in by_file.items() if names.count(i) == f.st_nlink)


def _stats_of(files: Iterable[Path]) -> list[os.stat_result]:
    """Return the stats of the files that are still there; another process may delete some."""
    stats = []
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            stats.append(path.stat())
    return stats


def _age(text: str) -> datetime.timedelta:
    match = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; valid: 12h, 30d, 8w and the like")
    age = datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
    if age > _OLDEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too long; valid: up to {_OLDEST.days}d")
    return age


def _kept(text: str) -> list[str]:
    kept = [] if text == "none" else names(text)
    for name in kept:
        if name not in _FILES:
            wrong = "stands alone" if name == "none" else "cannot be kept"
            raise argparse.ArgumentTypeError(f"{name!r} {wrong}; valid: last, best, none")
    return kept
