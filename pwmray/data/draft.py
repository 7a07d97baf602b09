"""An unfinished import: a draft of each task's file, and a journal of how far it has come."""

import json
import os
import shutil
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path

from pwmray.data.manifest import TaskFile
from pwmray.data.store import BrokenDataError, StoreDraft, open_store
from pwmray.data.survey import Survey
from pwmray.files import replacing
from pwmray.room import check_room
from pwmray.tasks import Task

# Raise it when what is written here changes: a draft of another version is not continued.
IMPORT_FORMAT = "pwmray-import-1"
_JOURNAL = "journal.json"


@dataclass
class Draft:
    """An unfinished dataset; its folder lies inside that of the finished one."""

    folder: Path
    survey: Survey
    tasks: list[Task]
    num_chunks: int = 0  # that are done: their rows are in the files
    sealed: dict[str, TaskFile] = field(default_factory=dict)  # the finished files, by task

    @classmethod
    def open(cls, folder: Path, survey: Survey, tasks: list[Task]) -> "Draft":
        """Open the draft in `folder` to continue it, or begin one.

        Raises ValueError for a draft of other chunks or tasks, or a damaged one.
        """
        draft = cls(folder, survey, tasks)
        path = folder / _JOURNAL
        try:
            journal = json.loads(path.read_text())
            defining, draft.num_chunks = journal["defining"], int(journal["num_chunks"])
            draft.sealed = {name: TaskFile(**file) for name, file in journal["sealed"].items()}
        except FileNotFoundError:
            return draft
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error
        if defining != draft._defining:
            raise ValueError(
                f"{folder} is an unfinished import of other chunks or tasks; finish that one, or "
                "start again with --rebuild"
            )
        draft._check_files()
        return draft

    @property
    def _defining(self) -> dict:
        names = [task.name for task in self.tasks]
        # The numbers of episodes decide where rows go; a chunk that is damaged since has others.
        episodes = [
            [chunk.num_episodes(task) for task in self.tasks] for chunk in self.survey.chunks
        ]
        chunks = {"chunks": self.survey.digests, "episodes": episodes}
        return {"format": IMPORT_FORMAT, **chunks, "tasks": names}

    def _check_files(self) -> None:
        """Raise ValueError unless every file of the draft is as it was left."""
        for task in self.tasks:
            store = self.store(task)
            try:
                if self._is_published(task):
                    continue
                store.check()
            except (BrokenDataError, OSError) as error:
                raise _damaged(store.path, error) from error

    def _is_published(self, task: Task) -> bool:
        """Tell whether a killed import had already moved the task's file to its final place."""
        path = self.store(task).path
        if path.exists() or len(self.sealed) < len(self.tasks):
            return False
        moved = open_store(self.folder.parent / path.name)
        return moved.fingerprint == self.sealed[task.name].fingerprint

    def discard(self) -> None:
        """Delete the draft's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def reserve(self) -> None:
        """Create the tasks' files at full size, unless that was done before."""
        if (self.folder / _JOURNAL).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for task in self.tasks:
            self.store(task).reserve()
        self.note()

    def note(self) -> None:
        """Record the progress; what a kill keeps from it is done again, to the same effect."""
        sealed = {name: file._asdict() for name, file in self.sealed.items()}
        journal = {"defining": self._defining, "num_chunks": self.num_chunks, "sealed": sealed}
        with replacing(self.folder / _JOURNAL) as path:
            path.write_text(json.dumps(journal))

    def store(self, task: Task) -> StoreDraft:
        """Return the draft of a task's file."""
        num_episodes = self.survey.num_episodes(task)
        imported = {"format": IMPORT_FORMAT, "dataset": self.survey.layout.name}
        return StoreDraft(
            self.folder / f"{task.name}.arrow",
            task.name,
            episode_lengths=[self.survey.layout.num_rows] * num_episodes,
            behaviours=self.survey.behaviours(task),
            recipe=self.survey.recipes.get(task.name, imported),
        )

    def seal(self, task: Task) -> None:
        """Finish a task's file and record that."""
        store = self.store(task)
        fingerprint = store.seal()
        num_bytes = store.path.stat().st_size
        num_episodes = self.survey.num_episodes(task)
        self.sealed[task.name] = TaskFile(num_episodes, self.num_rows(task), num_bytes, fingerprint)
        self.note()

    def publish(self) -> None:
        """Move the files to their final places, except those that a killed import had moved."""
        for task in self.tasks:
            path = self.store(task).path
            if path.exists():
                os.replace(path, self.folder.parent / path.name)

    def num_rows(self, task: Task, num_chunks: int | None = None) -> int:
        """Return how many rows of a task are in all or the first `num_chunks` chunks."""
        return self.survey.num_episodes(task, num_chunks) * self.survey.layout.num_rows

    def check_room(self) -> None:
        """Raise ValueError unless the rows fit on the disk."""
        floats = [self.num_rows(task) * (task.obs_dim + task.action_dim + 1) for task in self.tasks]
        here = sum(path.stat().st_blocks * 512 for path in self.folder.glob("*.arrow"))
        check_room("the import", 4 * sum(floats) - here, self.folder.parent)


def unfinished_tasks(folder: Path, finished: Container[str]) -> list[str]:
    """Return the tasks that the draft in `folder` has yet to finish; none if it has no journal.

    `finished` are the tasks of the dataset's manifest.
    """
    drafts = [path.stem for path in sorted(folder.glob("*.arrow"))]
    try:
        noted = json.loads((folder / _JOURNAL).read_text())["defining"]["tasks"]
    except FileNotFoundError:  # a kill came as the draft was begun or deleted
        return []
    except (ValueError, KeyError, TypeError):  # damaged: a person may know whose rows these are
        return drafts
    return [task for task in noted if task in drafts or task not in finished]


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} of an unfinished import is damaged ({error}); start again with --rebuild"
    )
