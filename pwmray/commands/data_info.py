"""What `pwmray data info` and `pwmray data verify` say, as lines of text."""

import contextlib
import shlex
from pathlib import Path
from typing import Any

from pwmray.commands import Progress
from pwmray.data.inventory import find_datasets, find_files, verify_file
from pwmray.data.layouts import COLLECTED, LAYOUTS
from pwmray.data.manifest import MANIFEST, Manifest, read_manifest
from pwmray.data.store import open_store
from pwmray.tasks import TASKS, find_task
from pwmray.wording import as_typed, number_of, one_line


def describe_task(task: str, data_dir: Path) -> list[str]:
    """Describe every file of a task; raise ValueError where there is none."""
    files = find_files(data_dir, task)
    if not files:
        command = f"pwmray data collect {task} --data {shlex.quote(str(data_dir))}"
        raise ValueError(f"no data of {task!r} in {data_dir}; make it with: {as_typed(command)}")
    return [line for file in files for line in describe_file(file.path)]


def describe_path(path: Path, data_dir: Path) -> list[str]:
    """Describe a file, a dataset, all collected files, or all data of a folder.

    A dataset or the collected files are given by folder or by name; an empty path is `data_dir`.
    """
    if str(path) in LAYOUTS and not path.exists():
        path = data_dir / path
        if not (path / MANIFEST).exists():
            return describe_dataset(read_manifest(path), data_dir)  # says what is missing
    if str(path) == COLLECTED and not path.exists():
        path = data_dir / path
    if path.name == COLLECTED and path.is_dir():
        return _list_collected(path.parent) or _describe_folder(path)
    if path == Path() or (path.is_dir() and not (path / MANIFEST).exists()):
        return _describe_folder(data_dir if path == Path() else path)
    if path.is_dir():
        return describe_dataset(read_manifest(path), path.parent)
    if not path.exists() and "." not in path.name and len(path.parts) == 1:
        find_task(path.name)  # a mistyped task: the error names a similar one
    return describe_file(path)


def describe_file(path: Path) -> list[str]:
    """Describe one task's file."""
    store = open_store(path)
    returns = store.returns
    lines = [
        f"file         {path} ({path.stat().st_size / 1e6:.1f} MB)",
        f"task         {store.task}",
        f"fingerprint  {store.fingerprint}",
        f"episodes     {store.num_episodes} with {store.num_rows} rows",
        f"recipe       {', '.join(_setting(*item) for item in store.recipe.items())}",
        f"{'behaviour':<20} {'episodes':>8} {'mean':>7} {'min':>7} {'max':>7}  (return)",
    ]
    for name in dict.fromkeys(store.behaviours):
        here = returns[[behaviour == name for behaviour in store.behaviours]]
        figures = f"{here.mean():>7.1f} {here.min():>7.1f} {here.max():>7.1f}"
        lines.append(f"{name:<20} {len(here):>8} {figures}")
    return lines


def _setting(name: str, value: Any) -> str:
    """Return a recipe's setting as text; of the collector in rounds only the version."""
    return f"{name}=version {value['version']}" if name == "collector" else f"{name}={value}"


def describe_dataset(manifest: Manifest, data_dir: Path) -> list[str]:
    """Describe an imported dataset."""
    megabytes = sum(file.num_bytes for file in manifest.tasks.values()) / 1e6
    lines = [
        f"dataset      {data_dir / manifest.dataset}",
        f"fingerprint  {manifest.fingerprint}",
        f"content      {number_of(len(manifest.tasks), 'task')}, "
        f"{number_of(manifest.num_episodes, 'episode')}, {megabytes:.1f} MB",
        *_differences(manifest),
        f"{'task':<24} {'episodes':>8} {'rows':>9} {'MB':>8}  fingerprint",
    ]
    for name, file in manifest.tasks.items():
        figures = f"{file.num_episodes:>8} {file.num_rows:>9} {file.num_bytes / 1e6:>8.1f}"
        lines.append(f"{name:<24} {figures}  {file.fingerprint}")
    return lines


def find_faults(data_dir: Path, progress: Progress) -> tuple[int, list[str]]:
    """Read every file of a folder; return their number and a line for each that is broken.

    Raises ValueError for a folder without data or with an unusable manifest.
    """
    files = find_files(data_dir)
    if not files:
        raise ValueError(f"no data in {data_dir}")
    sizes = [_size(file.path) for file in files]
    faults = []
    for number, file in enumerate(files):
        progress(
            f"reading {len(files)} files, in MB", sum(sizes[:number]) // 10**6, sum(sizes) // 10**6
        )
        try:
            verify_file(file)
        except (ValueError, OSError) as error:
            faults.append(f"broken: {one_line(error)}")
    return len(files), faults


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _differences(manifest: Manifest) -> list[str]:
    """Return lines on how an imported dataset differs from the published one."""
    lines = (
        ["origin       chunks with a chunks.json, as `pwmray data export` writes"]
        if manifest.is_export
        else []
    )
    if manifest.loss:
        return [*lines, f"missing      {manifest.loss}"]
    published = LAYOUTS[manifest.dataset].num_episodes
    is_whole = len(manifest.tasks) == len(TASKS) and not manifest.is_export
    if is_whole and published not in (None, manifest.num_episodes):
        return [f"note         the published {manifest.dataset} has {published} episodes"]
    return lines


def _describe_folder(data_dir: Path) -> list[str]:
    datasets = find_datasets(data_dir)
    lines = [line for found in datasets.values() for line in describe_dataset(found, data_dir)]
    lines += _list_collected(data_dir)
    if not lines:
        raise ValueError(f"no data in {data_dir}")
    return lines


def _list_collected(data_dir: Path) -> list[str]:
    """Return lines on the collected files, none if there are none."""
    paths = [file.path for file in find_files(data_dir) if file.path.parent.name == COLLECTED]
    if not paths:
        return []
    sizes = [f"{path.name:<45} {path.stat().st_size / 1e6:>8.1f} MB" for path in paths]
    return [f"collected    {data_dir / COLLECTED}", *sizes]
