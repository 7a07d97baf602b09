"""Turn a folder of published chunks into a dataset of ours: a file for each task, and a manifest.

First all chunks are surveyed, which tells where each row will lie. Then each chunk is read once, in
order, and its rows are written to their places. A journal has the number of chunks that are done;
rows that a killed import wrote beyond these are written again, to the same places. The manifest is
written last.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pwmray.commands import Progress
from pwmray.data.chunks import open_chunk, read_slabs
from pwmray.data.draft import Draft, unfinished_tasks
from pwmray.data.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from pwmray.data.one_writer import claimed
from pwmray.data.survey import Survey, SurveyedChunk, survey_chunks
from pwmray.files import remove_drafts
from pwmray.records import RecordCheck
from pwmray.tasks import TASKS, Task, find_task
from pwmray.wording import number_of

_DRAFT, _CLAIM = "importing", "import.claim"

log = logging.getLogger(__name__)


def import_dataset(
    source: Path,
    data_dir: Path,
    progress: Progress,
    tasks: Sequence[str] = (),
    trust: bool = False,
    is_partial: bool = False,
    rebuild: bool = False,
) -> Manifest:
    """Make or complete `data_dir`/<dataset>/ from the chunks in `source`; all tasks by default.

    A second call continues where a killed one stopped, and adds tasks to a finished dataset.
    `rebuild` starts again, but what it replaces stays until the new files are done. `is_partial`
    accepts missing chunks. If there is nothing to do, an unfinished import of other tasks is left
    alone, with a warning. Raises ValueError for unusable chunks, another import, or no room.
    """
    for task in tasks:
        find_task(task)
    survey = survey_chunks(source, trust, progress)
    _check_complete(source, survey, is_partial)
    folder = data_dir / survey.layout.name
    with claimed(folder / _CLAIM, f"imports into {folder}"):
        remove_drafts(folder / MANIFEST)
        kept = _kept(folder, survey, tasks, rebuild)
        wanted = _wanted(survey, tasks, kept)
        draft = Draft(folder / _DRAFT, survey, wanted)
        if wanted:
            draft = draft if rebuild else Draft.open(folder / _DRAFT, survey, wanted)
            draft.check_room()
            if rebuild:
                _discard(draft)
            kept = _fill(draft, kept, trust, progress, rebuild)
        if left := unfinished_tasks(draft.folder, kept.tasks):
            log.warning(
                "an unfinished import of %s stays in %s: the command that began it goes on with "
                "it, and --rebuild starts again", ", ".join(left), draft.folder,
            )  # fmt: skip
        else:
            _discard(draft)
    return kept


def _fill(draft: Draft, kept: Manifest, trust: bool, progress: Progress, rebuild: bool) -> Manifest:
    """Finish the draft, wherever it stands; return the manifest with what is kept besides."""
    try:
        draft.reserve()
        _write_chunks(draft, trust, progress)
        _seal(draft, progress)
        return _publish(draft, kept)
    except OSError as error:
        raise ValueError(
            f"cannot write to {draft.folder.parent}: {error.strerror or error}; "
            f"{_describe_left(draft, rebuild)}"
        ) from error


def _describe_left(draft: Draft, rebuild: bool) -> str:
    """Say what a full disk left of the dataset, and how to go on."""
    if rebuild and len(draft.sealed) < len(draft.tasks):
        return "what was there stays as it was; --rebuild starts again"
    done = f"what is done is kept ({draft.num_chunks} of {len(draft.survey.chunks)} chunks)"
    return f"{done}: the same command{' without --rebuild' * rebuild} goes on from there"


def _write_chunks(draft: Draft, trust: bool, progress: Progress) -> None:
    length, left = draft.survey.layout.num_rows, draft.survey.chunks[draft.num_chunks :]
    total, done = sum(len(chunk.task_ids) for chunk in left) * length, 0
    what = f"reading {number_of(len(left), 'chunk')}"
    for chunk in left:
        for num_episodes in _write_chunk(draft, chunk, trust):
            progress(what, done + num_episodes * length, total)
        done += len(chunk.task_ids) * length
        draft.num_chunks += 1
        draft.note()


def _write_chunk(draft: Draft, chunk: SurveyedChunk, trust: bool) -> Iterator[int]:
    """Write a chunk's rows to their places and sync; yield how many episodes are done."""
    next_rows = {task: draft.num_rows(task, draft.num_chunks) for task in draft.tasks}
    with contextlib.ExitStack() as stack:
        writers = {
            task: stack.enter_context(draft.store(task).writing())
            for task in draft.tasks
            if chunk.num_episodes(task)
        }
        opened = open_chunk(chunk.path, trust)
        check = stack.enter_context(RecordCheck(chunk.path))
        for num_episodes, found in read_slabs(opened, chunk.task_ids, draft.tasks):
            for task, rows in found:
                writers[task](next_rows[task], rows)
                next_rows[task] += rows.reward.size
            check.advance(num_episodes, opened.num_episodes)
            yield num_episodes


def _seal(draft: Draft, progress: Progress) -> None:
    left = [task for task in draft.tasks if task.name not in draft.sealed]
    total, done = sum(draft.num_rows(task) for task in left), 0
    for task in left:
        progress(f"taking the fingerprints of {number_of(len(left), 'task')}", done, total)
        draft.seal(task)
        done += draft.num_rows(task)


def _publish(draft: Draft, kept: Manifest) -> Manifest:
    """Move the files to their final places and write the manifest; return it.

    Meanwhile the manifest names no file that is being replaced, so that after a kill the dataset
    counts as unfinished.
    """
    folder = draft.folder.parent
    if kept.tasks:
        write_manifest(folder, kept)
    elif (folder / MANIFEST).exists():
        os.replace(folder / MANIFEST, draft.folder / MANIFEST)
    draft.publish()
    # An earlier version took no digests, which tell these chunks from others of the same sizes.
    finished = dataclasses.replace(
        kept, tasks={**kept.tasks, **draft.sealed}, digests=draft.survey.digests
    )
    write_manifest(folder, finished)
    return finished


def _discard(draft: Draft) -> None:
    """Delete the draft, and the files of tasks that only the replaced manifest lists."""
    folder = draft.folder.parent
    for name in _listed(draft.folder) - _listed(folder):  # the earlier chunks had more tasks
        (folder / f"{name}.arrow").unlink(missing_ok=True)
    draft.discard()


def _listed(folder: Path) -> set[str]:
    """Return the tasks that the folder's manifest lists; none without a readable one."""
    try:
        return set(read_manifest(folder).tasks)
    except ValueError:
        return set()


def _kept(folder: Path, survey: Survey, tasks: Sequence[str], rebuild: bool) -> Manifest:
    """Return the manifest of the files that stay, empty if none do.

    Raises ValueError if files of other chunks would stay beside the new ones.
    """
    empty = Manifest(
        survey.layout.name, survey.sizes, survey.missing, {}, survey.digests, survey.is_export
    )
    if not (folder / MANIFEST).exists() or (rebuild and not tasks):
        return empty
    found = read_manifest(folder)
    replaced = tasks if rebuild else ()
    others = {name: file for name, file in found.tasks.items() if name not in replaced}
    if found.is_of(survey.sizes, survey.digests):
        return dataclasses.replace(found, tasks=others) if others else empty
    if not others:
        return empty
    remedy = "replace it with --rebuild"
    if rebuild:
        remedy = f"it has {', '.join(others)}, too: replace all with --rebuild without --tasks"
    raise ValueError(
        f"{folder} was imported from other chunks ({', '.join(found.chunks)}); {remedy}, or "
        "choose another --data"
    )


def _wanted(survey: Survey, names: Sequence[str], finished: Manifest) -> list[Task]:
    """Return the tasks to import that are not finished, all where `names` is empty."""
    absent = [name for name in names if not survey.num_episodes(TASKS[name])]
    if absent:
        raise ValueError(f"the chunks have no episode of {', '.join(absent)}")
    if not any(survey.num_episodes(task) for task in TASKS.values()):
        raise ValueError("the chunks have no episode of any of MT30's tasks")
    return [
        task
        for task in TASKS.values()
        if (task.name in names or not names)
        and task.name not in finished.tasks
        and survey.num_episodes(task)
    ]


def _check_complete(source: Path, survey: Survey, is_partial: bool) -> None:
    if survey.missing and not is_partial:
        num_all = len(survey.missing) + len(survey.chunks)
        raise ValueError(
            f"{source} lacks {', '.join(survey.missing)}: {len(survey.missing)} of "
            f"{num_all} chunks, about {100 * len(survey.missing) / num_all:.0f} % of the data; "
            "fetch them, or pass --partial to do without"
        )
