"""An unfinished import: raw rows of each task, and a journal of how far it is."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pwmray.data.chunks import Rows
from pwmray.data.manifest import TaskFile
from pwmray.data.survey import Survey
from pwmray.files import replacing
from pwmray.tasks import Task

# Change it with what is written here: an unfinished import of another version is not gone on with.
IMPORT_FORMAT = "pwmray-import-1"
_JOURNAL = "journal.json"
_FLOAT_BYTES = 4


@dataclass
class Draft:
    """An unfinished store: raw rows of each task, and how far it is."""

    folder: Path
    survey: Survey
    tasks: list[Task]
    num_chunks: int  # whose rows are in the raw files
    finished: dict[str, TaskFile]  # tasks whose raw files became their Arrow file

    @classmethod
    def open(cls, folder: Path, survey: Survey, tasks: list[Task]) -> "Draft":
        """Go on with the draft in `folder`, or begin one."""
        draft = cls(folder, survey, tasks, num_chunks=0, finished={})
        try:
            journal = json.loads((folder / _JOURNAL).read_text())
        except FileNotFoundError:
            return draft
        if journal["defining"] != draft._defining:
            raise ValueError(
                f"{folder} is an unfinished import of other chunks or tasks; finish that one, or "
                "start again with --rebuild"
            )
        draft.num_chunks = journal["num_chunks"]
        draft.finished = {name: TaskFile(**file) for name, file in journal["finished"].items()}
        return draft

    @property
    def _defining(self) -> dict:
        names = [task.name for task in self.tasks]
        return {"format": IMPORT_FORMAT, "chunks": self.survey.sizes, "tasks": names}

    def note(self) -> None:
        """Record how far it is; what is not recorded is done again."""
        finished = {name: file._asdict() for name, file in self.finished.items()}
        journal = {"defining": self._defining, "num_chunks": self.num_chunks, "finished": finished}
        with replacing(self.folder / _JOURNAL) as path:
            path.write_text(json.dumps(journal))

    def path(self, task: Task, column: str) -> Path:
        """Return one of a task's three raw files: rows of little-endian float32."""
        return self.folder / f"{task.name}.{column}"

    def widths(self, task: Task) -> dict[str, int]:
        """Return the floats a row of each raw file."""
        return dict(zip(Rows._fields, (task.obs_dim, task.action_dim, 1), strict=True))

    def num_rows(self, task: Task, num_chunks: int | None = None) -> int:
        """Return the rows of a task in all or the first chunks."""
        return self.survey.num_episodes(task, num_chunks) * self.survey.layout.num_rows

    def num_bytes(self, task: Task) -> int:
        """Return the bytes of a task's rows."""
        return self.num_rows(task) * sum(self.widths(task).values()) * _FLOAT_BYTES

    def cut_back(self) -> None:
        """Cut off what was appended after the last chunk that the journal knows as done."""
        for task in self.tasks:
            for column, width in self.widths(task).items():
                wanted = self.num_rows(task, self.num_chunks) * width * _FLOAT_BYTES
                with open(self.path(task, column), "ab") as file:
                    if file.tell() < wanted:
                        raise ValueError(f"{file.name} lost rows; start again with --rebuild")
                    file.truncate(wanted)

    def check_room(self) -> None:
        """Raise ValueError unless the raw rows and one finished file fit on the disk."""
        sizes = [self.num_bytes(task) for task in self.tasks if task.name not in self.finished]
        here = [path.stat().st_size for path in self.folder.glob("*.*")]
        needed = sum(sizes) + max(sizes, default=0) - sum(here)
        existing = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise ValueError(
                f"no room for the import: it needs {needed / 1e9:.1f} GB in {self.folder.parent}, "
                f"which has {free / 1e9:.1f} GB free"
            )
