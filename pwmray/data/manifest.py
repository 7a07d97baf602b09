"""The manifest of an imported dataset; it is written last, so a folder without it is unfinished."""

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pwmray.data.layouts import LAYOUTS
from pwmray.files import replacing
from pwmray.formats import explain_format
from pwmray.tasks import find_task
from pwmray.wording import as_typed, unknown

FORMAT = "pwmray-dataset-1"
MANIFEST = "manifest.json"


class TaskFile(NamedTuple):
    """One task's file in the folder, `<task>.arrow`."""

    num_episodes: int
    num_rows: int
    num_bytes: int
    fingerprint: str  # of its content


@dataclass(frozen=True)
class Manifest:
    """A finished import."""

    dataset: str  # the name of its layout and of its folder
    chunks: dict[str, int]  # file names and bytes of the imported chunks
    missing: list[str]  # chunks that were not there
    tasks: dict[str, TaskFile]
    # Of the chunks' content, by file name; empty if an earlier version imported them.
    digests: dict[str, str] = field(default_factory=dict)
    is_export: bool = False  # whether `pwmray data export` wrote the chunks

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the content of all tasks."""
        content = sorted((name, file.fingerprint) for name, file in self.tasks.items())
        return hashlib.sha256(json.dumps([FORMAT, content]).encode()).hexdigest()[:16]

    @property
    def num_episodes(self) -> int:
        """Return the number of episodes of all tasks."""
        return sum(file.num_episodes for file in self.tasks.values())

    @property
    def loss(self) -> str:
        """Return a text that names the missing chunks, empty if none was."""
        if not self.missing:
            return ""
        share = len(self.missing) / (len(self.missing) + len(self.chunks))
        return f"{', '.join(self.missing)}, about {100 * share:.0f} % of the data"

    def is_of(self, chunks: dict[str, int], digests: dict[str, str]) -> bool:
        """Tell whether these chunks were imported, by size alone if there are no digests."""
        return self.chunks == chunks and self.digests in ({}, digests)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which declares the folder finished."""
    tasks = {name: file._asdict() for name, file in manifest.tasks.items()}
    content = {
        "format": FORMAT,
        "fingerprint": manifest.fingerprint,
        **dataclasses.asdict(manifest),
        "tasks": tasks,
    }
    with replacing(folder / MANIFEST) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest; raise ValueError without one, or for a damaged or newer one."""
    path = folder / MANIFEST
    remedy = f"make it again with: {import_command(folder, rebuild=True)}"
    try:
        content = json.loads(path.read_text())
        found = str(content.get("format"))
        if found == FORMAT:
            return _parse(content)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no finished import: {MANIFEST} is not there") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be used: {error}; {remedy}") from error
    raise ValueError(f"{path} cannot be used: {explain_format(found, FORMAT, remedy)}")


def _parse(content: dict[str, Any]) -> Manifest:
    tasks = {name: TaskFile(**file) for name, file in content["tasks"].items()}
    manifest = Manifest(
        content["dataset"],
        content["chunks"],
        content["missing"],
        tasks,
        dict(content.get("digests", {})),
        bool(content.get("is_export", False)),
    )
    if manifest.fingerprint != content.get("fingerprint"):
        raise ValueError("it does not match its fingerprint")
    return manifest


def imported_path(task: str, dataset: str, data_dir: Path) -> Path:
    """Return the file of a task in an imported dataset.

    Raises ValueError with the command that imports it if the dataset or the task is missing.
    """
    find_task(task)
    if dataset not in LAYOUTS:
        raise ValueError(unknown("dataset", dataset, LAYOUTS))
    folder = data_dir / dataset
    command = import_command(folder)
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{dataset} is not in {data_dir}; import it with: {command}")
    path, is_listed = folder / f"{task}.arrow", task in read_manifest(folder).tasks
    if not is_listed or not path.exists():
        if is_listed:
            command = import_command(folder, task, rebuild=True)
        raise ValueError(f"{dataset} in {data_dir} has no {task}; import it with: {command}")
    return path


def import_command(folder: Path, task: str = "", rebuild: bool = False) -> str:
    """Return the command, to show to people, that imports a folder or one task of it."""
    options = f" --tasks {task}" if task else ""
    options += " --rebuild" if rebuild else ""
    command = f"pwmray data import DIR --data {shlex.quote(str(folder.parent))}{options}"
    return f"{as_typed(command)} (DIR: where its chunk_*.pt are)"
