"""The data files of a folder: which there are, and whether each is as it was written."""

from pathlib import Path
from typing import NamedTuple

from pwmray.data.collected import check_name
from pwmray.data.layouts import COLLECTED, LAYOUTS
from pwmray.data.manifest import MANIFEST, Manifest, TaskFile, import_command, read_manifest
from pwmray.data.store import BrokenDataError, Store, find_not_finite, open_store
from pwmray.tasks import TASKS


class DataFile(NamedTuple):
    """One task's file and, if it was imported, what the manifest says of it."""

    path: Path
    listed: TaskFile | None  # by the manifest; None for a collected file
    remake: str  # the command that makes it again; empty for a collected file, whose name tells


def find_datasets(data_dir: Path) -> dict[str, Manifest]:
    """Return the imported datasets by name; raise ValueError for an unusable manifest."""
    folders = [data_dir / name for name in LAYOUTS]
    found = [folder for folder in folders if (folder / MANIFEST).exists()]
    return {folder.name: read_manifest(folder) for folder in found}


def find_files(data_dir: Path, task: str = "") -> list[DataFile]:
    """Return the files of one task, or of all, imported ones first."""
    imported = [
        DataFile(
            data_dir / dataset / f"{name}.arrow",
            file,
            import_command(data_dir / dataset, name, rebuild=True),
        )
        for dataset, manifest in find_datasets(data_dir).items()
        for name, file in manifest.tasks.items()
        if not task or name == task
    ]
    return imported + [DataFile(path, None, "") for path in _collected(data_dir, task)]


def verify_file(file: DataFile) -> Store:
    """Read all of a file; raise ValueError naming it unless it is as it was written, and finite.

    Its content must also match its name, which says the task and, if collected, the recipe.
    """
    store = open_store(file.path, file.remake, file.path.stem if file.listed else "")
    store.verify()
    row = find_not_finite(store.obs, store.action, store.reward, store.episode_starts)
    if row is not None:
        raise ValueError(f"{store.path}: row {row} has values that are not finite")
    if file.listed:
        check_listed(store, file.listed)
    else:
        check_name(store)
    return store


def check_listed(store: Store, listed: TaskFile) -> None:
    """Raise BrokenDataError unless an imported file is the one that the manifest lists."""
    if listed.fingerprint != store.fingerprint:
        raise BrokenDataError(
            f"{store.path} has fingerprint {store.fingerprint}, its manifest says "
            f"{listed.fingerprint}; make it again with: {store.remake}"
        )


def _collected(data_dir: Path, task: str) -> list[Path]:
    """Return the collected files, by task in MT30's order and then by name."""
    names = [task] if task else list(TASKS)
    folder = data_dir / COLLECTED
    return [path for name in names for path in sorted(folder.glob(f"{name}-{'?' * 12}.arrow"))]
